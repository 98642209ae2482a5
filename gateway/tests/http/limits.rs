//! Deadlines that hold, and what a gateway that has too much to do still answers.

use std::sync::atomic::Ordering::Relaxed;

use tokio::io::AsyncBufReadExt as _;
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
    begin_as(gateway, "secret", method, target, header).await
}

/// The same by somebody else.
async fn begin_as(gateway: SocketAddr, key: &str, method: &str, target: &str, header: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "{method} /api/v4{target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n{header}\r\n"
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
async fn what_is_refused_comes_by_the_deadline_though_the_disk_of_the_record_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let tell = |told| Layer {
        key: Some(vec!["ops:secret:operator".into(), "dash:other:viewer".into()]),
        audit_log: Some(path.clone()),
        request_timeout: Some("5m".parse().unwrap()),
        ..told
    };
    let (gateway, node) = two(Behaviour::Honest, tell).await;
    // A pipe that is full takes no more lines.
    let pipe = tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_sender(&path).unwrap();
    while timeout(Duration::from_millis(100), pipe.writable()).await.is_ok() {
        while pipe.try_write(b"\n").is_ok() {}
    }
    let json = "Content-Type: application/json\r\nContent-Length: 0\r\n";
    let refused = [
        ("wrong", "DELETE", "/clients/on-b", "", 401),
        ("wrong", "POST", "/client_kicks", json, 401),
        ("secret", "DELETE", "/clients/%zz", "", 400),
        ("secret", "DELETE", "/clients/on-b?force=1", "", 400),
        ("other", "DELETE", "/clients/on-b", "", 403),
        ("other", "POST", "/client_kicks", json, 403),
        ("secret", "POST", "/client_kicks", json, 400),
        ("secret", "DELETE", "/clients/on-b", "", 503),
    ];
    let by = Duration::from_millis(500);
    let begun = Instant::now();
    for (key, method, target, more, status) in refused {
        let header = format!("Rollcall-Timeout-Ms: {}\r\n{more}", by.as_millis());
        let mut stream = begin_as(gateway, key, method, target, &header).await;
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{key} {method} {target}: {answer}");
    }
    let most = (by + Duration::from_millis(250)) * refused.len() as u32 + SLACK;
    assert!(begun.elapsed() < most, "{:?} for all, expected {most:?}", begun.elapsed());
    assert!(node.kicked.lock().unwrap().is_empty());

    // When the disk comes round all of it is on record.
    let pipe = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&path).unwrap();
    let mut lines = tokio::io::BufReader::new(pipe).lines();
    let mut outcomes = Vec::new();
    // The last has two, as it was about to be carried out.
    while outcomes.len() < refused.len() + 1 {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("all lines").unwrap().unwrap();
        if !line.is_empty() {
            outcomes.push(serde_json::from_str::<Value>(&line).unwrap()["outcome"].clone());
        }
    }
    assert_eq!(outcomes.split_off(refused.len() - 1), ["asked", "failed"]);
    assert!(outcomes.iter().all(|outcome| outcome == "refused"), "{outcomes:?}");
}

/// Sends a request and reads its answer until there is so much of it; leaves the connection open.
async fn begin_to_read(gateway: SocketAddr, target: &str, until: &str) -> TcpStream {
    let mut stream = begin(gateway, "GET", target, "").await;
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(until) {
        let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        assert_ne!(read.expect("more of the answer").unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    stream
}

/// Waits until nothing is done any more for whoever has gone: no call at the node, none that the gateway counts, and no more
/// tasks than `before`.
async fn at_rest(gateway: SocketAddr, node: &FakeNode, before: usize) {
    let calls = &node.calls;
    until("left alone", async || calls.open.load(Relaxed) + calls.exports_open.load(Relaxed) == 0).await;
    until("done", async || send(gateway, "GET", "/nodes/b@h").await.1["data"]["calls"] == 0).await;
    until("without tasks", async || tasks() <= before).await;
}

/// The fewest tasks that there are once it is quiet: those of connections end a moment after them.
async fn tasks_at_rest() -> usize {
    let mut fewest = tasks();
    let mut since = 0;
    while since < 50 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        since = if tasks() < fewest { 0 } else { since + 1 };
        fewest = fewest.min(tasks());
    }
    fewest
}

/// Of gateway and nodes together.
fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_task_and_no_call_behind() {
    let tell = |told| Layer { request_timeout: Some("5m".parse().unwrap()), ..told };
    let (gateway, hangs) = two(Behaviour::HangsButForProbes, tell).await;
    let open = || hangs.calls.open.load(Relaxed);
    until("probed", async || send(gateway, "GET", "/nodes/b@h").await.1["data"]["state"] == "connected")
        .await;
    // Once, so that everything is there that stays.
    drop(begin(gateway, "GET", "/clients", "").await);
    drop(begin(gateway, "GET", "/client_export", "").await);
    until("at rest", async || open() == 0).await;
    let before = tasks_at_rest().await;
    let asked = [
        ("GET", "/clients"),
        ("GET", "/clients/username/u"),
        ("GET", "/nodes/b@h/clients"),
        ("GET", "/clients?_limit=0"),
        ("GET", "/clients?_sort=port&_page=40&_limit=50"),
        ("GET", "/clients/on-b"),
        ("GET", "/nodes/b@h/clients/on-b"),
        ("GET", "/client_counts"),
        ("GET", "/client_counts?_group_by=username"),
        ("GET", "/client_export"),
        ("GET", "/client_export?_format=csv&_partial=true"),
        // It is not found yet, so nobody is kicked.
        ("DELETE", "/clients/on-b"),
        ("DELETE", "/nodes/b@h/clients/on-b"),
    ];
    let mut waiting = Vec::new();
    for (at, (method, target)) in asked.iter().enumerate() {
        waiting.push(begin(gateway, method, target, "").await);
        until(&format!("asked for {method} {target}"), async || open() == at + 1).await;
    }
    assert!(tasks() > before);
    let (_, body) = send(gateway, "GET", "/nodes/b@h").await;
    assert_eq!(body["data"]["calls"], asked.len(), "{body}");
    drop(waiting);
    at_rest(gateway, &hangs, before).await;
    assert_eq!(hangs.calls.kicks.load(Relaxed), 0);
}

#[tokio::test]
async fn an_export_that_is_dropped_midway_leaves_no_task_and_no_call_behind() {
    let tell = |told| Layer { export_node_timeout: Some("5m".parse().unwrap()), ..told };
    let (gateway, hangs) = two(Behaviour::HangMidway, tell).await;
    let targets = ["/client_export", "/client_export?_format=csv"];
    drop(begin_to_read(gateway, targets[0], "HTTP/1.1 200").await);
    until("at rest", async || hangs.calls.exports_open.load(Relaxed) == 0).await;
    let before = tasks_at_rest().await;
    let mut waiting = Vec::new();
    for target in targets {
        waiting.push(begin_to_read(gateway, target, "HTTP/1.1 200").await);
    }
    assert_eq!(hangs.calls.exports_open.load(Relaxed), targets.len());
    assert!(tasks() > before);
    drop(waiting);
    at_rest(gateway, &hangs, before).await;
}

#[tokio::test]
async fn a_kick_that_is_dropped_leaves_no_task_and_no_call_behind_and_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let tell =
        |told| Layer { audit_log: Some(path.clone()), request_timeout: Some("5m".parse().unwrap()), ..told };
    let (gateway, hangs) = two(Behaviour::HangInKick, tell).await;
    let outcomes = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["outcome"].clone();
        text.lines().map(line).collect::<Vec<_>>()
    };
    // Once, so that everything is there that stays.
    send(gateway, "DELETE", "/clients/none").await;
    let before = tasks_at_rest().await;
    let waiting = begin(gateway, "DELETE", "/clients/on-b", "").await;
    until("asked to kick", async || hangs.calls.open.load(Relaxed) == 1).await;
    assert!(tasks() > before);
    drop(waiting);
    at_rest(gateway, &hangs, before).await;
    until("on record", async || outcomes() == ["asked", "not_found", "asked", "unknown"]).await;
    assert_eq!(hangs.calls.kicks.load(Relaxed), 1, "it is not sent again");
}

#[tokio::test]
async fn a_bulk_kick_that_is_dropped_ends_what_it_has_begun_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let tell =
        |told| Layer { audit_log: Some(path.clone()), request_timeout: Some("2s".parse().unwrap()), ..told };
    let (gateway, hangs) = two(Behaviour::HangInKick, tell).await;
    send(gateway, "GET", "/clients").await;
    let before = tasks_at_rest().await;
    let body = r#"{"clientids":["on-b"]}"#;
    let header = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let mut waiting = begin(gateway, "POST", "/client_kicks", &header).await;
    waiting.write_all(body.as_bytes()).await.unwrap();
    until("asked to kick", async || hangs.calls.open.load(Relaxed) == 1).await;
    drop(waiting);
    // It comes to its end by its own deadline, and on record.
    at_rest(gateway, &hangs, before).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        json!([line["action"], line["outcome"]])
    };
    let lines: Vec<Value> = text.lines().map(line).collect();
    let expected = [["bulk_kick", "asked"], ["kick", "asked"], ["kick", "unknown"], ["bulk_kick", "stopped"]];
    assert_eq!(lines, expected.map(|pair| json!(pair)));
}

#[tokio::test]
async fn readers_of_events_that_go_away_leave_one_call_to_each_node_for_a_while_and_nothing_else() {
    let (gateway, node) = two(Behaviour::Honest, |told| told).await;
    let told = node.tells();
    let identity = node.identity();
    let follows = told.clone();
    tokio::spawn(async move {
        loop {
            let word = v1::WatchResponse { identity: identity.clone(), ..v1::WatchResponse::default() };
            if told.send(Ok(word)).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let follow = async || begin_to_read(gateway, "/client_events?_format=ndjson", r#""event":"ready""#).await;
    // The call stays for a minute, so that readers can come back.
    drop(follow().await);
    let before = tasks_at_rest().await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        readers.push(follow().await);
    }
    assert!(tasks() >= before + readers.len());
    drop(readers);
    // The last of them leaves who ends the calls when the minute is over.
    at_rest(gateway, &node, before + 1).await;
    assert!(!follows.is_closed() && node.watches.lock().unwrap().len() == 1, "all of them read one call");
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
