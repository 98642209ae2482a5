//! Rows against what CONNECT really said.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rollcall_node_agent::broker::embedded::EmbeddedSettings;
use rollcall_proto::v1::{Client, ConnState};
use rumqttc::v5::mqttbytes::v5::ConnectProperties;

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, settings};

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn is_connected(client: &Client) -> bool {
    client.conn_state() == ConnState::Connected
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_say_what_connect_said_in_every_version() {
    let sandbox = Sandbox::start(settings()).await;
    let before = now_ms();

    let v31 = Connect { keepalive: 30, ..Connect::v31("old") }.login("alice", "x");
    let old = Raw::tcp(sandbox.address(), &v31).await;
    let row = sandbox.row_when("old", is_connected).await;
    let expected = Client {
        clientid: "old".into(),
        session: row.session,
        username: Some("alice".into()),
        zone: Some("external".into()),
        proto_name: Some("MQIsdp".into()),
        proto_ver: Some(3),
        ip_address: vec![127, 0, 0, 1],
        port: Some(old.local().port().into()),
        keepalive: Some(30),
        clean_start: Some(true),
        expiry_interval: Some(0),
        conn_state: ConnState::Connected.into(),
        connected_at_ms: row.connected_at_ms,
        created_at_ms: row.created_at_ms,
        ..Client::default()
    };
    assert_eq!(row, expected);
    assert!((before..=now_ms()).contains(&row.connected_at_ms.unwrap()));
    assert_eq!(row.created_at_ms, row.connected_at_ms);

    let mut options = rumqttc::MqttOptions::new("middle/%+ ü", "127.0.0.1", sandbox.address().port());
    options.set_clean_session(false).set_keep_alive(Duration::from_secs(17)).set_credentials("bob", "y");
    let (_v4, mut events) = rumqttc::AsyncClient::new(options, 10);
    let v4_task = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let row = sandbox.row_when("middle/%+ ü", is_connected).await;
    assert_eq!((row.proto_name.as_deref(), row.proto_ver), (Some("MQTT"), Some(4)));
    assert_eq!((row.keepalive, row.clean_start), (Some(17), Some(false)));
    assert_eq!((row.expiry_interval, row.username.as_deref()), (Some(7200), Some("bob")));

    let mut options = rumqttc::v5::MqttOptions::new("new", "127.0.0.1", sandbox.address().port());
    options
        .set_clean_start(false)
        .set_keep_alive(Duration::from_secs(20))
        .set_outgoing_inflight_upper_limit(20);
    options.set_connect_properties(ConnectProperties {
        session_expiry_interval: Some(90),
        ..ConnectProperties::new()
    });
    let (_v5, mut events) = rumqttc::v5::AsyncClient::new(options, 10);
    let v5_task = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let row = sandbox.row_when("new", is_connected).await;
    assert_eq!((row.proto_name.as_deref(), row.proto_ver), (Some("MQTT"), Some(5)));
    assert_eq!((row.keepalive, row.clean_start), (Some(20), Some(false)));
    assert_eq!((row.expiry_interval, row.username), (Some(90), None));

    let zero = Connect { keepalive: 0, ..Connect::v5("bare") };
    let _bare = Raw::tcp(sandbox.address(), &zero).await;
    let row = sandbox.row_when("bare", is_connected).await;
    assert_eq!((row.keepalive, row.expiry_interval, row.clean_start), (Some(0), Some(0), Some(true)));

    v4_task.abort();
    v5_task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn upper_bounds_and_an_expiry_changed_at_disconnect_show() {
    let sandbox = Sandbox::start(EmbeddedSettings { max_session_expiry_secs: 100, ..settings() }).await;
    let long = Raw::tcp(sandbox.address(), &Connect::v5("c").expiry(u32::MAX)).await;
    assert_eq!(sandbox.row_when("c", is_connected).await.expiry_interval, Some(100));
    let mut long = long;
    // DISCONNECT, normal, with Session Expiry Interval 50.
    long.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 50]).await;
    drop(long);
    let row = sandbox.row_when("c", |row| !is_connected(row)).await;
    assert_eq!(row.expiry_interval, Some(50));
    assert!(row.disconnected_at_ms.unwrap() >= row.connected_at_ms.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_with_the_bridge_bit_is_refused_so_nobody_is_known_to_be_a_bridge() {
    let sandbox = Sandbox::start(settings()).await;
    for (name, level) in [("MQTT", 0x84), ("MQIsdp", 0x83)] {
        let stream = tokio::net::TcpStream::connect(sandbox.address()).await.unwrap();
        let connect = Connect { name, level, ..Connect::v4("bridge") };
        assert!(Raw::over(stream, &connect).await.is_none(), "level {level:#x}");
    }
    let _plain = Raw::tcp(sandbox.address(), &Connect::v4("bridge")).await;
    assert_eq!(sandbox.row_when("bridge", is_connected).await.is_bridge, None);
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_clients_of_all_three_versions_are_listed() {
    let sandbox = Sandbox::start(settings()).await;
    for (version, name, level) in [("mqttv31", "MQIsdp", 3), ("mqttv311", "MQTT", 4), ("mqttv5", "MQTT", 5)] {
        let port = sandbox.address().port().to_string();
        let child = Command::new("mosquitto_sub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-V",
                version,
                "-i",
                version,
                "-u",
                "m",
                "-k",
                "33",
                "-t",
                "t/#",
            ])
            .stdout(Stdio::null())
            .spawn()
            .map(Running);
        let Ok(_child) = child else {
            eprintln!("SKIPPED: mosquitto_sub is not installed (apt-get install mosquitto-clients)");
            return;
        };
        let row = sandbox.row_when(version, is_connected).await;
        assert_eq!((row.proto_name.as_deref(), row.proto_ver), (Some(name), Some(level)));
        assert_eq!((row.keepalive, row.username.as_deref()), (Some(33), Some("m")));
        sandbox.figures_when(&row, |figures| figures.subscriptions_cnt == Some(1)).await;
    }
}
