//! Every kick on record, allowed or refused.

use std::path::Path;

use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR, VIEWER};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the records say, without what differs from run to run.
fn told(records: &[Value]) -> Vec<Value> {
    let keys = ["key", "clientid", "node", "outcome", "status", "kicked_on"];
    let told = |record: &Value| keys.iter().map(|key| record[key].clone()).collect();
    records.iter().map(told).collect()
}

#[test]
fn who_kicked_whom_when_from_where_and_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let agents = ["a@127.0.0.1", "b@127.0.0.1"].map(Agent::embedded).into();
    let cluster = Cluster::with(agents, &["--audit-log", path.to_str().unwrap()]);
    let _there = Client::connect(cluster.agents[1].mqtt(), &Connect::new(5, "there"));
    cluster.gateway.row("there");

    let request = |key: Option<(&str, &str)>, target: &str, id: &str| {
        let authorization = key.map(|(id, secret)| http::basic(id, secret));
        let mut headers = vec![("X-Request-Id", id)];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        http::request(cluster.gateway.address(), "DELETE", &format!("/api/v4{target}"), &headers).status
    };
    assert_eq!(request(Some(VIEWER), "/clients/there", "r1"), 403);
    assert_eq!(request(None, "/clients/there", "r2"), 401);
    assert_eq!(request(Some((OPERATOR.0, "guess")), "/clients/there", "r3"), 401);
    assert_eq!(request(Some(OPERATOR), "/clients/there?x=1", "r4"), 400);
    assert_eq!(request(Some(OPERATOR), "/clients/%ff", "r5"), 400);
    assert_eq!(request(Some(OPERATOR), "/nodes", "r6"), 405);
    assert_eq!(request(Some(OPERATOR), "/nodes/a@127.0.0.1/clients/there", "r7"), 404);
    cluster.gateway.row("there");
    assert_eq!(request(Some(OPERATOR), "/clients/there", "r8"), 200);

    let records = records(&path);
    let (operator, viewer) = (OPERATOR.0, VIEWER.0);
    let nothing = Value::Null;
    assert_eq!(
        told(&records),
        [
            json!([viewer, "there", null, "refused", 403, nothing]),
            json!([null, "there", null, "refused", 401, nothing]),
            json!([null, "there", null, "refused", 401, nothing]),
            json!([operator, "there", null, "refused", 400, nothing]),
            json!([operator, null, null, "refused", 400, nothing]),
            json!([operator, "there", "a@127.0.0.1", "asked", null, nothing]),
            json!([operator, "there", "a@127.0.0.1", "not_found", 404, nothing]),
            json!([operator, "there", null, "asked", null, nothing]),
            json!([operator, "there", null, "kicked", 200, ["b@127.0.0.1"]]),
        ]
    );
    let ids: Vec<&str> = records.iter().map(|record| record["request"].as_str().unwrap()).collect();
    assert_eq!(ids, ["r1", "r2", "r3", "r4", "r5", "r7", "r7", "r8", "r8"]);
    for record in &records {
        assert!(record["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
        let time: jiff::Timestamp = record["time"].as_str().unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(time).as_secs() < 60, "{record}");
        assert!(!record.to_string().contains("guess") && !record.to_string().contains(OPERATOR.1));
    }
}

#[test]
fn a_kick_that_cannot_be_recorded_is_not_carried_out() {
    let cluster = Cluster::with(vec![Agent::embedded("a@127.0.0.1")], &["--audit-log", "/dev/full"]);
    let _there = Client::connect(cluster.agents[0].mqtt(), &Connect::new(5, "there"));
    cluster.gateway.row("there");
    let response = cluster.gateway.kick("there");
    assert_eq!((response.status, response.code()), (503, 102));
    assert_eq!(
        response.message(),
        "the kick is not carried out, as it cannot be put on record; see the gateway's log"
    );
    cluster.gateway.row("there");
    assert!(cluster.gateway.process.log().contains("cannot be put on record, so it is not carried out"));
}

#[test]
fn a_kick_whose_end_nobody_saw_is_on_record_as_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let agents = vec![Agent::embedded("a@127.0.0.1"), Agent::embedded("b@127.0.0.1")];
    let cluster = Cluster::with(agents, &["--audit-log", path.to_str().unwrap(), "--request-timeout", "1s"]);
    cluster.agents[0].process.freeze();
    assert!(cluster.gateway.kick("whoever").status >= 500);
    let last = eventually("last record", || {
        let records = records(&path);
        records.get(1).cloned().ok_or_else(|| format!("{records:?}"))
    });
    assert!(["failed", "unknown"].contains(&last["outcome"].as_str().unwrap()), "{last}");
    cluster.agents[0].process.thaw();
}

#[test]
fn without_a_file_kicks_are_on_record_in_the_log() {
    let cluster = Cluster::of(vec![Agent::embedded("a@127.0.0.1")]);
    assert_eq!(cluster.gateway.kick("nobody").status, 404);
    let log = cluster.gateway.process.log();
    assert!(log.contains("rollcall_gateway::audit") && log.contains("not_found"), "{log}");
}
