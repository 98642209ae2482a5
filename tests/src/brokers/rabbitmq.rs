//! rabbitmq-server with MQTT and management, beside nothing else: node name, distribution port, epmd and home are its
//! own, so that neither another broker nor another test meets it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{BrokerProcess, Outside, agent_arguments, amqp, free_port};
use crate::certs::Certs;
use crate::http;
use crate::wait::within;

/// Not the wrapper in the path, which insists on being root or `rabbitmq`.
pub(super) const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// MQTT clients' user and password.
const LOGIN: (&str, &str) = ("device", "rabbit-device-s3cret");

/// The agent's.
const AGENT: (&str, &str) = ("rollcall", "rabbit-agent-s3cret");

/// Somebody who may look at everything and touch nothing.
const WATCHER: (&str, &str) = ("watcher", "rabbit-watcher-s3cret");

/// The virtual hosts. MQTT clients are in the first unless their user name begins with another's.
const VHOSTS: [&str; 2] = ["plant", "yard"];

/// Rows of the pages that agents ask for: few, so that most lists have several.
const PAGE_SIZE: usize = 100;

/// A running RabbitMQ.
#[derive(Debug)]
pub struct Rabbitmq {
    // Dropped before the directory.
    server: Option<BrokerProcess>,
    _epmd: BrokerProcess,
    ports: Ports,
    /// Where the agent's counting front is to take its clients, if it has one.
    front: Option<u16>,
    /// Of the management API.
    certs: Certs,
    directory: TempDir,
}

#[derive(Debug)]
struct Ports {
    mqtt: u16,
    amqp: u16,
    management: u16,
    management_tls: u16,
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
            amqp: free_port(),
            management: free_port(),
            management_tls: free_port(),
            distribution: free_port(),
            epmd: free_port(),
        };
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
        let epmd = BrokerProcess::spawn("epmd", &mut epmd, directory.path());
        let certs = Certs::new();
        write_configuration(&directory, &ports, &certs, front.is_some());
        let mut rabbitmq = Self { server: None, _epmd: epmd, ports, front, certs, directory };
        rabbitmq.start_again();
        rabbitmq
    }

    /// What an agent needs to be told that asks over TLS, whose authority is in this file; by default the right one.
    #[must_use]
    pub fn agent_over_tls(&self, ca: Option<&Path>) -> Vec<String> {
        let ca = ca.map_or_else(|| self.certs.path("ca.pem"), Path::to_owned);
        let url = format!("https://{}", Self::address(self.ports.management_tls));
        let text = self.agent_text(&url, AGENT.0, "agent-password");
        agent_arguments(self.directory.path(), "over-tls", &format!("{text}tls_ca = \"{}\"\n", ca.display()))
    }

    /// What an agent needs to be told that logs in so.
    ///
    /// # Panics
    /// If the password cannot be written into a file.
    #[must_use]
    pub fn agent_as(&self, username: &str, password: &str) -> Vec<String> {
        let file = format!("{username}-password-given");
        std::fs::write(self.path(&file), password).expect("a file in a directory of one's own");
        let url = format!("http://{}", Self::address(self.ports.management));
        let text = self.agent_text(&url, username, &file);
        agent_arguments(self.directory.path(), &format!("as-{username}"), &text)
    }

    /// The user and password of somebody who may look at everything and touch nothing.
    #[must_use]
    pub fn watcher() -> (&'static str, &'static str) {
        WATCHER
    }

    fn agent_text(&self, url: &str, username: &str, password_file: &str) -> String {
        format!(
            "[rabbitmq]\nurl = \"{url}\"\nusername = \"{username}\"\npassword_file = \"{}\"\n\
             poll_interval_ms = 250\npage_size = {PAGE_SIZE}\n",
            self.path(password_file).display()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

fn write_configuration(directory: &TempDir, ports: &Ports, certs: &Certs, is_proxied: bool) {
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
    let permission = |name: &str, vhost: &str, configure: &str, rest: &str| {
        format!(
            r#"{{"user": "{name}", "vhost": "{vhost}", "configure": "{configure}", "write": "{rest}", "read": "{rest}"}}"#
        )
    };
    let users = [user(LOGIN, ""), user(AGENT, "administrator"), user(WATCHER, "monitoring")].join(", ");
    let vhosts = VHOSTS.map(|name| format!(r#"{{"name": "{name}"}}"#)).join(", ");
    // The agent has what docs/brokers.md says that it needs.
    let permissions = VHOSTS.map(|vhost| {
        [
            permission(LOGIN.0, vhost, ".*", ".*"),
            permission(AGENT.0, vhost, "mqtt-subscription-.*", ""),
            permission(WATCHER.0, vhost, "", ""),
        ]
        .join(", ")
    });
    let definitions = format!(
        r#"{{"users": [{users}], "vhosts": [{vhosts}], "permissions": [{}]}}"#,
        permissions.join(", ")
    );
    write("definitions.json", &definitions);
    let Ports { mqtt, amqp, management, management_tls, .. } = ports;
    let settings = [
        format!("listeners.tcp.1 = 127.0.0.1:{amqp}"),
        format!("mqtt.listeners.tcp.1 = 127.0.0.1:{mqtt}"),
        format!("mqtt.vhost = {}", VHOSTS[0]),
        format!("mqtt.proxy_protocol = {is_proxied}"),
        "mqtt.allow_anonymous = false".to_owned(),
        "management.tcp.ip = 127.0.0.1".to_owned(),
        format!("management.tcp.port = {management}"),
        "management.ssl.ip = 127.0.0.1".to_owned(),
        format!("management.ssl.port = {management_tls}"),
        format!("management.ssl.cacertfile = {}", certs.text("ca.pem")),
        format!("management.ssl.certfile = {}", certs.text("agent-127.0.0.1.pem")),
        format!("management.ssl.keyfile = {}", certs.text("agent-127.0.0.1.key")),
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
        let url = format!("http://{}", Self::address(self.ports.management));
        let mut text = self.agent_text(&url, AGENT.0, "agent-password");
        if let Some(front) = self.front {
            let (listen, forward) = (Self::address(front), Self::address(self.ports.mqtt));
            text += &format!("front = {{ listen = \"{listen}\", forward = \"{forward}\" }}\n");
        }
        agent_arguments(self.directory.path(), "agent", &text)
    }

    fn login(&self) -> (String, String) {
        (LOGIN.0.to_owned(), LOGIN.1.to_owned())
    }

    fn zone(&self) -> &str {
        VHOSTS[0]
    }

    fn other_zone(&self) -> (&str, (String, String)) {
        let vhost = VHOSTS[1];
        (vhost, (format!("{vhost}:{}", LOGIN.0), LOGIN.1.to_owned()))
    }

    fn connect_otherwise(&self) -> TcpStream {
        amqp::connect(Self::address(self.ports.amqp), VHOSTS[0], LOGIN)
    }

    fn shows_port(&self, port: u16) -> bool {
        let authorization = http::basic(AGENT.0, AGENT.1);
        let headers = [("authorization", authorization.as_str())];
        let address = Self::address(self.ports.management);
        let connections =
            http::request(address, "GET", "/api/connections?columns=peer_port", &headers).json();
        connections.as_array().into_iter().flatten().any(|row| row["peer_port"] == port)
    }

    fn secrets(&self) -> Vec<String> {
        [LOGIN, AGENT, WATCHER].map(|(_, password)| password.to_owned()).into()
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
        let Ports { mqtt, amqp, management, management_tls, .. } = self.ports;
        server.await_listening(&[mqtt, amqp, management, management_tls].map(Self::address));
        self.server = Some(server);
    }
}
