//! nats-server with JetStream and MQTT.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{BrokerProcess, Outside, free_port};

pub(super) const PROGRAM: &str = "/usr/sbin/nats-server";

/// MQTT clients' user and password, in account PLANT; the agent logs in as the same.
const LOGIN: (&str, &str) = ("device", "nats-device-s3cret");

/// A user of the system account.
const SYSTEM: (&str, &str) = ("system", "nats-system-s3cret");

/// A running NATS server.
#[derive(Debug)]
pub struct Nats {
    // Dropped before the directory.
    server: Option<BrokerProcess>,
    mqtt: u16,
    monitoring: u16,
    client: u16,
    directory: TempDir,
}

impl Nats {
    /// Starts it and waits until it takes MQTT clients.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [mqtt, monitoring, client] = [free_port(), free_port(), free_port()];
        let text = format!(
            "server_name: rollcall-test
            listen: 127.0.0.1:{client}
            http: 127.0.0.1:{monitoring}
            jetstream {{ store_dir: \"{}\" }}
            mqtt {{ listen: 127.0.0.1:{mqtt} }}
            accounts {{
              SYS {{ users: [{{user: {}, password: {}}}] }}
              PLANT {{ jetstream: enabled, users: [{{user: {}, password: {}}}] }}
            }}
            system_account: SYS\n",
            directory.path().join("data").display(),
            SYSTEM.0,
            SYSTEM.1,
            LOGIN.0,
            LOGIN.1,
        );
        std::fs::write(directory.path().join("nats.conf"), text).expect("a file in a directory of one's own");
        let mut nats = Self { server: None, mqtt, monitoring, client, directory };
        nats.start_again();
        nats
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Outside for Nats {
    fn mqtt(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.mqtt))
    }

    fn agent_arguments(&self) -> Vec<String> {
        for (name, (_, password)) in [("device-password", LOGIN), ("system-password", SYSTEM)] {
            std::fs::write(self.path(name), password).expect("a file in a directory of one's own");
        }
        let text = format!(
            "[nats]
            url = \"http://127.0.0.1:{}\"
            server_name = \"rollcall-test\"
            client_address = \"127.0.0.1:{}\"
            poll_interval_ms = 1000
            [nats.system]
            username = \"{}\"
            password_file = \"{}\"
            [[nats.accounts]]
            name = \"PLANT\"
            username = \"{}\"
            password_file = \"{}\"\n",
            self.monitoring,
            self.client,
            SYSTEM.0,
            self.path("system-password").display(),
            LOGIN.0,
            self.path("device-password").display(),
        );
        let config = self.path("agent.toml");
        std::fs::write(&config, text).expect("a file in a directory of one's own");
        vec!["--config".to_owned(), config.display().to_string()]
    }

    fn login(&self) -> (String, String) {
        (LOGIN.0.to_owned(), LOGIN.1.to_owned())
    }

    fn zone(&self) -> &str {
        "PLANT"
    }

    fn secrets(&self) -> Vec<String> {
        vec![LOGIN.1.to_owned(), SYSTEM.1.to_owned()]
    }

    fn kill(&mut self) {
        self.server = None;
    }

    fn start_again(&mut self) {
        let mut command = Command::new(PROGRAM);
        command.arg("-c").arg(self.path("nats.conf")).current_dir(self.directory.path());
        let mut server = BrokerProcess::spawn("nats-server", &mut command, self.directory.path());
        let ports = [self.mqtt, self.monitoring, self.client];
        server.await_listening(&ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
        self.server = Some(server);
    }
}
