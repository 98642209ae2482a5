//! Sessions that the broker has saved and loads again: they are its clients like all others, though no event tells of
//! them.

use std::path::Path;
use std::time::Duration;

use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::Gateway;
use rollcall_tests::wait::{eventually, within};
use serde_json::{Value, json};

use super::{NODE, await_answer, gateway};
use crate::world::World;

fn saving(folder: &Path, more: &[&str]) -> Mosquitto {
    let location = format!("persistence_location {}", folder.display());
    Mosquitto::start(Some(NODE), &[&["persistence true", &location][..], more].concat())
}

fn count(gateway: &Gateway, filter: &str) -> Value {
    gateway.get(&format!("/client_counts?{filter}")).json()["meta"]["count"].clone()
}

/// How many clients are listed, once none is listed that the broker keeps no more.
fn await_count(gateway: &Gateway, expected: usize) {
    within(Duration::from_secs(60), "no more clients than the broker has", || {
        let rows = gateway.get("/clients").rows();
        if rows.len() == expected { Ok(()) } else { Err(format!("{rows:?}")) }
    });
}

pub(super) fn sessions_that_were_loaded_are_listed_counted_and_kicked(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    // Of a bridge the broker keeps a session like a client's.
    let bridge = ["connection up", "address 127.0.0.1:9", "topic up/# out 1", "cleansession false"];
    let mut broker = saving(folder.path(), &bridge);
    let mqtt = broker.mqtt;
    let gateway = gateway(&broker);
    let connect = |level, clientid: &str| Connect::new(level, clientid).keep_session();
    let queue = Connect { username: Some("ada".into()), ..connect(4, "kept-queue") };
    let mut client = Client::connect(mqtt, &queue);
    client.subscribe("q/a", 1);
    client.subscribe("q/#", 1);
    drop(client);
    let mut five = Client::connect(mqtt, &connect(5, "kept-five"));
    five.subscribe("other", 1);
    drop(five);
    drop(Client::connect(mqtt, &connect(3, "kept-plain")));
    drop(Client::connect(mqtt, &Connect { expiry: Some(1), ..connect(5, "short") }));
    drop(Client::connect(mqtt, &Connect { clean: true, ..connect(5, "fresh") }));
    drop(Client::connect(mqtt, &Connect::new(4, "clean")));
    for clientid in ["kept-queue", "kept-five", "kept-plain"] {
        gateway.row_when(clientid, |row| row["connected"] == false);
    }
    let mut publisher = Client::connect(mqtt, &Connect::new(4, "publisher"));
    for payload in [b"1", b"2", b"3"] {
        publisher.publish("q/x", 1, payload);
    }
    // These have a connection when the broker saves them. The second keeps nothing once that has ended.
    let _online = Client::connect(mqtt, &connect(4, "kept-online"));
    let _brief = Client::connect(mqtt, &Connect { expiry: None, ..connect(5, "brief") });
    gateway.row("brief");

    broker.restart_in_order();
    await_answer(&gateway);
    let saved = std::fs::read(folder.path().join("mosquitto.db")).unwrap();
    assert!(saved.windows(6).any(|bytes| bytes == b"local."), "the bridge's session was saved");
    let rows = gateway.get("/clients?_like_clientid=kept-&_partial=false").rows();
    let ids: Vec<&Value> = rows.iter().map(|row| &row["clientid"]).collect();
    assert_eq!(ids, ["kept-five", "kept-online", "kept-plain", "kept-queue"]);
    let kept = [(600, 1), (u32::MAX, 0), (u32::MAX, 0), (u32::MAX, 2)];
    for (row, (expiry, subscriptions)) in rows.iter().zip(kept) {
        for (field, expected) in [
            ("connected", json!(false)),
            // What the broker saves of some is another's.
            ("username", json!("undefined")),
            ("expiry_interval", json!(expiry)),
            ("subscriptions_cnt", json!(subscriptions)),
            ("recv_msg", Value::Null),
            ("mqueue_len", Value::Null),
            ("created_at", Value::Null),
            ("connected_at", Value::Null),
            ("proto_ver", Value::Null),
            ("clean_start", Value::Null),
        ] {
            assert_eq!(row[field], expected, "{field} of {row}");
        }
    }
    assert_eq!(count(&gateway, "_like_clientid=kept-"), 4);
    assert_eq!(count(&gateway, "conn_state=connected"), 0);
    assert!(gateway.get("/clients?_like_clientid=local").rows().is_empty(), "a bridge is no client");
    // What the broker lets go is let go here too: the session that kept nothing, and the one of a second.
    await_count(&gateway, 4);
    assert_eq!(
        gateway.find("fresh"),
        [Value::Null; 0],
        "the broker saves no session that began with a clean start"
    );

    // A kick finds whom there is, and nobody else.
    assert_eq!(gateway.kick("kept-plain").status, 200);
    assert!(gateway.find("kept-plain").is_empty());
    assert!(!Client::connect(mqtt, &connect(3, "kept-plain")).session_present, "the broker has it still");
    assert_eq!(gateway.kick("kept-nobody").status, 404);
    assert_eq!(gateway.kick("kept-five").status, 200);
    assert!(!Client::connect(mqtt, &connect(5, "kept-five")).session_present, "the broker has it still");

    // Who comes back finds its session and what was queued, and is the same row.
    let mut back = Client::connect(mqtt, &queue);
    assert!(back.session_present);
    for payload in [b"1", b"2", b"3"] {
        assert_eq!(back.receive(true), payload);
    }
    let row = gateway.row_when("kept-queue", |row| row["username"] == "ada" && row["subscriptions_cnt"] == 2);
    assert_eq!((&row["proto_ver"], &row["created_at"]), (&json!(4), &Value::Null), "{row}");
    assert_eq!(row["connected"], true, "{row}");
    assert!(!row["connected_at"].is_null() && row["expiry_interval"].is_null(), "{row}");
    drop(back);
    let row = gateway.row_when("kept-queue", |row| row["connected"] == false);
    assert!(!row["disconnected_at"].is_null(), "{row}");

    // A clean session is a new one.
    let mut clean = Client::connect(mqtt, &Connect::new(4, "kept-online"));
    gateway.row_when("kept-online", |row| row["connected"] == true && !row["created_at"].is_null());
    clean.ping();
}

/// Answers that deny a client would be wrong if only its session is not known.
pub(super) fn sessions_that_cannot_be_known_are_not_denied(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    // As Mosquitto 1.5 left it. The broker reads it, and there is nothing in it.
    let head = [&b"\x00\xb5\x00mosquitto db"[..], &[0; 4], &4_u32.to_be_bytes()].concat();
    std::fs::write(folder.path().join("mosquitto.db"), head).unwrap();
    let mut broker = saving(folder.path(), &[]);
    let gateway = Gateway::start(&[broker.agent.unwrap()], &[]);
    let error = eventually("word of what is missing", || {
        let nodes = gateway.get("/nodes").json();
        let error = nodes["data"][0]["broker_error"].as_str().map(str::to_owned);
        error.ok_or_else(|| nodes.to_string())
    });
    for named in ["sessions that the broker has loaded", "mosquitto.db: it has version 4, expected 5 or 6"] {
        assert!(error.contains(named), "{error}");
    }
    let mut client = Client::connect(broker.mqtt, &Connect::new(4, "here"));
    for answer in [gateway.get("/clients/here"), gateway.get("/clients"), gateway.kick("here")] {
        assert_eq!((answer.status, answer.code()), (503, 101));
        assert_eq!(answer.json()["meta"]["nodes"]["failed"][0]["reason"], "unreachable");
    }
    client.ping();
    // It writes the file anew when it ends, in its own form.
    broker.restart_in_order();
    await_answer(&gateway);
    assert_eq!(gateway.kick("here").status, 404);
}
