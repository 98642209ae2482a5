//! rabbitmq-server with MQTT and management, beside nothing else: node name, distribution port, epmd and home are its
//! own, so that neither another broker nor another test meets it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{BrokerProcess, Outside, free_port};
use crate::wait::within;

/// Not the wrapper in the path, which insists on being root or `rabbitmq`.
pub(super) const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// MQTT clients' user and password.
const LOGIN: (&str, &str) = ("device", "rabbit-device-s3cret");

/// The agent's.
const AGENT: (&str, &str) = ("rollcall", "rabbit-agent-s3cret");

/// A running RabbitMQ.
#[derive(Debug)]
pub struct Rabbitmq {
    // Dropped before the directory.
    server: Option<BrokerProcess>,
    _epmd: BrokerProcess,
    ports: Ports,
    /// Where the agent's counting front is to take its clients, if it has one.
    front: Option<u16>,
    directory: TempDir,
}

#[derive(Debug)]
struct Ports {
    mqtt: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

impl Rabbitmq {
    /// Starts it and waits until it takes MQTT clients.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::started(None)
    }

    /// As [`start`](Self::start), of one whose clients come by the counting front of its agent, which is not there yet.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_behind_a_front() -> Self {
        Self::started(Some(free_port()))
    }

    fn started(front: Option<u16>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ports = Ports {
            mqtt: free_port(),
            management: free_port(),
            distribution: free_port(),
            epmd: free_port(),
        };
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
        let epmd = BrokerProcess::spawn("epmd", &mut epmd, directory.path());
        write_configuration(&directory, &ports, front.is_some());
        let mut rabbitmq = Self { server: None, _epmd: epmd, ports, front, directory };
        rabbitmq.start_again();
        rabbitmq
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

fn write_configuration(directory: &TempDir, ports: &Ports, is_proxied: bool) {
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("a file in a directory of one's own");
    };
    for name in ["home", "data", "log"] {
        std::fs::create_dir(directory.path().join(name)).expect("a directory");
    }
    write("plugins", "[rabbitmq_management, rabbitmq_mqtt].\n");
    write("agent-password", AGENT.1);
    let user = |(name, password): (&str, &str), tags: &str| {
        format!(r#"{{"name": "{name}", "password": "{password}", "tags": "{tags}"}}"#)
    };
    let allow = |(name, _): (&str, &str)| {
        format!(r#"{{"user": "{name}", "vhost": "plant", "configure": ".*", "write": ".*", "read": ".*"}}"#)
    };
    let definitions = format!(
        r#"{{"users": [{}, {}], "vhosts": [{{"name": "plant"}}], "permissions": [{}, {}]}}"#,
        user(LOGIN, ""),
        user(AGENT, "administrator"),
        allow(LOGIN),
        allow(AGENT)
    );
    write("definitions.json", &definitions);
    let Ports { mqtt, management, .. } = ports;
    let settings = [
        "listeners.tcp = none".to_owned(),
        format!("mqtt.listeners.tcp.1 = 127.0.0.1:{mqtt}"),
        "mqtt.vhost = plant".to_owned(),
        format!("mqtt.proxy_protocol = {is_proxied}"),
        "mqtt.allow_anonymous = false".to_owned(),
        "management.tcp.ip = 127.0.0.1".to_owned(),
        format!("management.tcp.port = {management}"),
        format!("load_definitions = {}", directory.path().join("definitions.json").display()),
        "collect_statistics_interval = 1000".to_owned(),
    ];
    write("rabbitmq.conf", &settings.join("\n"));
    // New connections show after the smallest interval here, instead of after 5 s.
    write(
        "advanced.config",
        "[{rabbitmq_management_agent, [{sample_retention_policies,
            [{global, [{60, 1}]}, {basic, [{60, 1}]}, {detailed, [{60, 1}]}]}]}].\n",
    );
}

impl Outside for Rabbitmq {
    fn mqtt(&self) -> SocketAddr {
        Self::address(self.front.unwrap_or(self.ports.mqtt))
    }

    fn agent_arguments(&self) -> Vec<String> {
        let config = self.path("agent.toml");
        let mut text = format!(
            "[rabbitmq]\nurl = \"http://127.0.0.1:{}\"\nusername = \"{}\"\npassword_file = \"{}\"\npoll_interval_ms = 250\n",
            self.ports.management,
            AGENT.0,
            self.path("agent-password").display()
        );
        if let Some(front) = self.front {
            let (listen, forward) = (Self::address(front), Self::address(self.ports.mqtt));
            text += &format!("front = {{ listen = \"{listen}\", forward = \"{forward}\" }}\n");
        }
        std::fs::write(&config, text).expect("a file in a directory of one's own");
        vec!["--config".to_owned(), config.display().to_string()]
    }

    fn login(&self) -> (String, String) {
        (LOGIN.0.to_owned(), LOGIN.1.to_owned())
    }

    fn zone(&self) -> &str {
        "plant"
    }

    fn secrets(&self) -> Vec<String> {
        vec![LOGIN.1.to_owned(), AGENT.1.to_owned()]
    }

    fn kill(&mut self) {
        self.server = None;
        // Its name stays registered until epmd has seen that its connection is closed.
        let distribution = self.ports.distribution;
        within(crate::wait::SOON, "free distribution port", || {
            std::net::TcpListener::bind(("0.0.0.0", distribution))
                .map(drop)
                .map_err(|error| error.to_string())
        });
    }

    fn start_again(&mut self) {
        let mut command = Command::new(PROGRAM);
        let set = |command: &mut Command, name: &str, value: PathBuf| {
            command.env(name, value);
        };
        command
            .current_dir(self.directory.path())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("RABBITMQ_NODENAME", format!("rollcall-{}@localhost", self.ports.distribution))
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none");
        for (name, file) in [
            ("HOME", "home"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "pid"),
        ] {
            set(&mut command, name, self.path(file));
        }
        let mut server = BrokerProcess::spawn("rabbitmq-server", &mut command, self.directory.path());
        server.await_listening(&[Self::address(self.ports.mqtt), Self::address(self.ports.management)]);
        self.server = Some(server);
    }
}
