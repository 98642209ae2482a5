//! One broker, its agent and a gateway over it.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rollcall_tests::brokers::{Kind, Outside};
use rollcall_tests::http::encode;
use rollcall_tests::mosquitto::Mosquitto;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Gateway};
use rollcall_tests::wait::eventually;
use rollcall_tests::written::Written;
use serde_json::Value;
use tempfile::TempDir;

/// Levels, as CONNECT has them.
const MQTT_3_1_1: u8 = 4;
pub(crate) const MQTT_5: u8 = 5;

/// The versions of MQTT that a broker speaks, as levels.
pub(crate) fn levels(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Embedded | Kind::Mosquitto => &[3, 4, 5],
        Kind::Rabbitmq => &[3, 4],
        Kind::Nats | Kind::NatsNewer => &[4],
    }
}

/// Everything a step needs.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) gateway: Gateway,
    /// The node's name.
    pub(crate) node: String,
    /// The version of MQTT that clients speak, as its level.
    pub(crate) level: u8,
    /// Whether clients pass the counting front.
    pub(crate) is_counted: bool,
    processes: Processes,
    /// Of files that the agent reads again when it is started again.
    _folder: Option<TempDir>,
}

/// Who runs where.
enum Processes {
    /// Both in the agent's.
    Agent(Agent),
    /// Both in the broker's.
    Plugin(Mosquitto),
    /// Each in its own.
    Beside(Agent, Box<dyn Outside>),
}

impl Processes {
    fn agent_address(&self) -> SocketAddr {
        match self {
            Self::Agent(agent) | Self::Beside(agent, _) => agent.process.address,
            Self::Plugin(broker) => broker.agent.unwrap(),
        }
    }
}

impl World {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::of(kind, kind.start())
    }

    /// The embedded broker, behind the agent's counting front.
    pub(crate) fn start_counted() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("agent.toml");
        std::fs::write(&config, "[embedded]\ncounting_front = true\n").unwrap();
        let arguments = ["--config", config.to_str().unwrap(), "--mqtt-listen", "127.0.0.1:0"];
        let agent = Agent::start("counted@127.0.0.1", &arguments);
        let world = Self::over(Kind::Embedded, "counted@127.0.0.1".to_owned(), Processes::Agent(agent));
        assert!(world.can("statistics:send_pkt"), "behind the front that is known");
        Self { is_counted: true, _folder: Some(folder), ..world }
    }

    /// Around a broker that has been started, if it has a process of its own.
    pub(crate) fn of(kind: Kind, broker: Option<Box<dyn Outside>>) -> Self {
        let node = format!("{}@127.0.0.1", kind.label());
        let processes = match (kind, broker) {
            (Kind::Mosquitto, _) => Processes::Plugin(Mosquitto::start(Some(&node), &[])),
            (_, None) => Processes::Agent(Agent::embedded(&node)),
            (_, Some(broker)) => {
                let mut arguments = vec!["--broker".to_owned(), kind.name().to_owned()];
                arguments.extend(broker.agent_arguments());
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                Processes::Beside(Agent::start(&node, &arguments), broker)
            }
        };
        Self::over(kind, node, processes)
    }

    fn over(kind: Kind, node: String, processes: Processes) -> Self {
        let gateway = Gateway::start(&[processes.agent_address()], &[]);
        let world =
            Self { kind, gateway, node, level: MQTT_3_1_1, is_counted: false, processes, _folder: None };
        world.await_agreement();
        world
    }

    /// Where gateways find the agent.
    pub(crate) fn agent_address(&self) -> SocketAddr {
        self.processes.agent_address()
    }

    /// Where MQTT clients connect.
    pub(crate) fn mqtt(&self) -> SocketAddr {
        match &self.processes {
            Processes::Agent(agent) => agent.mqtt(),
            Processes::Plugin(broker) => broker.mqtt,
            Processes::Beside(_, broker) => broker.mqtt(),
        }
    }

    /// The broker, if it outlives its agent.
    pub(crate) fn outside(&self) -> Option<&dyn Outside> {
        match &self.processes {
            Processes::Beside(_, broker) => Some(broker.as_ref()),
            Processes::Agent(_) | Processes::Plugin(_) => None,
        }
    }

    /// What CONNECT says, with the broker's login.
    pub(crate) fn login(&self, connect: Connect) -> Connect {
        match self.outside() {
            None => connect,
            Some(broker) => {
                let (username, password) = broker.login();
                Connect { username: Some(username), password: Some(password), ..connect }
            }
        }
    }

    /// The zone of all clients; `None` if the broker tells none.
    pub(crate) fn zone(&self) -> Option<&str> {
        match &self.processes {
            Processes::Agent(_) => Some("external"),
            Processes::Plugin(_) => None,
            Processes::Beside(_, broker) => Some(broker.zone()),
        }
    }

    /// Whether a row shows the port that the client has at its end, or none if the broker tells none.
    pub(crate) fn is_from(&self, row: &Value, client: &Client) -> bool {
        match self.kind {
            Kind::Mosquitto => row["port"].is_null(),
            _ => row["port"] == client.local_address().port(),
        }
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        self.outside().map(Outside::secrets).unwrap_or_default()
    }

    /// Goes through a step with clients of MQTT 5.
    pub(crate) fn by_mqtt_5(&mut self, step: fn(&mut Self)) {
        self.level = MQTT_5;
        let outcome = catch_unwind(AssertUnwindSafe(|| step(self)));
        self.level = MQTT_3_1_1;
        outcome.unwrap_or_else(|failure| resume_unwind(failure));
    }

    /// A client with a clean session.
    pub(crate) fn clean(&self, clientid: &str) -> Client {
        Client::connect(self.mqtt(), &self.login(Connect::new(self.level, clientid)))
    }

    /// One that takes up, and leaves behind, a session.
    pub(crate) fn persistent(&self, clientid: &str) -> Client {
        Client::connect(self.mqtt(), &self.login(Connect::new(self.level, clientid).keep_session()))
    }

    /// A client in the other zone of a broker that has zones.
    pub(crate) fn client_elsewhere(&self, connect: Connect) -> Client {
        let (_, (username, password)) = self.outside().unwrap().other_zone();
        let connect = Connect { username: Some(username), password: Some(password), ..connect };
        Client::connect(self.mqtt(), &connect)
    }

    /// This node as the gateway tells it.
    pub(crate) fn told_node(&self) -> Value {
        told_node(&self.gateway, &self.node)
    }

    pub(crate) fn capabilities(&self) -> Vec<String> {
        let node = self.told_node();
        let names = node["capabilities"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn can(&self, ability: &str) -> bool {
        self.capabilities().iter().any(|name| name == ability)
    }

    /// Ends what a step leaves behind, if the agent has noticed it already.
    pub(crate) fn forget(&self, clientid: &str) {
        let _ = self.gateway.kick(clientid);
    }

    /// Waits until the agent says that it agrees with its broker.
    pub(crate) fn await_agreement(&self) {
        await_agreement(&self.gateway, &self.node);
    }

    /// Client ids of all rows whose id begins so.
    pub(crate) fn rows_like(&self, prefix: &str) -> Vec<String> {
        let rows = self.gateway.get(&format!("/clients?_like_clientid={}", encode(prefix))).rows();
        rows.iter().map(|row| row["clientid"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn await_gone(&self, clientid: &str) {
        eventually(&format!("end of {clientid:?}"), || match self.gateway.find(clientid) {
            rows if rows.is_empty() => Ok(()),
            rows => Err(format!("{rows:?}")),
        });
    }

    /// Kills the agent and starts it again, and the broker if they share a process.
    pub(crate) fn restart_agent(&mut self) {
        match &mut self.processes {
            Processes::Agent(agent) | Processes::Beside(agent, _) => agent.restart(),
            Processes::Plugin(broker) => broker.restart(),
        }
    }

    /// Ends the broker as a crash would; false if its agent ends with it, and all that it knew.
    pub(crate) fn kill_broker(&mut self) -> bool {
        match &mut self.processes {
            Processes::Agent(agent) => agent.process.kill(),
            Processes::Plugin(broker) => broker.kill(),
            Processes::Beside(_, broker) => {
                broker.kill();
                return true;
            }
        }
        false
    }

    pub(crate) fn start_broker_again(&mut self) {
        match &mut self.processes {
            Processes::Agent(agent) => agent.restart(),
            Processes::Plugin(broker) => broker.restart(),
            Processes::Beside(_, broker) => broker.start_again(),
        }
    }

    /// What the agent has logged.
    pub(crate) fn agent_log(&self) -> String {
        match &self.processes {
            Processes::Agent(agent) | Processes::Beside(agent, _) => agent.process.log(),
            Processes::Plugin(broker) => broker.log(),
        }
    }

    pub(crate) fn show_logs(&self) {
        eprintln!("--- log of the agent\n{}\n---", self.agent_log());
    }
}

/// Another agent at a broker that has one, and a gateway over it alone.
pub(crate) struct Side {
    pub(crate) agent: Agent,
    pub(crate) gateway: Gateway,
}

impl Side {
    /// Waits until the agent agrees with the broker.
    pub(crate) fn start(kind: Kind, name: &str, arguments: &[String]) -> Self {
        let side = Self::start_without_agreement(kind, name, arguments);
        await_agreement(&side.gateway, &side.agent.name);
        side
    }

    /// Of one that may never agree.
    pub(crate) fn start_without_agreement(kind: Kind, name: &str, arguments: &[String]) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let name = format!("{name}@127.0.0.1");
        Self::of(Agent::start(&name, &[&["--broker", kind.name()], &arguments[..]].concat()))
    }

    /// A gateway over an agent alone, when it has told its name.
    pub(crate) fn of(agent: Agent) -> Self {
        let gateway = Gateway::start(&[agent.process.address], &[]);
        let side = Self { agent, gateway };
        eventually("word of the agent's name", || {
            let nodes = side.gateway.get("/nodes").json();
            if nodes["data"][0]["node"] == side.agent.name { Ok(()) } else { Err(nodes.to_string()) }
        });
        side
    }

    pub(crate) fn told_node(&self) -> Value {
        told_node(&self.gateway, &self.agent.name)
    }

    pub(crate) fn can(&self, ability: &str) -> bool {
        self.told_node()["capabilities"].as_array().unwrap().iter().any(|name| name == ability)
    }

    /// Adds all that agent and gateway say.
    pub(crate) fn write(&self, written: &mut Written) {
        let name = &self.agent.name;
        let answer = |target: &str| String::from_utf8_lossy(&self.gateway.get(target).body).into_owned();
        written.add(&format!("{name}: the agent's log"), self.agent.process.log());
        written.add(&format!("{name}: the gateway's log"), self.gateway.process.log());
        written.add(&format!("{name}: a list"), answer("/clients"));
        written.add(&format!("{name}: the nodes"), answer("/nodes"));
    }
}

/// A node as the gateway tells it.
fn told_node(gateway: &Gateway, node: &str) -> Value {
    let response = gateway.get(&format!("/nodes/{}", encode(node)));
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    response.json()["data"].clone()
}

fn await_agreement(gateway: &Gateway, node: &str) {
    eventually("agreement of agent and broker", || {
        let node = gateway.get(&format!("/nodes/{}", encode(node))).json();
        let node = &node["data"];
        let agrees =
            node["state"] == "connected" && node["broker_error"].is_null() && !node["resynced_at"].is_null();
        if agrees { Ok(()) } else { Err(node.to_string()) }
    });
}
