//! Rows against what each client's CONNECT really said.

use std::time::{SystemTime, UNIX_EPOCH};

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::Cluster;
use serde_json::{Value, json};

use crate::real::{EXPIRY, Login, Real};

/// Keys that the embedded broker cannot tell.
const UNKNOWN: [&str; 6] =
    ["is_bridge", "awaiting_rel", "send_pkt", "mailbox_len", "heap_size", "reductions"];

/// The keys of a row of a connected client; `disconnected_at` is the 37th.
const KEYS: usize = 36;

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Seconds since 1970 of a time as rows write it.
pub(crate) fn seconds(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    let time = jiff_parse(text).unwrap_or_else(|| panic!("{text:?} is not YYYY-MM-DD HH:mm:ss"));
    assert_eq!(text.len(), 19, "{text}");
    time
}

fn jiff_parse(text: &str) -> Option<i64> {
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// Compares a row with what was said, and what must hold of every connected client of these tests.
fn check(row: &Value, said: &Value, started: i64) {
    for (key, value) in said.as_object().unwrap() {
        assert_eq!(&row[key], value, "{key} of {row}");
    }
    let always =
        json!({"ip_address": "127.0.0.1", "zone": "external", "mountpoint": "undefined", "connected": true});
    for (key, value) in always.as_object().unwrap() {
        assert_eq!(&row[key], value, "{key} of {row}");
    }
    let keys = row.as_object().unwrap();
    assert_eq!(keys.len(), KEYS, "{row}");
    assert!(!keys.contains_key("disconnected_at"), "{row}");
    let mut unknown: Vec<&str> =
        keys.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.as_str()).collect();
    unknown.sort_unstable();
    let mut expected = UNKNOWN.to_vec();
    expected.sort_unstable();
    assert_eq!(unknown, expected, "null keys of {row}");
    assert_eq!(row["created_at"], row["connected_at"], "{row}");
    let connected_at = seconds(&row["connected_at"]);
    assert!((started..=now()).contains(&connected_at), "{connected_at} is not between {started} and now");
}

#[test]
fn rows_say_what_connect_said_in_every_version_on_every_node() {
    let cluster = Cluster::embedded();
    for agent in &cluster.agents {
        let started = now();
        let id = |version: &str| format!("{version} on {}", agent.name);
        let said = |version: &str, rest: Value| {
            let mut said = json!({"node": agent.name, "clientid": id(version)});
            said.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            said
        };

        let name = id("3.1");
        let connect = Connect { username: Some("alice".into()), keepalive: 30, ..Connect::new(3, &name) };
        let v31 = Client::connect(agent.mqtt(), &connect);
        let rest = json!({"username": "alice", "proto_name": "MQIsdp", "proto_ver": 3, "keepalive": 30,
            "clean_start": true, "expiry_interval": 0, "port": v31.local_address().port()});
        check(&cluster.gateway.row(&name), &said("3.1", rest), started);

        let name = id("3.1.1");
        let _v4 = Real::v4(agent.mqtt(), Login { keepalive: 17, ..Login::persistent(&name) });
        let rest = json!({"username": "undefined", "proto_name": "MQTT", "proto_ver": 4, "keepalive": 17,
            "clean_start": false, "expiry_interval": 7200});
        check(&cluster.gateway.row(&name), &said("3.1.1", rest), started);

        let name = id("5");
        let _v5 = Real::v5(agent.mqtt(), Login { username: Some("bob/ü"), ..Login::persistent(&name) });
        let rest = json!({"username": "bob/ü", "proto_name": "MQTT", "proto_ver": 5, "keepalive": 60,
            "clean_start": false, "expiry_interval": EXPIRY});
        check(&cluster.gateway.row(&name), &said("5", rest), started);

        let name = id("5 clean");
        let _clean = Real::v5(agent.mqtt(), Login::clean(&name));
        let rest = json!({"proto_ver": 5, "clean_start": true, "expiry_interval": 0});
        check(&cluster.gateway.row(&name), &said("5 clean", rest), started);

        let count = cluster.gateway.get(&format!("/nodes/{}/clients?_limit=0", agent.name)).json();
        assert_eq!((&count["meta"]["count"], &count["data"]), (&json!(4), &json!([])), "{count}");
    }
}

#[test]
fn a_client_of_an_unknown_id_is_on_no_node() {
    let cluster = Cluster::embedded();
    let response = cluster.gateway.get("/clients/nobody");
    let body = response.json();
    assert_eq!((response.status, &body["code"], &body["data"]), (200, &json!(0), &json!([])));
    assert_eq!(body["meta"]["nodes"], json!({"total": 3, "answered": 3, "failed": []}));
}
