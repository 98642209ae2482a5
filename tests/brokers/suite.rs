//! The steps. Each has client ids of its own, and asks of a broker only what the agent says it can.

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::wait::{eventually, within};
use serde_json::{Value, json};
use std::time::Duration;

use crate::documented::fields_are_told_as_the_capabilities_say;
use crate::world::World;

/// One thing that a broker and its agent must do.
pub(crate) type Step = fn(&mut World);

/// In this order: those that restart something come last.
pub(crate) const STEPS: [(&str, Step); 18] = [
    ("a_client_is_listed_as_it_connected", a_client_is_listed_as_it_connected),
    ("figures_are_told_as_the_capabilities_say", figures_are_told_as_the_capabilities_say),
    ("fields_are_told_as_the_capabilities_say", fields_are_told_as_the_capabilities_say),
    ("filters_find_the_client", filters_find_the_client),
    ("what_a_client_does_changes_its_row", what_a_client_does_changes_its_row),
    ("many_clients_are_listed_once_each", many_clients_are_listed_once_each),
    ("who_stays_is_listed_while_others_come_and_go", who_stays_is_listed_while_others_come_and_go),
    ("zones_are_told_apart", zones_are_told_apart),
    ("who_does_not_speak_mqtt_is_nobody", who_does_not_speak_mqtt_is_nobody),
    ("a_clean_session_ends_with_its_connection", a_clean_session_ends_with_its_connection),
    ("an_offline_session_is_listed_and_comes_back", an_offline_session_is_listed_and_comes_back),
    ("a_takeover_is_one_row", a_takeover_is_one_row),
    ("a_kick_ends_connection_and_session", a_kick_ends_connection_and_session),
    ("a_kick_ends_an_offline_session", a_kick_ends_an_offline_session),
    ("a_client_that_comes_back_after_a_kick_stays", a_client_that_comes_back_after_a_kick_stays),
    ("an_agent_that_restarts_knows_all_again", an_agent_that_restarts_knows_all_again),
    (
        "a_broker_that_is_down_is_told_and_leaves_nothing_stale",
        a_broker_that_is_down_is_told_and_leaves_nothing_stale,
    ),
    ("no_password_is_seen_anywhere", no_password_is_seen_anywhere),
];

/// The figures of a row.
const FIGURES: [&str; 20] = [
    "subscriptions_cnt",
    "max_subscriptions",
    "inflight",
    "max_inflight",
    "mqueue_len",
    "max_mqueue",
    "mqueue_dropped",
    "awaiting_rel",
    "max_awaiting_rel",
    "recv_oct",
    "recv_cnt",
    "recv_pkt",
    "recv_msg",
    "send_oct",
    "send_cnt",
    "send_pkt",
    "send_msg",
    "mailbox_len",
    "heap_size",
    "reductions",
];

pub(crate) fn a_client_is_listed_as_it_connected(world: &mut World) {
    let client = world.clean("listed");
    let row = world.gateway.row("listed");
    let login = world.login(Connect::new(4, "listed"));
    assert_eq!(row.as_object().unwrap().len(), 37 - 1, "all keys but disconnected_at: {row}");
    let address = client.local_address();
    for (key, expected) in [
        ("node", json!(world.node)),
        ("clientid", json!("listed")),
        ("username", json!(login.username.as_deref().unwrap_or("undefined"))),
        ("zone", json!(world.zone())),
        ("proto_name", json!("MQTT")),
        ("proto_ver", json!(world.level)),
        ("ip_address", json!(address.ip().to_string())),
        ("connected", json!(true)),
    ] {
        assert_eq!(row[key], expected, "{key} of {row}");
    }
    assert!(world.is_from(&row, &client), "port {} of {row}", address.port());
    assert!(row["connected_at"].is_string() && row["created_at"].is_string(), "{row}");
    // What a broker may not tell is true or unknown.
    for (key, expected) in [("keepalive", 60), ("expiry_interval", 0)] {
        assert!(row[key].is_null() || row[key] == expected, "{key} of {row}");
    }
    assert!(row["clean_start"].is_null() || row["clean_start"] == true, "{row}");
    let node = world.told_node();
    assert_eq!(node["broker"], world.kind.name());
    assert!(node["broker_version"].as_str().unwrap().contains('.'), "{node}");
    assert_eq!(node["mqtt_addresses"], json!([world.mqtt().to_string()]), "{node}");
    drop(client);
    world.await_gone("listed");
}

pub(crate) fn figures_are_told_as_the_capabilities_say(world: &mut World) {
    let mut client = world.persistent("figures");
    client.subscribe("figures/in", 1);
    client.publish("figures/in", 0, b"12345");
    assert_eq!(client.receive(true), b"12345");
    let capabilities = world.capabilities();
    let told = |figure: &str| capabilities.contains(&format!("statistics:{figure}"));
    world
        .gateway
        .row_when("figures", |row| FIGURES.iter().all(|&figure| row[figure].is_number() == told(figure)));
    for (figure, least) in [
        ("subscriptions_cnt", 1),
        ("recv_oct", client.sent_bytes),
        ("send_oct", client.received_bytes),
        ("recv_cnt", 1),
        ("recv_msg", 1),
        ("send_msg", 1),
    ] {
        if told(figure) {
            world.gateway.row_when("figures", |row| row[figure].as_u64().is_some_and(|told| told >= least));
        }
    }
    // Every sort by a live figure works, whether it is told or not.
    for figure in FIGURES {
        let response = world.gateway.get(&format!("/clients?_like_clientid=figures&_sort={figure}"));
        assert_eq!(response.rows().len(), 1, "{figure}");
    }
    world.forget("figures");
}

pub(crate) fn filters_find_the_client(world: &mut World) {
    let client = world.clean("filter-one");
    let _other = world.clean("filter-two");
    world.gateway.row("filter-one");
    world.gateway.row("filter-two");
    let username = world.login(Connect::new(4, "filter-one")).username;
    let zone = world.zone().map(str::to_owned);
    let ip = client.local_address().ip();
    let list = |condition: &str| {
        let target = format!("/clients?_like_clientid=filter-&{condition}");
        let body = world.gateway.get(&target).json();
        assert_eq!(body["meta"]["count"], body["data"].as_array().unwrap().len(), "{body}");
        let rows = body["data"].as_array().unwrap().iter();
        rows.map(|row| row["clientid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let both = ["filter-one", "filter-two"];
    assert_eq!(list("clientid=filter-one"), ["filter-one"]);
    assert_eq!(list("_like_clientid=two"), ["filter-two"]);
    assert_eq!(list("conn_state=connected"), both);
    assert_eq!(list("conn_state=disconnected"), [] as [&str; 0]);
    if let Some(zone) = zone {
        assert_eq!(list(&format!("zone={zone}")), both);
    }
    assert_eq!(list("zone=elsewhere"), [] as [&str; 0]);
    assert_eq!(list(&format!("ip_address={ip}")), both);
    assert_eq!(list("ip_address=192.0.2.1"), [] as [&str; 0]);
    assert_eq!(list(&format!("proto_ver={}", world.level)), both);
    assert_eq!(list(&format!("proto_ver={}", 9 - world.level)), [] as [&str; 0]);
    if let Some(username) = username {
        assert_eq!(list(&format!("username={username}")), both);
        assert_eq!(list("username=nobody"), [] as [&str; 0]);
    }
}

pub(crate) fn what_a_client_does_changes_its_row(world: &mut World) {
    let mut client = world.persistent("busy");
    world.gateway.row("busy");
    for (number, filter) in (1..).zip(["busy/a", "busy/+/b", "busy/#"]) {
        client.subscribe(filter, 1);
        if world.can("statistics:subscriptions_cnt") {
            world.gateway.row_when("busy", |row| row["subscriptions_cnt"] == number);
        }
    }
    world.gateway.row_when("busy", |row| row["clean_start"].is_null() || row["clean_start"] == false);
    world.forget("busy");
    world.await_gone("busy");
}

fn many_clients_are_listed_once_each(world: &mut World) {
    let expected: Vec<String> = (0..300).map(|number| format!("many-{number:03}")).collect();
    let mut clients: Vec<Client> = expected.iter().map(|clientid| world.clean(clientid)).collect();
    let are_listed = |world: &World, expected: &[String]| {
        eventually("list of all", || {
            let rows = world.rows_like("many-");
            if rows == expected { Ok(()) } else { Err(format!("{} rows", rows.len())) }
        });
    };
    are_listed(world, &expected);
    // With live figures, which a page of many asks for in another way than that of one.
    let rows = world.gateway.get("/clients?_like_clientid=many-").rows();
    if world.can("statistics:recv_oct") {
        let told = rows.iter().filter(|row| row["recv_oct"].as_u64().is_some_and(|bytes| bytes > 0)).count();
        assert_eq!(told, 300);
    }
    clients.truncate(100);
    are_listed(world, &expected[..100]);
}

/// Lists of brokers that are polled come in pages, and rows move from one to another while they are read.
fn who_stays_is_listed_while_others_come_and_go(world: &mut World) {
    const STAY: usize = 130;
    const OFFLINE: usize = 70;
    let id = |number: usize| format!("stay-{number:03}");
    let online: Vec<Client> = (OFFLINE..STAY).map(|number| world.clean(&id(number))).collect();
    let lists_offline = world.can("offline-sessions");
    for clientid in (0..OFFLINE).map(id).filter(|_| lists_offline) {
        let mut client = world.persistent(&clientid);
        client.subscribe("stay/+", 1);
        client.disconnect();
    }
    let expected: Vec<String> = (if lists_offline { 0 } else { OFFLINE }..STAY).map(id).collect();
    within(Duration::from_secs(60), "all that stay", || {
        let target = "/clients?_like_clientid=stay-&conn_state=disconnected&_limit=0";
        let offline = world.gateway.get(target).json()["meta"]["count"].clone();
        let rows = world.rows_like("stay-");
        let is_true = rows == expected && offline == expected.len() - online.len();
        if is_true { Ok(()) } else { Err(format!("{} rows, {offline} offline", rows.len())) }
    });
    let sessions = |world: &World| {
        let rows = world.gateway.get("/clients?_like_clientid=stay-").rows();
        rows.into_iter().map(|row| (row["clientid"].clone(), row["created_at"].clone())).collect::<Vec<_>>()
    };
    let before = sessions(world);
    let world = &*world;
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for round in 0..12 {
                // Their ids stand before, among and behind those that stay, and so do their queues.
                let batch = ["a", "stay", "stby"].into_iter().flat_map(|word| (0..4).map(move |n| (word, n)));
                let clients: Vec<Client> = batch
                    .map(|(word, number)| {
                        let mut client = world.clean(&format!("{word}+{round}-{number}"));
                        client.subscribe("come/and/go", 1);
                        client
                    })
                    .collect();
                drop(clients);
            }
        });
        while !churn.is_finished() {
            assert_eq!(world.rows_like("stay-"), expected);
        }
        churn.join().unwrap();
    });
    assert_eq!(sessions(world), before);
    let kicked = world.gateway.post(
        "/client_kicks",
        &json!({"filter": {"_like_clientid": "stay-"}, "rate": 1000, "confirm": "all"}),
    );
    assert_eq!(kicked.status, 200);
    eventually("the end of those that stayed", || {
        let rows = world.rows_like("stay-");
        if rows.is_empty() { Ok(()) } else { Err(format!("{rows:?}")) }
    });
}

fn zones_are_told_apart(world: &mut World) {
    let Some(broker) = world.outside() else { return };
    let (here, there) = (broker.zone().to_owned(), broker.other_zone().0.to_owned());
    let _one = world.clean("zone-here");
    let _other = world.client_elsewhere(Connect::new(4, "zone-there"));
    for (clientid, zone) in [("zone-here", &here), ("zone-there", &there)] {
        assert_eq!(world.gateway.row(clientid)["zone"], **zone);
        let rows = world.gateway.get(&format!("/clients?_like_clientid=zone-&zone={zone}")).rows();
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["clientid"], clientid, "{rows:?}");
    }
    if !world.can("offline-sessions") {
        return;
    }
    // One id with a session in each is two clients.
    let mut sleeper = world.persistent("zone-both");
    sleeper.subscribe("zone/both", 1);
    world.gateway.row_when("zone-both", |row| row["clean_start"] == false);
    sleeper.disconnect();
    world.gateway.row_when("zone-both", |row| row["connected"] == false);
    let connect = || world.client_elsewhere(Connect::new(4, "zone-both").keep_session());
    let mut awake = connect();
    assert!(!awake.session_present, "the session of another zone");
    awake.subscribe("zone/both", 1);
    eventually("a session in each zone", || {
        let rows = world.gateway.find("zone-both");
        let mut found: Vec<(&Value, &Value)> =
            rows.iter().map(|row| (&row["zone"], &row["connected"])).collect();
        found.sort_by_key(|(_, connected)| connected.as_bool());
        let expected = [(json!(here), json!(false)), (json!(there), json!(true))];
        let is_true = found.len() == 2 && expected.iter().zip(&found).all(|(a, b)| (&a.0, &a.1) == *b);
        if is_true { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    let only = world.gateway.get(&format!("/clients?clientid=zone-both&zone={there}")).rows();
    assert_eq!((only.len(), &only[0]["connected"]), (1, &json!(true)));
    let kicked = world.gateway.kick("zone-both");
    assert_eq!(kicked.status, 200, "{}", kicked.json());
    awake.await_close();
    assert_gone(world, "zone-both");
    assert!(!world.persistent("zone-both").session_present && !connect().session_present);
    world.forget("zone-both");
}

fn who_does_not_speak_mqtt_is_nobody(world: &mut World) {
    let Some(broker) = world.outside() else { return };
    let stranger = broker.connect_otherwise();
    let port = stranger.local_addr().unwrap().port();
    eventually("a connection that the broker itself shows", || {
        if broker.shows_port(port) { Ok(()) } else { Err(port.to_string()) }
    });
    let client = world.clean("beside-a-stranger");
    world.gateway.row("beside-a-stranger");
    let rows = world.gateway.get("/clients").rows();
    assert!(rows.iter().any(|row| row["port"] == client.local_address().port()), "{rows:?}");
    assert!(rows.iter().all(|row| row["port"] != port), "{rows:?}");
    drop(stranger);
}

pub(crate) fn a_clean_session_ends_with_its_connection(world: &mut World) {
    let mut polite = world.clean("polite");
    polite.subscribe("t", 1);
    let mut rude = world.clean("rude");
    rude.subscribe("t", 0);
    world.gateway.row("polite");
    world.gateway.row("rude");
    polite.disconnect();
    drop(rude);
    world.await_gone("polite");
    world.await_gone("rude");
}

pub(crate) fn an_offline_session_is_listed_and_comes_back(world: &mut World) {
    if !world.can("offline-sessions") {
        return;
    }
    let mut sleeper = world.persistent("sleeper");
    sleeper.subscribe("sleep/+", 1);
    let before = world.gateway.row_when("sleeper", |row| {
        row["connected"] == true && (row["clean_start"] == false || row["clean_start"].is_null())
    });
    sleeper.disconnect();
    let row = world.gateway.row_when("sleeper", |row| row["connected"] == false);
    assert_eq!(row.as_object().unwrap().len(), 37, "{row}");
    for key in ["username", "zone", "created_at", "connected_at", "proto_ver"] {
        assert_eq!(row[key], before[key], "{key} of {row}");
    }
    assert!(row["disconnected_at"].is_string(), "{row}");
    let mut publisher = world.clean("sleep-publisher");
    for _ in 0..3 {
        publisher.publish("sleep/x", 1, b"wake up");
    }
    if world.can("statistics:mqueue_len") {
        world.gateway.row_when("sleeper", |row| row["mqueue_len"] == 3);
    }
    let mut back = world.persistent("sleeper");
    assert!(back.session_present);
    for _ in 0..3 {
        assert_eq!(back.receive(true), b"wake up");
    }
    let row = world.gateway.row("sleeper");
    assert_eq!(row["created_at"], before["created_at"]);
    assert!(world.is_from(&row, &back), "{row}");
    world.forget("sleeper");
    world.await_gone("sleeper");
}

pub(crate) fn a_takeover_is_one_row(world: &mut World) {
    let mut first = world.clean("taken");
    world.gateway.row("taken");
    let second = world.clean("taken");
    first.await_close();
    world.gateway.row_when("taken", |row| world.is_from(row, &second) && row["connected"] == true);
    second.disconnect();
    world.await_gone("taken");
}

/// That a list shows the client nowhere, at once.
fn assert_gone(world: &World, clientid: &str) {
    assert_eq!(world.gateway.find(clientid), [] as [Value; 0], "{clientid}");
    assert_eq!(world.gateway.get(&format!("/clients?clientid={clientid}")).json()["meta"]["count"], 0);
}

fn kick(world: &World, clientid: &str) {
    let response = world.gateway.kick(clientid);
    let body = response.json();
    assert_eq!((response.status, &body["code"]), (200, &json!(0)), "{body}");
    assert_eq!(body["data"], json!([{"node": world.node, "clientid": clientid}]));
    assert_gone(world, clientid);
}

pub(crate) fn a_kick_ends_connection_and_session(world: &mut World) {
    let mut bystander = world.persistent("bystander");
    bystander.subscribe("still/there", 1);
    world.gateway.row("bystander");
    for number in 0..2 {
        let clientid = format!("kicked-{number}");
        let mut client = world.persistent(&clientid);
        client.subscribe("kick/+", 1);
        world.gateway.row_when(&clientid, |row| {
            row["connected"] == true && (row["clean_start"].is_null() || row["clean_start"] == false)
        });
        kick(world, &clientid);
        client.await_close();
        assert!(!world.persistent(&clientid).session_present, "the kicked session is still there");
        world.forget(&clientid);
    }
    // One that never subscribed, and a clean one.
    let mut silent = world.clean("kicked-silent");
    world.gateway.row("kicked-silent");
    kick(world, "kicked-silent");
    silent.await_close();
    let again = world.gateway.kick("kicked-silent");
    assert_eq!((again.status, again.code()), (404, 112));
    bystander.publish("still/there", 0, b"yes");
    assert_eq!(bystander.receive(true), b"yes");
    kick(world, "bystander");
}

pub(crate) fn a_kick_ends_an_offline_session(world: &mut World) {
    if !world.can("offline-sessions") {
        return;
    }
    for clientid in ["dreamer", "control"] {
        let mut client = world.persistent(clientid);
        client.subscribe("dream/+", 1);
        world.gateway.row_when(clientid, |row| row["clean_start"] != true);
        client.disconnect();
        world.gateway.row_when(clientid, |row| row["connected"] == false);
    }
    kick(world, "dreamer");
    // session_present = false says something only if it could be true.
    assert!(!world.persistent("dreamer").session_present, "the kicked session is still there");
    assert!(world.persistent("control").session_present);
    world.forget("control");
    world.forget("dreamer");
}

pub(crate) fn a_client_that_comes_back_after_a_kick_stays(world: &mut World) {
    let mut client = world.persistent("stubborn");
    client.subscribe("stubborn/+", 1);
    world.gateway.row_when("stubborn", |row| row["connected"] == true);
    kick(world, "stubborn");
    client.await_close();
    let mut back = world.persistent("stubborn");
    assert!(!back.session_present);
    back.subscribe("stubborn/+", 1);
    world.gateway.row_when("stubborn", |row| world.is_from(row, &back) && row["connected"] == true);
    back.publish("stubborn/x", 0, b"here");
    assert_eq!(back.receive(true), b"here");
    // Neither it nor its session is hit by what is left of the kick.
    back.disconnect();
    if world.can("offline-sessions") {
        world.gateway.row_when("stubborn", |row| row["connected"] == false);
        let again = world.persistent("stubborn");
        assert!(again.session_present, "the new session has gone");
        world.gateway.row("stubborn");
    }
    world.forget("stubborn");
}

fn an_agent_that_restarts_knows_all_again(world: &mut World) {
    let is_outside = world.outside().is_some();
    let mut online = world.clean("restart-online");
    let mut offline = world.persistent("restart-offline");
    offline.subscribe("restart/+", 1);
    world.gateway.row("restart-online");
    world.gateway.row_when("restart-offline", |row| row["clean_start"] != true);
    offline.disconnect();
    let lists_offline = world.can("offline-sessions");
    if lists_offline {
        world.gateway.row_when("restart-offline", |row| row["connected"] == false);
    }
    world.restart_agent();
    world.await_agreement();
    let expected: Vec<&str> = match (is_outside, lists_offline) {
        // A broker in the same process ends with its agent.
        (false, _) => vec![],
        (true, false) => vec!["restart-online"],
        (true, true) => vec!["restart-offline", "restart-online"],
    };
    eventually("the same clients", || {
        let rows = world.rows_like("restart-");
        if rows == expected { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    if is_outside {
        online.ping();
        kick(world, "restart-online");
        online.await_close();
        if lists_offline {
            kick(world, "restart-offline");
        }
    }
}

fn a_broker_that_is_down_is_told_and_leaves_nothing_stale(world: &mut World) {
    let lists_offline = world.can("offline-sessions");
    let mut online = world.clean("down-online");
    let mut offline = world.persistent("down-offline");
    offline.subscribe("down/+", 1);
    world.gateway.row("down-online");
    world.gateway.row_when("down-offline", |row| row["clean_start"] != true);
    let keeps_sessions = world.kill_broker();
    online.await_close();
    if keeps_sessions {
        eventually("word that the broker is down", || {
            let node = world.told_node();
            if node["broker_error"].is_string() { Ok(()) } else { Err(node.to_string()) }
        });
        // What was last known is shown; a kick cannot be carried out, and says so.
        assert_eq!(world.rows_like("down-"), ["down-offline", "down-online"]);
        let refused = world.gateway.kick("down-online");
        assert!(matches!(refused.status, 502..=504), "{}", String::from_utf8_lossy(&refused.body));
    }
    world.start_broker_again();
    // A broker in Erlang may take long until it answers.
    within(Duration::from_secs(60), "agreement after the broker's restart", || {
        let node = world.told_node();
        if node["state"] == "connected" && node["broker_error"].is_null() {
            Ok(())
        } else {
            Err(node.to_string())
        }
    });
    let stays: &[&str] = if keeps_sessions && lists_offline { &["down-offline"] } else { &[] };
    eventually("only what is true", || {
        let rows = world.rows_like("");
        let is_ours = |row: &&String| row.starts_with("down-");
        let left: Vec<&String> = rows.iter().filter(is_ours).collect();
        let is_true = left == stays && world.gateway.get("/clients?conn_state=connected").rows().is_empty();
        if is_true { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    let back = world.persistent("down-offline");
    assert_eq!(back.session_present, keeps_sessions);
    let _new = world.clean("down-new");
    world.gateway.row("down-new");
    world.gateway.row("down-offline");
    kick(world, "down-offline");
}

/// In the end, when everything has happened that could be logged.
fn no_password_is_seen_anywhere(world: &mut World) {
    let _client = world.clean("secretive");
    world.gateway.row("secretive");
    let outputs = [
        ("the agent's log", world.agent_log()),
        ("the gateway's log", world.gateway.process.log()),
        ("a list", String::from_utf8_lossy(&world.gateway.get("/clients").body).into_owned()),
        ("the nodes", world.told_node().to_string()),
    ];
    for secret in world.secrets() {
        for (place, text) in &outputs {
            assert!(!text.contains(&secret), "{place} holds {secret:?}");
        }
    }
}
