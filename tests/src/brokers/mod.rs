//! Real brokers to test adapters with, each on ports and in a directory of its own.
//!
//! To add one: a type that implements [`Outside`], and a line in [`Kind::ALL`]. One that shares a process with its agent is
//! a case of its own in the suite's world. What a broker cannot do it says by the
//! trait's methods, and the suite asks less of it.

mod nats;
mod process;
mod rabbitmq;

use std::net::{SocketAddr, TcpListener};

pub use self::nats::Nats;
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
    /// nats-server.
    Nats,
    /// rabbitmq-server.
    Rabbitmq,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Embedded, Self::Mosquitto, Self::Nats, Self::Rabbitmq];

    /// As `--broker` and `GET /nodes` name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats",
            Self::Rabbitmq => "rabbitmq",
        }
    }

    /// Why it cannot be tested here, if so.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let (program, package) = match self {
            Self::Embedded => return None,
            Self::Mosquitto => {
                return (!Mosquitto::is_installed())
                    .then(|| "mosquitto is not installed (Debian: mosquitto)".to_owned());
            }
            Self::Nats => (nats::PROGRAM, "nats-server"),
            Self::Rabbitmq => (rabbitmq::PROGRAM, "rabbitmq-server"),
        };
        let is_there = std::path::Path::new(program).exists();
        (!is_there).then(|| format!("{program} is not installed (Debian: {package})"))
    }

    /// Starts it beside its agent; `None` for those that share a process with it.
    #[must_use]
    pub fn start(self) -> Option<Box<dyn Outside>> {
        match self {
            Self::Embedded | Self::Mosquitto => None,
            Self::Nats => Some(Box::new(Nats::start())),
            Self::Rabbitmq => Some(Box::new(Rabbitmq::start())),
        }
    }
}

/// A broker in a process of its own. Dropped, it ends.
pub trait Outside: Send {
    /// Where MQTT clients connect.
    fn mqtt(&self) -> SocketAddr;

    /// What an agent needs to be told of it, beside `--broker`.
    fn agent_arguments(&self) -> Vec<String>;

    /// The user and password of MQTT clients.
    fn login(&self) -> (String, String);

    /// The zone of those clients.
    fn zone(&self) -> &str;

    /// Passwords that must never be seen outside of the broker and the agent's files.
    fn secrets(&self) -> Vec<String>;

    /// Ends it as a crash would.
    fn kill(&mut self);

    /// Starts it again where it was, with what it has stored, and waits until it takes MQTT clients.
    fn start_again(&mut self);
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
