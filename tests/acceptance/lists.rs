//! Every filter, sort and route, over clients that are really there.

use rollcall_tests::http::{self, encode};
use rollcall_tests::model::{Query, SORT_FIELDS, identity};
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Cluster};
use serde_json::{Value, json};

use crate::identity::seconds;

/// A cluster of three brokers with two listeners each, one of them of zone `edge`, and some clients of all kinds.
/// The rows say what the clients said, in the format of the model.
struct Fleet {
    cluster: Cluster,
    rows: Vec<Value>,
    _clients: Vec<Client>,
}

fn fleet() -> Fleet {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    let listener =
        |zone: &str| format!("[[embedded.listeners]]\naddress = \"127.0.0.1:0\"\nzone = \"{zone}\"\n");
    std::fs::write(&config, listener("external") + &listener("edge")).unwrap();
    let start = |name| Agent::start(name, &["--config", config.to_str().unwrap()]);
    let cluster = Cluster::of(["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(start).into());

    let mut clients = Vec::new();
    let mut rows = Vec::new();
    for number in 0..36_u16 {
        let agent = &cluster.agents[usize::from(number * number % 7 % 3)];
        let zone = usize::from(number % 5 == 0);
        // Ids twice, so that some stand on two nodes.
        let clientid = format!("client-{}", number * 5 % 24);
        if rows.iter().any(|row: &Value| row["clientid"] == *clientid && row["node"] == *agent.name) {
            continue;
        }
        let level = [3, 4, 5][usize::from(number % 3)];
        let mut connect = Connect::new(level, &clientid);
        if number % 4 == 0 {
            connect = connect.keep_session();
        }
        connect.username =
            [None, Some("alice"), Some("bob"), Some("al")][usize::from(number % 4)].map(str::to_owned);
        connect.keepalive = 30 + number % 3;
        let client = Client::connect(agent.process.mqtt_all[zone], &connect);
        let is_offline = number % 8 == 0;
        let expiry = match level {
            _ if connect.clean => 0,
            5 => 600,
            _ => 7200,
        };
        rows.push(json!({
            "node": agent.name,
            "clientid": clientid,
            "username": connect.username,
            "zone": if zone == 1 { "edge" } else { "external" },
            "proto_name": if level == 3 { "MQIsdp" } else { "MQTT" },
            "proto_ver": level,
            "ip_address": "127.0.0.1",
            "port": client.local_address().port(),
            "keepalive": connect.keepalive,
            "clean_start": connect.clean,
            "expiry_interval": expiry,
            "conn_state": if is_offline { "disconnected" } else { "connected" },
        }));
        if is_offline {
            client.disconnect();
        } else {
            clients.push(client);
        }
    }
    let offline = rows.iter().filter(|row| row["conn_state"] == "disconnected").count();
    rollcall_tests::wait::eventually("listing of the whole fleet", || {
        let count = |query: &str| {
            cluster.gateway.get(&format!("/clients?_limit=0{query}")).json()["meta"]["count"].clone()
        };
        let (all, gone) = (count(""), count("&conn_state=disconnected"));
        if all == rows.len() && gone == offline {
            Ok(())
        } else {
            Err(format!("{all} clients, {gone} offline"))
        }
    });
    Fleet { cluster, rows, _clients: clients }
}

fn ids(rows: &[Value]) -> Vec<(String, String)> {
    rows.iter().map(identity).collect()
}

impl Fleet {
    /// That a list selects and orders as the model does.
    fn check(&self, query: &Query) {
        let target = query.target(1, 1000);
        let expected: Vec<_> = query.select(&self.rows).into_iter().map(identity).collect();
        assert_eq!(ids(&self.cluster.gateway.get(&target).rows()), expected, "{target}");
    }
}

#[test]
fn every_filter_finds_the_clients_it_is_true_of() {
    let fleet = fleet();
    let filter = |parts: &[(&str, &str)]| Query {
        filters: parts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Query::default()
    };
    for parts in [
        &[("clientid", "client-5")][..],
        &[("clientid", "client-5"), ("clientid", "client-10"), ("clientid", "nobody")],
        &[("clientid", "client")],
        &[("username", "alice")],
        &[("username", "undefined")],
        &[("username", "alice"), ("username", "bob")],
        &[("zone", "edge")],
        &[("zone", "external")],
        &[("zone", "Edge")],
        &[("proto_name", "MQIsdp")],
        &[("proto_name", "MQTT")],
        &[("proto_ver", "3")],
        &[("proto_ver", "4"), ("proto_ver", "5")],
        &[("proto_ver", "6")],
        &[("ip_address", "127.0.0.1")],
        &[("ip_address", "127.0.0.2")],
        &[("conn_state", "connected")],
        &[("conn_state", "disconnected")],
        &[("conn_state", "idle")],
        &[("conn_state", "connected"), ("conn_state", "disconnected")],
        &[("clean_start", "true")],
        &[("clean_start", "false")],
        &[("_like_clientid", "-1")],
        &[("_like_clientid", "client"), ("_like_clientid", "2")],
        &[("_like_clientid", "CLIENT")],
        &[("_like_clientid", "")],
        &[("_like_username", "al")],
        &[("_like_username", "")],
        &[("_like_username", "l"), ("_like_username", "c")],
        &[("zone", "edge"), ("proto_ver", "4"), ("clean_start", "true")],
        &[("username", "bob"), ("_like_clientid", "1"), ("conn_state", "connected"), ("proto_name", "MQTT")],
    ] {
        fleet.check(&filter(parts));
    }
    let fleet_size = fleet.rows.len();
    let times: Vec<i64> = fleet
        .cluster
        .gateway
        .get("/clients")
        .rows()
        .iter()
        .map(|row| seconds(&row["connected_at"]))
        .collect();
    let (first, last) = (times.iter().min().unwrap() - 1, times.iter().max().unwrap() + 1);
    for time in ["created_at", "connected_at"] {
        for (bound, at, expected) in
            [("gte", first, fleet_size), ("gte", last, 0), ("lte", first, 0), ("lte", last, fleet_size)]
        {
            let target = format!("/clients?_limit=0&_{bound}_{time}={at}");
            assert_eq!(fleet.cluster.gateway.get(&target).json()["meta"]["count"], expected, "{target}");
        }
    }
}

#[test]
fn every_sort_orders_both_ways_and_is_total() {
    let fleet = fleet();
    for field in SORT_FIELDS {
        for order in ["asc", "desc"] {
            let query =
                Query { sort: Some(field.to_owned()), order: Some(order.to_owned()), ..Query::default() };
            if !field.ends_with("_at") {
                fleet.check(&query);
                continue;
            }
            // The model does not know the times to the millisecond; rows tell them to the second.
            let rows = fleet.cluster.gateway.get(&query.target(1, 1000)).rows();
            let mut times: Vec<Option<i64>> = rows.iter().map(|row| row.get(field).map(seconds)).collect();
            let known = times.iter().flatten().count();
            assert_eq!(known, if field == "disconnected_at" { 36 / 8 + 1 } else { rows.len() }, "{field}");
            assert!(times[known..].iter().all(Option::is_none), "absent times come last: {times:?}");
            times.truncate(known);
            if order == "desc" {
                times.reverse();
            }
            assert!(times.is_sorted(), "{field} {order}: {times:?}");
        }
    }
}

/// A page in the middle takes several calls of each node, which refer to one state of it. Requests under way must not push
/// out each other's: no node changes here, so every answer has to be of one state.
#[test]
fn a_hundred_deep_pages_at_once_are_all_of_one_state_of_a_quiet_cluster() {
    const CLIENTS: u64 = 6_000;
    const AT_ONCE: u64 = 100;
    let agent = |name| Agent::start(name, &["--broker", "synthetic", "--clients", "6000"]);
    let cluster = Cluster::with(
        ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(agent).into(),
        // Slow answers are not what this is about.
        &["--request-timeout", "60s"],
    );
    let sorts = ["clientid", "username", "connected_at", "port"];
    for order in ["asc", "desc"] {
        let ask = |number: u64| {
            // None that a page asked for before leads to.
            let (page, sort) = (45 + number * 9 / 10, sorts[number as usize % sorts.len()]);
            let target = format!("/clients?_limit=100&_page={page}&_sort={sort}&_order={order}");
            (cluster.gateway.get(&target), target)
        };
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || ask(number))).collect();
            asked.into_iter().map(|answer| answer.join().unwrap()).collect()
        });
        for (response, target) in answers {
            let body = response.json();
            assert_eq!(response.status, 200, "{target}: {body}");
            let meta = &body["meta"];
            assert_eq!(
                (response.rows().len(), &meta["count"]),
                (100, &json!(3 * CLIENTS)),
                "{target}: {meta}"
            );
            assert_eq!(meta["consistent"], true, "{target}: {meta}");
        }
    }
}

#[test]
fn every_route_answers_for_the_nodes_it_names() {
    let fleet = fleet();
    let gateway = &fleet.cluster.gateway;
    let some = &fleet.rows[1];
    let (node, clientid) = (some["node"].as_str().unwrap(), some["clientid"].as_str().unwrap());
    let user = "alice";
    let selected = |filters: &[(&str, &str)], nodes: &[&str]| {
        let query = Query {
            filters: filters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
            ..Query::default()
        };
        query.select(&fleet.rows).into_iter().map(identity).collect::<Vec<_>>()
    };
    for (target, expected) in [
        ("/clients".to_owned(), selected(&[], &[])),
        (format!("/clients/{clientid}"), selected(&[("clientid", clientid)], &[])),
        (format!("/clients/username/{user}"), selected(&[("username", user)], &[])),
        (
            format!("/clients/username/{user}?zone=edge"),
            selected(&[("username", user), ("zone", "edge")], &[]),
        ),
        (format!("/nodes/{node}/clients"), selected(&[], &[node])),
        (format!("/nodes/{}/clients", encode(node)), selected(&[], &[node])),
        (format!("/nodes/{node}/clients?proto_ver=4"), selected(&[("proto_ver", "4")], &[node])),
        (format!("/nodes/{node}/clients/{clientid}"), selected(&[("clientid", clientid)], &[node])),
        (format!("/nodes/{node}/clients/username/{user}"), selected(&[("username", user)], &[node])),
        (format!("/clients?_node={node}"), selected(&[], &[node])),
        (format!("/clients?_node={node}&_node={node}"), selected(&[], &[node])),
        (
            "/clients?_node=a@127.0.0.1&_node=c%40127.0.0.1".to_owned(),
            selected(&[], &["a@127.0.0.1", "c@127.0.0.1"]),
        ),
    ] {
        assert_eq!(ids(&gateway.get(&target).rows()), expected, "{target}");
        // One trailing slash changes nothing.
        let (path, query) =
            target.split_once('?').map_or((target.as_str(), ""), |(path, query)| (path, query));
        assert_eq!(ids(&gateway.get(&format!("{path}/?{query}")).rows()), expected, "{target}");
    }
    assert!(!selected(&[("username", user)], &[node]).is_empty(), "the test tells nothing otherwise");
}

#[test]
fn the_list_of_nodes_tells_what_each_is() {
    let fleet = fleet();
    let gateway = &fleet.cluster.gateway;
    // Nodes are probed every few seconds.
    let body = rollcall_tests::wait::eventually("true counts of nodes", || {
        let body = gateway.get("/nodes").json();
        if body["meta"]["clients"] == fleet.rows.len() { Ok(body) } else { Err(body.to_string()) }
    });
    let nodes = body["data"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for (node, agent) in nodes.iter().zip(&fleet.cluster.agents) {
        let own = || fleet.rows.iter().filter(|row| row["node"] == *agent.name);
        let expected = json!({
            "node": agent.name,
            "address": agent.process.address.to_string(),
            "state": "connected",
            "broker": "embedded",
            "clients": own().count(),
            "connected": own().filter(|row| row["conn_state"] == "connected").count(),
            "last_error": null,
            "mqtt_addresses": agent.process.mqtt_all.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&node[key], value, "{key} of {node}");
        }
        assert!(node["broker_version"].as_str().is_some_and(|version| !version.is_empty()), "{node}");
        assert!(seconds(&node["started_at"]) <= seconds(&node["last_seen"]), "{node}");
        let alone = gateway.get(&format!("/nodes/{}", agent.name)).json();
        assert_eq!(alone["data"]["node"], node["node"]);
    }
    let unknown = gateway.get("/nodes/z@127.0.0.1");
    assert_eq!((unknown.status, unknown.code()), (404, 101));
}

#[test]
fn health_needs_no_key_and_every_answer_has_an_id() {
    let cluster =
        Cluster::of(vec![Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "3"])]);
    let address = cluster.gateway.address();
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(http::request(address, "GET", path, &[]).status, 200, "{path}");
    }
    let response = cluster.gateway.get("/clients");
    assert_eq!(response.rows().len(), 3);
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let id = response.header("x-request-id").unwrap();
    assert!(!id.is_empty() && cluster.gateway.process.log().contains(id), "{id} is not in the log");
    let mine = [("x-request-id", "mine-1")];
    assert_eq!(
        http::request(address, "GET", "/api/v4/clients", &mine).header("x-request-id"),
        Some("mine-1")
    );
}
