//! The plugin's own door: only gateways with the right certificate and token are answered.

use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::process::run;
use rollcall_tests::sandbox::Gateway;
use rollcall_tests::wait::eventually;
use tempfile::TempDir;

use super::{NODE, await_answer};
use crate::world::World;

/// Certificates of an authority of their own, for an agent and a gateway at 127.0.0.1.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let (status, _, err) = run(
        "rollcall-gateway",
        &["dev-certs", "--dir", dir, "--agent", "127.0.0.1", "--gateway", "127.0.0.1"],
    );
    assert!(status.success(), "{err}");
    folder
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

pub(super) fn only_gateways_with_certificate_and_token_are_answered(_: &mut World) {
    let (own, foreign) = (certificates(), certificates());
    let (right, wrong, next) = ("r".repeat(40), "w".repeat(40), "n".repeat(40));
    let write = |name: &str, text: &str| {
        std::fs::write(own.path().join(name), text).unwrap();
        path(&own, name)
    };
    let (accepted, shown, other) =
        (write("accepted", &right), write("shown", &right), write("other", &wrong));
    let lines = [
        format!("plugin_opt_tls_cert {}", path(&own, "agent-127.0.0.1.pem")),
        format!("plugin_opt_tls_key {}", path(&own, "agent-127.0.0.1.key")),
        format!("plugin_opt_tls_client_ca {}", path(&own, "ca.pem")),
        format!("plugin_opt_token_file {accepted}"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let broker = Mosquitto::start(Some(NODE), &lines);
    let gateway = |arguments: &[&str]| Gateway::start(&[broker.agent.unwrap()], arguments);
    let (ca, cert, key) = (path(&own, "ca.pem"), path(&own, "gateway.pem"), path(&own, "gateway.key"));
    let shows = ["--node-ca", &ca, "--node-cert", &cert, "--node-key", &key];
    let good = gateway(&[&shows[..], &["--node-token-file", &shown]].concat());
    await_answer(&good);
    let mut client = Client::connect(broker.mqtt, &Connect::new(4, "c"));
    good.row("c");

    let (foreign_cert, foreign_key) = (path(&foreign, "gateway.pem"), path(&foreign, "gateway.key"));
    let foreign_shows = ["--node-ca", &ca, "--node-cert", &foreign_cert, "--node-key", &foreign_key];
    // One at a time: the log leaves some out where there are many.
    for (arguments, gateway_says, broker_says) in [
        (
            &foreign_shows[..],
            "refuses node-cert, which is of no authority in its client_ca",
            "is of no authority in client_ca",
        ),
        (&["--node-ca", &ca], "asks for a certificate: give node-cert and node-key", "shows no certificate"),
        (&[], "the agent speaks TLS: give node-ca", "does not speak TLS"),
        (&shows, "the call shows no token", "the call shows no token"),
        (
            &[&shows[..], &["--node-token-file", &other]].concat(),
            "the agent refuses the token of node-token-file",
            "shows another token",
        ),
    ] {
        let refused = gateway(arguments);
        eventually(&format!("word of {gateway_says:?}"), || {
            let nodes = refused.get("/nodes").json();
            let error = nodes["data"][0]["last_error"].as_str().unwrap_or_default();
            if error.contains(gateway_says) { Ok(()) } else { Err(nodes.to_string()) }
        });
        eventually(&format!("{broker_says:?} in the broker's log"), || {
            let log = broker.log();
            if log.contains(broker_says) { Ok(()) } else { Err(log) }
        });
        for answer in [refused.get("/clients"), refused.kick("c")] {
            assert_eq!((answer.status, answer.code()), (503, 101), "{arguments:?}");
        }
    }
    client.ping();
    // Tokens are followed, as the agent does everywhere.
    write("accepted", &next);
    eventually("refusal of what counts no more", || match good.get("/clients/c").status {
        503 => Ok(()),
        status => Err(status.to_string()),
    });
    write("shown", &next);
    await_answer(&good);
    assert_eq!(good.kick("c").status, 200);
    client.await_close();
    let log = broker.log();
    for secret in [right, wrong, next] {
        assert!(!log.contains(&secret), "{log}");
    }
}

pub(super) fn a_door_that_would_stand_open_stops_the_start(_: &mut World) {
    let own = certificates();
    let [cert, key, ca, foreign] =
        ["agent-127.0.0.1.pem", "agent-127.0.0.1.key", "ca.pem", "gateway.key"].map(|name| path(&own, name));
    let short = path(&own, "short");
    std::fs::write(&short, "short").unwrap();
    let option = |name: &str, value: &str| format!("plugin_opt_{name} {value}");
    for (lines, named) in [
        (vec![option("tls_cert", "/nowhere.pem"), option("tls_key", &key)], "/nowhere.pem"),
        (vec![option("tls_cert", &cert), option("tls_key", &foreign)], "gateway.key"),
        (vec![option("tls_cert", &cert)], "tls-key"),
        (
            vec![option("tls_cert", &cert), option("tls_key", &key), option("tls_client_ca", &key)],
            "expected certificates in PEM",
        ),
        (vec![option("tls_client_ca", &ca)], "tls-cert"),
        (vec![option("token_file", &short)], "line 1 has 5 bytes"),
        (vec![option("token_file", "/nowhere.token")], "/nowhere.token"),
    ] {
        let log = Mosquitto::refused(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(log.contains(named) && !log.contains("PRIVATE"), "{lines:?}: {log}");
    }
}
