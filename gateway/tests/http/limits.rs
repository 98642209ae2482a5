//! Deadlines that hold, and what a gateway that has too much to do still answers.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::{Instant, timeout, timeout_at};

use super::*;
use crate::fake_node::PATIENCE;

/// What a busy machine may add to a deadline beyond the quarter of a second that the contract allows.
const SLACK: Duration = Duration::from_millis(250 + 2_000);

async fn served(layer: Layer) -> SocketAddr {
    serve(layer, 2).await
}

/// Nodes a and b, with a client each, behind a gateway that was told more.
async fn two(behaviour: Behaviour, tell: impl FnOnce(Layer) -> Layer) -> (SocketAddr, Arc<FakeNode>) {
    let a = FakeNode::new("a@h", vec![client("on-a", Some("u"))], Behaviour::Honest);
    let b = FakeNode::new("b@h", vec![client("on-b", Some("u"))], behaviour);
    let nodes = vec![a.serve().await.to_string(), b.serve().await.to_string()];
    (served(tell(layer(nodes))).await, b)
}

/// Sends a request with a header of its own, and leaves the connection open.
async fn begin(gateway: SocketAddr, method: &str, target: &str, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "{method} /api/v4{target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\nConnection: close\r\n{header}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not {what}");
}

#[tokio::test]
async fn a_client_that_wants_an_answer_soon_gets_one_whatever_the_node_does() {
    let targets = [
        ("GET", "/clients"),
        ("GET", "/clients?_limit=0"),
        ("GET", "/clients?_page=300&_limit=1"),
        ("GET", "/clients/username/u"),
        ("GET", "/clients/none"),
        ("DELETE", "/clients/none"),
        ("GET", "/client_counts?_group_by=username"),
        ("GET", "/nodes/b@h/clients"),
        ("GET", "/nodes/b@h/clients/none"),
        ("GET", "/nodes/nobody@h/clients"),
        ("GET", "/client_export"),
    ];
    for behaviour in
        [Behaviour::HangInQueries, Behaviour::HangMidway, Behaviour::Drips, Behaviour::HangInKick]
    {
        // Without their header these requests would take minutes.
        let tell = |told| Layer {
            request_timeout: Some("5m".parse().unwrap()),
            export_node_timeout: Some("5m".parse().unwrap()),
            probe_timeout: Some("5m".parse().unwrap()),
            ..told
        };
        let (gateway, _) = two(behaviour, tell).await;
        let asked = targets.map(|(method, target)| async move {
            let begun = Instant::now();
            let mut stream = begin(gateway, method, target, "Rollcall-Timeout-Ms: 500\r\n").await;
            let mut answer = Vec::new();
            let read = async {
                // An export has no deadline once it has begun, but its beginning has.
                if target == "/client_export" {
                    stream.read_buf(&mut answer).await.unwrap();
                } else {
                    stream.read_to_end(&mut answer).await.unwrap();
                }
            };
            let in_time = timeout_at(begun + Duration::from_millis(500) + SLACK, read).await;
            assert!(in_time.is_ok(), "{behaviour:?} {method} {target} is late");
            assert!(answer.starts_with(b"HTTP/1.1 "), "{behaviour:?} {method} {target}");
        });
        futures::future::join_all(asked).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_task_and_no_call_behind() {
    let tell = |told| Layer { request_timeout: Some("5m".parse().unwrap()), ..told };
    let (gateway, hangs) = two(Behaviour::HangInLists, tell).await;
    until("probed", async || send(gateway, "GET", "/nodes/b@h").await.1["data"]["state"] == "connected")
        .await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // Once, so that everything is there that stays.
    drop(begin(gateway, "GET", "/clients", "").await);
    until("at rest", async || hangs.calls.open.load(Relaxed) == 0).await;
    let before = tasks();
    let mut waiting = Vec::new();
    for target in ["/clients", "/clients/username/u", "/nodes/b@h/clients", "/clients?_limit=0"] {
        waiting.push(begin(gateway, "GET", target, "").await);
    }
    until("asked", async || hangs.calls.open.load(Relaxed) == 4).await;
    assert!(tasks() > before);
    let (_, body) = send(gateway, "GET", "/nodes/b@h").await;
    assert_eq!(body["data"]["calls"], 4, "{body}");
    drop(waiting);
    until("left alone", async || hangs.calls.open.load(Relaxed) == 0).await;
    until("done", async || send(gateway, "GET", "/nodes/b@h").await.1["data"]["calls"] == 0).await;
    until("without tasks", async || tasks() <= before).await;
}

#[tokio::test]
async fn a_slow_node_leaves_room_for_requests_that_do_not_need_it() {
    let tell = |told| Layer {
        request_timeout: Some("5m".parse().unwrap()),
        max_requests: Some(count(8)),
        max_node_calls: Some(count(4)),
        ..told
    };
    let (gateway, hangs) = two(Behaviour::HangInLists, tell).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(begin(gateway, "GET", "/clients", "").await);
    }
    until("asked", async || hangs.calls.open.load(Relaxed) == 4).await;
    for _ in 0..6 {
        let asked = timeout(PATIENCE, send(gateway, "GET", "/clients")).await;
        let (status, body) = asked.expect("it does not wait for the slow node");
        assert_eq!((status, rows(&body)), (200, vec![("a@h", "on-a")]), "{body}");
        assert_eq!(body["meta"]["nodes"]["failed"], json!([{"node": "b@h", "reason": "overloaded"}]));
    }
    assert_eq!(send(gateway, "GET", "/nodes/a@h/clients").await.0, 200);
    let (_, body) = send(gateway, "GET", "/nodes/b@h").await;
    assert_eq!((&body["data"]["state"], &body["data"]["calls"]), (&json!("connected"), &json!(4)), "{body}");
}

#[tokio::test]
async fn heavy_requests_do_not_take_the_place_of_light_ones() {
    let many = |node: usize| (0..1001).map(|row| client(&format!("{node}-{row}"), None)).collect::<Vec<_>>();
    let a = FakeNode::new("a@h", many(0), Behaviour::HangInLists);
    let b = FakeNode::new("b@h", many(1), Behaviour::HangInLists);
    let nodes = vec![a.serve().await.to_string(), b.serve().await.to_string()];
    let told = Layer {
        request_timeout: Some("5m".parse().unwrap()),
        max_heavy_requests: Some(count(1)),
        ..layer(nodes)
    };
    let gateway = served(told).await;
    let mut heavy = Vec::new();
    // One is answered, four wait, and the next is refused.
    for _ in 0..5 {
        heavy.push(begin(gateway, "GET", "/clients?_limit=2000", "").await);
    }
    until("asked", async || a.calls.open.load(Relaxed) == 1).await;
    let refused = async || {
        let mut stream = begin(gateway, "GET", "/clients", "Rollcall-Timeout-Ms: 100\r\n").await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.contains("503") && answer.contains("retry-after: 1\r\n") && answer.contains("heavy requests")
    };
    until("refused", refused).await;
    assert_eq!(send(gateway, "GET", "/clients/0-7").await.0, 200);
    assert_eq!(a.calls.open.load(Relaxed), 1);
    drop(heavy);
    until("left alone", async || a.calls.open.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn whatever_a_node_says_no_other_reason_than_the_five_is_told_and_no_answer_may_be_kept() {
    for (behaviour, reason) in [(Behaviour::OddReason, "unreachable"), (Behaviour::Overloaded, "overloaded")]
    {
        let (gateway, _) = two(behaviour, |told| told).await;
        for (method, target) in [
            ("GET", "/clients"),
            ("GET", "/clients/none"),
            ("GET", "/client_counts"),
            ("DELETE", "/clients/none"),
            ("GET", "/clients?_partial=false"),
            ("GET", "/clients?nonsense=1"),
            ("GET", "/nothing"),
            ("POST", "/clients"),
            ("GET", "/client_export"),
        ] {
            let mut stream = begin(gateway, method, target, "").await;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("cache-control: no-store\r\n"), "{target}: {answer}");
            let told = answer.split("\"reason\":\"").nth(1).and_then(|rest| rest.split('"').next());
            let asks_nodes = !["/clients?nonsense=1", "/nothing"].contains(&target) && method != "POST";
            assert_eq!(told, asks_nodes.then_some(reason), "{behaviour:?} {target}: {answer}");
        }
    }
}

fn count(number: i64) -> rollcall_gateway::config::values::Count {
    number.try_into().unwrap()
}
