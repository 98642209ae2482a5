//! Nodes that crash, hang, leave and come back. What is said of them is never more than what is known.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use rollcall_tests::process::is_clean;
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::real::{Login, Real};

const NAMES: [&str; 3] = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"];

/// A request that no silent node holds up takes less than this, even on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Two clients on each node, `on-a@127.0.0.1-0` and so on, and `everywhere` on all three.
fn table() -> NamedTempFile {
    let ids = |name: &str| [format!("on-{name}-0"), format!("on-{name}-1"), "everywhere".to_owned()];
    let rows: Vec<Value> = NAMES
        .iter()
        .flat_map(|name| {
            ids(name).map(
                |id| json!({"node": name, "clientid": id, "conn_state": "connected", "zone": "external"}),
            )
        })
        .collect();
    rows::table(&rows)
}

fn on(name: &str) -> String {
    format!("on-{name}-0")
}

/// Three nodes with the clients of [`table`].
fn cluster(gateway: &[&str]) -> (Cluster, NamedTempFile) {
    let table = table();
    let agents = NAMES.map(|name| Agent::file(name, table.path()));
    (Cluster::with(agents.into(), gateway), table)
}

/// What a request is answered with, at once.
fn at_once(gateway: &Gateway, method: &str, target: &str) -> (u16, Value) {
    let start = Instant::now();
    let response = gateway.request(method, target);
    assert!(start.elapsed() < AT_ONCE, "{method} {target} took {:?}", start.elapsed());
    (response.status, response.json())
}

/// Asserts the error that names nodes.
fn assert_names(answer: &(u16, Value), status: u16, code: i64, nodes: &[&str]) {
    let (got, body) = answer;
    assert_eq!((*got, &body["code"]), (status, &json!(code)), "{body}");
    let message = body["message"].as_str().unwrap_or_default();
    for node in nodes {
        assert!(message.contains(node), "{node} is not named: {body}");
    }
    assert_eq!(failed(body), nodes, "{body}");
}

/// The names in `meta.nodes.failed`, sorted.
fn failed(body: &Value) -> Vec<String> {
    let nodes = body["meta"]["nodes"]["failed"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        nodes.iter().filter_map(|node| Some(node["node"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

fn clientids(body: &Value) -> Vec<&str> {
    body["data"].as_array().unwrap().iter().map(|row| row["clientid"].as_str().unwrap()).collect()
}

fn await_failed(cluster: &Cluster, names: &[&str]) {
    eventually(&format!("list without {names:?}"), || {
        let failed = cluster.failed_nodes();
        if failed == names { Ok(()) } else { Err(format!("failed are {failed:?}")) }
    });
}

#[test]
fn a_crashed_node_is_named_and_nothing_is_denied_for_it() {
    let (mut cluster, _table) = cluster(&[]);
    cluster.agents[2].process.kill();
    let gateway = &cluster.gateway;

    // From the first request on, not only once it has been noticed.
    let (status, body) = at_once(gateway, "GET", "/clients");
    assert_eq!(status, 200, "{body}");
    let nodes = json!({
        "total": 3, "answered": 2, "failed": [{"node": NAMES[2], "reason": "unreachable"}],
    });
    assert_eq!(body["meta"]["nodes"], nodes, "{body}");
    assert_eq!(body["meta"]["count"], 6, "{body}");
    let left = [
        "everywhere",
        "everywhere",
        "on-a@127.0.0.1-0",
        "on-a@127.0.0.1-1",
        "on-b@127.0.0.1-0",
        "on-b@127.0.0.1-1",
    ];
    assert_eq!(clientids(&body), left);

    let gone = &NAMES[2..];
    for target in
        ["/clients?_partial=false", "/clients?_limit=0&_partial=false", "/clients/username/u?_partial=false"]
    {
        assert_names(&at_once(gateway, "GET", target), 503, 101, gone);
    }
    for target in ["/clients/nobody", &format!("/clients/{}", on(NAMES[2]))] {
        assert_names(&at_once(gateway, "GET", target), 503, 101, gone);
        assert_names(&at_once(gateway, "DELETE", target), 503, 101, gone);
    }
    let (status, body) = at_once(gateway, "GET", &format!("/clients/{}", on(NAMES[0])));
    assert_eq!((status, clientids(&body)), (200, vec!["on-a@127.0.0.1-0"]), "{body}");
    assert_eq!(at_once(gateway, "GET", "/clients/everywhere").1["data"].as_array().map(Vec::len), Some(2));

    let (status, body) = at_once(gateway, "DELETE", &format!("/clients/{}", on(NAMES[0])));
    assert_eq!((status, failed(&body)), (200, vec![NAMES[2].to_owned()]), "{body}");
    assert_eq!(body["data"], json!([{"node": NAMES[0], "clientid": on(NAMES[0])}]));
    assert_eq!(at_once(gateway, "GET", "/clients").1["meta"]["count"], 5);

    // What does not ask it does not miss it.
    let (status, body) =
        at_once(gateway, "GET", "/clients?_node=a@127.0.0.1&_node=b@127.0.0.1&_partial=false");
    assert_eq!(
        (status, &body["meta"]["nodes"]),
        (200, &json!({"total": 2, "answered": 2, "failed": []})),
        "{body}"
    );
    let (status, body) = at_once(gateway, "GET", "/nodes/a@127.0.0.1/clients?_partial=false");
    assert_eq!((status, &body["meta"]["count"]), (200, &json!(2)), "{body}");
    let (status, body) = at_once(gateway, "GET", "/nodes/a@127.0.0.1/clients/nobody");
    assert_eq!((status, &body["data"]), (200, &json!([])), "{body}");
    let (status, body) = at_once(gateway, "DELETE", "/nodes/a@127.0.0.1/clients/nobody");
    assert_eq!((status, &body["code"]), (404, &json!(112)), "{body}");

    // What asks only for it gets nothing.
    let (own, one) = ("/nodes/c@127.0.0.1/clients", "/nodes/c@127.0.0.1/clients/everywhere");
    for (method, target) in
        [("GET", own), ("GET", one), ("DELETE", one), ("GET", "/clients?_node=c@127.0.0.1")]
    {
        assert_names(&at_once(gateway, method, target), 503, 101, gone);
    }
}

#[test]
fn the_list_of_nodes_tells_a_crashed_one_and_its_return() {
    let (mut cluster, _table) = cluster(&[]);
    let state = |cluster: &Cluster| cluster.gateway.get("/nodes/c@127.0.0.1").json()["data"].clone();
    let before = state(&cluster);
    assert_eq!((&before["state"], &before["clients"]), (&json!("connected"), &json!(3)), "{before}");

    cluster.agents[2].process.kill();
    let gone = eventually("state of the crashed node", || match state(&cluster) {
        row if row["state"] == "unavailable" => Ok(row),
        row => Err(row.to_string()),
    });
    assert!(gone["last_error"].as_str().is_some_and(|error| error.contains("unreachable")), "{gone}");
    assert_eq!((&gone["node"], &gone["clients"]), (&json!(NAMES[2]), &json!(3)), "as last seen: {gone}");
    let all = cluster.gateway.get("/nodes").rows();
    let states: Vec<&str> = all.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["connected", "connected", "unavailable"]);

    cluster.agents[2].restart();
    let start = Instant::now();
    cluster.await_all_answering();
    assert!(start.elapsed() < Duration::from_secs(8), "it took {:?} to see the node again", start.elapsed());
    // Its state is told by any answer, the rest by the next probe.
    eventually("another incarnation of the node that is back", || match state(&cluster) {
        row if row["state"] == "connected" && row["incarnation"] != before["incarnation"] => Ok(()),
        row => Err(row.to_string()),
    });
    let (status, body) = at_once(&cluster.gateway, "GET", "/clients/nobody");
    assert_eq!((status, &body["data"]), (200, &json!([])), "{body}");
    let (status, body) = at_once(&cluster.gateway, "DELETE", "/clients/nobody");
    assert_eq!((status, &body["code"]), (404, &json!(112)), "{body}");
}

#[test]
fn a_node_that_hangs_is_named_by_the_deadline() {
    let (cluster, _table) = cluster(&["--request-timeout", "2s"]);
    cluster.agents[1].process.freeze();
    let within_deadline = |method: &str, target: &str| {
        let start = Instant::now();
        let response = cluster.gateway.request(method, target);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2) + AT_ONCE, "{method} {target} took {took:?}");
        (response.status, response.json())
    };
    let hangs = &NAMES[1..2];
    for _ in 0..2 {
        let (status, body) = within_deadline("GET", "/clients");
        assert_eq!((status, &body["meta"]["count"]), (200, &json!(6)), "{body}");
        assert_eq!(failed(&body), hangs, "{body}");
        assert_eq!(body["meta"]["nodes"]["failed"][0]["reason"], "timeout", "{body}");
        assert_names(&within_deadline("GET", "/clients/nobody"), 503, 101, hangs);
        assert_names(&within_deadline("DELETE", &format!("/clients/{}", on(NAMES[1]))), 503, 101, hangs);
    }
    // A client may want an answer sooner.
    let start = Instant::now();
    let key = rollcall_tests::http::basic("app_id", "app_secret");
    let headers = [("authorization", key.as_str()), ("rollcall-timeout-ms", "300")];
    let target = "/api/v4/clients";
    let sooner = rollcall_tests::http::request(cluster.gateway.address(), "GET", target, &headers);
    assert_eq!((sooner.status, failed(&sooner.json())), (200, vec![NAMES[1].to_owned()]));
    assert!(start.elapsed() < Duration::from_millis(1_800), "it took {:?}", start.elapsed());

    cluster.agents[1].process.thaw();
    await_failed(&cluster, &[]);
    assert_eq!(
        cluster.gateway.find(&on(NAMES[1])).len(),
        1,
        "the kick that was not confirmed was not carried out"
    );
}

#[test]
fn without_any_node_the_gateway_still_answers() {
    let (mut cluster, _table) = cluster(&[]);
    for agent in &mut cluster.agents {
        agent.process.kill();
    }
    for (method, target) in [
        ("GET", "/clients"),
        ("GET", "/clients?_limit=0"),
        ("GET", "/clients/everywhere"),
        ("DELETE", "/clients/everywhere"),
        ("GET", "/clients/username/u"),
    ] {
        assert_names(&at_once(&cluster.gateway, method, target), 503, 101, &NAMES);
    }
    let rows = eventually("end of every node", || {
        let rows = cluster.gateway.get("/nodes").rows();
        if rows.iter().all(|row| row["state"] == "unavailable") { Ok(rows) } else { Err(format!("{rows:?}")) }
    });
    assert_eq!(rows.len(), 3);
    for path in ["/health/live", "/health/ready"] {
        let response = rollcall_tests::http::request(cluster.gateway.address(), "GET", path, &[]);
        assert_eq!(response.status, 200, "readiness does not depend on nodes: {path}");
    }
    for agent in &mut cluster.agents {
        agent.restart();
    }
    cluster.await_all_answering();
    assert_eq!(cluster.gateway.find("everywhere").len(), 3);
}

#[test]
fn a_gateway_that_starts_before_its_nodes_finds_them() {
    let table = table();
    // A port that was free a moment ago.
    let later = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let first = Agent::file(NAMES[0], table.path());
    let gateway = Gateway::start(&[first.process.address, later], &[]);
    let body = eventually("answer of the node that is there", || {
        let response = gateway.get("/clients");
        if response.status == 200 { Ok(response.json()) } else { Err(response.message()) }
    });
    assert_eq!((&body["meta"]["nodes"]["total"], &body["meta"]["count"]), (&json!(2), &json!(3)), "{body}");
    assert_eq!(failed(&body), [later.to_string()], "a node without a name yet is called by its address");
    // It may be any node, so none is unknown yet.
    let (status, body) = at_once(&gateway, "GET", "/nodes/b@127.0.0.1/clients");
    assert_eq!((status, &body["code"]), (503, &json!(101)), "{body}");
    let (status, body) = at_once(&gateway, "GET", &format!("/clients/{}", on(NAMES[1])));
    assert_eq!((status, failed(&body)), (503, vec![later.to_string()]), "{body}");

    let path = table.path().to_str().unwrap();
    let arguments =
        ["--node-name", NAMES[1], "--listen", &later.to_string(), "--broker", "file", "--file", path];
    let arguments = arguments.map(str::to_owned);
    let _second = rollcall_tests::process::Process::start("rollcall-agent", "agent b", &arguments);
    eventually("answer of both nodes", || match gateway.get("/clients").json() {
        body if body["meta"]["count"] == 6 && failed(&body).is_empty() => Ok(()),
        body => Err(body["meta"].to_string()),
    });
    assert_eq!(gateway.get("/nodes/b@127.0.0.1/clients").rows().len(), 3);
    let (status, body) = at_once(&gateway, "GET", "/nodes/c@127.0.0.1/clients");
    assert_eq!((status, &body["code"]), (404, &json!(101)), "{body}");
}

#[test]
fn asked_to_end_every_process_ends_cleanly() {
    let (mut cluster, _table) = cluster(&[]);
    let embedded = &mut Agent::embedded("d@127.0.0.1");
    let client = Real::v5(embedded.mqtt(), Login::clean("c"));
    let status = embedded.process.terminate();
    assert!(is_clean(status), "an agent with a broker: {status}");
    drop(client);
    let status = cluster.agents[2].process.terminate();
    assert!(is_clean(status), "an agent with a file: {status}");
    await_failed(&cluster, &NAMES[2..]);
    let status = cluster.gateway.process.terminate();
    assert!(is_clean(status), "the gateway: {status}");
}

#[test]
fn no_request_fails_while_nodes_leave_and_come_back() {
    let (mut cluster, _table) = cluster(&[]);
    let address = cluster.gateway.address();
    let (answers, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ask = || {
        let key = rollcall_tests::http::basic("app_id", "app_secret");
        while !stop.load(Ordering::Relaxed) {
            let target = "/api/v4/clients?_sort=node&_order=desc";
            let response =
                rollcall_tests::http::request(address, "GET", target, &[("authorization", key.as_str())]);
            let body = response.json();
            assert_eq!(response.status, 200, "{body}");
            let answered = body["meta"]["nodes"]["answered"].as_u64().unwrap();
            assert_eq!(answered + failed(&body).len() as u64, 3, "{}", body["meta"]);
            assert_eq!(body["meta"]["count"], answered * 3, "all of a node or nothing: {}", body["meta"]);
            assert_eq!(clientids(&body).len() as u64, answered * 3, "{}", body["meta"]);
            answers.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let more_answers = || {
            let before = answers.load(Ordering::Relaxed);
            eventually("more answers", || match answers.load(Ordering::Relaxed) - before {
                more if more >= 20 || askers.iter().any(ScopedJoinHandle::is_finished) => Ok(()),
                more => Err(format!("{more} more")),
            });
        };
        let changes = catch_unwind(AssertUnwindSafe(|| {
            for index in [0, 2, 0, 1] {
                more_answers();
                let process = &mut cluster.agents[index].process;
                match index {
                    0 => assert!(is_clean(process.terminate())),
                    _ => process.kill(),
                }
                await_failed(&cluster, &NAMES[index..=index]);
                more_answers();
                cluster.agents[index].restart();
                await_failed(&cluster, &[]);
            }
            more_answers();
        }));
        stop.store(true, Ordering::Relaxed);
        for outcome in askers.into_iter().map(ScopedJoinHandle::join).chain([changes]) {
            outcome.unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}

#[test]
fn clients_of_a_crashed_broker_come_back_with_it() {
    let mut cluster = Cluster::embedded();
    let clients: Vec<Real> = cluster
        .agents
        .iter()
        .map(|agent| Real::v4(agent.mqtt(), Login::clean(&format!("client-of-{}", agent.name))))
        .collect();
    for agent in &cluster.agents {
        assert_eq!(cluster.gateway.row(&format!("client-of-{}", agent.name))["node"], agent.name);
    }
    cluster.agents[1].process.kill();
    await_failed(&cluster, &NAMES[1..2]);
    let ids: Vec<Value> =
        cluster.gateway.get("/clients").rows().iter().map(|row| row["clientid"].clone()).collect();
    assert_eq!(ids, ["client-of-a@127.0.0.1", "client-of-c@127.0.0.1"]);

    let mqtt = cluster.agents[1].mqtt();
    cluster.agents[1].restart();
    assert_eq!(cluster.agents[1].mqtt(), mqtt, "on the port it had");
    cluster.await_all_answering();
    assert_eq!(cluster.gateway.find("client-of-b@127.0.0.1").len(), 0, "nobody is on it yet");
    let _again = Real::v4(mqtt, Login::clean("client-of-b@127.0.0.1"));
    assert_eq!(cluster.gateway.row("client-of-b@127.0.0.1")["node"], NAMES[1]);
    drop(clients);
}
