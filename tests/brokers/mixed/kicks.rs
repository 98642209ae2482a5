//! Kicks of one and of many, while all brokers are there and while one is not.

use std::collections::BTreeMap;

use rollcall_tests::http::Response;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::wait::{eventually, within};
use serde_json::{Value, json};
use std::time::Duration;

use super::{FRONT, Mixed, PREFIX, places};

/// DISCONNECT, and its reason for a client that was kicked.
const DISCONNECT: u8 = 0xe0;
const ADMINISTRATIVE_ACTION: u8 = 0x98;

pub(super) fn a_kick_finds_its_broker_and_no_other(mixed: &mut Mixed) {
    // The same id on every node is as many clients, and one kick ends them all.
    let mut twins: BTreeMap<String, Client> = BTreeMap::new();
    for member in mixed.members() {
        if !twins.contains_key(member.node) {
            let client = Client::connect(member.mqtt, &member.connect(4, "twin", None));
            twins.insert(member.node.to_owned(), client);
        }
    }
    let everywhere: Vec<&String> = twins.keys().collect();
    eventually("a client on every node", || {
        let rows = places(&mixed.gateway.find("twin"));
        let found: Vec<&String> = rows.iter().map(|(_, node)| node).collect();
        if found == everywhere { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let kicked = mixed.gateway.kick("twin").json();
    let nodes: Vec<&str> =
        kicked["data"].as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, everywhere, "{kicked}");
    twins.values_mut().for_each(Client::await_close);
    assert_eq!(mixed.gateway.find("twin"), [] as [Value; 0]);

    let (clientid, node) = (format!("{PREFIX}000"), mixed.known[&format!("{PREFIX}000")].node.clone());
    let kicked = mixed.gateway.kick(&clientid).json();
    assert_eq!(kicked["data"], json!([{"node": node, "clientid": clientid}]));
    mixed.online.remove(&clientid).unwrap().await_close();
    mixed.known.remove(&clientid);
    assert_eq!(mixed.rows("").len(), mixed.known.len());
    mixed.online.values_mut().for_each(Client::ping);
    let nobody = mixed.gateway.kick(&clientid);
    assert_eq!((nobody.status, nobody.code()), (404, 112));
}

/// Clients whose ids begin with a word: of every broker and version one that is there and one that is away.
struct Many {
    word: &'static str,
    online: Vec<(String, Connect, Client)>,
    /// How many are on each node.
    by_node: BTreeMap<String, usize>,
}

impl Many {
    fn connect(mixed: &Mixed, word: &'static str) -> Self {
        let mut many = Self { word, online: Vec::new(), by_node: BTreeMap::new() };
        let mut away = Vec::new();
        for member in mixed.members() {
            for &level in member.levels() {
                for is_online in [true, false] {
                    let clientid = format!("{word}{:02}", many.online.len() + away.len());
                    let connect = member.connect(level, &clientid, None).keep_session();
                    let mut client = Client::connect(member.mqtt, &connect);
                    client.subscribe("many/+", 1);
                    *many.by_node.entry(member.node.to_owned()).or_default() += 1;
                    if is_online {
                        many.online.push((member.node.to_owned(), connect, client));
                    } else {
                        away.push(client);
                    }
                }
            }
        }
        let total = many.online.len() + away.len();
        many.await_count(mixed, "connected", total);
        away.into_iter().for_each(Client::disconnect);
        many.await_count(mixed, "connected", many.online.len());
        many.await_count(mixed, "disconnected", total - many.online.len());
        many
    }

    fn count(&self) -> usize {
        self.by_node.values().sum()
    }

    fn await_count(&self, mixed: &Mixed, state: &str, count: usize) {
        let target =
            format!("/client_counts?_like_clientid={}&conn_state={state}&clean_start=false", self.word);
        eventually(&format!("{count} that are {state}"), || {
            let body = mixed.gateway.get(&target).json();
            if body["meta"]["count"] == count { Ok(()) } else { Err(body.to_string()) }
        });
    }

    fn filter(&self) -> Value {
        json!({"_like_clientid": self.word})
    }

    /// Rows of them.
    fn listed(&self, mixed: &Mixed) -> usize {
        mixed.gateway.get(&format!("/clients?_like_clientid={}", self.word)).rows().len()
    }
}

pub(super) fn a_dry_run_counts_and_kicks_nobody(mixed: &mut Mixed) {
    let mut many = Many::connect(mixed, "dry-");
    let body = mixed.gateway.post("/client_kicks", &json!({"filter": many.filter(), "dry_run": true})).json();
    assert_eq!(body["meta"]["count"], many.count(), "{body}");
    let by_node: BTreeMap<String, usize> = body["meta"]["by_node"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["node"].as_str().unwrap().to_owned(), row["count"].as_u64().unwrap() as usize))
        .collect();
    assert_eq!(by_node, many.by_node, "{body}");
    assert_eq!(body["data"].as_array().unwrap().len(), many.count().min(100));
    let too_many = json!({"filter": many.filter(), "max": many.count() - 1});
    assert_eq!(mixed.gateway.post("/client_kicks", &too_many).status, 409);
    assert_eq!(many.listed(mixed), many.count());
    many.online.iter_mut().for_each(|(_, _, client)| client.ping());
    let (lines, end) =
        told(&mixed.gateway.post("/client_kicks", &json!({"filter": many.filter(), "rate": 1000})));
    assert_eq!((lines.len(), &end["outcomes"]["kicked"]), (many.count(), &json!(many.count())), "{end}");
}

/// The lines about clients, and what the last line says.
fn told(answer: &Response) -> (Vec<Value>, Value) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let text = String::from_utf8_lossy(&answer.body);
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (ends, lines): (Vec<Value>, Vec<Value>) =
        lines.filter(|line| line["progress"].is_null()).partition(|line| line["clientid"].is_null());
    assert_eq!(ends.len(), 1, "{text}");
    (lines, ends[0]["meta"].clone())
}

pub(super) fn a_bulk_kick_ends_sessions_on_every_broker(mixed: &mut Mixed) {
    let mut many = Many::connect(mixed, "many-kicked-");
    let (lines, end) =
        told(&mixed.gateway.post("/client_kicks", &json!({"filter": many.filter(), "rate": 1000})));
    assert_eq!((&end["complete"], &end["outcomes"]["kicked"]), (&json!(true), &json!(many.count())), "{end}");
    let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
    for line in &lines {
        assert_eq!((&line["outcome"], &line["kicked_on"][0]), (&json!("kicked"), &line["node"]), "{line}");
        *by_node.entry(line["node"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(by_node, many.by_node);
    assert_eq!(many.listed(mixed), 0);
    let addresses: BTreeMap<String, _> =
        mixed.members().iter().map(|member| (member.node.to_owned(), member.mqtt)).collect();
    for (node, connect, client) in &mut many.online {
        if connect.level == 5 && node == FRONT {
            let (first, body) = client.farewell().unwrap();
            assert_eq!((first, body[0]), (DISCONNECT, ADMINISTRATIVE_ACTION));
        } else {
            client.await_close();
        }
        let mut again = Client::connect(addresses[node], connect);
        assert!(!again.session_present, "the session of {connect:?} is still there");
        again.subscribe("many/+", 1);
        *client = again;
    }
    // The same by ids, with one that nobody has.
    many.await_count(mixed, "connected", many.online.len());
    let mut ids: Vec<&str> = many.online.iter().map(|(_, connect, _)| connect.clientid.as_str()).collect();
    ids.push("many-nobody");
    let (_, end) = told(&mixed.gateway.post("/client_kicks", &json!({"clientids": ids, "rate": 1000})));
    let outcomes = &end["outcomes"];
    assert_eq!((&outcomes["kicked"], &outcomes["not_found"]), (&json!(ids.len() - 1), &json!(1)), "{end}");
    many.online.iter_mut().for_each(|(_, _, client)| client.await_close());
    mixed.online.values_mut().for_each(Client::ping);
    assert_eq!(mixed.rows("").len(), mixed.known.len(), "nobody else");
}

pub(super) fn a_broker_that_is_down_is_named_and_comes_back(mixed: &mut Mixed) {
    let Some(at) = mixed.worlds.iter().position(|world| world.outside().is_some()) else { return };
    let node = mixed.worlds[at].node.clone();
    let many = Many::connect(mixed, "down-kicked-");
    let before = places(&mixed.rows(""));
    assert!(mixed.worlds[at].kill_broker());
    eventually("word that the broker is down", || {
        let nodes = mixed.gateway.get("/nodes").json();
        let is_down = |row: &Value| row["node"] == node.as_str() && row["broker_error"].is_string();
        let down = nodes["data"].as_array().unwrap().iter().filter(|row| row["broker_error"].is_string());
        if down.clone().count() == 1 && down.clone().any(is_down) { Ok(()) } else { Err(nodes.to_string()) }
    });
    // Its agent shows what it last knew, beside what the others know.
    assert_eq!(places(&mixed.rows("")), before);
    let (lines, end) =
        told(&mixed.gateway.post("/client_kicks", &json!({"filter": many.filter(), "rate": 1000})));
    assert_eq!(end["complete"], false, "{end}");
    for line in &lines {
        let is_down = line["node"] == node.as_str();
        let is_kicked = line["outcome"] == "kicked";
        assert!(is_kicked != is_down, "{line}");
        assert!(is_kicked || line["outcome"] == "failed" || line["outcome"] == "unknown", "{line}");
    }
    assert_eq!(end["outcomes"]["kicked"], many.count() - many.by_node[&node], "{end}");
    mixed.worlds[at].start_broker_again();
    within(Duration::from_secs(90), "agreement after the broker's restart", || {
        let told = mixed.worlds[at].told_node();
        if told["state"] == "connected" && told["broker_error"].is_null() {
            Ok(())
        } else {
            Err(told.to_string())
        }
    });
    // Of its clients those are left that had a session to come back to, and of the others nobody is missing.
    mixed.known.retain(|_, known| known.node != node || !known.connect.clean);
    mixed.online.retain(|clientid, _| mixed.known.get(clientid).is_some_and(|known| known.node != node));
    within(Duration::from_secs(60), "only what is true", || {
        let rows = mixed.rows("");
        let is_true = |row: &Value| {
            let clientid = row["clientid"].as_str().unwrap();
            mixed.known.contains_key(clientid) && row["connected"] == mixed.online.contains_key(clientid)
        };
        if rows.len() == mixed.known.len() && rows.iter().all(is_true) {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
    let (_, end) =
        told(&mixed.gateway.post("/client_kicks", &json!({"filter": many.filter(), "rate": 1000})));
    assert_eq!((&end["complete"], many.listed(mixed)), (&json!(true), 0), "{end}");
    mixed.online.values_mut().for_each(Client::ping);
}

pub(super) fn a_node_that_is_gone_is_named(mixed: &mut Mixed) {
    let lost = mixed.worlds.iter().position(|world| world.outside().is_none()).unwrap();
    let node = mixed.worlds[lost].node.clone();
    let before = mixed.rows("");
    mixed.worlds[lost].kill_broker();
    let rest: Vec<_> = places(&before).into_iter().filter(|(_, of)| *of != node).collect();
    assert!(rest.len() < before.len());
    let answer = eventually("a list that names the node", || {
        let answer = mixed.gateway.get(&format!("/clients?_like_clientid={PREFIX}"));
        let failed = answer.json()["meta"]["nodes"]["failed"].clone();
        if failed[0]["node"] == node.as_str() { Ok(answer) } else { Err(failed.to_string()) }
    });
    assert_eq!(places(&answer.rows()), rest);
    assert_eq!(answer.json()["meta"]["count"], rest.len());
    let unknown = mixed.gateway.kick("nobody-anywhere");
    assert_eq!(
        (unknown.status, unknown.code()),
        (503, 101),
        "one node cannot say that it has no such client"
    );
    let ids: Vec<&String> = mixed.online.keys().filter(|id| mixed.known[*id].node != node).take(3).collect();
    let (_, end) = told(&mixed.gateway.post("/client_kicks", &json!({"clientids": ids})));
    assert_eq!((&end["outcomes"]["kicked"], &end["complete"]), (&json!(ids.len()), &json!(false)), "{end}");
    assert_eq!(end["nodes"]["failed"][0]["node"], node.as_str(), "{end}");
}
