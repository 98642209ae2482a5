//! The clients that everybody has: mosquitto_sub and mosquitto_pub, in every protocol version they speak.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rollcall_tests::sandbox::Cluster;
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

/// A subscriber that is killed when dropped.
struct Subscriber(Child);

impl Subscriber {
    fn start(broker: SocketAddr, clientid: &str, arguments: &[&str]) -> Self {
        let child = command("mosquitto_sub", broker)
            .args(["-i", clientid, "-t", "mosquitto/#", "-q", "1"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("mosquitto_sub is there (Debian: mosquitto-clients)"))
    }

    /// As a crash: the broker keeps the session, if there is one to keep.
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(program: &str, broker: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
    command
}

fn publish(broker: SocketAddr) {
    let status = command("mosquitto_pub", broker).args(["-t", "mosquitto/t", "-q", "1", "-m", "x"]).status();
    assert!(status.expect("mosquitto_pub is there (Debian: mosquitto-clients)").success());
}

#[test]
fn every_version_is_listed_counted_and_kicked() {
    let cluster = Cluster::embedded();
    for (agent, (version, proto_name, proto_ver)) in
        cluster.agents.iter().zip([("mqttv31", "MQIsdp", 3), ("mqttv311", "MQTT", 4), ("mqttv5", "MQTT", 5)])
    {
        let _subscriber =
            Subscriber::start(agent.mqtt(), version, &["-V", version, "-u", "user", "-P", "x", "-k", "33"]);
        let row = cluster.gateway.row_when(version, |row| row["subscriptions_cnt"] == 1);
        for (key, value) in [
            ("node", json!(agent.name)),
            ("username", json!("user")),
            ("proto_name", json!(proto_name)),
            ("proto_ver", json!(proto_ver)),
            ("keepalive", json!(33)),
            ("clean_start", json!(true)),
        ] {
            assert_eq!(row[key], value, "{key} of {row}");
        }
        publish(agent.mqtt());
        // CONNECT, SUBSCRIBE, PUBACK
        let row = cluster.gateway.row_when(version, |row| row["send_msg"] == 1 && row["recv_pkt"] == 3);
        let connected_by = row["port"].clone();
        assert_eq!(cluster.gateway.kick(version).status, 200);
        // mosquitto_sub comes back by itself, as another connection.
        cluster.gateway.row_when(version, |row| row["connected"] == true && row["port"] != connected_by);
    }
}

#[test]
fn a_killed_persistent_subscriber_is_an_offline_session_with_a_queue() {
    let cluster = Cluster::embedded();
    let broker = cluster.agents[1].mqtt();
    let mut subscriber = Subscriber::start(broker, "gone", &["-c", "-V", "mqttv311"]);
    cluster.gateway.row_when("gone", |row| row["subscriptions_cnt"] == 1);
    subscriber.kill();
    cluster.gateway.row_when("gone", |row| row["connected"] == false);
    publish(broker);
    publish(broker);
    cluster.gateway.row_when("gone", |row| row["mqueue_len"] == 2);
    assert_eq!(cluster.gateway.kick("gone").status, 200);
    assert_eq!(cluster.gateway.find("gone"), [] as [Value; 0]);
    // mosquitto_pub ends as soon as its message has arrived, so nothing else may be left.
    eventually("empty cluster", || {
        let body = cluster.gateway.get("/clients").json();
        if body["meta"]["count"] == 0 { Ok(()) } else { Err(body.to_string()) }
    });
}
