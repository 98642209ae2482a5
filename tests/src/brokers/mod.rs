//! Real brokers to test adapters with, each on ports and in a directory of its own.
//!
//! To add one: a type that implements [`Outside`], and a line in [`Kind::ALL`]. One that shares a process with its agent is
//! a case of its own in the suite's world. What a broker cannot do it says by the
//! trait's methods, and the suite asks less of it.

mod amqp;
mod nats;
mod process;
mod rabbitmq;

use std::any::Any;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

pub use self::nats::{Given, Nats};
pub use self::process::BrokerProcess;
pub use self::rabbitmq::Rabbitmq;
use crate::mosquitto::Mosquitto;

/// The brokers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one in the agent's process.
    Embedded,
    /// mosquitto, with the agent in its process.
    Mosquitto,
    /// nats-server as Debian has it, 2.9.
    Nats,
    /// nats-server from 2.10 on, which can be asked to close connections.
    NatsNewer,
    /// rabbitmq-server.
    Rabbitmq,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Embedded, Self::Mosquitto, Self::Nats, Self::NatsNewer, Self::Rabbitmq];

    /// As `--broker` and `GET /nodes` name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Mosquitto => "mosquitto",
            Self::Nats | Self::NatsNewer => "nats",
            Self::Rabbitmq => "rabbitmq",
        }
    }

    /// What its tests are called by.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NatsNewer => "nats-newer",
            kind => kind.name(),
        }
    }

    /// Why it cannot be tested here, if so.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Embedded => None,
            Self::Mosquitto => (!Mosquitto::is_installed())
                .then(|| "mosquitto is not installed (Debian: mosquitto)".to_owned()),
            Self::Nats => nats::missing(false),
            Self::NatsNewer => nats::missing(true),
            Self::Rabbitmq => {
                let is_there = Path::new(rabbitmq::PROGRAM).exists();
                (!is_there)
                    .then(|| format!("{} is not installed (Debian: rabbitmq-server)", rabbitmq::PROGRAM))
            }
        }
    }

    /// Starts it beside its agent; `None` for those that share a process with it.
    #[must_use]
    pub fn start(self) -> Option<Box<dyn Outside>> {
        match self {
            Self::Embedded | Self::Mosquitto => None,
            Self::Nats => Some(Box::new(Nats::start())),
            Self::NatsNewer => Some(Box::new(Nats::start_newer())),
            Self::Rabbitmq => Some(Box::new(Rabbitmq::start())),
        }
    }
}

/// A broker in a process of its own. Dropped, it ends.
pub trait Outside: Any + Send + Sync {
    /// Where MQTT clients connect.
    fn mqtt(&self) -> SocketAddr;

    /// What an agent needs to be told of it, beside `--broker`.
    fn agent_arguments(&self) -> Vec<String>;

    /// The user and password of MQTT clients.
    fn login(&self) -> (String, String);

    /// The zone of those clients.
    fn zone(&self) -> &str;

    /// Another zone, and the user and password of its clients.
    fn other_zone(&self) -> (&str, (String, String));

    /// Connects as the same user by the broker's own protocol, which is not MQTT.
    fn connect_otherwise(&self) -> TcpStream;

    /// Whether the broker itself shows a connection from this port.
    fn shows_port(&self, port: u16) -> bool;

    /// Passwords that must never be seen outside of the broker and the agent's files.
    fn secrets(&self) -> Vec<String>;

    /// Ends it as a crash would.
    fn kill(&mut self);

    /// Starts it again where it was, with what it has stored, and waits until it takes MQTT clients.
    fn start_again(&mut self);
}

/// Writes a configuration of an agent, and gives the arguments that name it.
fn agent_arguments(folder: &Path, name: &str, text: &str) -> Vec<String> {
    let config = folder.join(format!("{name}.toml"));
    std::fs::write(&config, text).expect("a file in a directory of one's own");
    vec!["--config".to_owned(), config.display().to_string()]
}

/// A port on loopback that nobody listens on at present.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
