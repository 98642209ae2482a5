//! What only the plugin of Mosquitto has to show: that the broker goes on as before.

mod defect;
mod loaded;
mod trust;

use std::process::Command;
use std::time::Duration;

use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::sandbox::Gateway;
use rollcall_tests::wait::{eventually, within};
use tempfile::TempDir;

use crate::suite::Step;
use crate::world::World;

pub(crate) const STEPS: [(&str, Step); 12] = [
    ("the_version_is_the_brokers_own", the_version_is_the_brokers_own),
    ("logins_and_topics_are_left_to_who_decided_before", logins_and_topics_are_left_to_who_decided_before),
    ("nobody_gets_in_as_the_plugin", nobody_gets_in_as_the_plugin),
    ("a_reload_of_the_configuration_changes_nothing", a_reload_of_the_configuration_changes_nothing),
    ("a_session_that_expires_goes", a_session_that_expires_goes),
    ("a_broker_without_ticks_is_told_and_denies_nobody", a_broker_without_ticks_is_told_and_denies_nobody),
    ("an_option_that_cannot_be_used_stops_the_start", an_option_that_cannot_be_used_stops_the_start),
    (
        "sessions_that_were_loaded_are_listed_counted_and_kicked",
        loaded::sessions_that_were_loaded_are_listed_counted_and_kicked,
    ),
    ("sessions_that_cannot_be_known_are_not_denied", loaded::sessions_that_cannot_be_known_are_not_denied),
    (
        "only_gateways_with_certificate_and_token_are_answered",
        trust::only_gateways_with_certificate_and_token_are_answered,
    ),
    ("a_door_that_would_stand_open_stops_the_start", trust::a_door_that_would_stand_open_stops_the_start),
    ("no_panic_reaches_the_broker", defect::no_panic_reaches_the_broker),
];

const NODE: &str = "guarded@127.0.0.1";

fn gateway(broker: &Mosquitto) -> Gateway {
    let gateway = Gateway::start(&[broker.agent.unwrap()], &[]);
    await_answer(&gateway);
    gateway
}

fn await_answer(gateway: &Gateway) {
    eventually("an agent that answers", || {
        let answer = gateway.get("/clients?_limit=0");
        if answer.status == 200 { Ok(()) } else { Err(String::from_utf8_lossy(&answer.body).into_owned()) }
    });
}

/// A broker with users and topics of its own.
fn guarded(folder: &TempDir) -> Mosquitto {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let status = Command::new("mosquitto_passwd").args(["-b", "-c", &path("users"), "ada", "right"]).status();
    assert!(status.unwrap().success());
    std::fs::write(path("acl"), "user ada\ntopic readwrite allowed/#\n").unwrap();
    Mosquitto::start(
        Some(NODE),
        &[
            "allow_anonymous false",
            &format!("password_file {}", path("users")),
            &format!("acl_file {}", path("acl")),
            "plugin_opt_logins defer",
        ],
    )
}

fn login(clientid: &str, username: &str, password: &str) -> Connect {
    Connect { username: Some(username.into()), password: Some(password.into()), ..Connect::new(4, clientid) }
}

fn is_refused(broker: &Mosquitto, connect: &Connect) -> bool {
    Client::over(mqtt::dial(broker.mqtt), connect).is_err()
}

fn logins_and_topics_are_left_to_who_decided_before(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    let broker = guarded(&folder);
    let gateway = gateway(&broker);
    let mut ada = Client::connect(broker.mqtt, &login("ada-1", "ada", "right"));
    assert!(is_refused(&broker, &login("ada-2", "ada", "wrong")));
    assert!(is_refused(&broker, &login("bob-1", "bob", "right")));
    assert!(is_refused(&broker, &Connect::new(4, "nobody-1")));
    assert_eq!(gateway.row("ada-1")["username"], "ada");
    ada.subscribe("allowed/in", 1);
    ada.subscribe("denied/in", 1);
    ada.publish("denied/in", 1, b"no");
    ada.publish("allowed/in", 0, b"yes");
    assert_eq!(ada.receive(true), b"yes");
    let rows = gateway.get("/clients").rows();
    assert_eq!(rows.len(), 1, "who was refused must not be listed: {rows:?}");
    // A refused message was sent all the same, but the broker tells the plugin only of those it takes.
    gateway.row_when("ada-1", |row| row["recv_msg"] == 1);
    // A kick ends a session that only ada's password opens.
    drop(ada);
    let kept = Client::connect(broker.mqtt, &login("kept", "ada", "right").keep_session());
    gateway.row("kept");
    drop(kept);
    gateway.row_when("kept", |row| row["connected"] == false);
    assert_eq!(gateway.kick("kept").status, 200);
    assert!(!Client::connect(broker.mqtt, &login("kept", "ada", "right").keep_session()).session_present);
}

fn nobody_gets_in_as_the_plugin(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    let broker = guarded(&folder);
    let gateway = gateway(&broker);
    drop(Client::connect(broker.mqtt, &login("kept", "ada", "right").keep_session()));
    gateway.row_when("kept", |row| row["connected"] == false);
    for password in ["", "right", "00000000000000000000000000000000"] {
        assert!(is_refused(&broker, &login("kept", "rollcall-agent", password)), "{password:?}");
        assert!(is_refused(&broker, &login("other", "rollcall-agent", password)), "{password:?}");
    }
    assert!(Client::connect(broker.mqtt, &login("kept", "ada", "right").keep_session()).session_present);
}

fn the_version_is_the_brokers_own(world: &mut World) {
    let help = Command::new(Mosquitto::program().unwrap()).arg("-h").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let version = help.lines().next().unwrap().strip_prefix("mosquitto version ").unwrap();
    eventually("the broker's version", || {
        let node = world.told_node();
        if node["broker_version"] == version { Ok(()) } else { Err(node.to_string()) }
    });
}

fn a_reload_of_the_configuration_changes_nothing(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = guarded(&folder);
    let gateway = gateway(&broker);
    let mut before = Client::connect(broker.mqtt, &login("before", "ada", "right"));
    gateway.row("before");
    broker.reload();
    eventually("the reload", || {
        let log = broker.log();
        if log.contains("Reloading config") { Ok(()) } else { Err(log) }
    });
    before.ping();
    let mut after = Client::connect(broker.mqtt, &login("after", "ada", "right"));
    assert!(is_refused(&broker, &login("wrong", "ada", "wrong")));
    gateway.row("after");
    after.publish("allowed/x", 1, b"x");
    gateway.row_when("after", |row| row["recv_msg"] == 1);
    assert_eq!(gateway.kick("before").status, 200);
    before.await_close();
    after.ping();
    assert!(broker.is_running());
}

fn a_session_that_expires_goes(_: &mut World) {
    let broker = Mosquitto::start(Some(NODE), &[]);
    let gateway = gateway(&broker);
    let connect = |clientid, expiry| Connect { clean: false, expiry, ..Connect::new(5, clientid) };
    drop(Client::connect(broker.mqtt, &connect("short", Some(3))));
    drop(Client::connect(broker.mqtt, &connect("long", Some(600))));
    drop(Client::connect(broker.mqtt, &connect("none", None)));
    gateway.row_when("long", |row| row["connected"] == false);
    within(Duration::from_secs(30), "end of what has expired", || {
        let rows = gateway.get("/clients").rows();
        if rows.len() == 1 { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    gateway.row_when("long", |row| row["connected"] == false);
}

fn a_broker_without_ticks_is_told_and_denies_nobody(_: &mut World) {
    let mut broker = Mosquitto::start_without_ticks(NODE);
    let gateway = Gateway::start(&[broker.agent.unwrap()], &[]);
    let error = within(Duration::from_secs(30), "word of what is missing", || {
        let nodes = gateway.get("/nodes").json();
        let error = nodes["data"][0]["broker_error"].as_str().map(str::to_owned);
        error.ok_or_else(|| nodes.to_string())
    });
    assert!(error.contains("per_listener_settings"), "{error}");
    let answer = gateway.get("/clients/anybody");
    assert_eq!((answer.status, answer.code()), (503, 101));
    assert!(broker.is_running());
}

fn an_option_that_cannot_be_used_stops_the_start(_: &mut World) {
    for (line, named) in [
        ("plugin_opt_logins maybe", "plugin_opt_logins \"maybe\", expected defer or open"),
        ("plugin_opt_max_cals 3", "--max-cals"),
        ("plugin_opt_broker file", "the broker is the one that has loaded the agent"),
    ] {
        let log = Mosquitto::refused(&[line]);
        assert!(log.contains(named), "{line}: {log}");
    }
}
