//! What RabbitMQ shows only behind the agent's counting front.

use rollcall_tests::brokers::{Kind, Rabbitmq};
use rollcall_tests::mqtt::{self, Client, Connect};
use serde_json::{Value, json};

use crate::suite::Step;
use crate::world::World;

pub(crate) const STEPS: [(&str, Step); 1] =
    [("behind_the_front_all_is_counted", behind_the_front_all_is_counted)];

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
