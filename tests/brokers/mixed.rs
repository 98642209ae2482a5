//! One cluster of every broker there is, and of the embedded one behind its counting front: clients of all of them, of every
//! version of MQTT that each speaks, here and away, in one list, one count, one kick.
//!
//! What a list must be is said by the model of one `Vec` ([`rollcall_tests::model`]). Its rows are those of one list without
//! any condition, of which the first step knows what each must say: who connected where, and how.

mod kicks;
mod lists;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rollcall_tests::brokers::{Kind, Outside};
use rollcall_tests::http::Response;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Gateway};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use crate::world::{World, levels};

/// One thing that the cluster must do.
pub(crate) type Step = fn(&mut Mixed);

/// The last two take a broker away.
pub(crate) const STEPS: [(&str, Step); 12] = [
    ("every_row_says_who_connected_where_and_how", lists::every_row_says_who_connected_where_and_how),
    ("every_sort_is_that_of_one_list", lists::every_sort_is_that_of_one_list),
    ("every_figure_sorts_and_is_null_where_nobody_tells_it", lists::every_figure_sorts_and_is_null_elsewhere),
    ("every_filter_finds_what_it_names", lists::every_filter_finds_what_it_names),
    ("pages_and_cursors_walk_all_brokers_once", lists::pages_and_cursors_walk_all_brokers_once),
    ("groups_are_counted_over_all_brokers", lists::groups_are_counted_over_all_brokers),
    ("an_export_is_of_all_brokers", lists::an_export_is_of_all_brokers),
    ("a_kick_finds_its_broker_and_no_other", kicks::a_kick_finds_its_broker_and_no_other),
    ("a_dry_run_counts_and_kicks_nobody", kicks::a_dry_run_counts_and_kicks_nobody),
    ("a_bulk_kick_ends_sessions_on_every_broker", kicks::a_bulk_kick_ends_sessions_on_every_broker),
    ("a_broker_that_is_down_is_named_and_comes_back", kicks::a_broker_that_is_down_is_named_and_comes_back),
    ("a_node_that_is_gone_is_named_and_the_others_stand", kicks::a_node_that_is_gone_is_named),
];

/// What all ids of the lists' clients begin with.
const PREFIX: &str = "mixed-";

/// The embedded broker behind its counting front.
const FRONT: &str = "front@127.0.0.1";

/// The cluster, and its clients.
pub(crate) struct Mixed {
    gateway: Gateway,
    worlds: Vec<World>,
    front: Agent,
    /// Those that are connected, by client id.
    online: BTreeMap<String, Client>,
    /// Every one of [`PREFIX`], by client id: where it is, and what it said.
    known: BTreeMap<String, Known>,
    /// What each node can, by its name.
    capabilities: BTreeMap<String, Vec<String>>,
}

/// A client as it connected.
struct Known {
    node: String,
    zone: Option<String>,
    connect: Connect,
    is_online: bool,
    port: u16,
}

/// Where clients connect, and as whom.
struct Member<'a> {
    node: &'a str,
    kind: Kind,
    mqtt: SocketAddr,
    zone: Option<String>,
    login: Option<(String, String)>,
}

impl Member<'_> {
    /// The versions that it speaks.
    fn levels(&self) -> &'static [u8] {
        levels(self.kind)
    }

    /// What CONNECT says here; where anybody may log in, by this name.
    fn connect(&self, level: u8, clientid: &str, anybody: Option<&str>) -> Connect {
        let connect = Connect::new(level, clientid);
        match &self.login {
            Some((username, password)) => {
                Connect { username: Some(username.clone()), password: Some(password.clone()), ..connect }
            }
            None => Connect { username: anybody.map(str::to_owned), ..connect },
        }
    }
}

impl Mixed {
    /// Puts a gateway over these and the front, and connects clients whose ids take turns on the brokers.
    pub(crate) fn start(worlds: Vec<World>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("front.toml");
        std::fs::write(&config, "[embedded]\ncounting_front = true\n").unwrap();
        let arguments = ["--config", config.to_str().unwrap(), "--mqtt-listen", "127.0.0.1:0"];
        let front = Agent::start(FRONT, &arguments);
        let mut addresses: Vec<_> = worlds.iter().map(World::agent_address).collect();
        addresses.push(front.process.address);
        // A busy machine may take long; whether it does is tested elsewhere.
        let gateway = Gateway::start(&addresses, &["--request-timeout", "60s"]);
        let (online, known) = (BTreeMap::new(), BTreeMap::new());
        let mut mixed = Self { gateway, worlds, front, online, known, capabilities: BTreeMap::new() };
        mixed.capabilities = eventually("word of all nodes", || {
            let nodes = mixed.gateway.get("/nodes").json();
            let of_node = |node: &Value| {
                let names = node["capabilities"].as_array().unwrap().iter();
                let names = names.map(|name| name.as_str().unwrap().to_owned()).collect();
                (node["node"].as_str().unwrap().to_owned(), names)
            };
            if nodes["meta"]["states"]["connected"] == addresses.len() {
                Ok(nodes["data"].as_array().unwrap().iter().map(of_node).collect())
            } else {
                Err(nodes.to_string())
            }
        });
        mixed.connect_all();
        mixed
    }

    fn members(&self) -> Vec<Member<'_>> {
        let mut members = vec![Member {
            node: FRONT,
            kind: Kind::Embedded,
            mqtt: self.front.mqtt(),
            zone: Some("external".to_owned()),
            login: None,
        }];
        for world in &self.worlds {
            let member = |zone: Option<String>, login| Member {
                node: &world.node,
                kind: world.kind,
                mqtt: world.mqtt(),
                zone,
                login,
            };
            members.push(member(world.zone().map(str::to_owned), world.outside().map(Outside::login)));
            if let Some((zone, login)) = world.outside().map(Outside::other_zone) {
                members.push(member(Some(zone.to_owned()), Some(login)));
            }
        }
        members
    }

    /// Clean and kept sessions, here and away, in turns on all brokers.
    fn connect_all(&mut self) {
        let mut number = 0;
        let (mut online, mut known, mut away) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for round in 0..3_u16 {
            for member in self.members() {
                for &level in member.levels() {
                    let clientid = format!("{PREFIX}{number:03}");
                    number += 1;
                    let anybody = ["ada", "bob"].get(number % 3).copied();
                    let mut connect =
                        Connect { keepalive: 600 * (round + 1), ..member.connect(level, &clientid, anybody) };
                    if round > 0 {
                        connect = connect.keep_session();
                    }
                    let mut client = Client::connect(member.mqtt, &connect);
                    if round > 0 {
                        // Some brokers keep a session only of who subscribes.
                        client.subscribe("mixed/+", 1);
                    }
                    let of_client = Known {
                        node: member.node.to_owned(),
                        zone: member.zone.clone(),
                        connect,
                        is_online: true,
                        port: client.local_address().port(),
                    };
                    known.insert(clientid.clone(), of_client);
                    if round < 2 {
                        online.insert(clientid, client);
                    } else {
                        away.push((clientid, client));
                    }
                }
            }
        }
        (self.online, self.known) = (online, known);
        self.await_known();
        for (clientid, client) in away {
            client.disconnect();
            self.known.get_mut(&clientid).unwrap().is_online = false;
        }
        self.await_known();
    }

    /// Waits until every client is listed, with what some brokers tell later.
    fn await_known(&self) {
        eventually("list of all clients", || {
            let rows = self.rows("");
            let is_true = |(clientid, known): (&String, &Known)| {
                let row = rows.iter().find(|row| row["clientid"] == **clientid);
                row.is_some_and(|row| {
                    let is_settled = known.connect.clean || row["clean_start"] == false;
                    row["connected"] == known.is_online && is_settled
                })
            };
            let missing: Vec<&String> = self
                .known
                .iter()
                .filter(|of_client| !is_true(*of_client))
                .map(|(clientid, _)| clientid)
                .collect();
            if missing.is_empty() && rows.len() == self.known.len() {
                Ok(())
            } else {
                Err(format!("{} rows, not yet {missing:?}", rows.len()))
            }
        });
    }

    /// A list of the clients, with these parameters too.
    fn rows(&self, parameters: &str) -> Vec<Value> {
        self.whole(&format!("/clients?_like_clientid={PREFIX}{parameters}")).rows()
    }

    /// An answer of all nodes.
    fn whole(&self, target: &str) -> Response {
        eventually(&format!("answer of all nodes to {target}"), || {
            let answer = self.gateway.get(target);
            let body = answer.json();
            if body["meta"]["nodes"]["failed"] == json!([]) { Ok(answer) } else { Err(body.to_string()) }
        })
    }

    /// Whether a node tells this field of a row.
    fn tells(&self, row: &Value, capability: &str) -> bool {
        self.capabilities[row["node"].as_str().unwrap()].iter().any(|name| name == capability)
    }
}

/// Client ids and nodes, in the order of the rows.
fn places(rows: &[Value]) -> Vec<(String, String)> {
    rows.iter().map(rollcall_tests::model::identity).collect()
}
