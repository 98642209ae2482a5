//! Many kicks by one request end the clients that are meant, and no others.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rollcall_tests::http::{self, Response};
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR, VIEWER};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use crate::real::{Login, Real};

const TARGET: &str = "/client_kicks";

fn lines(response: &Response) -> Vec<Value> {
    let text = std::str::from_utf8(&response.body).unwrap();
    assert_eq!(response.status, 200, "{text}");
    assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// clientid, node and outcome of each line about a client, by these.
fn told(lines: &[Value]) -> Vec<(String, String, String)> {
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let clients = lines.iter().filter(|line| line.get("clientid").is_some());
    let mut told: Vec<_> =
        clients.map(|line| (text(line, "clientid"), text(line, "node"), text(line, "outcome"))).collect();
    told.sort();
    told
}

fn last(lines: &[Value]) -> &Value {
    &lines.last().unwrap()["meta"]
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(cluster: &Cluster, query: &str) -> u64 {
    cluster.gateway.get(&format!("/client_counts?{query}")).json()["meta"]["count"].as_u64().unwrap()
}

fn await_count(cluster: &Cluster, query: &str, wanted: u64) {
    eventually(&format!("{wanted} clients of {query:?}"), || match count(cluster, query) {
        count if count == wanted => Ok(()),
        other => Err(other.to_string()),
    });
}

fn login<'a>(clientid: &'a str, username: &'a str) -> Login<'a> {
    Login { username: Some(username), ..Login::persistent(clientid) }
}

/// Three nodes whose kicks are on record in a file.
fn recorded(folder: &tempfile::TempDir, more: &[&str]) -> Cluster {
    let path = folder.path().join("audit.jsonl");
    let agents = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(Agent::embedded).into();
    Cluster::with(agents, &[&["--audit-log", path.to_str().unwrap()], more].concat())
}

#[test]
fn a_filter_ends_exactly_the_clients_that_match() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = recorded(&folder, &[]);
    let gateway = &cluster.gateway;
    let (mut fleet, mut others, mut old) = (Vec::new(), Vec::new(), Vec::new());
    for (at, agent) in cluster.agents.iter().enumerate() {
        fleet.push(Real::v4(agent.mqtt(), login(&format!("fleet-v4-{at}"), "fleet")));
        fleet.push(Real::v5(agent.mqtt(), login(&format!("fleet-v5-{at}"), "fleet")));
        let connect =
            Connect { username: Some("fleet".into()), ..Connect::new(3, &format!("fleet-v3-{at}")) };
        old.push(Client::connect(agent.mqtt(), &connect));
        others.push(Real::v4(agent.mqtt(), login(&format!("other-v4-{at}"), "fleets")));
        others.push(Real::v5(agent.mqtt(), login(&format!("other-v5-{at}"), "Fleet")));
    }
    await_count(&cluster, "conn_state=connected", 15);
    let alive = |clients: &[Real], topic: &str| {
        for (at, client) in clients.iter().enumerate() {
            let topic = format!("{topic}/{at}");
            client.subscribe(&topic);
            client.publish(&topic, "yes");
            assert_eq!(client.receive(), "yes", "{topic}");
        }
    };

    // What is refused, and a dry run, kick nobody.
    let body = json!({"filter": {"username": "fleet"}});
    for (key, body, status, code) in [
        (VIEWER, body.clone(), 403, 102),
        (OPERATOR, json!({"filter": {"username": "fleet"}, "max": 8}), 409, 108),
        (OPERATOR, json!({"filter": {}}), 400, 108),
        (OPERATOR, json!({"filter": {"_like_clientid": ""}}), 400, 108),
        (OPERATOR, json!({"filter": {"usernames": "fleet"}}), 400, 108),
        (OPERATOR, json!({"filter": {"username": "fleet"}, "nodes": ["z@127.0.0.1"]}), 400, 108),
    ] {
        let response = gateway.post_as(key, TARGET, &body);
        assert_eq!((response.status, response.code()), (status, code), "{body}");
    }
    let dry = gateway.post(TARGET, &json!({"filter": {"username": "fleet"}, "dry_run": true})).json();
    assert_eq!(dry["meta"]["count"], 9, "{dry}");
    let by_node: Vec<Value> =
        cluster.agents.iter().map(|agent| json!({"node": agent.name, "count": 3})).collect();
    assert_eq!(dry["meta"]["by_node"], json!(by_node));
    assert_eq!(dry["data"].as_array().unwrap().len(), 9);
    alive(&fleet, "fleet");
    alive(&others, "others");
    old.iter_mut().for_each(Client::ping);

    let lines = lines(&gateway.post(TARGET, &body));
    let mut expected = Vec::new();
    for (at, agent) in cluster.agents.iter().enumerate() {
        for version in ["v3", "v4", "v5"] {
            expected.push((format!("fleet-{version}-{at}"), agent.name.clone(), "kicked".to_owned()));
        }
    }
    expected.sort();
    assert_eq!(told(&lines), expected);
    assert_eq!(last(&lines)["complete"], true, "{}", last(&lines));
    // At once: a kick that is told is one that no list contradicts.
    assert_eq!((count(&cluster, "username=fleet"), count(&cluster, "")), (0, 6));
    fleet.iter().for_each(Real::await_close);
    old.iter_mut().for_each(Client::await_close);
    alive(&others, "others/again");
    let again = Real::v5(cluster.agents[1].mqtt(), login("fleet-v5-1", "fleet"));
    assert!(!again.session_present, "the kicked session is still there");

    let records = records(&folder.path().join("audit.jsonl"));
    let of = |action: &str, outcome: &str| {
        records.iter().filter(|line| line["action"] == action && line["outcome"] == outcome).count()
    };
    assert_eq!((of("kick", "asked"), of("kick", "kicked")), (9, 9));
    // The cap is found out only when it was asked for, and the name of the node too.
    assert_eq!((of("bulk_kick", "asked"), of("bulk_kick", "refused")), (4, 6));
    assert_eq!((of("bulk_kick", "dry_run"), of("bulk_kick", "done")), (1, 1));
    let asked = records.iter().rfind(|line| line["action"] == "bulk_kick" && line["outcome"] == "asked");
    assert_eq!(asked.unwrap()["body"], body);
    assert!(records.iter().all(|line| !line.to_string().contains(OPERATOR.1)));
}

#[test]
fn ids_are_kicked_wherever_they_are() {
    let cluster = Cluster::embedded();
    let on = |at: usize, clientid: &str| Real::v5(cluster.agents[at].mqtt(), Login::persistent(clientid));
    let kicked = [on(0, "twin"), on(2, "twin"), on(1, "a/b +ü"), on(0, "single")];
    let safe = on(1, "twins");
    await_count(&cluster, "", 5);
    let lines =
        lines(&cluster.gateway.post(TARGET, &json!({"clientids": ["single", "nobody", "a/b +ü", "twin"]})));
    let on: Vec<Value> = lines
        .iter()
        .filter(|line| line.get("clientid").is_some())
        .map(|line| json!([line["clientid"], line["outcome"], line["kicked_on"]]))
        .collect();
    assert_eq!(on.len(), 4);
    for expected in [
        json!(["single", "kicked", ["a@127.0.0.1"]]),
        json!(["nobody", "not_found", []]),
        json!(["a/b +ü", "kicked", ["b@127.0.0.1"]]),
        json!(["twin", "kicked", ["a@127.0.0.1", "c@127.0.0.1"]]),
    ] {
        assert!(on.contains(&expected), "{expected} is not among {on:?}");
    }
    kicked.iter().for_each(Real::await_close);
    safe.subscribe("t");
    safe.publish("t", "yes");
    assert_eq!(safe.receive(), "yes");
    assert_eq!(count(&cluster, ""), 1);
}

#[test]
fn whoever_comes_back_meanwhile_is_not_hit_again() {
    let cluster = Cluster::embedded();
    let brokers: Vec<_> = cluster.agents.iter().map(Agent::mqtt).collect();
    let clients: Vec<_> = (0..30)
        .map(|n| {
            let brokers = brokers.clone();
            let clientid = format!("back-{n:02}");
            let mut client = Client::connect(brokers[n % 3], &Connect::new(4, &clientid));
            std::thread::spawn(move || {
                client.await_close();
                // Behind those that are kicked later, in any order: on the next node, under the same id.
                Client::connect(brokers[(n + 1) % 3], &Connect::new(4, &clientid))
            })
        })
        .collect();
    await_count(&cluster, "_like_clientid=back-", 30);
    let begun = Instant::now();
    let body = json!({"filter": {"_like_clientid": "back-"}, "confirm": "all", "rate": 15, "max": 30});
    let lines = lines(&cluster.gateway.post(TARGET, &body));
    assert!(begun.elapsed() >= Duration::from_millis(29_000 / 15), "{:?}", begun.elapsed());
    assert_eq!(last(&lines)["outcomes"]["kicked"], 30, "{}", last(&lines));
    assert!(lines.iter().filter(|line| line.get("progress").is_some()).count() >= 2);
    let mut back: Vec<Client> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    await_count(&cluster, "_like_clientid=back-&conn_state=connected", 30);
    back.iter_mut().for_each(Client::ping);
}

#[test]
fn whoever_leaves_midway_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = recorded(&folder, &[]);
    let mut clients: Vec<Client> = (0..40)
        .map(|n| Client::connect(cluster.agents[n % 3].mqtt(), &Connect::new(5, &format!("many-{n:02}"))))
        .collect();
    await_count(&cluster, "", 40);
    let body = json!({"filter": {"_like_clientid": "many-"}, "confirm": "all", "rate": 10});
    let mut stream = http::connect(cluster.gateway.address()).unwrap();
    stream.write_all(&cluster.gateway.post_bytes(OPERATOR, TARGET, &body)).unwrap();
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while seen.matches(r#""outcome":"kicked""#).count() < 3 {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    drop(stream);
    let path = folder.path().join("audit.jsonl");
    let last = eventually("end of the bulk kick", || {
        let last = records(&path).pop().unwrap();
        if last["outcome"] == "stopped" { Ok(last) } else { Err(last.to_string()) }
    });
    let kicked = last["totals"]["kicked"].as_u64().unwrap();
    assert!((3..40).contains(&kicked), "{last}");
    assert_eq!(last["totals"]["left"], 40 - kicked, "{last}");
    assert_eq!(count(&cluster, ""), 40 - kicked);
    let records = records(&path);
    let of = |outcome: &str| {
        records.iter().filter(|line| line["action"] == "kick" && line["outcome"] == outcome).count() as u64
    };
    assert_eq!((of("asked"), of("kicked")), (kicked, kicked));
    let left = cluster.gateway.get("/clients?_fields=clientid").rows();
    let left: Vec<&str> = left.iter().map(|row| row["clientid"].as_str().unwrap()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        if left.contains(&&*format!("many-{n:02}")) {
            client.ping();
        } else {
            client.await_close();
        }
    }
}

#[test]
fn a_node_that_stops_answering_is_not_claimed_to_be_kicked() {
    let agents = ["a@127.0.0.1", "b@127.0.0.1"].map(Agent::embedded).into();
    let cluster = Cluster::with(agents, &["--request-timeout", "1s"]);
    let frozen = &cluster.agents[1];
    let clients: Vec<Client> = (0..40)
        .map(|n| Client::connect(cluster.agents[n % 2].mqtt(), &Connect::new(4, &format!("many-{n:02}"))))
        .collect();
    await_count(&cluster, "", 40);
    let body = json!({"filter": {"_like_clientid": "many-"}, "confirm": "all", "rate": 20});
    let response = std::thread::scope(|scope| {
        let answer = scope.spawn(|| cluster.gateway.post(TARGET, &body));
        eventually("the first kicks", || match count(&cluster, "_node=b@127.0.0.1") {
            20 => Err("nobody is kicked yet".to_owned()),
            _ => Ok(()),
        });
        frozen.process.freeze();
        answer.join().unwrap()
    });
    frozen.process.thaw();
    let lines = lines(&response);
    let last = last(&lines);
    assert_eq!((&last["complete"], &last["count"]), (&json!(false), &json!(40)), "{last}");
    assert_eq!(last["nodes"]["failed"], json!([{"node": "b@127.0.0.1", "reason": "timeout"}]));
    let of = |node: &str, outcome: &str| {
        told(&lines).iter().filter(|(_, on, ended)| on == node && ended == outcome).count()
    };
    let (kicked, unknown, failed) =
        (of("b@127.0.0.1", "kicked"), of("b@127.0.0.1", "unknown"), of("b@127.0.0.1", "failed"));
    assert_eq!((of("a@127.0.0.1", "kicked"), kicked + unknown + failed), (20, 20), "{lines:?}");
    assert!(kicked >= 1 && (1..=8).contains(&unknown), "{lines:?}");
    // Nobody else was kicked once it answers again.
    await_count(&cluster, "_node=a@127.0.0.1", 0);
    let left = eventually("answer of the node", || {
        let body = cluster.gateway.get("/client_counts?_node=b@127.0.0.1&_partial=false").json();
        body["meta"]["count"].as_u64().ok_or_else(|| body.to_string())
    }) as usize;
    assert!((failed..=failed + unknown).contains(&left), "{left} left of {lines:?}");
    drop(clients);
}
