//! Replays what EMQX's own handler answered (see README.md) against two file agents and a gateway, and lists every
//! request that is answered differently.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use rollcall_tests::http::{self, Response};
use rollcall_tests::sandbox::{Agent, BASE, Cluster, OPERATOR};
use serde_json::Value;

/// Counters of a recorded row are its own; identity, times and the presence of every key are the contract.
const FIXED: [&str; 17] = [
    "node",
    "clientid",
    "username",
    "proto_name",
    "proto_ver",
    "ip_address",
    "port",
    "is_bridge",
    "zone",
    "mountpoint",
    "keepalive",
    "clean_start",
    "expiry_interval",
    "connected",
    "connected_at",
    "created_at",
    "disconnected_at",
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

fn lines_of(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn cluster() -> Cluster {
    let table = folder().join("clients.ndjson");
    Cluster::of(["a@127.0.0.1", "b@127.0.0.1"].map(|name| Agent::file(name, &table)).into())
}

/// Sends a recorded request, byte for byte.
fn replay(cluster: &Cluster, entry: &Value) -> Response {
    let text = |key: &str| entry[key].as_str().unwrap();
    let authorization = http::basic(OPERATOR.0, OPERATOR.1);
    let mut headers = vec![("accept", "application/json")];
    if entry["auth"] != false {
        headers.push(("authorization", &authorization));
    }
    http::request(cluster.gateway.address(), text("method"), &format!("{BASE}{}", text("target")), &headers)
}

/// How an answer differs from what is expected of it; empty if it does not.
fn differences(entry: &Value, response: &Response) -> Vec<String> {
    let recorded = &entry["emqx"];
    let ours = entry.get("ours");
    let want = ours.unwrap_or(recorded);
    if want["status"] != response.status {
        let why = want["why"].as_str().unwrap_or("as recorded");
        let body = String::from_utf8_lossy(&response.body);
        return vec![format!("status {}, expected {} ({why}): {body}", response.status, want["status"])];
    }
    let Some(body) = serde_json::from_slice::<Value>(&response.body).ok().filter(Value::is_object) else {
        return vec!["the body is not a JSON object".to_owned()];
    };
    let mut found = Vec::new();
    if let Some(code) = want.get("code").filter(|code| **code != body["code"]) {
        found.push(format!("code {}, expected {code}", body["code"]));
    }
    if response.status >= 400 {
        found.extend(error_differences(response, &body));
        return found;
    }
    let Some(data) = body["data"].as_array() else {
        found.push("data is not an array".to_owned());
        return found;
    };
    if let Some(expected) = want.get("clients") {
        found.extend(client_differences(data, expected.as_array().unwrap()));
    }
    if let Some(rows) = want.get("rows").filter(|rows| **rows != data.len()) {
        found.push(format!("{} rows, expected {rows}", data.len()));
    }
    if let (Some(expected), None) = (recorded.get("meta"), ours) {
        found.extend(meta_differences(&body["meta"], expected, want.get("clients")));
    }
    found
}

fn error_differences(response: &Response, body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if body["message"].as_str().unwrap_or_default().is_empty() {
        found.push("an error without a message".to_owned());
    }
    let challenge = response.header("www-authenticate").unwrap_or_default().to_lowercase();
    if response.status == 401 && !challenge.contains("basic") {
        found.push("401 without WWW-Authenticate: Basic".to_owned());
    }
    if response.status == 405 && response.header("allow").unwrap_or_default().is_empty() {
        found.push("405 without Allow".to_owned());
    }
    found
}

/// Both as [node, clientid], the expected ones sorted.
fn client_differences(data: &[Value], expected: &[Value]) -> Option<String> {
    let pair =
        |row: &Value| [&row["node"], &row["clientid"]].map(|text| text.as_str().unwrap_or("?").to_owned());
    let mut got: Vec<[String; 2]> = data.iter().map(pair).collect();
    got.sort();
    let expected: Vec<[String; 2]> =
        expected.iter().map(|entry| serde_json::from_value(entry.clone()).unwrap()).collect();
    (got != expected).then(|| {
        let missing: Vec<_> = expected.iter().filter(|entry| !got.contains(entry)).take(3).collect();
        let extra: Vec<_> = got.iter().filter(|entry| !expected.contains(entry)).take(3).collect();
        format!("{} clients, expected {}; missing {missing:?}, extra {extra:?}", got.len(), expected.len())
    })
}

fn meta_differences(meta: &Value, expected: &Value, clients: Option<&Value>) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["page", "limit", "hasnext"] {
        if meta[key] != expected[key] {
            found.push(format!("meta.{key} {}, expected {}", meta[key], expected[key]));
        }
    }
    // EMQX says -1 where it does not know.
    let count = match expected["count"].as_i64() {
        Some(count) if count >= 0 => Some(count),
        _ => clients.and_then(Value::as_array).map(|clients| i64::try_from(clients.len()).unwrap()),
    };
    if let Some(count) = count.filter(|count| meta["count"] != *count) {
        found.push(format!("meta.count {}, expected {count}", meta["count"]));
    }
    found
}

#[test]
fn recorded_requests_are_answered_as_recorded_or_differently_on_purpose() {
    let cluster = cluster();
    let entries = lines_of("requests.jsonl");
    assert_eq!(entries.len(), 115);
    let mut failed = Vec::new();
    for entry in &entries {
        let found = differences(entry, &replay(&cluster, entry));
        if !found.is_empty() {
            failed.push(format!("{} {}\n    {}", entry["method"], entry["target"], found.join("\n    ")));
        }
    }
    assert!(failed.is_empty(), "{} of {} differ:\n{}", failed.len(), entries.len(), failed.join("\n"));
}

#[test]
fn recorded_rows_are_rendered_as_recorded() {
    let cluster = cluster();
    for want in lines_of("rows.jsonl") {
        let text = |key: &str| http::encode(want[key].as_str().unwrap());
        let target = format!("/nodes/{}/clients/{}", text("node"), text("clientid"));
        let rows = cluster.gateway.get(&target).rows();
        assert_eq!(rows.len(), 1, "{target}");
        for key in FIXED {
            assert_eq!(rows[0].get(key), want.get(key), "{key} of {target}");
        }
        let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let (mut got, mut expected) = (keys(&rows[0]), keys(&want));
        got.sort();
        expected.sort();
        assert_eq!(got, expected, "keys of {target}");
    }
}

#[test]
fn without_a_key_a_recorded_request_is_refused() {
    let cluster = cluster();
    let mut entry = lines_of("requests.jsonl").swap_remove(0);
    entry["auth"] = false.into();
    entry["emqx"] = serde_json::json!({"status": 401, "code": 102});
    assert_eq!(differences(&entry, &replay(&cluster, &entry)), [] as [String; 0]);
}
