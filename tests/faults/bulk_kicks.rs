//! Bulk kicks in whose midst the gateway crashes, or an agent crashes or stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;

use rollcall_tests::asker::Asked;
use rollcall_tests::http;
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway, OPERATOR};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// Clients of each node.
const CLIENTS: usize = 150;

/// Kicks under way at one node at once.
const AT_ONCE: usize = 8;

fn names() -> Vec<String> {
    ["a@127.0.0.1", "b@127.0.0.1"].map(str::to_owned).to_vec()
}

/// Two nodes with clients, and a gateway that keeps its record here.
fn cluster(audit: &Path) -> (Cluster, NamedTempFile) {
    let table = rows::table(&Asked::spare_rows(&names(), CLIENTS));
    let agents = names().iter().map(|name| Agent::file(name, table.path())).collect();
    let arguments = ["--audit-log", audit.to_str().unwrap(), "--request-timeout", "2s"];
    (Cluster::with(agents, &arguments), table)
}

/// All of them, slowly enough for something to happen meanwhile.
fn everybody() -> Value {
    json!({"filter": {"_like_clientid": "spare-"}, "confirm": "all", "rate": 100, "max": 2 * CLIENTS})
}

/// A bulk kick on its way.
struct Running {
    answer: BufReader<TcpStream>,
    lines: Vec<Value>,
}

impl Running {
    fn begin(gateway: &Gateway) -> Self {
        let mut stream = http::connect(gateway.address()).unwrap();
        stream.write_all(&gateway.post_bytes(OPERATOR, "/client_kicks", &everybody())).unwrap();
        Self { answer: BufReader::new(stream), lines: Vec::new() }
    }

    /// Reads on; whether anything came. What is no line of JSON is of HTTP.
    fn read(&mut self) -> bool {
        let mut line = String::new();
        let came = self.answer.read_line(&mut line).is_ok_and(|bytes| bytes > 0);
        self.lines.extend(serde_json::from_str::<Value>(&line).ok().filter(Value::is_object));
        came
    }

    fn read_until_kicked(&mut self, count: usize, on: &str) {
        while self.told(on, "kicked").len() < count {
            assert!(self.read(), "it ended early: {:?}", self.lines.last());
        }
    }

    fn read_to_end(&mut self) {
        while self.read() {}
    }

    /// The clients of a node that ended so, as far as told.
    fn told(&self, node: &str, outcome: &str) -> BTreeSet<String> {
        let is_so = |line: &&Value| line["node"] == node && line["outcome"] == outcome;
        self.lines.iter().filter(is_so).map(|line| text(line, "clientid")).collect()
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The clients on record for a kick with this outcome.
fn recorded(records: &[Value], outcome: &str) -> BTreeSet<String> {
    let is_so = |record: &&Value| record["action"] == "kick" && record["outcome"] == outcome;
    records.iter().filter(is_so).map(|record| text(record, "clientid")).collect()
}

/// Who is there, by node.
fn there(gateway: &Gateway) -> BTreeMap<String, BTreeSet<String>> {
    let response = gateway.get("/clients?_like_clientid=spare-&_limit=10000&_partial=false");
    assert_eq!(response.status, 200, "{}", response.message());
    let mut there: BTreeMap<String, BTreeSet<String>> =
        names().into_iter().map(|name| (name, BTreeSet::new())).collect();
    for row in response.rows() {
        there.entry(text(&row, "node")).or_default().insert(text(&row, "clientid"));
    }
    there
}

fn all_of(node: &str) -> BTreeSet<String> {
    (0..CLIENTS).map(|at| format!("spare-{at}-of-{node}")).collect()
}

#[test]
fn a_gateway_that_crashes_amid_a_bulk_kick_leaves_nobody_gone_without_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    let (mut cluster, _table) = cluster(&audit);
    let [a, b] = <[String; 2]>::try_from(names()).unwrap();
    let mut running = Running::begin(&cluster.gateway);
    running.read_until_kicked(20, &b);
    // So that kicks are on their way to one node which it may carry out when nobody waits for them any more.
    cluster.agents[1].process.freeze();
    let under_way = |records: &[Value]| {
        let asked = recorded(records, "asked");
        let ended: BTreeSet<String> =
            ["kicked", "unknown", "failed"].iter().flat_map(|outcome| recorded(records, outcome)).collect();
        asked.difference(&ended).filter(|client| client.ends_with(&b)).count()
    };
    eventually("kicks on their way to the node that stands still", || {
        let count = under_way(&records(&audit));
        if count == AT_ONCE { Ok(()) } else { Err(count.to_string()) }
    });
    cluster.gateway.process.kill();
    cluster.agents[1].process.thaw();
    running.read_to_end();
    assert!(running.lines.iter().all(|line| line.get("meta").is_none()), "it looks whole");

    cluster.gateway.restart();
    cluster.await_all_answering();
    let records = records(&audit);
    let (bulk, kicks): (Vec<&Value>, Vec<&Value>) =
        records.iter().partition(|record| record["action"] == "bulk_kick");
    assert_eq!((bulk.len(), &bulk[0]["outcome"], &bulk[0]["body"]), (1, &json!("asked"), &everybody()));
    assert!(kicks.iter().all(|record| record["request"] == bulk[0]["request"]));
    let (asked, kicked) = (recorded(&records, "asked"), recorded(&records, "kicked"));
    // What was on its way may have been carried out late.
    let left = eventually("peace", || {
        let (before, after) = (there(&cluster.gateway), there(&cluster.gateway));
        if before == after { Ok(after) } else { Err("clients still go".to_owned()) }
    });
    let gone: BTreeSet<String> = [&a, &b]
        .iter()
        .flat_map(|node| all_of(node).difference(&left[*node]).cloned().collect::<Vec<_>>())
        .collect();
    let unrecorded: Vec<_> = gone.difference(&asked).collect();
    assert!(unrecorded.is_empty(), "gone without a record: {unrecorded:?}");
    let not_gone: Vec<_> = kicked.difference(&gone).collect();
    assert!(not_gone.is_empty(), "kicked on record, and there: {not_gone:?}");
    for node in [&a, &b] {
        let told = running.told(node, "kicked");
        assert!(told.is_subset(&kicked), "told, and not on record: {:?}", told.difference(&kicked));
    }
    let in_doubt = asked.len() - kicked.len();
    assert!((AT_ONCE..=3 * AT_ONCE).contains(&in_doubt), "{in_doubt} kicks have no end on record");
    assert!(gone.len() >= 40 && gone.len() < 2 * CLIENTS, "{} are gone", gone.len());

    // To ask for the same again is safe, and ends the others.
    let mut again = Running::begin(&cluster.gateway);
    again.read_to_end();
    let count = 2 * CLIENTS - gone.len();
    let last = &again.lines.last().unwrap()["meta"];
    assert_eq!((&last["complete"], &last["outcomes"]["kicked"]), (&json!(true), &json!(count)), "{last}");
    assert!(there(&cluster.gateway).values().all(BTreeSet::is_empty));
}

/// What came of a bulk kick, after an agent has failed in its midst.
fn assert_told_apart(running: &Running, audit: &Path, reason: &str) {
    let [a, b] = <[String; 2]>::try_from(names()).unwrap();
    let last = &running.lines.last().unwrap()["meta"];
    assert_eq!((&last["complete"], &last["count"]), (&json!(false), &json!(2 * CLIENTS)), "{last}");
    assert_eq!(last["nodes"]["failed"], json!([{"node": b, "reason": reason}]), "{last}");
    assert_eq!(running.told(&a, "kicked"), all_of(&a), "a node that is well is held up");
    let [kicked, unknown, failed] = ["kicked", "unknown", "failed"].map(|outcome| running.told(&b, outcome));
    assert_eq!(kicked.len() + unknown.len() + failed.len(), CLIENTS, "{last}");
    assert!(kicked.len() >= 10 && (1..=AT_ONCE).contains(&unknown.len()) && !failed.is_empty(), "{last}");
    let records = records(audit);
    let bulk: Vec<&Value> = records.iter().filter(|record| record["action"] == "bulk_kick").collect();
    assert_eq!((&bulk[1]["outcome"], &bulk[1]["totals"]), (&json!("done"), &last["outcomes"]));
    // Who was not tried is not on record as asked for, and the others are as they were told.
    let asked = recorded(&records, "asked");
    assert!(asked.is_disjoint(&failed), "{:?}", asked.intersection(&failed));
    assert_eq!(recorded(&records, "unknown"), unknown);
    assert_eq!(recorded(&records, "kicked").len(), CLIENTS + kicked.len());
}

#[test]
fn an_agent_that_crashes_amid_a_bulk_kick_is_told_apart_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    let (mut cluster, _table) = cluster(&audit);
    let mut running = Running::begin(&cluster.gateway);
    running.read_until_kicked(10, &names()[1]);
    cluster.agents[1].process.kill();
    running.read_to_end();
    assert_told_apart(&running, &audit, "unreachable");
}

#[test]
fn an_agent_that_stands_still_amid_a_bulk_kick_is_told_apart_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    let (cluster, _table) = cluster(&audit);
    let [a, b] = <[String; 2]>::try_from(names()).unwrap();
    let mut running = Running::begin(&cluster.gateway);
    running.read_until_kicked(10, &b);
    cluster.agents[1].process.freeze();
    running.read_to_end();
    assert_told_apart(&running, &audit, "timeout");
    cluster.agents[1].process.thaw();
    cluster.await_all_answering();
    let left = there(&cluster.gateway);
    assert!(left[&a].is_empty(), "{left:?}");
    assert!(running.told(&b, "kicked").is_disjoint(&left[&b]), "told as kicked, and there");
    let failed = running.told(&b, "failed");
    assert!(failed.is_subset(&left[&b]), "told as not tried, and gone: {:?}", failed.difference(&left[&b]));
}
