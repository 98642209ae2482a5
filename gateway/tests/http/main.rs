//! The API as its users meet it: bytes on a socket, over nodes that answer and nodes that do not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rollcall_gateway::Gateway;
use rollcall_gateway::config::{Config, Layer};
use rollcall_proto::v1;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use fake_node::{Behaviour, FakeNode};

mod export;
#[path = "../cluster/fake_node.rs"]
#[allow(dead_code, reason = "it is told to do more in the tests of the cluster")]
mod fake_node;
mod kicks;
mod limits;
mod metrics;

/// A client as far as these tests look at it.
fn client(clientid: &str, username: Option<&str>) -> v1::Client {
    v1::Client {
        clientid: clientid.into(),
        session: 1,
        username: username.map(Into::into),
        conn_state: v1::ConnState::Connected.into(),
        created_at_ms: Some(1_616_033_757_000),
        ..v1::Client::default()
    }
}

/// A gateway over node a, honest, with three clients; node b, as told, with two; and `more` addresses.
async fn gateway(b: Behaviour, more: &[&str]) -> SocketAddr {
    let on_a = vec![client("a/1 %", Some("u")), client("both", None), client("username", Some("v"))];
    let on_b = vec![client("b-1", Some("u")), client("both", None)];
    gateway_over(FakeNode::new("a@h", on_a, Behaviour::Honest), FakeNode::new("b@h", on_b, b), more).await
}

async fn gateway_over(a: Arc<FakeNode>, b: Arc<FakeNode>, more: &[&str]) -> SocketAddr {
    let (a, b) = (a.serve().await, b.serve().await);
    let nodes = [a.to_string(), b.to_string()].into_iter().chain(more.iter().map(ToString::to_string));
    serve(layer(nodes.collect()), 2).await
}

/// What gateways over these nodes are told.
fn layer(nodes: Vec<String>) -> Layer {
    Layer {
        node: Some(nodes.iter().map(|node| node.parse().unwrap()).collect()),
        key: Some(vec!["ops:secret:operator".into()]),
        probe_interval: Some("100ms".parse().unwrap()),
        request_timeout: Some("1s".parse().unwrap()),
        ..Layer::default()
    }
}

/// A gateway that knows so many of its nodes.
async fn serve(layer: Layer, known: usize) -> SocketAddr {
    let gateway = Gateway::start(Config::new(layer).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(gateway.serve(listener, std::future::pending()));
    await_known(address, known).await;
    address
}

/// Waits until a gateway knows so many of its nodes.
async fn await_known(address: SocketAddr, known: usize) {
    // The names of nodes are known once they have been probed.
    for _ in 0..100 {
        let (_, body) = send(address, "GET", "/nodes").await;
        let told = body["data"].as_array().unwrap().iter().filter(|node| node["node"].is_string());
        if told.count() == known {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the nodes were not found");
}

/// Sends `target` byte for byte after the base path.
async fn send(gateway: SocketAddr, method: &str, target: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "{method} /api/v4{target} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {response}")))
}

/// node and clientid of every row.
fn rows(body: &Value) -> Vec<(&str, &str)> {
    let rows = body["data"].as_array().unwrap().iter();
    rows.map(|row| (row["node"].as_str().unwrap(), row["clientid"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn every_route_finds_its_clients() {
    let gateway = gateway(Behaviour::Honest, &[]).await;
    let both: &[_] = &[("a@h", "both"), ("b@h", "both")];
    let all: &[_] =
        &[("a@h", "a/1 %"), ("b@h", "b-1"), ("a@h", "both"), ("b@h", "both"), ("a@h", "username")];
    for (target, expected) in [
        ("/clients", all),
        ("/clients/", all),
        ("/clients?_node=a@h&_node=b%40h", all),
        ("/clients?_page=2&_limit=2", both),
        ("/clients?_limit=0", &[]),
        ("/clients?_sort=node&_order=desc&_limit=2", &[("b@h", "b-1"), ("b@h", "both")]),
        ("/clients?username=u", &[("a@h", "a/1 %"), ("b@h", "b-1")]),
        ("/clients/a%2F1%20%25", &[("a@h", "a/1 %")]),
        ("/clients/a%2F1+%25", &[]),
        ("/clients?clientid=a/1+%25", &[("a@h", "a/1 %")]),
        ("/clients/both", both),
        ("/clients/none", &[]),
        ("/clients/username", &[("a@h", "username")]),
        ("/clients/username/", &[("a@h", "username")]),
        ("/clients/username/u", &[("a@h", "a/1 %"), ("b@h", "b-1")]),
        ("/clients/username/u?_like_clientid=b", &[("b@h", "b-1")]),
        ("/clients/username/u?username=u&username=v", &[("a@h", "a/1 %"), ("b@h", "b-1")]),
        ("/clients/username/u?username=v", &[]),
        ("/nodes/b@h/clients", &[("b@h", "b-1"), ("b@h", "both")]),
        ("/nodes/b%40h/clients/both/", &[("b@h", "both")]),
        ("/nodes/b@h/clients/username", &[]),
        ("/nodes/b@h/clients/username/u", &[("b@h", "b-1")]),
    ] {
        let (status, body) = send(gateway, "GET", target).await;
        assert_eq!((status, &body["code"]), (200, &json!(0)), "{target}: {body}");
        assert_eq!(rows(&body), expected, "{target}");
        let asked = if target.starts_with("/nodes/") { 1 } else { 2 };
        assert_eq!(
            body["meta"]["nodes"],
            json!({"total": asked, "answered": asked, "failed": []}),
            "{target}"
        );
    }
    let (_, body) = send(gateway, "GET", "/clients?_page=2&_limit=2&_fields=clientid").await;
    assert_eq!(body["data"], json!([{"clientid": "both"}, {"clientid": "both"}]));
    let meta = &body["meta"];
    let expected = json!([2, 2, true, 5, true]);
    assert_eq!(
        json!([meta["page"], meta["limit"], meta["hasnext"], meta["count"], meta["consistent"]]),
        expected
    );
}

#[tokio::test]
async fn a_silent_node_never_makes_an_answer_untrue() {
    let gateway = gateway(Behaviour::HangInQueries, &[]).await;
    let failed = json!([{"node": "b@h", "reason": "timeout"}]);
    for (method, target, status, code, found) in [
        ("GET", "/clients", 200, 0, 3),
        ("GET", "/clients?_partial=true", 200, 0, 3),
        ("GET", "/clients?_partial=false", 503, 101, 0),
        ("GET", "/clients?_node=a@h&_partial=false", 200, 0, 3),
        ("GET", "/clients/both", 200, 0, 1),
        ("GET", "/clients/both?_partial=true", 200, 0, 1),
        ("GET", "/clients/both?_partial=false", 503, 101, 0),
        ("GET", "/nodes/a@h/clients/both?_partial=false", 200, 0, 1),
        ("GET", "/clients/username/u?_partial=false", 503, 101, 0),
        ("GET", "/nodes/a@h/clients/username/u?_partial=false", 200, 0, 1),
        ("GET", "/nodes/a@h/clients?_partial=false", 200, 0, 3),
        ("GET", "/client_counts?_partial=false", 503, 101, 0),
        ("GET", "/clients/none", 503, 101, 0),
        ("GET", "/nodes/a@h/clients/none", 200, 0, 0),
        ("GET", "/nodes/b@h/clients", 503, 101, 0),
        ("DELETE", "/clients/both", 200, 0, 1),
        ("DELETE", "/clients/none", 503, 101, 0),
        ("DELETE", "/nodes/a@h/clients/none", 404, 112, 0),
    ] {
        let (got, body) = send(gateway, method, target).await;
        assert_eq!((got, &body["code"]), (status, &json!(code)), "{method} {target}: {body}");
        assert_eq!(body["data"].as_array().map_or(0, Vec::len), found, "{method} {target}: {body}");
        // Only a count of a part of the nodes says that it is one.
        let is_a_part = status == 200 && body["meta"]["count"].is_number() && !target.contains("a@h");
        let count_is = if is_a_part { json!("at_least") } else { Value::Null };
        assert_eq!(body["meta"]["count_is"], count_is, "{method} {target}: {body}");
        if !target.contains("a@h") {
            assert_eq!(body["meta"]["nodes"]["failed"], failed, "{method} {target}: {body}");
        }
        if status >= 400 {
            assert!(!body["message"].as_str().unwrap().is_empty(), "{method} {target}");
        }
    }
}

#[tokio::test]
async fn a_kick_says_what_became_of_it() {
    let honest = gateway(Behaviour::Honest, &[]).await;
    let (status, body) = send(honest, "DELETE", "/clients/both").await;
    let kicked = json!([{"node": "a@h", "clientid": "both"}, {"node": "b@h", "clientid": "both"}]);
    assert_eq!((status, &body["data"]), (200, &kicked), "{body}");
    let (status, body) = send(honest, "DELETE", "/nodes/b@h/clients/b-1").await;
    assert_eq!((status, &body["data"]), (200, &json!([{"node": "b@h", "clientid": "b-1"}])), "{body}");
    let (status, body) = send(honest, "DELETE", "/clients/none").await;
    assert_eq!((status, &body["code"]), (404, &json!(112)), "{body}");

    let hangs = gateway(Behaviour::HangInKick, &[]).await;
    let (status, body) = send(hangs, "DELETE", "/clients/b-1").await;
    assert_eq!((status, &body["code"]), (504, &json!(101)), "{body}");
    assert!(body["message"].as_str().unwrap().contains("may have been carried out"), "{body}");

    let moves = gateway(Behaviour::Reconnected, &[]).await;
    let (status, body) = send(moves, "DELETE", "/clients/b-1").await;
    assert_eq!(status, 503, "{body}");
}

#[tokio::test]
async fn no_node_is_denied_while_an_address_has_not_told_its_name() {
    let all_known = gateway(Behaviour::Honest, &[]).await;
    for (target, status, code) in [
        ("/nodes/c@h", 404, 101),
        ("/nodes/c@h/clients", 404, 101),
        ("/nodes/c@h/clients/both", 404, 101),
        ("/clients?_node=c@h", 400, 108),
    ] {
        let (got, body) = send(all_known, "GET", target).await;
        assert_eq!((got, &body["code"]), (status, &json!(code)), "{target}: {body}");
    }
    let one_silent = gateway(Behaviour::Honest, &["127.0.0.1:1"]).await;
    for target in ["/nodes/c@h", "/nodes/c@h/clients", "/nodes/c@h/clients/both", "/clients?_node=c@h"] {
        let (got, body) = send(one_silent, "GET", target).await;
        assert_eq!((got, &body["code"]), (503, &json!(101)), "{target}: {body}");
    }
    let (_, body) = send(one_silent, "GET", "/nodes").await;
    let states: Vec<&Value> = body["data"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
    assert_eq!(states, ["connected", "connected", "unavailable"], "{body}");
    let (status, body) = send(one_silent, "GET", "/nodes/b@h").await;
    assert_eq!((status, &body["data"]["clients"]), (200, &json!(2)), "{body}");
    assert_eq!(body["data"]["incarnation"], "1");
}

/// Values and counts of every group.
fn groups(body: &Value) -> Vec<Value> {
    let groups = body["data"].as_array().unwrap().iter();
    groups.map(|group| json!([group["value"], group["count"]])).collect()
}

#[tokio::test]
async fn clients_are_counted_by_every_value_over_all_nodes() {
    let with = |n: u32, more: v1::Client| v1::Client { clientid: format!("c{n}"), session: n.into(), ..more };
    let plain = v1::Client::default;
    let connected = v1::ConnState::Connected.into();
    let edge = || v1::Client {
        zone: Some("edge".into()),
        proto_name: Some("MQTT".into()),
        proto_ver: Some(5),
        clean_start: Some(true),
        conn_state: connected,
        username: Some("u".into()),
        ..plain()
    };
    let on_a = vec![
        with(1, edge()),
        with(2, v1::Client { username: Some("undefined".into()), zone: Some("core".into()), ..edge() }),
        with(3, v1::Client { conn_state: v1::ConnState::Disconnected.into(), ..plain() }),
    ];
    let on_b = vec![
        with(4, v1::Client { username: None, ..edge() }),
        with(5, v1::Client { proto_ver: Some(4), clean_start: Some(false), ..edge() }),
        with(6, v1::Client { proto_ver: Some(4), username: Some("w".into()), zone: None, ..edge() }),
        with(7, v1::Client { username: Some("w".into()), zone: Some("core".into()), ..edge() }),
    ];
    let a = FakeNode::new("a@h", on_a, Behaviour::Honest);
    let gateway = gateway_over(a, FakeNode::new("b@h", on_b, Behaviour::Honest), &[]).await;
    for (query, count, total, other, expected) in [
        ("_group_by=node", 7, 2, 0, json!([["b@h", 4], ["a@h", 3]])),
        ("_group_by=zone", 7, 3, 0, json!([["edge", 3], ["core", 2], [null, 2]])),
        ("_group_by=proto_name", 7, 2, 0, json!([["MQTT", 6], [null, 1]])),
        ("_group_by=proto_ver", 7, 3, 0, json!([[5, 4], [4, 2], [null, 1]])),
        ("_group_by=conn_state", 7, 2, 0, json!([["connected", 6], ["disconnected", 1]])),
        ("_group_by=clean_start", 7, 3, 0, json!([[true, 5], [false, 1], [null, 1]])),
        ("_group_by=username", 7, 4, 0, json!([["u", 2], ["w", 2], [null, 2], ["undefined", 1]])),
        // The largest of the cluster is not known before every node's groups are.
        ("_group_by=username&_top=1", 7, 4, 5, json!([["u", 2]])),
        ("_group_by=zone&_top=2&proto_ver=4&proto_ver=5", 6, 3, 1, json!([["edge", 3], ["core", 2]])),
        ("_group_by=zone&_node=b@h", 4, 3, 0, json!([["edge", 2], ["core", 1], [null, 1]])),
        ("_group_by=node&zone=core&username=undefined", 1, 1, 0, json!([["a@h", 1]])),
        ("_group_by=node&clientid=none", 0, 0, 0, json!([])),
    ] {
        let (status, body) = send(gateway, "GET", &format!("/client_counts?{query}")).await;
        assert_eq!((status, &body["code"]), (200, &json!(0)), "{query}: {body}");
        assert_eq!(json!(groups(&body)), expected, "{query}: {body}");
        let meta = &body["meta"];
        assert_eq!(meta["count"], json!(count), "{query}: {body}");
        let shown = expected.as_array().unwrap().len();
        assert_eq!(meta["groups"], json!({"total": total, "shown": shown, "other": other}), "{query}");
        assert!(query.contains(&format!("_group_by={}", meta["group_by"].as_str().unwrap())), "{body}");
    }
    let whole = json!({"total": 2, "answered": 2, "failed": []});
    for (query, count) in
        [("", 7), ("?", 7), ("/?zone=core", 2), ("?_like_username=", 7), ("?clientid=c1&clientid=c4", 2)]
    {
        let (status, body) = send(gateway, "GET", &format!("/client_counts{query}")).await;
        let expected = json!({"code": 0, "meta": {"count": count, "nodes": whole}, "data": []});
        assert_eq!((status, body), (200, expected), "{query}");
    }
}

#[tokio::test]
async fn a_count_lacks_who_did_not_answer_and_says_so() {
    for (behaviour, reason) in [
        (Behaviour::HangInQueries, "timeout"),
        (Behaviour::HangMidway, "timeout"),
        (Behaviour::Draining, "draining"),
        (Behaviour::Overloaded, "overloaded"),
        (Behaviour::LyingCount, "protocol"),
    ] {
        let gateway = gateway(behaviour, &[]).await;
        let (status, body) = send(gateway, "GET", "/client_counts?_group_by=username").await;
        let expected = json!({
            "code": 0,
            "meta": {
                "count": 3,
                "count_is": "at_least",
                "group_by": "username",
                "groups": {"total": 3, "shown": 3, "other": 0},
                "nodes": {"total": 2, "answered": 1, "failed": [{"node": "b@h", "reason": reason}]},
            },
            "data": [
                {"value": "u", "count": 1},
                {"value": "v", "count": 1},
                {"value": null, "count": 1},
            ],
        });
        assert_eq!((status, body), (200, expected), "{behaviour:?}");
        for (query, status) in [
            ("_group_by=username&_partial=false", 503),
            ("_group_by=username&_partial=false&_node=a@h", 200),
            ("_group_by=username&_node=b@h", 503),
        ] {
            let (got, body) = send(gateway, "GET", &format!("/client_counts?{query}")).await;
            let code = if status == 200 { 0 } else { 101 };
            assert_eq!((got, &body["code"]), (status, &json!(code)), "{behaviour:?} {query}: {body}");
        }
    }
}

#[tokio::test]
async fn a_count_that_cannot_be_had_is_refused_and_the_node_is_not_blamed() {
    let gateway = gateway(Behaviour::TooManyGroups, &[]).await;
    let (status, body) = send(gateway, "GET", "/client_counts?_group_by=username").await;
    let message = "the clients fall into too many groups to be counted; narrow the filter";
    assert_eq!((status, body), (400, json!({"code": 108, "message": message})));
    let (status, body) = send(gateway, "GET", "/client_counts?_group_by=conn_state").await;
    assert_eq!((status, groups(&body)), (200, vec![json!(["connected", 5])]), "{body}");
    let (_, body) = send(gateway, "GET", "/nodes/b@h").await;
    assert_eq!(body["data"]["state"], "connected", "{body}");
    for (query, status, code) in [("_node=c@h", 400, 108), ("_top=5", 400, 108), ("_sort=zone", 400, 108)] {
        let (got, body) = send(gateway, "GET", &format!("/client_counts?{query}")).await;
        assert_eq!((got, &body["code"]), (status, &json!(code)), "{query}: {body}");
    }
}
