//! Sample clients: a household of sensors and readers, so that the lists of a fresh cluster are not empty.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{Event, Packet, QoS, v5};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a client that lost its connection waits, so that a kicked one is seen to be gone.
const COME_BACK_AFTER: Duration = Duration::from_secs(5);

/// How often a sensor has something to say.
const READING_EVERY: Duration = Duration::from_secs(2);

/// The topics of the household.
const TOPICS: &str = "home/#";

/// Connects the sample clients: two of MQTT 3.1.1, one of MQTT 5 and a sleeper for each node. Runs until dropped.
pub(crate) async fn run(nodes: [SocketAddr; 3]) {
    let [a, b, c] = nodes;
    tokio::join!(
        sensor(a, "thermometer-kitchen", "home/kitchen/temperature"),
        sensor(b, "thermometer-attic", "home/attic/temperature"),
        sensor(c, "doorbell", "home/door/bell"),
        reader(a, "dashboard", "alice"),
        reader(b, "heating-control", "alice"),
        reader(c, "phone-of-bob", "bob"),
        sleeper(c, "night-logger"),
    );
}

/// An MQTT 3.1.1 client that publishes a reading now and then.
async fn sensor(node: SocketAddr, clientid: &str, topic: &str) {
    let mut options = rumqttc::MqttOptions::new(clientid, node.ip().to_string(), node.port());
    options.set_keep_alive(Duration::from_secs(30)).set_credentials("sensor", "");
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    let talk = async {
        for reading in 0_u64.. {
            let payload = format!("{:.1}", 18.0 + (reading % 40) as f64 / 10.0);
            // A failed publish is a lost connection, which the event loop sees too.
            let _ = client.publish(topic, QoS::AtLeastOnce, false, payload).await;
            sleep(READING_EVERY).await;
        }
    };
    let listen = async {
        loop {
            if events.poll().await.is_err() {
                sleep(COME_BACK_AFTER).await;
            }
        }
    };
    tokio::join!(talk, listen);
}

/// An MQTT 5 client that subscribes to everything.
async fn reader(node: SocketAddr, clientid: &str, username: &str) {
    let mut options = v5::MqttOptions::new(clientid, node.ip().to_string(), node.port());
    options.set_keep_alive(Duration::from_secs(60)).set_credentials(username, "");
    options.set_session_expiry_interval(Some(300));
    // Its default of 65,535 takes 14 MB a client.
    options.set_outgoing_inflight_upper_limit(20);
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    loop {
        match events.poll().await {
            Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::ConnAck(_))) => {
                let _ = client.subscribe(TOPICS, v5::mqttbytes::QoS::AtLeastOnce).await;
            }
            Ok(_) => {}
            Err(_) => sleep(COME_BACK_AFTER).await,
        }
    }
}

/// An MQTT 3.1.1 client that subscribes, breaks off and leaves its session behind, with messages piling up in it.
async fn sleeper(node: SocketAddr, clientid: &str) {
    let mut options = rumqttc::MqttOptions::new(clientid, node.ip().to_string(), node.port());
    options.set_clean_session(false);
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    let give_up = Instant::now() + COME_BACK_AFTER;
    loop {
        tokio::select! {
            event = events.poll() => match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let _ = client.subscribe(TOPICS, QoS::AtLeastOnce).await;
                }
                Ok(Event::Incoming(Packet::SubAck(_))) => return,
                Ok(_) => {}
                Err(_) => sleep(Duration::from_millis(200)).await,
            },
            () = sleep_until(give_up) => return,
        }
    }
}
