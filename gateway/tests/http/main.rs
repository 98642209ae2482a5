//! The API as its users meet it: bytes on a socket, over nodes that answer and nodes that do not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
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
    let a = FakeNode::new("a@h", on_a, Behaviour::Honest).serve().await;
    let on_b = vec![client("b-1", Some("u")), client("both", None)];
    let b = FakeNode::new("b@h", on_b, b).serve().await;
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
    // The names of nodes are known once they have been probed.
    for _ in 0..100 {
        let (_, body) = send(address, "GET", "/nodes").await;
        let told = body["data"].as_array().unwrap().iter().filter(|node| node["state"] == "connected");
        if told.count() == known {
            return address;
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
