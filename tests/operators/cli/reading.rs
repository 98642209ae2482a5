//! What is read is what the API says, in every form.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster};
use serde_json::{Value, json};

use super::run::{ask, run, run_with, to, with};

const NAMES: [&str; 3] = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"];

/// Three nodes of made-up clients, among them every value that is easily mistaken.
fn made_up() -> (Cluster, tempfile::NamedTempFile) {
    let (mut random, _) = rows::generator();
    let table = rows::table(&rows::clients(&mut random, &NAMES.map(str::to_owned), 300));
    (Cluster::of(NAMES.map(|name| Agent::file(name, table.path())).into()), table)
}

#[test]
fn every_filter_and_sort_is_the_apis() {
    let (cluster, _table) = made_up();
    for (arguments, query) in [
        ("", "_limit=100"),
        ("--limit 7 --page 3", "_limit=7&_page=3"),
        ("--like dev-000 --like 1", "_like_clientid=dev-000&_like_clientid=1"),
        ("--like-username a", "_like_username=a"),
        ("--clientid dev-00001 --clientid dev-00002", "clientid=dev-00001&clientid=dev-00002"),
        ("--username user-1", "username=user-1"),
        ("--zone external", "zone=external"),
        ("--proto-name MQTT --proto-ver 4 --proto-ver 5", "proto_name=MQTT&proto_ver=4&proto_ver=5"),
        ("--ip 10.0.0.1 --ip ::1", "ip_address=10.0.0.1&ip_address=::1"),
        ("--state idle --state disconnected", "conn_state=idle&conn_state=disconnected"),
        ("--clean-start false", "clean_start=false"),
        ("--connected-after 1616036400", "_gte_connected_at=1616036400"),
        ("--created-before 2021-03-18T03:00:00Z", "_lte_created_at=1616036400"),
        ("--node a@127.0.0.1", "_node=a%40127.0.0.1"),
        ("--sort connected_at --desc --limit 9", "_sort=connected_at&_order=desc&_limit=9"),
        ("--sort mqueue_len --desc", "_sort=mqueue_len&_order=desc&_limit=100"),
        ("--fields clientid,node,recv_oct", "_fields=clientid,node,recv_oct"),
    ] {
        let mut typed = vec!["clients", "-o", "json"];
        typed.extend(arguments.split_whitespace());
        let said = ask(&cluster, &typed).whole();
        let said: Value = serde_json::from_str(&said).unwrap();
        let limit = if query.contains("_limit") { "" } else { "&_limit=100" };
        let expected = cluster.gateway.get(&format!("/clients?{query}{limit}")).json();
        assert_eq!(said["data"], expected["data"], "{arguments}");
        assert_eq!(said["meta"]["count"], expected["meta"]["count"], "{arguments}");
        // Counts and exports mean the same clients by the same filters.
        if !["--limit", "--page", "--sort", "--fields"].iter().any(|option| arguments.contains(option)) {
            let mut typed = vec!["count"];
            typed.extend(arguments.split_whitespace());
            assert_eq!(ask(&cluster, &typed).whole(), format!("{}\n", expected["meta"]["count"]));
        }
    }
}

#[test]
fn all_pages_are_the_export_in_every_form() {
    let (cluster, _table) = made_up();
    let get = |query: &str| String::from_utf8(cluster.gateway.get(query).body).unwrap();
    let fields = "clientid,node,username,connected_at";
    for (extra, query) in [
        (vec![], String::new()),
        (vec!["--sort", "username", "--desc"], "&_sort=username&_order=desc".to_owned()),
        (vec!["--fields", fields], format!("&_fields={fields}")),
    ] {
        let export = get(&format!("/client_export?{}", query.trim_start_matches('&')));
        let rows: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let rows = &rows[..rows.len() - 1];
        assert_eq!(rows.len(), 300);
        let typed = |more: &[&'static str]| [more, &extra].concat();

        let walk = ask(&cluster, &typed(&["clients", "--all", "--limit", "37", "-o", "ndjson"]));
        let without_figures = |rows: &[Value]| -> Vec<Value> {
            rows.iter().map(|row| json!([row["clientid"], row["node"], row["username"]])).collect()
        };
        assert_eq!(without_figures(&walk.rows()), without_figures(rows));
        let walk = ask(&cluster, &typed(&["clients", "--all", "--limit", "100", "-o", "json"])).whole();
        let walk: Value = serde_json::from_str(&walk).unwrap();
        assert_eq!(walk["data"].as_array().unwrap().len(), 300);
        assert_eq!(
            walk["meta"],
            json!({"count": 300, "consistent": true, "nodes": {"total": 3, "answered": 3, "failed": []}})
        );

        let lines = ask(&cluster, &typed(&["export"])).whole();
        assert_eq!(lines.lines().count(), 300);
        assert_eq!(
            without_figures(
                &lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
            ),
            without_figures(rows)
        );
        let csv = get(&format!("/client_export?_format=csv{query}"));
        assert_eq!(ask(&cluster, &typed(&["export", "--format", "csv"])).whole(), csv);
    }
    // The pages' CSV too, but that columns stand as they were asked for.
    let csv = get("/client_export?_format=csv");
    assert_eq!(ask(&cluster, &["clients", "--all", "--limit", "100", "-o", "csv"]).whole(), csv);
    let csv = ask(&cluster, &["clients", "--limit", "1", "-o", "csv", "--fields", "node,clientid"]);
    assert!(csv.out.starts_with("node,clientid\r\n") && csv.out.lines().count() == 2, "{csv:?}");
}

/// A gateway that gives these answers, one a connection.
fn answering(answers: Vec<Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let body = answer.to_string();
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
        }
    });
    address
}

#[test]
fn a_walk_of_which_one_page_is_not_consistent_is_not() {
    let page = |clientid: &str, cursor: &str, consistent: bool| {
        let nodes = json!({"total": 1, "answered": 1, "failed": []});
        json!({
            "code": 0, "data": [{"clientid": clientid, "node": "a@h"}],
            "meta": {"limit": 1, "hasnext": !cursor.is_empty(), "cursor": cursor, "count": 3,
                     "consistent": consistent, "nodes": nodes},
        })
    };
    let pages = || vec![page("a", "x", true), page("b", "y", false), page("c", "", true)];
    let walk =
        |format: &str| run(to(answering(pages()), &["clients", "--all", "--limit", "1", "-o", format]));
    let whole: Value = serde_json::from_str(&walk("json").whole()).unwrap();
    assert_eq!((whole["data"].as_array().unwrap().len(), &whole["meta"]["consistent"]), (3, &json!(false)));
    let table = walk("table");
    assert_eq!((table.status, table.out.lines().count()), (0, 4), "{table:?}");
    assert!(table.err.starts_with("warning: nodes changed while a page was read"), "{table:?}");
}

#[test]
fn tables_say_what_is_not_on_them() {
    let cluster = Cluster::embedded();
    let ids = ["sensor-1", "sensor-2", "other"];
    let _clients: Vec<_> =
        (0..3).map(|at| Client::connect(cluster.agents[at].mqtt(), &Connect::new(5, ids[at]))).collect();
    ids.iter().for_each(|id| drop(cluster.gateway.row(id)));

    let said = ask(&cluster, &["clients", "--like", "sensor-", "--limit", "1"]);
    assert_eq!(said.status, 0);
    assert_eq!(said.err, "1 of 2 clients; more by --page 2 or --all\n");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("CLIENTID  NODE         USERNAME   IP_ADDRESS   PORT"), "{}", lines[0]);
    assert!(lines[1].starts_with("sensor-1  a@127.0.0.1  undefined  127.0.0.1   "), "{}", lines[1]);
    assert_eq!(ask(&cluster, &["clients", "--all", "--limit", "1"]).whole().lines().count(), 4);
    assert_eq!(ask(&cluster, &["clients", "--no-headers"]).whole().lines().count(), 3);
    assert!(ask(&cluster, &["clients", "-o", "wide"]).whole().contains("MQUEUE_DROPPED"));
    let none = ask(&cluster, &["clients", "--like", "nobody"]);
    assert_eq!(
        (none.status, none.out.as_str(), none.err.as_str()),
        (0, "", "no client on this page, 0 clients\n")
    );

    let detail = ask(&cluster, &["client", "sensor-2"]).whole();
    assert_eq!(detail.lines().count(), 36, "{detail}");
    assert!(
        detail.contains("node:               b@127.0.0.1\n") && detail.contains("proto_ver:          5\n"),
        "{detail}"
    );
    let row = ask(&cluster, &["client", "sensor-2", "-o", "ndjson"]).rows();
    assert_eq!(row[0]["clientid"], "sensor-2");

    assert_eq!(ask(&cluster, &["count"]).whole(), "3\n");
    assert_eq!(
        ask(&cluster, &["count", "--by", "node", "--no-headers"]).whole(),
        "a@127.0.0.1  1\nb@127.0.0.1  1\nc@127.0.0.1  1\n"
    );
    let top = ask(&cluster, &["count", "--by", "node", "--top", "1"]);
    assert_eq!(
        (top.out.as_str(), top.err.as_str()),
        (
            "NODE         COUNT\na@127.0.0.1      1\n",
            "1 of 3 groups; the others have 2 of 3 clients, see --top\n"
        )
    );
    assert_eq!(
        ask(&cluster, &["count", "--by", "node", "-o", "csv"]).whole(),
        "value,count\r\na@127.0.0.1,1\r\nb@127.0.0.1,1\r\nc@127.0.0.1,1\r\n"
    );
    assert_eq!(ask(&cluster, &["count", "-o", "ndjson"]).whole(), "{\"count\":3}\n");
    let json: Value = serde_json::from_str(&ask(&cluster, &["count", "-o", "json"]).whole()).unwrap();
    assert_eq!((&json["data"], &json["meta"]["count"]), (&json!([]), &json!(3)));

    let nodes = ask(&cluster, &["nodes"]).whole();
    assert_eq!(nodes.lines().count(), 4);
    assert!(NAMES.iter().all(|name| nodes.contains(name)) && nodes.contains("connected"), "{nodes}");
    assert_eq!(ask(&cluster, &["nodes", NAMES[1], "-o", "ndjson"]).rows()[0]["node"], NAMES[1]);
    let all = cluster.gateway.get("/nodes").json();
    let csv = ask(&cluster, &["nodes", "-o", "csv"]).whole();
    let mut titles: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    titles.sort_unstable();
    assert_eq!(titles, all["data"][0].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn top_is_sorted_by_its_statistic_and_ends_where_nobody_watches() {
    let cluster = Cluster::embedded();
    let mut clients: Vec<_> = (0..3)
        .map(|at| Client::connect(cluster.agents[at].mqtt(), &Connect::new(5, &format!("c{at}"))))
        .collect();
    for (at, client) in clients.iter_mut().enumerate() {
        (0..=at * 2).for_each(|_| client.publish("t", 1, b"x"));
        cluster.gateway.row_when(&format!("c{at}"), |row| row["recv_msg"] == at * 2 + 1);
    }
    let top = ask(&cluster, &["top", "recv_msg", "--limit", "2"]).whole();
    let lines: Vec<&str> = top.lines().collect();
    assert!(
        lines[0].ends_with("Z   2 of 3 clients")
            && lines[1].starts_with("CLIENTID  NODE")
            && lines[1].contains("RECV_MSG"),
        "{top}"
    );
    assert!(lines[2].starts_with("c2 ") && lines[3].starts_with("c1 ") && lines.len() == 4, "{top}");
    ask(&cluster, &["top", "clients"]).failed(2, &["clients", "_sort"]);
}

#[test]
fn what_is_watched_through_a_pipe_is_one_table_after_the_other() {
    let cluster = Cluster::embedded();
    let mut command =
        to(cluster.gateway.address(), &["clients", "--watch", "--interval", "50ms", "--fields", "clientid"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.next().unwrap().ends_with("Z   0 clients"));
    let _client = Client::connect(cluster.agents[1].mqtt(), &Connect::new(5, "late"));
    let late: Vec<String> =
        lines.by_ref().skip_while(|line| !line.ends_with("1 of 1 client")).take(4).collect();
    assert_eq!(late[1..], ["CLIENTID", "late", ""]);
    // Its reader leaves.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn every_id_can_be_asked_for() {
    let ids = [".", "..", "a/b", "a b", "100%", "ü", "--help", "-", "\u{1b}[31m", "a?b#c", "\""];
    let rows: Vec<Value> = ids
        .iter()
        .map(|id| json!({"node": "a@127.0.0.1", "clientid": id, "conn_state": "connected"}))
        .collect();
    let table = rows::table(&rows);
    let cluster = Cluster::of(vec![Agent::file("a@127.0.0.1", table.path())]);
    for id in ids {
        let rows = ask(&cluster, &["client", "-o", "ndjson", "--fields", "clientid", "--", id]).rows();
        assert_eq!(rows, [json!({"clientid": id})], "{id:?}");
    }
    let detail = ask(&cluster, &["client", "--", "\u{1b}[31m"]).whole();
    assert!(detail.contains("\\u{1b}[31m") && !detail.contains('\u{1b}'), "{detail:?}");
    let said = ask(&cluster, &["client", "\u{1b}[32m"]);
    said.failed(3, &["\\u{1b}[32m"]);
    assert!(!said.err.contains('\u{1b}'), "{said:?}");
}

#[test]
fn an_id_of_dots_is_asked_for_where_no_proxy_takes_it_for_a_path() {
    for id in [".", ".."] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{\"code\":0,\"data\":[]}\n")
                .unwrap();
            line
        });
        run(to(address, &["client", id])).failed(3, &["no node has a client"]);
        assert_eq!(server.join().unwrap(), format!("GET /api/v4/clients?clientid={id} HTTP/1.1\r\n"));
    }
}

#[test]
fn a_context_is_all_one_needs_and_shows_no_key() {
    let (cluster, _table) = made_up();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rollcall/config.toml");
    let url = format!("http://{}", cluster.gateway.address());
    let command = |arguments: &[&str]| with(super::run::command(arguments), &[("ROLLCALL_CONFIG", &config)]);
    run(command(&["count"])).failed(2, &["--url", "ROLLCALL_URL", "context"]);

    run_with(command(&["context", "set", "here", "--url", &url, "--key-stdin"]), "app_id:app_secret\n")
        .whole();
    assert_eq!(run(command(&["count"])).whole(), "300\n");
    let key = folder.path().join("viewer.key");
    std::fs::write(&key, "viewer_id:viewer_secret\n").unwrap();
    run(command(&["context", "set", "viewer", "--url", &url, "--key-file", key.to_str().unwrap()])).whole();
    let list = run(command(&["context", "list"])).whole();
    let lines: Vec<&str> = list.lines().collect();
    assert!(
        lines[1].starts_with('*') && lines[1].contains("here") && lines[2].contains("viewer.key"),
        "{list}"
    );
    assert!(!list.contains("app_secret"), "{list}");
    // The key's file is open to others, which is said but does not keep from reading.
    let said = run(command(&["count", "--context", "viewer"]));
    assert_eq!((said.status, said.out.as_str()), (0, "300\n"));
    assert!(said.err.contains("viewer.key") && said.err.contains("chmod 600"), "{said:?}");
    run(command(&["context", "use", "viewer"])).whole();
    run(command(&["kick", "--yes", "nobody"])).failed(5, &[]);
    // A variable comes before the context, and an option before that.
    let refused = with(command(&["count"]), &[("ROLLCALL_KEY", "a:b")]);
    run(refused).failed(5, &[]);
    let refused = with(command(&["count"]), &[("ROLLCALL_URL", "http://127.0.0.1:1")]);
    run(refused).failed(1, &["127.0.0.1:1"]);
    run(command(&["context", "remove", "viewer"])).whole();
    run(command(&["count"])).failed(2, &["--context", "--url"].map(|_| "context"));
    run(command(&["context", "use", "viewer"])).failed(2, &["viewer", "here"]);
    run(command(&["context", "set", "new"])).failed(2, &["new", "--url"]);
    // Another gateway is not sent the key of the one before.
    run(command(&["context", "set", "here", "--url", "http://127.0.0.1:9"])).whole();
    assert!(!std::fs::read_to_string(&config).unwrap().contains("app_secret"));
    assert_eq!(run(to(cluster.gateway.address(), &["count"])).whole(), "300\n");
}
