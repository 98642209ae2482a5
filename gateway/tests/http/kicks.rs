//! Bulk kicks as bytes on a socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use rollcall_proto::Matcher;
use tokio::sync::oneshot;

use super::export::{Answer, eventually, receive};
use super::*;

/// Nodes, a gateway over them, and the file in which kicks are on record.
struct Bed {
    nodes: Vec<Arc<FakeNode>>,
    gateway: SocketAddr,
    folder: tempfile::TempDir,
    /// Ends the gateway when it is sent or dropped.
    shutdown: oneshot::Sender<()>,
    stopped: tokio::task::JoinHandle<()>,
}

impl Bed {
    async fn of(nodes: Vec<Arc<FakeNode>>) -> Self {
        Self::with(nodes, Layer::default()).await
    }

    /// Told more than usual.
    async fn with(nodes: Vec<Arc<FakeNode>>, told: Layer) -> Self {
        let mut addresses = Vec::new();
        for node in &nodes {
            addresses.push(node.serve().await.to_string());
        }
        let folder = tempfile::tempdir().unwrap();
        let told = told.over(Layer {
            key: Some(vec!["ops:secret:operator".into(), "dash:other:viewer".into()]),
            audit_log: Some(folder.path().join("audit.jsonl")),
            bulk_kick_max: Some("2000".parse().unwrap()),
            bulk_kick_default_rate: Some("1000".parse().unwrap()),
            ..layer(addresses)
        });
        let known = nodes.iter().filter(|node| node.behaviour != Behaviour::Hang).count();
        let gateway = Gateway::start(Config::new(told).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, told_to_stop) = oneshot::channel::<()>();
        let stopped = tokio::spawn(gateway.serve(listener, async {
            let _ = told_to_stop.await;
        }));
        await_known(address, known).await;
        Self { nodes, gateway: address, folder, shutdown, stopped }
    }

    fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    fn records(&self) -> Vec<Value> {
        records(&self.audit_log())
    }

    async fn post(&self, body: &Value) -> Answer {
        receive(self.open(body).await).await
    }

    /// Sends a request and leaves its answer where it is.
    async fn open(&self, body: &Value) -> TcpStream {
        open(self.gateway, "secret", "application/json", body.to_string().as_bytes()).await
    }

    /// node, clientid and session of all that were kicked.
    fn kicked(&self) -> Vec<(String, String, u64)> {
        let of = |node: &Arc<FakeNode>| {
            let kicked = node.kicked.lock().unwrap().clone();
            kicked.into_iter().map(|(clientid, session)| (node.name(), clientid, session)).collect::<Vec<_>>()
        };
        let mut kicked: Vec<_> = self.nodes.iter().flat_map(of).collect();
        kicked.sort();
        kicked
    }

    /// Kicks asked of a node.
    fn kicks(&self, node: usize) -> usize {
        self.nodes[node].calls.kicks.load(Relaxed)
    }
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn open(gateway: SocketAddr, key: &str, content_type: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "POST /api/v4/client_kicks HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\nContent-Type: {content_type}\r\n\
         X-Request-Id: r1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

fn node(name: &str, ids: impl IntoIterator<Item = impl AsRef<str>>, behaviour: Behaviour) -> Arc<FakeNode> {
    let rows = ids.into_iter().enumerate().map(|(at, id)| v1::Client {
        session: at as u64 + 1,
        zone: Some(id.as_ref().split('-').next().unwrap().into()),
        ..client(id.as_ref(), None)
    });
    FakeNode::new(name, rows.collect(), behaviour)
}

fn many(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n:03}")).collect()
}

/// What each line says of a client, without messages, by client and node.
fn told(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.head);
    assert!(answer.head.contains("content-type: application/x-ndjson"), "{}", answer.head);
    let lines = answer.lines().0;
    let clients = lines.iter().filter(|line| line["progress"].is_null());
    let mut told: Vec<Value> = clients
        .map(|line| json!([line["clientid"], line["node"], line["outcome"], line["kicked_on"]]))
        .collect();
    told.sort_by_key(ToString::to_string);
    told
}

/// How many lines say so.
fn outcomes(answer: &Answer) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for line in told(answer) {
        *outcomes.entry(line[2].as_str().unwrap().to_owned()).or_default() += 1;
    }
    outcomes
}

fn messages(answer: &Answer) -> Vec<String> {
    let lines = answer.lines().0;
    let mut messages: Vec<String> =
        lines.iter().filter_map(|line| line["message"].as_str().map(str::to_owned)).collect();
    messages.sort();
    messages.dedup();
    messages
}

fn totals(some: Value) -> Value {
    let mut all = json!({
        "kicked": 0, "gone": 0, "moved": 0, "not_found": 0, "failed": 0, "unknown": 0, "left": 0
    });
    for (name, count) in some.as_object().unwrap() {
        all[name] = count.clone();
    }
    all
}

#[tokio::test]
async fn a_filter_kicks_the_sessions_that_match_and_says_so_of_each() {
    let a = node("a@h", ["edge-1", "edge-2", "core-1"], Behaviour::Honest);
    let bed = Bed::of(vec![a, node("b@h", ["edge-1", "core-2"], Behaviour::Honest)]).await;
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
    let expected = [
        json!(["edge-1", "a@h", "kicked", ["a@h"]]),
        json!(["edge-1", "b@h", "kicked", ["b@h"]]),
        json!(["edge-2", "a@h", "kicked", ["a@h"]]),
    ];
    assert_eq!(told(&answer), expected);
    let (lines, last) = answer.lines();
    assert_eq!(lines[0], json!({"progress": {"done": 0, "of": 3, "kicked": 0}}));
    let nodes = json!({"total": 2, "answered": 2, "failed": []});
    let whole =
        json!({"complete": true, "count": 3, "outcomes": totals(json!({"kicked": 3})), "nodes": nodes});
    assert_eq!(last, whole);
    let kicked = [("a@h", "edge-1", 1), ("a@h", "edge-2", 2), ("b@h", "edge-1", 1)];
    assert_eq!(bed.kicked(), kicked.map(|(node, id, session)| (node.into(), id.into(), session)));

    let nobody = bed.post(&json!({"filter": {"zone": "none"}, "nodes": ["b@h"]})).await;
    assert_eq!(told(&nobody), [] as [Value; 0]);
    assert_eq!(nobody.lines().1["complete"], true);
    let one = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all", "nodes": ["b@h"]})).await;
    assert_eq!(told(&one), [json!(["edge-1", "b@h", "kicked", ["b@h"]])]);
    assert_eq!(one.lines().1["nodes"], json!({"total": 1, "answered": 1, "failed": []}));
    let all = bed.post(&json!({"filter": {}, "confirm": "all"})).await;
    assert_eq!(outcomes(&all), BTreeMap::from([("kicked".into(), 5)]));
}

#[tokio::test]
async fn exactly_the_clients_are_kicked_that_a_plain_model_says_match() {
    let text = || proptest::sample::select(vec!["a", "b", "ab", "ba", "x/y", "é", ""]);
    let row = (text(), 0..4_u32, text(), proptest::bool::ANY, 0..3_i32, 0..60_i64);
    let rows = proptest::collection::vec(row, 0..40);
    let filter = (
        proptest::option::of(text()),
        proptest::option::of(text()),
        proptest::option::of(proptest::collection::vec(0..4_u32, 1..3)),
        proptest::option::of(proptest::bool::ANY),
        proptest::option::of(0..60_i64),
    );
    let mut runner = TestRunner::default();
    let nodes: Vec<_> =
        ["a@h", "b@h", "c@h"].map(|name| FakeNode::new(name, Vec::new(), Behaviour::Honest)).into();
    let bed = Bed::of(nodes).await;
    let states = [v1::ConnState::Connected, v1::ConnState::Idle, v1::ConnState::Disconnected];
    let mut hit = 0;
    for round in 0..60 {
        for node in &bed.nodes {
            let rows = rows.new_tree(&mut runner).unwrap().current();
            let client = |(at, (id, level, username, clean, state, minute))| v1::Client {
                clientid: format!("{id}{}", at % 7),
                session: at as u64 + 1,
                username: Some(username).filter(|name: &&str| !name.is_empty()).map(Into::into),
                proto_ver: Some(level),
                clean_start: Some(clean),
                conn_state: states[state as usize].into(),
                connected_at_ms: Some(1_700_000_000_000 + minute * 1000),
                ..v1::Client::default()
            };
            *node.rows() = rows.into_iter().enumerate().map(client).collect();
            node.kicked.lock().unwrap().clear();
        }
        let (like, username, levels, clean, since) = filter.new_tree(&mut runner).unwrap().current();
        let (mut asked, mut meant) = (json!({}), v1::Filter::default());
        if let Some(like) = like {
            asked["_like_clientid"] = json!(like);
            meant.like_clientid.push(like.into());
        }
        if let Some(username) = username {
            asked["username"] = json!([username, "nobody"]);
            meant.username = vec![username.into(), "nobody".into()];
        }
        if let Some(levels) = levels {
            asked["proto_ver"] = json!(levels);
            meant.proto_ver = levels.into_iter().map(Into::into).collect();
        }
        if let Some(clean) = clean {
            asked["clean_start"] = json!(clean);
            meant.clean_start = vec![clean];
        }
        if let Some(since) = since {
            asked["_gte_connected_at"] = json!(1_700_000_000 + since);
            meant.gte_connected_at_ms = Some(1_700_000_000_000 + since * 1000);
        }
        let matcher = Matcher::new(meant).unwrap();
        let scope: Vec<_> = bed.nodes.iter().take(1 + round % 3).collect();
        let names: Vec<_> = scope.iter().map(|node| node.name()).collect();
        let mut model = Vec::new();
        for node in scope {
            let rows = node.rows();
            let matching = rows.iter().filter(|row| matcher.matches(&row.as_client_ref()));
            model.extend(matching.map(|row| (node.name(), row.clientid.clone(), row.session)));
        }
        model.sort();
        let mut body = json!({"filter": asked, "confirm": "all", "nodes": names});
        body["dry_run"] = json!(true);
        let dry = bed.post(&body).await.json();
        assert_eq!(dry["meta"]["count"], model.len(), "{body}");
        assert_eq!(bed.kicked(), [], "{body}");
        body["dry_run"] = json!(false);
        let answer = bed.post(&body).await;
        assert_eq!(bed.kicked(), model, "{body}");
        assert_eq!(answer.lines().1["outcomes"], totals(json!({"kicked": model.len()})), "{body}");
        hit += model.len();
    }
    assert!(hit > 100, "the filters let nobody through: {hit}");
}

#[tokio::test]
async fn ids_are_kicked_wherever_they_are_and_each_says_what_became_of_it() {
    let a = node("a@h", ["both-1", "only-a"], Behaviour::Honest);
    let bed = Bed::of(vec![a, node("b@h", ["both-1", "only-b"], Behaviour::Honest)]).await;
    let answer = bed.post(&json!({"clientids": ["only-b", "none", "both-1"]})).await;
    let expected = [
        json!(["both-1", null, "kicked", ["a@h", "b@h"]]),
        json!(["none", null, "not_found", []]),
        json!(["only-b", null, "kicked", ["b@h"]]),
    ];
    assert_eq!(told(&answer), expected);
    let last = answer.lines().1;
    assert_eq!((&last["complete"], &last["count"]), (&json!(true), &json!(3)));
    assert_eq!(last["outcomes"], totals(json!({"kicked": 2, "not_found": 1})));
    let on_b = bed.post(&json!({"clientids": ["both-1", "only-a"], "nodes": ["b@h"]})).await;
    let expected = [json!(["both-1", null, "kicked", ["b@h"]]), json!(["only-a", null, "not_found", []])];
    assert_eq!(told(&on_b), expected);
    assert_eq!(bed.kicked().len(), 4);
}

#[tokio::test]
async fn a_silent_node_is_never_passed_over_in_silence() {
    let failed = json!([{"node": "b@h", "reason": "timeout"}]);
    let silent = node("b@h", ["edge-1", "edge-9"], Behaviour::HangInQueries);
    let bed = Bed::of(vec![node("a@h", ["edge-1", "edge-2"], Behaviour::Honest), silent]).await;
    for body in [
        json!({"filter": {"zone": "edge"}, "confirm": "all"}),
        json!({"filter": {"zone": "edge"}, "confirm": "all", "partial": false}),
        json!({"filter": {"zone": "edge"}, "confirm": "all", "dry_run": true}),
    ] {
        let refused = bed.post(&body).await;
        assert_eq!((refused.status, &refused.json()["code"]), (503, &json!(101)), "{body}");
        assert_eq!(refused.json()["meta"]["nodes"]["failed"], failed);
    }
    assert_eq!(bed.kicked(), []);
    let dry = bed
        .post(&json!({"filter": {"zone": "edge"}, "confirm": "all", "dry_run": true, "partial": true}))
        .await;
    assert_eq!((dry.status, &dry.json()["meta"]["count"]), (200, &json!(2)));
    assert_eq!(dry.json()["meta"]["nodes"]["failed"], failed);
    assert_eq!(dry.json()["meta"]["count_is"], "at_least");

    // Of ids it can be said one by one.
    let answer = bed.post(&json!({"clientids": ["edge-1", "edge-9"]})).await;
    let expected = [json!(["edge-1", null, "kicked", ["a@h"]]), json!(["edge-9", null, "failed", []])];
    assert_eq!(told(&answer), expected);
    let last = answer.lines().1;
    assert_eq!((&last["complete"], &last["nodes"]["failed"]), (&json!(false), &failed));
    assert_eq!(
        messages(&answer),
        [
            "client \"edge-9\" is on no node that answered, but some did not: b@h (timeout)",
            "it may be elsewhere too, as some nodes did not answer: b@h (timeout)",
        ]
    );

    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all", "partial": true})).await;
    assert_eq!(outcomes(&answer), BTreeMap::from([("kicked".into(), 2)]));
    let last = answer.lines().1;
    assert_eq!((&last["complete"], &last["nodes"]["failed"]), (&json!(false), &failed));
}

#[tokio::test]
async fn a_node_that_fails_while_it_is_read_ends_it_before_anybody_is_kicked() {
    for (behaviour, reason) in [
        (Behaviour::HangMidway, "timeout"),
        (Behaviour::LateAndHangMidway, "timeout"),
        (Behaviour::BreakMidway, "unreachable"),
    ] {
        let b = node("b@h", many("edge", 150), behaviour);
        let bed = Bed::of(vec![node("a@h", ["edge-1"], Behaviour::Honest), b]).await;
        for partial in [true, false] {
            let answer =
                bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all", "partial": partial})).await;
            assert_eq!((answer.status, &answer.json()["code"]), (503, &json!(101)), "{behaviour:?}");
            let failed = json!([{"node": "b@h", "reason": reason}]);
            assert_eq!(answer.json()["meta"]["nodes"]["failed"], failed);
        }
        assert_eq!((bed.kicks(0), bed.kicks(1)), (0, 0));
        let last = bed.records().pop().unwrap();
        assert_eq!((&last["outcome"], &last["status"]), (&json!("failed"), &json!(503)), "{last}");
    }
}

#[tokio::test]
async fn what_becomes_of_a_session_is_told_by_what_its_node_says() {
    for (behaviour, outcome, complete, message) in [
        (
            Behaviour::Reconnected,
            "moved",
            true,
            "the client has another session by now, which was left alone",
        ),
        (Behaviour::GoneInKick, "gone", true, "the session had ended"),
        (
            Behaviour::RestartedInKick,
            "moved",
            true,
            "the node has started again, and which of its sessions this was is not known",
        ),
        (Behaviour::OverloadedInKick, "failed", false, "node b@h refused the kick (overloaded)"),
        (
            Behaviour::HangInKick,
            "unknown",
            false,
            "node b@h did not confirm the kick (timeout); it may have been carried out",
        ),
    ] {
        let b = node("b@h", ["edge-2", "edge-3"], behaviour);
        let bed = Bed::of(vec![node("a@h", ["edge-1"], Behaviour::Honest), b]).await;
        let answer = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
        let expected = [
            json!(["edge-1", "a@h", "kicked", ["a@h"]]),
            json!(["edge-2", "b@h", outcome, []]),
            json!(["edge-3", "b@h", outcome, []]),
        ];
        assert_eq!(told(&answer), expected);
        assert_eq!(messages(&answer), [message]);
        let last = answer.lines().1;
        assert_eq!(last["complete"], complete, "{behaviour:?}");
        assert_eq!(last["outcomes"], totals(json!({"kicked": 1, outcome: 2})));
        let failed = last["nodes"]["failed"].as_array().unwrap();
        assert_eq!(failed.is_empty(), complete, "{last}");
        assert_eq!(bed.kicks(1), 2, "a kick is not repeated");
        let ended: Vec<Value> =
            bed.records().into_iter().filter(|line| line["clientid"] == "edge-2").collect();
        assert_eq!((&ended[1]["outcome"], &ended[1]["message"]), (&json!(outcome), &json!(message)));
    }
}

#[tokio::test]
async fn a_single_kick_that_was_refused_is_on_record_as_failed_and_one_without_an_answer_as_unknown() {
    for (behaviour, status, outcome) in
        [(Behaviour::OverloadedInKick, 502, "failed"), (Behaviour::HangInKick, 504, "unknown")]
    {
        let bed = Bed::of(vec![node("a@h", ["c-1"], behaviour)]).await;
        assert_eq!(send(bed.gateway, "DELETE", "/clients/c-1").await.0, status);
        let outcomes: Vec<Value> = bed.records().iter().map(|record| record["outcome"].clone()).collect();
        assert_eq!(outcomes, ["asked", outcome], "{behaviour:?}");
        assert_eq!(bed.kicks(0), 1, "a kick is not repeated");
    }
}

#[tokio::test]
async fn a_kick_of_a_client_that_moves_is_told_alike_alone_and_among_many() {
    let both = |behaviour| vec![node("a@h", ["c-1"], Behaviour::Honest), node("b@h", ["c-1"], behaviour)];
    let bed = Bed::of(both(Behaviour::Reconnected)).await;
    let (status, body) = send(bed.gateway, "DELETE", "/clients/c-1").await;
    assert_eq!((status, &body["code"]), (503, &json!(101)), "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("may still be connected; the client was kicked on a@h"), "{message}");
    let answer = bed.post(&json!({"clientids": ["c-1"]})).await;
    assert_eq!(told(&answer), [json!(["c-1", null, "moved", ["a@h"]])]);
    let ended =
        bed.records().into_iter().filter(|line| line["action"] == "kick" && line["outcome"] != "asked");
    let ended: Vec<Value> = ended.map(|line| json!([line["outcome"], line["kicked_on"]])).collect();
    assert_eq!(ended, [json!(["moved", ["a@h"]]), json!(["moved", ["a@h"]])]);
}

#[tokio::test]
async fn nobody_that_answers_the_second_time_is_no_word_of_a_client_that_moved() {
    // Nothing was ended, and where the client is nobody says.
    let bed = Bed::of(vec![node("a@h", ["c-1"], Behaviour::ReconnectedAndSilent)]).await;
    let failed = json!([{"node": "a@h", "reason": "timeout"}]);
    let (status, body) = send(bed.gateway, "DELETE", "/clients/c-1").await;
    assert_eq!((status, &body["code"], &body["meta"]["nodes"]["failed"]), (503, &json!(101), &failed));
    let last = bed.records().pop().unwrap();
    assert_eq!((&last["outcome"], &last["status"]), (&json!("failed"), &json!(503)), "{last}");
    assert!(last["message"].as_str().unwrap().contains("no node answered: a@h (timeout)"), "{last}");
    assert_eq!((bed.kicks(0), bed.kicked()), (1, vec![]));

    // What was ended the first time is told, and that it may be elsewhere.
    let nodes = vec![
        node("a@h", ["c-1"], Behaviour::SilentAfterKick),
        node("b@h", ["c-1"], Behaviour::ReconnectedAndSilent),
    ];
    let bed = Bed::of(nodes).await;
    let failed = json!([{"node": "a@h", "reason": "timeout"}, {"node": "b@h", "reason": "timeout"}]);
    let (status, body) = send(bed.gateway, "DELETE", "/clients/c-1").await;
    assert_eq!((status, &body["data"]), (200, &json!([{"node": "a@h", "clientid": "c-1"}])), "{body}");
    assert_eq!(body["meta"]["nodes"]["failed"], failed);
    let last = bed.records().pop().unwrap();
    assert_eq!((&last["outcome"], &last["kicked_on"]), (&json!("kicked"), &json!(["a@h"])), "{last}");
    let elsewhere = "it may be elsewhere too, as some nodes did not answer: a@h (timeout), b@h (timeout)";
    assert_eq!(last["message"], elsewhere, "{last}");
    assert_eq!((bed.kicks(0), bed.kicks(1)), (1, 1));
}

#[tokio::test]
async fn a_silent_node_is_named_whatever_else_goes_wrong_with_a_kick() {
    let failed = |names: &[&str]| {
        json!(names.iter().map(|name| json!({"node": name, "reason": "timeout"})).collect::<Vec<_>>())
    };
    for (behaviour, status, outcome, names) in [
        (Behaviour::HangInKick, 504, "unknown", &["a@h", "b@h"][..]),
        (Behaviour::Reconnected, 503, "moved", &["b@h"]),
    ] {
        let silent = node("b@h", ["c-2"], Behaviour::HangInQueries);
        let bed = Bed::of(vec![node("a@h", ["c-1"], behaviour), silent]).await;
        let (got, body) = send(bed.gateway, "DELETE", "/clients/c-1").await;
        assert_eq!((got, &body["meta"]["nodes"]["failed"]), (status, &failed(names)), "{body}");
        let answer = bed.post(&json!({"clientids": ["c-1"]})).await;
        assert_eq!(told(&answer), [json!(["c-1", null, outcome, []])]);
        let last = answer.lines().1;
        assert_eq!((&last["complete"], &last["nodes"]["failed"]), (&json!(false), &failed(names)), "{last}");
    }
}

#[tokio::test]
async fn of_two_nodes_that_do_not_confirm_a_kick_the_one_that_may_have_done_it_is_told_of() {
    for is_first in [true, false] {
        let refuses = node("a@h", ["c-1"], Behaviour::OverloadedInKick);
        let mut nodes = vec![refuses, node("b@h", ["c-1"], Behaviour::HangInKick)];
        if is_first {
            nodes.reverse();
        }
        let bed = Bed::of(nodes).await;
        let (status, body) = send(bed.gateway, "DELETE", "/clients/c-1").await;
        assert_eq!((status, &body["code"]), (504, &json!(101)), "{body}");
        assert!(body["message"].as_str().unwrap().contains("it may have been carried out"), "{body}");
        assert_eq!(bed.records().pop().unwrap()["outcome"], "unknown");
    }
}

#[tokio::test]
async fn a_client_that_moves_is_looked_for_once_more_by_id() {
    let bed = Bed::of(vec![node("a@h", ["c-1"], Behaviour::Reconnected)]).await;
    let answer = bed.post(&json!({"clientids": ["c-1"]})).await;
    assert_eq!(told(&answer), [json!(["c-1", null, "moved", []])]);
    assert_eq!(bed.kicks(0), 2);
}

#[tokio::test]
async fn a_node_that_fails_again_and_again_is_given_up_and_the_others_are_not() {
    let b = node("b@h", many("edge", 40), Behaviour::HangInKick);
    let bed = Bed::of(vec![node("a@h", many("edge", 40), Behaviour::Honest), b]).await;
    let begun = Instant::now();
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
    let expected = [("failed".into(), 32), ("kicked".into(), 40), ("unknown".into(), 8)];
    assert_eq!(outcomes(&answer), BTreeMap::from(expected));
    assert_eq!(bed.kicks(1), 8);
    assert!(begun.elapsed() < Duration::from_secs(5), "one deadline, not five: {:?}", begun.elapsed());
    assert_eq!(
        messages(&answer),
        [
            "node b@h did not confirm the kick (timeout); it may have been carried out",
            "not tried, since its node has failed 8 kicks in a row",
        ]
    );
}

#[tokio::test]
async fn more_than_max_are_none() {
    let told = Layer { bulk_kick_default_max: Some("20".parse().unwrap()), ..Layer::default() };
    let nodes = vec![
        node("a@h", many("edge", 150), Behaviour::Honest),
        node("b@h", many("edge", 5), Behaviour::Honest),
    ];
    let bed = Bed::with(nodes, told).await;
    let ids = many("edge", 21);
    for (body, status, message) in [
        (
            json!({"filter": {"zone": "edge"}, "confirm": "all"}),
            409,
            "155 sessions match, expected at most 20, which is max; nobody was kicked",
        ),
        (
            json!({"filter": {"zone": "edge"}, "confirm": "all", "max": 154}),
            409,
            "155 sessions match, expected at most 154, which is max; nobody was kicked",
        ),
        (
            json!({"clientids": ids}),
            409,
            "21 client ids are in the body, expected at most 20, which is max; nobody was kicked",
        ),
        (
            json!({"filter": {"zone": "edge"}, "confirm": "all", "max": 2001}),
            400,
            "max in the body is 2001, expected an integer from 1 to 2000",
        ),
        (
            json!({"filter": {"_like_clientid": ""}}),
            400,
            "filter in the body excludes no client, expected \"confirm\": \"all\" beside it to kick them all",
        ),
        // The only zone that there is.
        (
            json!({"filter": {"zone": "edge"}, "max": 155}),
            400,
            "filter in the body excludes no client, expected \"confirm\": \"all\" beside it to kick them all",
        ),
        (
            json!({"filter": {"zone": "edge"}, "max": 155, "nodes": ["b@h"]}),
            400,
            "filter in the body excludes no client, expected \"confirm\": \"all\" beside it to kick them all",
        ),
        (
            json!({"filter": {"zone": "edge"}, "confirm": "all", "nodes": ["c@h"]}),
            400,
            "nodes in the body has \"c@h\", expected names of nodes, of a@h, b@h",
        ),
        (
            json!({"clientids": ["x"], "nodes": ["a@h", "c@h"]}),
            400,
            "nodes in the body has \"c@h\", expected names of nodes, of a@h, b@h",
        ),
    ] {
        let answer = bed.post(&body).await;
        let expected = json!({"code": 108, "message": message});
        assert_eq!((answer.status, answer.json()), (status, expected), "{body}");
    }
    assert_eq!((bed.kicks(0), bed.kicks(1)), (0, 0));
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all", "max": 155})).await;
    assert_eq!(outcomes(&answer), BTreeMap::from([("kicked".into(), 155)]));
}

#[tokio::test]
async fn a_dry_run_says_who_it_would_be_and_kicks_nobody() {
    let nodes = vec![
        node("a@h", many("edge", 150), Behaviour::Honest),
        node("b@h", many("edge", 30), Behaviour::Honest),
    ];
    let bed = Bed::of(nodes).await;
    let body = json!({"filter": {}, "dry_run": true, "max": 179});
    let answer = bed.post(&body).await.json();
    let nodes = json!({"total": 2, "answered": 2, "failed": []});
    let by_node = json!([{"node": "a@h", "count": 150}, {"node": "b@h", "count": 30}]);
    let meta = json!({"dry_run": true, "count": 180, "max": 179, "within_max": false, "by_node": by_node, "nodes": nodes});
    assert_eq!((&answer["code"], &answer["meta"]), (&json!(0), &meta));
    let sample = rows(&answer);
    assert_eq!(
        (sample.len(), sample[0], sample[1], sample[99]),
        (100, ("a@h", "edge-000"), ("b@h", "edge-000"), ("a@h", "edge-069"))
    );

    let answer =
        bed.post(&json!({"clientids": ["edge-001", "edge-100", "none"], "dry_run": true})).await.json();
    assert_eq!((&answer["meta"]["count"], &answer["meta"]["within_max"]), (&json!(3), &json!(true)));
    assert_eq!(rows(&answer), [("a@h", "edge-001"), ("b@h", "edge-001"), ("a@h", "edge-100")]);

    assert_eq!((bed.kicks(0), bed.kicks(1)), (0, 0));
    let records = bed.records();
    assert_eq!(records.len(), 4);
    assert_eq!((&records[0]["action"], &records[0]["outcome"]), (&json!("bulk_kick"), &json!("asked")));
    assert_eq!(records[0]["body"], body);
    assert_eq!((&records[1]["outcome"], &records[1]["status"]), (&json!("dry_run"), &json!(200)));
}

#[tokio::test]
async fn everything_is_on_record_in_its_order() {
    let bed = Bed::of(vec![node("a@h", ["edge-1", "edge-2"], Behaviour::Honest)]).await;
    let body = json!({"filter": {"zone": ["edge"], "_like_clientid": ""}, "confirm": "all", "rate": 500});
    assert_eq!(outcomes(&bed.post(&body).await), BTreeMap::from([("kicked".into(), 2)]));
    let records = bed.records();
    for record in &records {
        assert_eq!((&record["request"], &record["key"]), (&json!("r1"), &json!("ops")), "{record}");
        assert!(record["remote"].as_str().unwrap().starts_with("127.0.0.1:") && record["time"].is_string());
    }
    let of = |clientid: Value| {
        let of = records.iter().filter(|record| record["clientid"] == clientid);
        of.map(|record| json!([record["action"], record["node"], record["outcome"], record["kicked_on"]]))
            .collect::<Vec<_>>()
    };
    for clientid in ["edge-1", "edge-2"] {
        let expected = [json!(["kick", "a@h", "asked", null]), json!(["kick", "a@h", "kicked", ["a@h"]])];
        assert_eq!(of(json!(clientid)), expected);
    }
    let expected = [json!(["bulk_kick", null, "asked", null]), json!(["bulk_kick", null, "done", null])];
    assert_eq!(of(Value::Null), expected);
    let (first, last) = (&records[0], &records[5]);
    assert_eq!((&first["outcome"], &first["body"]), (&json!("asked"), &body));
    assert_eq!((&last["outcome"], &last["totals"]), (&json!("done"), &totals(json!({"kicked": 2}))));
    assert_eq!(records.iter().filter(|record| record.get("body").is_some()).count(), 1);
}

#[tokio::test]
async fn what_is_refused_is_on_record_and_kicks_nobody() {
    let told = Layer { max_bulk_kick_bytes: Some("1000".parse().unwrap()), ..Layer::default() };
    let bed = Bed::with(vec![node("a@h", ["edge-1"], Behaviour::Honest)], told).await;
    let good = json!({"clientids": ["edge-1"]}).to_string();
    let large = json!({"clientids": ["x".repeat(1000)]}).to_string();
    let json_type = "application/json";
    for (key, content_type, body, status, code) in [
        ("wrong", json_type, &*good, 401, 102),
        ("wrong", json_type, &*large, 401, 102),
        ("other", json_type, &*good, 403, 102),
        ("secret", "text/plain", &*good, 400, 108),
        ("secret", "application/x-www-form-urlencoded", &*good, 400, 108),
        ("secret", json_type, "{", 400, 108),
        ("secret", json_type, "", 400, 108),
        ("secret", json_type, &*large, 413, 102),
    ] {
        let answer = receive(open(bed.gateway, key, content_type, body.as_bytes()).await).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &json!(code)),
            "{key} {content_type} {body}"
        );
        let last = bed.records().pop().unwrap();
        let expected = json!(["bulk_kick", "refused", status]);
        assert_eq!(json!([last["action"], last["outcome"], last["status"]]), expected, "{last}");
    }
    assert_eq!((bed.records().len(), bed.kicks(0)), (8, 0));
    // A body that does not come.
    let mut stream = TcpStream::connect(bed.gateway).await.unwrap();
    let head = "POST /api/v4/client_kicks HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer secret\r\n\
                Content-Type: application/json\r\nContent-Length: 50\r\nConnection: close\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = receive(stream).await;
    assert_eq!(
        (answer.status, &answer.json()["message"]),
        (400, &json!("the request's body did not arrive"))
    );
    let last = bed.records().pop().unwrap();
    assert_eq!((&last["outcome"], &last["status"]), (&json!("refused"), &json!(400)), "{last}");
    let type_with_charset = "Application/JSON; charset=utf-8";
    let answer = receive(open(bed.gateway, "secret", type_with_charset, good.as_bytes()).await).await;
    assert_eq!(outcomes(&answer), BTreeMap::from([("kicked".into(), 1)]));
}

#[tokio::test]
async fn what_is_refused_is_so_before_its_body_has_come() {
    let bed = Bed::of(vec![node("a@h", ["edge-1"], Behaviour::Honest)]).await;
    for (key, content_type, status) in [
        ("wrong", "application/json", 401),
        ("other", "application/json", 403),
        ("secret", "text/plain", 400),
    ] {
        let mut stream = TcpStream::connect(bed.gateway).await.unwrap();
        let head = format!(
            "POST /api/v4/client_kicks HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: {content_type}\r\nContent-Length: 500\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}").as_bytes(), "{key}");
        assert_eq!(bed.records().pop().unwrap()["status"], status);
        // Who sends its body after all has its connection for another request.
        stream.write_all(&[b' '; 499]).await.unwrap();
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with(r#"{"status":"live"}"#), "{rest}");
    }
}

#[tokio::test]
async fn everybody_is_who_is_on_the_nodes_that_were_asked_whatever_others_count() {
    let bed = Bed::of(vec![
        node("a@h", ["edge-1", "edge-2"], Behaviour::Honest),
        node("b@h", ["core-1", "core-2"], Behaviour::OverloadedInExports),
    ])
    .await;
    // Those of a are all it would kick there; that b has others does not make the filter one that excludes somebody.
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "partial": true})).await;
    assert_eq!((answer.status, bed.kicked()), (400, vec![]), "{}", answer.json());
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "partial": true, "confirm": "all"})).await;
    assert_eq!(outcomes(&answer), BTreeMap::from([("kicked".into(), 2)]));

    let bed = Bed::of(vec![
        node("a@h", ["edge-1", "edge-2", "core-3"], Behaviour::Honest),
        node("b@h", ["core-1"], Behaviour::OverloadedInExports),
    ])
    .await;
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "partial": true})).await;
    assert_eq!(outcomes(&answer), BTreeMap::from([("kicked".into(), 2)]));
}

#[tokio::test]
async fn whoever_leaves_stops_what_has_not_begun_and_the_rest_is_on_record() {
    let bed = Bed::of(vec![node("a@h", many("edge", 200), Behaviour::SlowInKick)]).await;
    let stream = bed.open(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
    eventually("kicks begin", || bed.kicks(0) >= 8).await;
    drop(stream);
    let ended = || bed.records().last().is_some_and(|last| last["action"] == "bulk_kick");
    eventually("the bulk kick ends", ended).await;
    let records = bed.records();
    let last = records.last().unwrap();
    assert_eq!(
        (&last["outcome"], &last["message"]),
        (&json!("stopped"), &json!("nobody takes the answer any more"))
    );
    let kicked = bed.kicked().len();
    assert!((8..150).contains(&kicked), "{kicked}");
    assert_eq!(last["totals"], totals(json!({"kicked": kicked, "left": 200 - kicked})));
    let asked = records.iter().filter(|record| record["action"] == "kick" && record["outcome"] == "asked");
    assert_eq!(asked.count(), kicked, "what was begun is finished");
    let again = bed.post(&json!({"clientids": ["edge-001"]})).await;
    assert_eq!(outcomes(&again), BTreeMap::from([("kicked".into(), 1)]));
}

#[tokio::test]
async fn bulk_kicks_beyond_the_limit_are_told_to_come_again() {
    let told = Layer { max_bulk_kicks: Some("1".parse().unwrap()), ..Layer::default() };
    let bed = Bed::with(vec![node("a@h", many("edge", 100), Behaviour::SlowInKick)], told).await;
    let first = bed.open(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
    eventually("kicks begin", || bed.kicks(0) >= 1).await;
    let second = bed.post(&json!({"clientids": ["edge-001"]})).await;
    assert_eq!((second.status, &second.json()["code"]), (503, &json!(102)));
    assert!(second.head.contains("retry-after: 10"), "{}", second.head);
    assert_eq!(send(bed.gateway, "GET", "/clients/edge-001").await.0, 200);
    assert_eq!(outcomes(&receive(first).await), BTreeMap::from([("kicked".into(), 100)]));
}

#[tokio::test]
async fn a_gateway_that_drains_begins_no_more_and_says_where_it_stopped() {
    let told = Layer { drain_delay: Some("300ms".parse().unwrap()), ..Layer::default() };
    let bed = Bed::with(vec![node("a@h", many("edge", 200), Behaviour::SlowInKick)], told).await;
    let running = bed.open(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
    eventually("kicks begin", || bed.kicks(0) >= 8).await;
    let Bed { gateway, shutdown, stopped, .. } = bed;
    shutdown.send(()).unwrap();
    let answer = receive(running).await;
    let late = open(gateway, "secret", "application/json", br#"{"clientids":["edge-001"]}"#).await;
    let late = receive(late).await;
    assert_eq!((late.status, late.json()["message"].clone()), (503, json!("the gateway is shutting down")));
    let kicked = bed.nodes[0].kicked.lock().unwrap().len();
    let expected = [("kicked".into(), kicked), ("left".into(), 200 - kicked)];
    assert_eq!(outcomes(&answer), BTreeMap::from(expected));
    let last = answer.lines().1;
    assert_eq!((&last["complete"], &last["stopped"]), (&json!(false), &json!("draining")));
    assert_eq!(last["outcomes"], totals(json!({"kicked": kicked, "left": 200 - kicked})));
    stopped.await.unwrap();
    let records = records(&bed.folder.path().join("audit.jsonl"));
    assert_eq!(records.iter().filter(|record| record["outcome"] == "stopped").count(), 1);
}

#[tokio::test]
async fn a_gateway_that_drains_does_not_wait_for_who_reads_nothing_and_has_the_end_on_record() {
    // More lines than any buffers between the two hold.
    let long = "x".repeat(30_000);
    let ids: Vec<String> = (0..1_500).map(|n| format!("edge-{n:04}-{long}")).collect();
    let bed = Bed::of(vec![node("a@h", ids, Behaviour::Honest)]).await;
    let unread = bed.open(&json!({"filter": {"zone": "edge"}, "confirm": "all", "max": 1_500})).await;
    // It comes to a standstill, or to its last line.
    let mut before = 0;
    while bed.kicks(0) == 0 || std::mem::replace(&mut before, bed.kicks(0)) != bed.kicks(0) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(bed.records().iter().all(|record| record["outcome"] != "done"), "it was read after all");
    let Bed { shutdown, stopped, .. } = bed;
    let begun = Instant::now();
    shutdown.send(()).unwrap();
    stopped.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let records = records(&bed.folder.path().join("audit.jsonl"));
    let last = records.last().unwrap();
    assert_eq!((&last["action"], &last["outcome"]), (&json!("bulk_kick"), &json!("stopped")), "{last}");
    let kicked = bed.nodes[0].kicked.lock().unwrap().len();
    assert_eq!(last["totals"]["kicked"], kicked);
    drop(unread);
}

#[tokio::test]
async fn kicks_that_cannot_be_recorded_are_not_carried_out() {
    let full = Layer { audit_log: Some("/dev/full".into()), ..Layer::default() };
    let bed = Bed::with(vec![node("a@h", ["edge-1"], Behaviour::Honest)], full).await;
    let answer = bed.post(&json!({"clientids": ["edge-1"]})).await;
    assert_eq!((answer.status, &answer.json()["code"], bed.kicks(0)), (503, &json!(102), 0));

    // The folder goes while it runs.
    let bed = Bed::of(vec![node("a@h", many("edge", 100), Behaviour::SlowInKick)]).await;
    let running = bed.open(&json!({"filter": {"zone": "edge"}, "confirm": "all"})).await;
    eventually("kicks begin", || bed.kicks(0) >= 8).await;
    let moved = bed.folder.path().with_extension("moved");
    std::fs::rename(bed.folder.path(), &moved).unwrap();
    let answer = receive(running).await;
    let last = answer.lines().1;
    assert_eq!((&last["complete"], &last["stopped"]), (&json!(false), &json!("unrecorded")), "{last}");
    let asked = records(&moved.join("audit.jsonl"));
    let asked = asked.iter().filter(|record| record["action"] == "kick" && record["outcome"] == "asked");
    assert_eq!(bed.kicked().len(), asked.count(), "nobody is kicked without a record");
    assert!(last["outcomes"]["failed"].as_u64().unwrap() >= 1, "{last}");
    std::fs::rename(&moved, bed.folder.path()).unwrap();
}

#[tokio::test]
async fn kicks_come_no_faster_than_their_rate() {
    let bed = Bed::of(vec![node("a@h", many("edge", 26), Behaviour::Honest)]).await;
    let begun = Instant::now();
    let answer = bed.post(&json!({"filter": {"zone": "edge"}, "confirm": "all", "rate": 20})).await;
    assert!(begun.elapsed() >= Duration::from_millis(1250), "{:?}", begun.elapsed());
    let progress: Vec<u64> =
        answer.lines().0.iter().filter_map(|line| line["progress"]["done"].as_u64()).collect();
    assert!(progress.len() >= 2 && progress.is_sorted() && progress[1] >= 1, "{progress:?}");
    assert_eq!(outcomes(&answer), BTreeMap::from([("kicked".into(), 26)]));
}
