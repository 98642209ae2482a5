//! The same of the agent inside Mosquitto, through which every login of the broker goes.

use std::process::Command;

use rollcall_tests::brokers::free_port;
use rollcall_tests::http;
use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::Client;
use rollcall_tests::sandbox::Gateway;
use rollcall_tests::wait::eventually;

use super::*;

/// A broker with a password file, which knows the user `sensor`.
fn broker(folder: &Path, metrics: SocketAddr) -> Mosquitto {
    let users = folder.join("users");
    let made =
        Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&users).args(["sensor", PASSWORD]).output();
    let made = made.expect("mosquitto_passwd is there where the broker is");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tokens = Cluster::write(folder, "tokens", TOKEN);
    let lines = [
        "plugin_opt_logins defer".to_owned(),
        "plugin_opt_log_filter trace".to_owned(),
        format!("plugin_opt_token_file {tokens}"),
        format!("plugin_opt_metrics_listen {metrics}"),
        "allow_anonymous false".to_owned(),
        format!("password_file {}", users.display()),
        "log_type all".to_owned(),
    ];
    Mosquitto::start(Some("m@127.0.0.1"), &lines.each_ref().map(String::as_str))
}

fn gateway(broker: &Mosquitto, token_file: &str) -> Gateway {
    Gateway::start(&[broker.agent.unwrap()], &["--log-filter", "trace", "--node-token-file", token_file])
}

/// Logs in, well and badly, publishes, leaves wills and sessions behind, and is kicked.
fn mqtt(broker: &Mosquitto, gateway: &Gateway) {
    let mut sleeper = Client::connect(broker.mqtt, &login(4, "sleeper", PASSWORD).keep_session());
    sleeper.subscribe("t/#", 1);
    gateway.row("sleeper");
    sleeper.disconnect();
    for level in [3, 4, 5] {
        let mut client = Client::connect(broker.mqtt, &login(level, &format!("sensor-{level}"), PASSWORD));
        client.publish("t/1", 1, PAYLOAD.as_bytes());
        let refused =
            Client::over(dial(broker.mqtt), &login(level, &format!("stranger-{level}"), WRONG_PASSWORD));
        assert!(refused.is_err(), "a wrong password is let in");
        gateway.row(&format!("sensor-{level}"));
    }
    for is_kicked in [true, false] {
        let clientid = if is_kicked { "kicked" } else { "vanished" };
        let mut stream = dial(broker.mqtt);
        stream.write_all(&with_will(clientid)).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        if is_kicked {
            gateway.row(clientid);
            assert_eq!(gateway.kick(clientid).status, 200);
        }
    }
    // The plugin ends a session that is away by taking it over, with a password of its own.
    gateway.row_when("sleeper", |row| row["connected"] == false);
    assert_eq!(gateway.kick("sleeper").status, 200);
}

#[test]
fn nothing_secret_is_written_by_the_agent_inside_mosquitto() {
    if !Mosquitto::is_installed() {
        println!("SKIPPED: secrets in Mosquitto: mosquitto is not installed (Debian: mosquitto)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let broker = broker(folder.path(), metrics);
    let shown = Cluster::write(folder.path(), "shown", TOKEN);
    let gateway = gateway(&broker, &shown);
    mqtt(&broker, &gateway);
    let refused = self::gateway(&broker, &Cluster::write(folder.path(), "wrong", WRONG_TOKEN));
    eventually("refusal of the token", || {
        let log = broker.log();
        if log.contains("refused a call") { Ok(()) } else { Err(log.len().to_string()) }
    });
    let mut written = Written::default();
    for target in ["/clients", "/nodes", "/client_counts?_group_by=username", "/client_export"] {
        written.add(target, String::from_utf8_lossy(&gateway.get(target).body));
    }
    let authorization = http::basic("app_id", "app_secret");
    let page = http::request(gateway.address(), "GET", "/metrics", &[("authorization", &authorization)]);
    assert_eq!(page.status, 200);
    written.add("the gateway's metrics", String::from_utf8_lossy(&page.body));
    let page = http::request(metrics, "GET", "/metrics", &[]);
    assert!(String::from_utf8_lossy(&page.body).contains("rollcall_agent_token_refusals_total"));
    written.add("the agent's metrics", String::from_utf8_lossy(&page.body));
    written.add("the broker's log", broker.log());
    written.add("the gateway's log", gateway.process.log());
    written.add("the refused gateway's log", refused.process.log());
    // Otherwise nothing is proved.
    let log = broker.log();
    for said in ["writing frame=Headers", "sensor-5", "not authorised"] {
        assert!(log.contains(said), "the broker's log of {} bytes does not hold {said}", log.len());
    }
    assert!(gateway.process.log().contains("TRACE"), "the gateway is not at trace level");
    for secret in [PASSWORD, WRONG_PASSWORD, PAYLOAD, WILL, TOKEN, WRONG_TOKEN] {
        written.lacks(secret.as_bytes());
    }
}
