//! One cluster of every broker there is: clients of all of them in one list, one count, one kick.

use std::collections::BTreeMap;

use rollcall_tests::http::encode;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::Gateway;
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use crate::world::World;

/// One thing that the cluster must do.
pub(crate) type Step = fn(&mut Mixed);

/// The last one takes a broker away.
pub(crate) const STEPS: [(&str, Step); 6] = [
    (
        "clients_of_all_brokers_are_one_list_in_every_order",
        clients_of_all_brokers_are_one_list_in_every_order,
    ),
    ("pages_and_cursors_walk_all_brokers_once", pages_and_cursors_walk_all_brokers_once),
    ("counts_and_exports_are_of_all_brokers", counts_and_exports_are_of_all_brokers),
    ("figures_that_only_some_brokers_tell_are_null_elsewhere", figures_that_only_some_brokers_tell_are_null),
    ("a_kick_finds_its_broker_and_no_other", a_kick_finds_its_broker_and_no_other),
    ("a_broker_that_is_gone_is_named_and_the_others_stand", a_broker_that_is_gone_is_named),
];

/// Clients on each broker.
const EACH: usize = 7;

/// The cluster, and a client of each id.
pub(crate) struct Mixed {
    gateway: Gateway,
    worlds: Vec<World>,
    clients: BTreeMap<String, Client>,
    /// Their nodes by client id.
    nodes: BTreeMap<String, String>,
}

impl Mixed {
    /// Puts a gateway over these, and connects clients whose ids take turns on the brokers.
    pub(crate) fn start(worlds: Vec<World>) -> Self {
        let addresses: Vec<_> = worlds.iter().map(World::agent_address).collect();
        let gateway = Gateway::start(&addresses, &[]);
        let (mut clients, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for number in 0..EACH * worlds.len() {
            let world = &worlds[number % worlds.len()];
            let clientid = format!("mixed-{number:02}");
            clients.insert(clientid.clone(), world.clean(&clientid));
            nodes.insert(clientid, world.node.clone());
        }
        let mixed = Self { gateway, worlds, clients, nodes };
        eventually("list of all clients", || {
            let found = mixed.rows("").len();
            if found == mixed.nodes.len() { Ok(()) } else { Err(format!("{found} rows")) }
        });
        mixed
    }

    fn rows(&self, parameters: &str) -> Vec<Value> {
        let answer = self.gateway.get(&format!("/clients?_like_clientid=mixed-{parameters}"));
        let body = answer.json();
        assert_eq!(body["meta"]["nodes"]["failed"], json!([]), "{body}");
        answer.rows()
    }

    fn expected(&self) -> Vec<(String, String)> {
        self.nodes.iter().map(|(clientid, node)| (clientid.clone(), node.clone())).collect()
    }
}

fn places(rows: &[Value]) -> Vec<(String, String)> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "clientid"), text(row, "node"))).collect()
}

fn clients_of_all_brokers_are_one_list_in_every_order(mixed: &mut Mixed) {
    let mut expected = mixed.expected();
    assert_eq!(places(&mixed.rows("")), expected);
    expected.reverse();
    assert_eq!(places(&mixed.rows("&_sort=clientid&_order=desc")), expected);
    expected.sort_by(|(id, node), (other_id, other)| (node, id).cmp(&(other, other_id)));
    assert_eq!(places(&mixed.rows("&_sort=node")), expected);
    // Some brokers tell no port: those rows come last, whichever way.
    for order in ["asc", "desc"] {
        let ports: Vec<Option<u64>> = mixed
            .rows(&format!("&_sort=port&_order={order}"))
            .iter()
            .map(|row| row["port"].as_u64())
            .collect();
        let known: Vec<u64> = ports.iter().copied().flatten().collect();
        assert!(ports[..known.len()].iter().all(Option::is_some), "{ports:?}");
        let is_sorted = if order == "asc" { known.is_sorted() } else { known.iter().rev().is_sorted() };
        assert!(is_sorted, "{ports:?}");
    }
    for world in &mixed.worlds {
        let here: Vec<_> = mixed.expected().into_iter().filter(|(_, node)| *node == world.node).collect();
        assert_eq!(places(&mixed.rows(&format!("&_node={}", encode(&world.node)))), here);
    }
}

fn pages_and_cursors_walk_all_brokers_once(mixed: &mut Mixed) {
    let expected = mixed.expected();
    for limit in [1, 3, 10] {
        let mut paged = Vec::new();
        for page in 1..=expected.len().div_ceil(limit) {
            paged.extend(places(&mixed.rows(&format!("&_limit={limit}&_page={page}"))));
        }
        assert_eq!(paged, expected, "pages of {limit}");
        let (mut walked, mut cursor) = (Vec::new(), String::new());
        loop {
            let target = format!("/clients?_like_clientid=mixed-&_limit={limit}&_cursor={}", encode(&cursor));
            let answer = mixed.gateway.get(&target);
            walked.extend(places(&answer.rows()));
            cursor = answer.json()["meta"]["cursor"].as_str().unwrap().to_owned();
            if cursor.is_empty() {
                break;
            }
        }
        assert_eq!(walked, expected, "a walk by {limit}");
    }
}

fn counts_and_exports_are_of_all_brokers(mixed: &mut Mixed) {
    let target = "/client_counts?_like_clientid=mixed-&_group_by=node";
    let body = mixed.gateway.get(target).json();
    assert_eq!(body["meta"]["count"], mixed.nodes.len(), "{body}");
    for world in &mixed.worlds {
        let group = json!({"value": world.node, "count": EACH});
        assert!(body["data"].as_array().unwrap().contains(&group), "{group} in {body}");
    }
    let export = mixed.gateway.get("/client_export?_like_clientid=mixed-&_fields=node,clientid");
    let text = String::from_utf8(export.body).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (end, rows) = lines.split_last().unwrap();
    assert_eq!((&end["meta"]["complete"], &end["meta"]["count"]), (&json!(true), &json!(rows.len())));
    assert_eq!(places(rows), mixed.expected());
    let nodes = mixed.gateway.get("/nodes").json();
    let mut kinds: Vec<&str> =
        nodes["data"].as_array().unwrap().iter().map(|node| node["broker"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    let mut expected: Vec<&str> = mixed.worlds.iter().map(|world| world.kind.name()).collect();
    expected.sort_unstable();
    assert_eq!(kinds, expected);
}

fn figures_that_only_some_brokers_tell_are_null(mixed: &mut Mixed) {
    let capabilities: BTreeMap<&str, Vec<String>> =
        mixed.worlds.iter().map(|world| (world.node.as_str(), world.capabilities())).collect();
    let is_true = |row: &Value| {
        let told = &capabilities[row["node"].as_str().unwrap()];
        ["subscriptions_cnt", "recv_msg", "send_msg", "recv_oct", "mqueue_len", "awaiting_rel"]
            .iter()
            .all(|figure| row[figure].is_number() == told.contains(&format!("statistics:{figure}")))
    };
    // RabbitMQ tells those of a new connection some seconds later.
    eventually("figures of all brokers that tell them", || {
        let wrong: Vec<Value> = mixed.rows("").into_iter().filter(|row| !is_true(row)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
    });
}

fn a_kick_finds_its_broker_and_no_other(mixed: &mut Mixed) {
    // The same id on every broker is as many clients, and one kick ends them all.
    let mut twins: Vec<Client> = mixed.worlds.iter().map(|world| world.clean("twin")).collect();
    let mut everywhere: Vec<String> = mixed.worlds.iter().map(|world| world.node.clone()).collect();
    everywhere.sort();
    eventually("a client on every broker", || {
        let found: Vec<String> =
            places(&mixed.gateway.find("twin")).into_iter().map(|(_, node)| node).collect();
        if found == everywhere { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let kicked = mixed.gateway.kick("twin").json();
    let nodes: Vec<&str> =
        kicked["data"].as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, everywhere, "{kicked}");
    twins.iter_mut().for_each(Client::await_close);
    // One of each broker.
    for number in 0..mixed.worlds.len() {
        let clientid = format!("mixed-{number:02}");
        let node = mixed.nodes.remove(&clientid).unwrap();
        let answer = mixed.gateway.kick(&clientid);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.json()["data"], json!([{"node": node, "clientid": clientid}]));
        mixed.clients.remove(&clientid).unwrap().await_close();
        assert_eq!(places(&mixed.rows("")), mixed.expected());
    }
    mixed.clients.values_mut().for_each(Client::ping);
    let nobody = mixed.gateway.kick("mixed-00");
    assert_eq!((nobody.status, nobody.code()), (404, 112));
}

fn a_broker_that_is_gone_is_named(mixed: &mut Mixed) {
    let lost = mixed.worlds.iter().position(|world| world.outside().is_none()).unwrap();
    let node = mixed.worlds[lost].node.clone();
    mixed.worlds[lost].kill_broker();
    let rest: Vec<_> = mixed.expected().into_iter().filter(|(_, of)| *of != node).collect();
    let answer = eventually("a list that names the node", || {
        let answer = mixed.gateway.get("/clients?_like_clientid=mixed-");
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
    let world = mixed.worlds.iter().find(|world| world.node != node).unwrap();
    let mut client = Client::connect(world.mqtt(), &world.login(Connect::new(4, "mixed-late")));
    eventually("a client of another broker", || {
        let found = places(&mixed.gateway.find("mixed-late"));
        if found.len() == 1 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(mixed.gateway.kick("mixed-late").status, 200);
    client.await_close();
}
