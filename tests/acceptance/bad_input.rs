//! Whatever is sent, the answer is a JSON error that says what is wrong, and the gateway goes on under the same pid.

use std::path::Path;

use rollcall_tests::http::{self, Response};
use rollcall_tests::sandbox::{Agent, BASE, Cluster, OPERATOR, VIEWER};

/// Every list, by what stands before its query string.
const LISTS: [&str; 4] = [
    "/clients",
    "/clients/username/user-3",
    "/nodes/a@127.0.0.1/clients",
    "/nodes/a@127.0.0.1/clients/username/user-3",
];

/// Values that a parameter cannot have, beside the empty one. All are written as they stand in a URL.
const WRONG: [(&str, &[&str]); 15] = [
    ("proto_ver", &["x", "1.5", "0x4", "4%20", "--4", "1e3", "%D9%A4", "true", "4,5"]),
    (
        "ip_address",
        &["x", "999.1.1.1", "1.2.3", "1.2.3.4/24", "::1%25lo", "[::1]", "%20127.0.0.1", "1.2.3.4:80"],
    ),
    ("conn_state", &["Connected", "online", "connected,idle", "connected%00"]),
    ("clean_start", &["1", "True", "yes", "null"]),
    ("_gte_created_at", &["abc", "1.5", "2021-03-18", "1616033757.0", "now"]),
    ("_lte_created_at", &["abc", "1.5", "2021-03-18"]),
    ("_gte_connected_at", &["abc", "1.5", "2021-03-18"]),
    ("_lte_connected_at", &["abc", "1.5", "2021-03-18"]),
    ("_page", &["0", "-1", "1.5", "x", "18446744073709551616", "1,2"]),
    ("_limit", &["-1", "x", "1.5", "all"]),
    ("_sort", &["clientId", "session", "clientid,node", "-clientid", "%00"]),
    ("_order", &["ASC", "up", "-1", "desc%0d%0aX-Injected:%20yes"]),
    ("_fields", &["x", "clientid,", "clientid,x", "*", "clientid%20"]),
    ("_partial", &["0", "False", "no"]),
    ("_node", &["nowhere@127.0.0.1", "A@127.0.0.1", "a"]),
];

/// Filters by text take any text.
const TEXTS: [&str; 6] = ["clientid", "username", "zone", "proto_name", "_like_clientid", "_like_username"];

/// Parameters that can stand there once, with a value they may have.
const ONCE: [(&str, &str); 7] = [
    ("_cursor", ""),
    ("_page", "1"),
    ("_limit", "10"),
    ("_sort", "node"),
    ("_order", "asc"),
    ("_fields", "clientid"),
    ("_partial", "true"),
];

fn cluster() -> Cluster {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/clients.ndjson");
    Cluster::of(["a@127.0.0.1", "b@127.0.0.1"].map(|name| Agent::file(name, &table)).into())
}

/// Runs a test, then asserts that the gateway is the same and answers.
fn unharmed(test: impl FnOnce(&Cluster)) {
    let mut cluster = cluster();
    let pid = cluster.gateway.process.pid();
    test(&cluster);
    assert!(cluster.gateway.process.is_running(), "the gateway has ended");
    assert_eq!(cluster.gateway.process.pid(), pid);
    let body = cluster.gateway.get("/clients?_limit=1").json();
    assert_eq!((&body["code"], &body["meta"]["count"]), (&0.into(), &149.into()), "{body}");
}

/// The message of an error with this status and code.
fn error(response: &Response, status: u16, code: i64, of: &str) -> String {
    let shown = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, status, "{of}: {shown}");
    assert_eq!(response.code(), code, "{of}: {shown}");
    let content_type = response.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("application/json"), "{of}: content-type {content_type:?}");
    assert!(shown.len() < 4_000, "{of}: an error of {} bytes", shown.len());
    assert_eq!(response.header("x-injected"), None, "{of}");
    response.message()
}

fn bad_parameter(cluster: &Cluster, target: &str) -> String {
    error(&cluster.gateway.get(target), 400, 108, target)
}

/// What stands for this in a URL, decoded.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

#[test]
fn a_wrong_value_is_refused_by_name_and_value() {
    unharmed(|cluster| {
        for list in LISTS {
            for (name, values) in WRONG {
                if name == "_node" && list.starts_with("/nodes") {
                    continue;
                }
                for value in values.iter().chain([&""]) {
                    let message = bad_parameter(cluster, &format!("{list}?{name}={value}"));
                    assert!(message.contains(name), "{list}?{name}={value}: {message}");
                    // Quoted, with control characters escaped.
                    let shown = format!("{:?}", decoded(value));
                    assert!(message.contains(&shown), "{list}?{name}={value}: {message}");
                    assert!(message.contains("expected"), "{list}?{name}={value}: {message}");
                }
                let message = bad_parameter(cluster, &format!("{list}?{name}"));
                assert!(message.contains(name), "{list}?{name}: {message}");
            }
        }
    });
}

#[test]
fn a_huge_value_is_refused_briefly_or_matches_nothing() {
    unharmed(|cluster| {
        let huge = "x".repeat(10_000);
        for (name, _) in WRONG {
            let message = bad_parameter(cluster, &format!("/clients?{name}={huge}"));
            assert!(message.contains(name) && message.contains("xxxxx"), "{name}: {message}");
            assert!(message.len() < 2_000, "{name}: a message of {} bytes", message.len());
        }
        for name in TEXTS {
            for value in ["", huge.as_str(), "%00", "%F0%9F%98%80%20%22%5C", "..%2F..%2F"] {
                let body = cluster.gateway.get(&format!("/clients?{name}={value}")).json();
                assert_eq!(body["code"], 0, "{name}: {body}");
                // Everything contains the empty text, nothing is it.
                let all = value.is_empty() && name.starts_with("_like_");
                assert_eq!(body["meta"]["count"], if all { 149 } else { 0 }, "{name}={value}");
            }
        }
        let digits = "9".repeat(10_000);
        let body = cluster.gateway.get(&format!("/clients?_limit={digits}")).json();
        assert_eq!((&body["meta"]["limit"], &body["meta"]["count"]), (&10_000.into(), &149.into()));
        let message = bad_parameter(cluster, &format!("/clients?_page={digits}"));
        assert!(message.contains("_page"), "{message}");
        for (query, count) in [
            (format!("proto_ver={digits}"), 0),
            (format!("_gte_created_at={digits}"), 0),
            (format!("_lte_created_at={digits}"), 149),
            (format!("_gte_connected_at=-{digits}"), 149),
            (format!("_lte_connected_at=-{digits}"), 0),
        ] {
            let body = cluster.gateway.get(&format!("/clients?{query}")).json();
            assert_eq!(body["meta"]["count"], count, "{}", &query[..30]);
        }
        let rows = cluster.gateway.get("/clients?_page=18446744073709551615&_limit=10000").rows();
        assert_eq!(rows, [] as [serde_json::Value; 0], "a page far behind the end is empty");
        for path in ["/clients/", "/clients/username/", "/nodes/a@127.0.0.1/clients/"] {
            assert_eq!(cluster.gateway.get(&format!("{path}{huge}")).rows().len(), 0, "{path}");
        }
    });
}

#[test]
fn a_cursor_that_is_none_is_refused() {
    unharmed(|cluster| {
        let whole = cluster.gateway.get("/clients?_limit=1&_cursor=").json()["meta"]["cursor"].clone();
        let whole = whole.as_str().filter(|cursor| !cursor.is_empty()).expect("148 clients are left");
        let next = cluster.gateway.get(&format!("/clients?_limit=1&_cursor={whole}"));
        assert_eq!(next.rows().len(), 1);
        let changed: String = whole.chars().rev().collect();
        let huge = "A".repeat(10_000);
        let cut = &whole[..whole.len() - 1];
        for cursor in ["x", "!!!", "%20", "%00", "-1", "AAAA", "====", huge.as_str(), cut, changed.as_str()] {
            for list in LISTS {
                let message = bad_parameter(cluster, &format!("{list}?_limit=1&_cursor={cursor}"));
                assert!(message.contains("_cursor"), "{cursor}: {message}");
                assert!(message.len() < 2_000, "a message of {} bytes", message.len());
            }
        }
        // Every single byte changed is either refused or leads to a page; never to anything else.
        for at in 0..whole.len() {
            let mut bytes = whole.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            let response = cluster.gateway.get(&format!("/clients?_limit=1&_cursor={changed}"));
            assert!([200, 400].contains(&response.status), "{changed}: {}", response.status);
            assert_eq!(response.code(), if response.status == 200 { 0 } else { 108 }, "{changed}");
        }
        let message = bad_parameter(cluster, &format!("/clients?_page=2&_cursor={whole}"));
        assert!(message.contains("_page") && message.contains("_cursor"), "{message}");
    });
}

#[test]
fn what_can_stand_once_is_refused_twice() {
    unharmed(|cluster| {
        for list in LISTS {
            for (name, value) in ONCE {
                assert_eq!(
                    cluster.gateway.get(&format!("{list}?{name}={value}")).status,
                    200,
                    "{list} {name}"
                );
                let message = bad_parameter(cluster, &format!("{list}?{name}={value}&{name}={value}"));
                assert!(message.contains(name) && message.contains("twice"), "{message}");
            }
        }
        let message = bad_parameter(cluster, "/clients/dev-0001?_fields=clientid&_fields=node");
        assert!(message.contains("_fields"), "{message}");
        // Thousands of parameters, within the limit of the URL.
        let message = bad_parameter(cluster, &format!("/clients?{}", "zone=x&".repeat(2_000)));
        assert!(message.contains("2000"), "{message}");
    });
}

#[test]
fn an_unknown_parameter_is_refused_by_name() {
    unharmed(|cluster| {
        let get = "/clients/dev-0001";
        let get_on_node = "/nodes/a@127.0.0.1/clients/dev-0002";
        for (path, name) in LISTS
            .into_iter()
            .flat_map(|list| {
                [
                    "foo",
                    "clientId",
                    "page",
                    "limit",
                    "_like_zone",
                    "_gte_disconnected_at",
                    "_Limit",
                    "",
                    "client%69d%00",
                ]
                .map(|name| (list, name))
            })
            .chain(["clientid", "_limit", "_node", "foo"].map(|name| (get, name)))
            .chain(["clientid", "_node"].map(|name| (get_on_node, name)))
            .chain(["/nodes", "/nodes/a@127.0.0.1"].map(|path| (path, "_limit")))
            .chain([
                ("/nodes/a@127.0.0.1/clients", "_node"),
                ("/nodes/a@127.0.0.1/clients/username/user-3", "_node"),
            ])
        {
            let target = format!("{path}?{name}=1");
            let message = bad_parameter(cluster, &target);
            assert!(message.contains(&format!("{:?}", decoded(name))), "{target}: {message}");
            assert!(message.contains("expected"), "{target}: {message}");
        }
        // A user name in both places is no mistake: conditions combine with AND.
        let count = |query: &str| {
            cluster.gateway.get(&format!("/clients/username/user-3{query}")).json()["meta"]["count"].clone()
        };
        assert_eq!(count("?username=user-1&username=user-3"), count(""));
        assert_eq!(count("?username=user-1"), 0);
        let long = "n".repeat(10_000);
        let message = bad_parameter(cluster, &format!("/clients?{long}=1"));
        assert!(message.contains("nnnnn") && message.len() < 2_000, "{message}");
        let kick = cluster.gateway.request("DELETE", "/clients/dev-0001?force=true");
        assert!(error(&kick, 400, 108, "kick?force").contains("force"));
        assert_eq!(cluster.gateway.find("dev-0001").len(), 1, "a refused kick kicks nobody");
        for target in ["/clients?", "/clients?&", "/clients?&&_limit=1&"] {
            assert_eq!(cluster.gateway.get(target).status, 200, "{target}");
        }
    });
}

#[test]
fn bad_percent_encoding_is_refused_wherever_it_stands() {
    unharmed(|cluster| {
        for bad in
            ["%", "%2", "%zz", "a%2", "%%25", "%+1", "%ff", "%C3", "%ED%A0%80", "%C0%AF", "%F5%80%80%80"]
        {
            for target in [
                format!("/clients?clientid={bad}"),
                format!("/clients?_limit=1&_like_username={bad}"),
                format!("/clients?_page={bad}"),
                format!("/clients?{bad}=1"),
                format!("/clients/{bad}"),
                format!("/clients/username/{bad}"),
                format!("/nodes/{bad}"),
                format!("/nodes/{bad}/clients"),
                format!("/nodes/a@127.0.0.1/clients/{bad}"),
                format!("/nodes/a@127.0.0.1/clients/username/{bad}"),
                format!("/clients/dev-0001?_fields={bad}"),
            ] {
                let message = bad_parameter(cluster, &target);
                assert!(message.contains(bad), "{target}: {message}");
                assert!(message.contains("expected"), "{target}: {message}");
            }
            let kick = cluster.gateway.request("DELETE", &format!("/clients/{bad}"));
            assert!(error(&kick, 400, 108, bad).contains(bad), "kick of {bad}");
        }
        // What a URL must not hold unencoded is refused, or read as what it is.
        for target in ["/clients?clientid=\u{fc}", "/clients/\u{fc}", "/clients?clientid=\"<>^`{|}\\"] {
            let response = cluster.gateway.get(target);
            assert!([200, 400].contains(&response.status), "{target}: {}", response.status);
            assert!(response.json().is_object(), "{target}");
        }
    });
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    unharmed(|cluster| {
        let one = ["/clients/dev-0001", "/nodes/a@127.0.0.1/clients/dev-0002"];
        for path in LISTS.into_iter().chain(["/nodes", "/nodes/a@127.0.0.1"]).chain(one) {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "BREW"]
            {
                let allowed: &[&str] =
                    if one.contains(&path) { &["GET", "HEAD", "DELETE"] } else { &["GET", "HEAD"] };
                if allowed.contains(&method) {
                    continue;
                }
                let response = cluster.gateway.request(method, path);
                let message = error(&response, 405, 102, &format!("{method} {path}"));
                let allow = response.header("allow").unwrap_or_default();
                let methods: Vec<&str> = allow.split(',').map(str::trim).collect();
                for method in allowed {
                    assert!(methods.contains(method), "{path}: Allow: {allow}");
                    assert!(message.contains(method), "{path}: {message}");
                }
            }
        }
        for path in
            ["", "/", "/clientz", "/Clients", "/clients/a/b", "/clients//", "/nodes/a@127.0.0.1/x", "/.."]
        {
            let message = error(&cluster.gateway.get(path), 404, 102, path);
            assert!(!message.is_empty());
        }
        for path in ["/nodes/nowhere@127.0.0.1", "/nodes/nowhere@127.0.0.1/clients", "/nodes/x/clients/y"] {
            error(&cluster.gateway.get(path), 404, 101, path);
        }
    });
}

#[test]
fn without_a_right_key_nothing_is_told() {
    unharmed(|cluster| {
        let address = cluster.gateway.address();
        let target = format!("{BASE}/clients?_limit=1");
        let answer = |values: &[&str]| {
            let headers: Vec<(&str, &str)> = values.iter().map(|value| ("authorization", *value)).collect();
            http::request(address, "GET", &target, &headers)
        };
        let right = http::basic(OPERATOR.0, OPERATOR.1);
        let (_, token) = right.split_once(' ').unwrap();
        let wrong = [
            http::basic(OPERATOR.0, "wrong-secret"),
            http::basic("nobody", OPERATOR.1),
            http::basic(OPERATOR.1, OPERATOR.0),
            http::basic(OPERATOR.0, VIEWER.1),
            http::basic(OPERATOR.0, ""),
            http::basic("", OPERATOR.1),
            http::basic("", ""),
            http::basic(OPERATOR.0, "app_secret "),
            http::basic(OPERATOR.0, "app_secret\0"),
            http::basic("APP_ID", OPERATOR.1),
            http::basic(OPERATOR.0, &"s".repeat(8_000)),
            "Basic YXBwX2lk".to_owned(),
            "Basic /w==".to_owned(),
            "Basic !!!".to_owned(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            format!("Basic {}", &token[..token.len() - 2]),
            format!("Basic {token} {token}"),
            format!("Basic{token}"),
            token.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            "Bearer app_id".to_owned(),
            "Bearer wrong-secret".to_owned(),
            "Bearer app_secretx".to_owned(),
            format!("Bearer {token}"),
            format!("Digest {token}"),
            "app_id:app_secret".to_owned(),
            String::new(),
        ];
        let refusals = wrong.iter().map(|value| (vec![value.as_str()], value.as_str())).chain([
            (vec![], "no key"),
            (vec![right.as_str(), right.as_str()], "two keys"),
            (vec!["Basic wrong", right.as_str()], "a wrong key and a right one"),
        ]);
        for (values, of) in refusals {
            let response = answer(&values);
            let message = error(&response, 401, 102, of);
            assert!(!message.contains("wrong-secret") && !message.contains(OPERATOR.1), "{of}: {message}");
            let challenge = response.header("www-authenticate").unwrap_or_default();
            assert!(challenge.to_lowercase().starts_with("basic"), "{of}: {challenge}");
        }
        let bearer = format!("Bearer {}", OPERATOR.1);
        for value in [&right, &bearer, &right.replace("Basic", "basic"), &bearer.replace("Bearer", "BEARER")]
        {
            assert_eq!(answer(&[value]).rows().len(), 1, "{value}");
        }
        for method in ["GET", "DELETE", "POST"] {
            for path in ["/clients", "/clients/dev-0001", "/nodes", "/nodes/a@127.0.0.1"] {
                let response = http::request(address, method, &format!("{BASE}{path}"), &[]);
                error(&response, 401, 102, &format!("{method} {path}"));
            }
        }
        let log = cluster.gateway.process.log();
        for secret in [OPERATOR.1, VIEWER.1, "wrong-secret", token] {
            assert!(!log.contains(secret), "the log holds {secret}:\n{log}");
        }
    });
}

#[test]
fn a_viewer_reads_but_does_not_kick() {
    unharmed(|cluster| {
        let viewer = |method: &str, target: &str| cluster.gateway.request_as(VIEWER, method, target);
        assert_eq!(viewer("GET", "/clients/dev-0001").rows().len(), 1);
        assert_eq!(viewer("GET", "/nodes").status, 200);
        for target in [
            "/clients/dev-0001",
            "/nodes/b@127.0.0.1/clients/dev-0001",
            "/clients/nobody-has-this",
            "/nodes/nowhere@127.0.0.1/clients/dev-0001",
        ] {
            let message = error(&viewer("DELETE", target), 403, 102, target);
            assert!(message.contains("viewer") && message.contains("operator"), "{message}");
        }
        assert_eq!(cluster.gateway.find("dev-0001").len(), 1);
    });
}

#[test]
fn what_is_too_large_is_refused() {
    unharmed(|cluster| {
        let address = cluster.gateway.address();
        let key = http::basic(OPERATOR.0, OPERATOR.1);
        let send = |request: String, of: &str| {
            http::send(address, request.as_bytes()).unwrap_or_else(|error| panic!("{of}: no answer: {error}"))
        };
        let head = |target: &str, more: &str| {
            format!("GET {BASE}{target} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n{more}\r\n")
        };
        let megabyte = "h".repeat(1 << 20);
        for (request, of) in [
            (head("/clients", &format!("X-Large: {megabyte}\r\n")), "a header of 1 MiB"),
            (head("/clients", &format!("X-Large: {megabyte}{megabyte}{megabyte}{megabyte}\r\n")), "4 MiB"),
            (head("/clients", &format!("X-{megabyte}: 1\r\n")), "a header name of 1 MiB"),
            (
                head("/clients", &(0..50_000).map(|n| format!("X-{n}: 1\r\n")).collect::<String>()),
                "50,000 headers",
            ),
            (head("/clients", &(0..300).map(|n| format!("X-{n}: 1\r\n")).collect::<String>()), "300 headers"),
            (head(&format!("/clients?clientid={}", "c".repeat(100_000)), ""), "a URL of 100 kB"),
            (head(&format!("/clients/{}", "c".repeat(100_000)), ""), "a path of 100 kB"),
            (head(&format!("/clients?clientid={megabyte}"), ""), "a URL of 1 MiB"),
        ] {
            let response = send(request, of);
            assert!([413, 414, 431].contains(&response.status), "{of}: {}", response.status);
            let message = error(&response, response.status, 102, of);
            assert!(message.len() < 500, "{of}: {message}");
        }
        let body = "b".repeat(4 << 20);
        let kick = format!(
            "DELETE {BASE}/clients/nobody HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        error(&send(kick, "a body of 4 MiB"), 413, 102, "a body of 4 MiB");
        let chunked = format!(
            "DELETE {BASE}/clients/nobody HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nTransfer-Encoding: chunked\r\n\r\n\
             400000\r\n{body}\r\n0\r\n\r\n"
        );
        error(&send(chunked, "chunks of 4 MiB"), 413, 102, "chunks of 4 MiB");
    });
}

#[test]
fn what_is_no_request_is_told_so() {
    unharmed(|cluster| {
        let address = cluster.gateway.address();
        let key = http::basic(OPERATOR.0, OPERATOR.1);
        let with = |first: &str, more: &str| {
            format!("{first}\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close\r\n{more}\r\n")
                .into_bytes()
        };
        let line = format!("GET {BASE}/clients?_limit=1 HTTP/1.1");
        for (bytes, of) in [
            (b"GARBAGE\r\n\r\n".to_vec(), "garbage"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello \r\n\r\n".to_vec(), "TLS"),
            (b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test".to_vec(), "MQTT"),
            (vec![0; 100], "zeros"),
            (vec![0xff; 100], "ones"),
            (with("GET", ""), "a method alone"),
            (with(&format!("GET {BASE}/clients"), ""), "no version"),
            (with(&format!("GET {BASE}/clients HTTP/9.9"), ""), "an unknown version"),
            (with(&format!("GET {BASE}/clients HTTQ/1.1"), ""), "another protocol"),
            (with(&format!("GET {BASE}/cli ents HTTP/1.1"), ""), "a space in the path"),
            (with(&format!("GET {BASE}/cli\0ents HTTP/1.1"), ""), "a NUL in the path"),
            (with(&format!("G(T {BASE}/clients HTTP/1.1"), ""), "no method"),
            (with(&line, "Foo Bar: 1\r\n"), "a space in a header's name"),
            (with(&line, "no colon\r\n"), "a header without a colon"),
            (with(&line, "X: a\0b\r\n"), "a NUL in a header"),
            (with(&line, "Content-Length: x\r\n"), "a length that is none"),
            (with(&line, "Content-Length: -1\r\n"), "a negative length"),
            (with(&line, "Content-Length: 1\r\nContent-Length: 2\r\n"), "two lengths"),
        ] {
            let response =
                http::send(address, &bytes).unwrap_or_else(|error| panic!("{of}: no answer: {error}"));
            assert!(
                (400..500).contains(&response.status) || response.status == 505,
                "{of}: {}",
                response.status
            );
            error(&response, response.status, 102, of);
        }
        let chunked = format!(
            "{}5\r\nhello\r\n0\r\n\r\n",
            String::from_utf8(with(&line, "Transfer-Encoding: chunked\r\n")).unwrap()
        );
        for (bytes, of) in [
            (with(&line, ""), "an ordinary request"),
            (with(&line.replace("/1.1", "/1.0"), ""), "HTTP/1.0"),
            (chunked.into_bytes(), "a chunked body with GET"),
            (with(&line, "Expect: 100-continue\r\n"), "Expect without a body"),
            ([b"\r\n\r\n".to_vec(), with(&line, "")].concat(), "empty lines first"),
        ] {
            let response =
                http::send(address, &bytes).unwrap_or_else(|error| panic!("{of}: no answer: {error}"));
            assert_eq!(response.rows().len(), 1, "{of}");
        }
        // In any form of target there is a JSON answer.
        for first in [
            "OPTIONS * HTTP/1.1".to_owned(),
            "GET * HTTP/1.1".to_owned(),
            "CONNECT example.org:443 HTTP/1.1".to_owned(),
            format!("GET http://example.org{BASE}/clients HTTP/1.1"),
            "GET ?x HTTP/1.1".to_owned(),
        ] {
            let response =
                http::send(address, &with(&first, "")).unwrap_or_else(|error| panic!("{first}: {error}"));
            assert!(response.json()["code"].is_number(), "{first}");
            assert!(response.status < 500, "{first}: {}", response.status);
        }
        // A request that breaks off, and a connection that says nothing, take nothing from the others.
        let idle: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for _ in 0..20 {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut stream, &with(&line, "")[..40]).unwrap();
        }
        assert_eq!(cluster.gateway.get("/clients?_limit=2").rows().len(), 2);
        drop(idle);
    });
}
