//! What `GET /nodes` tells of nodes that hang, restart and share a name, and what lists make of them.

use std::time::{Duration, Instant};

use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const NAMES: [&str; 2] = ["a@127.0.0.1", "b@127.0.0.1"];

/// One client on a node.
fn table_of(node: &str, clientid: &str) -> NamedTempFile {
    rows::table(&[json!({"node": node, "clientid": clientid, "conn_state": "connected"})])
}

/// The node's row, as soon as it is so.
fn node_when(gateway: &Gateway, node: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("such state of {node}"), || {
        let row = gateway.get(&format!("/nodes/{node}")).json()["data"].clone();
        if is_so(&row) { Ok(row) } else { Err(row.to_string()) }
    })
}

#[test]
fn a_node_that_hangs_is_soon_not_waited_for_and_what_it_did_is_told_when_it_is_back() {
    let tables = NAMES.map(|name| table_of(name, &format!("on-{name}")));
    let agents = [0, 1].map(|index| Agent::file(NAMES[index], tables[index].path()));
    let told = ["--probe-interval", "200ms", "--probe-timeout", "1s", "--circuit-failures", "2"];
    // Whoever waits for a silent node waits for longer than these tests have patience.
    let told = [&told[..], &["--request-timeout", "10m"]].concat();
    let mut cluster = Cluster::with(agents.into(), &told);
    let before = node_when(&cluster.gateway, NAMES[1], |row| row["state"] == "connected");
    assert_eq!(
        json!([before["circuit"], before["failures"], before["restarts"]]),
        json!(["closed", 0, 0]),
        "{before}"
    );

    cluster.agents[1].process.freeze();
    let gone = node_when(&cluster.gateway, NAMES[1], |row| row["circuit"] == "open");
    assert_eq!(gone["state"], "unavailable", "{gone}");
    assert!(gone["failures"].as_u64() >= Some(2) && gone["last_error_at"].is_string(), "{gone}");
    for target in ["/clients", "/client_counts"] {
        let response = cluster.gateway.get(target);
        let body = response.json();
        assert_eq!(
            json!([response.status, body["meta"]["count"], body["meta"]["count_is"]]),
            json!([200, 1, "at_least"]),
            "{body}"
        );
        let failed = &body["meta"]["nodes"]["failed"];
        assert_eq!((&failed[0]["node"], failed.as_array().map(Vec::len)), (&json!(NAMES[1]), Some(1)));
        assert!(["timeout", "unreachable"].contains(&failed[0]["reason"].as_str().unwrap()), "{body}");
    }
    for target in ["/clients?_partial=false", "/clients/on-a@127.0.0.1?_partial=false", "/clients/nobody"] {
        let response = cluster.gateway.get(target);
        assert_eq!((response.status, response.code()), (503, 101), "{target}: {}", response.json());
    }

    cluster.agents[1].process.thaw();
    cluster.await_all_answering();
    let back = node_when(&cluster.gateway, NAMES[1], |row| row["state"] == "connected");
    assert_eq!(
        json!([back["circuit"], back["failures"], back["restarts"]]),
        json!(["closed", 0, 0]),
        "{back}"
    );
    assert!(back["changes"].as_u64() >= Some(2) && back["last_error"].is_string(), "{back}");

    cluster.agents[1].process.kill();
    cluster.agents[1].restart();
    let again = node_when(&cluster.gateway, NAMES[1], |row| row["restarts"] == 1);
    assert_ne!(again["incarnation"], before["incarnation"], "{again}");
    assert_eq!((&again["node"], &again["previous_node"]), (&json!(NAMES[1]), &Value::Null), "{again}");
}

#[test]
fn two_agents_under_one_name_are_told_apart_and_only_the_first_is_believed() {
    let tables = [table_of(NAMES[0], "first"), table_of(NAMES[0], "twin"), table_of(NAMES[1], "other")];
    let mut agents: Vec<Agent> =
        [0, 0, 1].iter().zip(&tables).map(|(&name, table)| Agent::file(NAMES[name], table.path())).collect();
    let addresses: Vec<_> = agents.iter().map(|agent| agent.process.address).collect();
    let gateway = Gateway::start(&addresses, &["--probe-interval", "200ms"]);
    let (first, twin) = (addresses[0].to_string(), addresses[1].to_string());
    let row = node_when(&gateway, &twin, |row| row["state"] == "conflict");
    assert_eq!((&row["node"], &row["address"]), (&json!(NAMES[0]), &json!(twin)), "{row}");
    assert!(row["last_error"].as_str().unwrap().contains(&first), "{row}");
    node_when(&gateway, NAMES[0], |row| row["state"] == "connected" && row["address"] == first.as_str());
    node_when(&gateway, NAMES[1], |row| row["state"] == "connected");

    let named = json!([{"node": twin, "reason": "protocol"}]);
    for _ in 0..5 {
        let body = gateway.get("/clients").json();
        let shown: Vec<&Value> =
            body["data"].as_array().unwrap().iter().map(|row| &row["clientid"]).collect();
        assert_eq!(shown, ["first", "other"], "{body}");
        assert_eq!(body["meta"]["nodes"], json!({"total": 3, "answered": 2, "failed": named}), "{body}");
    }
    // It is there, and nobody says that it is not; nor is it kicked under the other's name.
    for method in ["GET", "DELETE"] {
        let response = gateway.request(method, "/clients/twin");
        assert_eq!((response.status, response.code()), (503, 101), "{}", response.json());
    }
    assert_eq!(gateway.kick("first").json()["data"], json!([{"node": NAMES[0], "clientid": "first"}]));

    agents[0].process.kill();
    // The name is that of the one that is left, and the address of the other stays expected.
    let body = eventually("list of the one that is left", || {
        let body = gateway.get("/clients").json();
        if body["data"][0]["clientid"] == "other" && body["data"][1]["clientid"] == "twin" {
            Ok(body)
        } else {
            Err(body.to_string())
        }
    });
    assert_eq!(body["meta"]["nodes"]["failed"], json!([{"node": first, "reason": "unreachable"}]), "{body}");
    let row = node_when(&gateway, &first, |row| row["state"] == "unavailable");
    assert_eq!((&row["node"], &row["previous_node"]), (&Value::Null, &json!(NAMES[0])), "{row}");
}

#[test]
fn a_gateway_at_its_limit_refuses_at_once_and_still_tells_of_its_nodes() {
    let tables = NAMES.map(|name| table_of(name, &format!("on-{name}")));
    let agents = [0, 1].map(|index| Agent::file(NAMES[index], tables[index].path()));
    let told = ["--max-requests", "4", "--request-timeout", "10m", "--probe-timeout", "10m"];
    let cluster = Cluster::with(agents.into(), &told);
    cluster.agents[1].process.freeze();
    // As many as it takes wait for a node that is silent.
    let address = cluster.gateway.address();
    let key = rollcall_tests::http::basic("app_id", "app_secret");
    let head = rollcall_tests::http::head(address, "GET", "/api/v4/clients", &[("authorization", &key)]);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = rollcall_tests::http::connect(address).unwrap();
            std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
            stream
        })
        .collect();
    eventually("requests that wait for the node", || {
        let calls = cluster.gateway.get("/nodes/b@127.0.0.1").json()["data"]["calls"].as_u64();
        if calls >= Some(4) { Ok(()) } else { Err(format!("{calls:?} calls")) }
    });
    let refused = cluster.gateway.get("/clients");
    assert_eq!((refused.status, refused.code()), (503, 102));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    let begun = Instant::now();
    assert_eq!(cluster.gateway.get("/nodes").rows().len(), 2);
    assert_eq!(cluster.gateway.get("/nodes/b@127.0.0.1").status, 200);
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(rollcall_tests::http::request(address, "GET", path, &[]).status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "they waited for nothing");
    // Whoever goes away makes room.
    drop(waiting);
    cluster.agents[1].process.thaw();
    cluster.await_all_answering();
}
