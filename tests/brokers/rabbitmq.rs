//! What only RabbitMQ's adapter has to show: how it asks the management API, and what the agent's counting front adds.

use std::any::Any;

use rollcall_tests::brokers::{Kind, Rabbitmq};
use rollcall_tests::certs::Certs;
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::wait::eventually;
use rollcall_tests::written::Written;
use serde_json::{Value, json};

use crate::suite::Step;
use crate::world::{Side, World};

pub(crate) const STEPS: [(&str, Step); 4] = [
    ("the_api_is_asked_over_tls", the_api_is_asked_over_tls),
    ("who_may_only_look_lists_and_cannot_kick", who_may_only_look_lists_and_cannot_kick),
    ("what_keeps_the_agent_out_is_named", what_keeps_the_agent_out_is_named),
    ("behind_the_front_all_is_counted", behind_the_front_all_is_counted),
];

fn broker(world: &World) -> &Rabbitmq {
    let broker: &dyn Any = world.outside().unwrap();
    broker.downcast_ref().unwrap()
}

fn the_api_is_asked_over_tls(world: &mut World) {
    let side = Side::start(Kind::Rabbitmq, "over-tls", &broker(world).agent_over_tls(None));
    let mut client = world.persistent("over-tls");
    client.subscribe("over/tls", 1);
    side.gateway.row_when("over-tls", |row| row["clean_start"] == false && row["subscriptions_cnt"] == 1);
    let kicked = side.gateway.kick("over-tls");
    assert_eq!(kicked.status, 200, "{}", kicked.json());
    client.await_close();
    assert!(!world.persistent("over-tls").session_present);
}

fn who_may_only_look_lists_and_cannot_kick(world: &mut World) {
    let (username, password) = Rabbitmq::watcher();
    let side = Side::start(Kind::Rabbitmq, "watcher", &broker(world).agent_as(username, password));
    let mut client = world.persistent("looked-at");
    client.subscribe("looked/at", 1);
    let mut elsewhere = world.client_elsewhere(Connect::new(4, "looked-at-elsewhere"));
    side.gateway.row_when("looked-at", |row| row["connected"] == true && row["clean_start"] == false);
    side.gateway.row("looked-at-elsewhere");
    for clientid in ["looked-at", "looked-at-elsewhere"] {
        let refused = side.gateway.kick(clientid);
        assert_eq!((refused.status, refused.code()), (502, 101), "{}", refused.json());
    }
    client.ping();
    elsewhere.ping();
    assert_eq!(side.gateway.get("/clients?_like_clientid=looked-at").rows().len(), 2);
    assert!(side.agent.process.log().contains("to kick, administrator"), "{}", side.agent.process.log());
}

/// A password that is nobody's.
const WRONG: &str = "rabbit-nobodys-s3cret";

fn what_keeps_the_agent_out_is_named(world: &mut World) {
    let other = Certs::new();
    let (device, password) = world.outside().unwrap().login();
    let rabbitmq = broker(world);
    let mut written = Written::default();
    for (name, arguments, words) in [
        ("wrong-password", rabbitmq.agent_as("rollcall", WRONG), "401"),
        ("no-monitor", rabbitmq.agent_as(&device, &password), "tag monitoring"),
        ("wrong-authority", rabbitmq.agent_over_tls(Some(&other.path("ca.pem"))), "UnknownIssuer"),
    ] {
        let arguments = [arguments, vec!["--log-filter".to_owned(), "trace".to_owned()]].concat();
        let side = Side::start_without_agreement(Kind::Rabbitmq, name, &arguments);
        eventually(&format!("word of {words:?}"), || {
            let told = side.told_node();
            match told["broker_error"].as_str() {
                Some(error) if error.contains(words) => Ok(()),
                _ => Err(told.to_string()),
            }
        });
        let list = side.gateway.get("/clients");
        assert_eq!((list.status, list.code()), (503, 101), "{name}: {}", list.json());
        side.write(&mut written);
    }
    for secret in world.secrets().iter().map(String::as_str).chain([WRONG]) {
        written.lacks(secret.as_bytes());
    }
}

fn behind_the_front_all_is_counted(without: &mut World) {
    assert!(!without.can("statistics:send_pkt"), "nobody counts there");
    let world = World::of(Kind::Rabbitmq, Some(Box::new(Rabbitmq::start_behind_a_front())));
    for figure in ["send_pkt", "recv_pkt", "awaiting_rel", "recv_oct"] {
        assert!(world.can(&format!("statistics:{figure}")), "{figure}");
    }
    let front = json!([world.mqtt().to_string()]);
    assert_eq!(world.told_node()["mqtt_addresses"], front, "where clients connect");
    for level in [3, 4] {
        let clientid = format!("counted-{level}");
        let connect = world.login(Connect::new(level, &clientid).keep_session());
        let mut client = Client::connect(world.mqtt(), &connect);
        client.subscribe("own", 1);
        for _ in 0..5 {
            client.publish("elsewhere", 0, b"zero");
            client.publish("elsewhere", 1, &[7; 3000]);
        }
        client.ping();
        let row = world.gateway.row_when(&clientid, |row| {
            row["recv_oct"] == client.sent_bytes && row["send_oct"] == client.received_bytes
        });
        assert_eq!(
            (&row["recv_pkt"], &row["send_pkt"]),
            (&json!(client.sent_packets), &json!(client.received_packets)),
            "{row}"
        );
        assert_eq!((&row["awaiting_rel"], &row["is_bridge"]), (&json!(0), &json!(false)), "{row}");
        assert!(world.is_from(&row, &client), "the client's own address: {row}");
        assert!(row["recv_cnt"].as_u64() > Some(5), "segments of the client's own connection: {row}");
        // A QoS 2 message that is not released. What RabbitMQ makes of it is its own affair.
        let publish = [&mqtt::text("elsewhere"), &[9, 9][..]].concat();
        client.send(&mqtt::packet(0x34, &publish)).unwrap();
        let row = world.gateway.row_when(&clientid, |row| row["recv_oct"] == client.sent_bytes);
        assert_eq!(row["awaiting_rel"], 1, "{row}");

        assert_eq!(world.gateway.kick(&clientid).status, 200);
        client.await_close();
        world.await_gone(&clientid);
        let again = Client::connect(world.mqtt(), &connect);
        assert!(!again.session_present, "the session has ended");
        again.disconnect();
    }
    let other = world.clean("other");
    let row = world.gateway.row_when("other", |row| row["recv_oct"] == other.sent_bytes);
    assert_ne!(row["send_pkt"], Value::Null);
}
