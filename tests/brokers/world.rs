//! One broker, its agent and a gateway over it.

use std::net::SocketAddr;

use rollcall_tests::brokers::{Kind, Outside};
use rollcall_tests::http::encode;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Gateway};
use rollcall_tests::wait::eventually;
use serde_json::Value;

/// Everything a step needs.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) gateway: Gateway,
    pub(crate) agent: Agent,
    broker: Option<Box<dyn Outside>>,
}

impl World {
    pub(crate) fn start(kind: Kind) -> Self {
        let broker = kind.start();
        let name = format!("{}@127.0.0.1", kind.name());
        let agent = match &broker {
            None => Agent::embedded(&name),
            Some(broker) => {
                let mut arguments = vec!["--broker".to_owned(), kind.name().to_owned()];
                arguments.extend(broker.agent_arguments());
                Agent::start(&name, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
            }
        };
        let gateway = Gateway::start(&[agent.process.address], &[]);
        let world = Self { kind, gateway, agent, broker };
        world.await_agreement();
        world
    }

    /// Where MQTT clients connect.
    pub(crate) fn mqtt(&self) -> SocketAddr {
        self.broker.as_ref().map_or_else(|| self.agent.mqtt(), |broker| broker.mqtt())
    }

    /// What CONNECT says, with the broker's login.
    pub(crate) fn login(&self, connect: Connect) -> Connect {
        match &self.broker {
            None => connect,
            Some(broker) => {
                let (username, password) = broker.login();
                Connect { username: Some(username), password: Some(password), ..connect }
            }
        }
    }

    pub(crate) fn zone(&self) -> &str {
        self.broker.as_ref().map_or("external", |broker| broker.zone())
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        self.broker.as_ref().map(|broker| broker.secrets()).unwrap_or_default()
    }

    /// A client with a clean session.
    pub(crate) fn clean(&self, clientid: &str) -> Client {
        Client::connect(self.mqtt(), &self.login(Connect::new(4, clientid)))
    }

    /// One that takes up, and leaves behind, a session.
    pub(crate) fn persistent(&self, clientid: &str) -> Client {
        Client::connect(self.mqtt(), &self.login(Connect::new(4, clientid).keep_session()))
    }

    /// This node as the gateway tells it.
    pub(crate) fn node(&self) -> Value {
        let response = self.gateway.get(&format!("/nodes/{}", encode(&self.agent.name)));
        assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
        response.json()["data"].clone()
    }

    pub(crate) fn capabilities(&self) -> Vec<String> {
        let node = self.node();
        let names = node["capabilities"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn can(&self, ability: &str) -> bool {
        self.capabilities().iter().any(|name| name == ability)
    }

    /// Waits until the agent says that it agrees with its broker.
    pub(crate) fn await_agreement(&self) {
        eventually("agreement of agent and broker", || {
            let node = self.gateway.get(&format!("/nodes/{}", encode(&self.agent.name))).json();
            let node = &node["data"];
            let agrees = node["state"] == "connected"
                && node["broker_error"].is_null()
                && !node["resynced_at"].is_null();
            if agrees { Ok(()) } else { Err(node.to_string()) }
        });
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

    /// Ends the broker as a crash would; false if its agent ends with it, and all that it knew.
    pub(crate) fn kill_broker(&mut self) -> bool {
        match &mut self.broker {
            None => {
                self.agent.process.kill();
                false
            }
            Some(broker) => {
                broker.kill();
                true
            }
        }
    }

    pub(crate) fn start_broker_again(&mut self) {
        match &mut self.broker {
            None => self.agent.restart(),
            Some(broker) => broker.start_again(),
        }
    }

    pub(crate) fn show_logs(&self) {
        eprintln!("--- log of the agent\n{}\n---", self.agent.process.log());
    }
}
