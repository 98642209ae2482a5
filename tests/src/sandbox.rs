//! Agents, a gateway, and a cluster of them on loopback.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::http::{self, Response};
use crate::process::Process;
use crate::wait::eventually;

/// The key that reads and kicks.
pub const OPERATOR: (&str, &str) = ("app_id", "app_secret");

/// The key that only reads.
pub const VIEWER: (&str, &str) = ("viewer_id", "viewer_secret");

/// What stands before `/clients`.
pub const BASE: &str = "/api/v4";

/// A node-agent, with whatever broker its arguments name.
#[derive(Debug)]
pub struct Agent {
    /// The node's name.
    pub name: String,
    /// The program.
    pub process: Process,
    arguments: Vec<String>,
}

impl Agent {
    /// An agent with these arguments beside its name and its gRPC address.
    #[must_use]
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::start_at(name, "127.0.0.1:0", arguments)
    }

    /// As [`start`](Self::start), at this gRPC address.
    #[must_use]
    pub fn start_at(name: &str, listen: &str, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self { name: name.to_owned(), process: start_agent(name, listen, &arguments), arguments }
    }

    /// An agent that serves a table of rows.
    ///
    /// # Panics
    /// If the path is not UTF-8.
    #[must_use]
    pub fn file(name: &str, table: &Path) -> Self {
        Self::start(name, &["--broker", "file", "--file", table.to_str().expect("a path in UTF-8")])
    }

    /// An agent with a broker inside that takes MQTT clients on a free port.
    #[must_use]
    pub fn embedded(name: &str) -> Self {
        Self::start(name, &["--mqtt-listen", "127.0.0.1:0"])
    }

    /// Where MQTT clients connect.
    ///
    /// # Panics
    /// If the agent has no broker for them.
    #[must_use]
    pub fn mqtt(&self) -> SocketAddr {
        self.process.mqtt.expect("this agent has an MQTT listener")
    }

    /// Starts it again on the same addresses, after it was killed or has ended.
    pub fn restart(&mut self) {
        self.process.kill();
        let mqtt = self.process.mqtt.map(|address| address.to_string());
        let mut arguments = self.arguments.clone();
        if let (Some(at), Some(mqtt)) = (arguments.iter().position(|text| text == "--mqtt-listen"), mqtt) {
            arguments[at + 1] = mqtt;
        }
        self.process = start_agent(&self.name, &self.process.address.to_string(), &arguments);
    }
}

fn start_agent(name: &str, listen: &str, arguments: &[String]) -> Process {
    let mut all = vec!["--node-name".to_owned(), name.to_owned(), "--listen".to_owned(), listen.to_owned()];
    all.extend_from_slice(arguments);
    Process::start("rollcall-agent", &format!("agent {name}"), &all)
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The program.
    pub process: Process,
    /// All but where it listens.
    arguments: Vec<String>,
}

impl Gateway {
    /// A gateway over the agents at these addresses, with both keys and further arguments.
    #[must_use]
    pub fn start(nodes: &[SocketAddr], arguments: &[&str]) -> Self {
        let mut all = Vec::new();
        for node in nodes {
            all.extend(["--node".to_owned(), node.to_string()]);
        }
        for ((id, secret), role) in [(OPERATOR, "operator"), (VIEWER, "viewer")] {
            all.extend(["--key".to_owned(), format!("{id}:{secret}:{role}")]);
        }
        all.extend(arguments.iter().map(ToString::to_string));
        Self { process: start_gateway("127.0.0.1:0", &all), arguments: all }
    }

    /// Starts it again on the same address, after it was killed or has ended.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = start_gateway(&self.address().to_string(), &self.arguments);
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// A request by the operator; the target is what follows the base path, byte for byte.
    #[must_use]
    pub fn request(&self, method: &str, target: &str) -> Response {
        self.request_as(OPERATOR, method, target)
    }

    /// A request under another key.
    #[must_use]
    pub fn request_as(&self, (id, secret): (&str, &str), method: &str, target: &str) -> Response {
        let authorization = http::basic(id, secret);
        let headers = [("authorization", authorization.as_str())];
        http::request(self.address(), method, &format!("{BASE}{target}"), &headers)
    }

    /// A request of the operator with a JSON body.
    ///
    /// # Panics
    /// If no whole response comes back.
    #[must_use]
    pub fn post(&self, target: &str, body: &Value) -> Response {
        self.post_as(OPERATOR, target, body)
    }

    /// A request with a JSON body under another key.
    ///
    /// # Panics
    /// As [`Self::post`].
    #[must_use]
    pub fn post_as(&self, key: (&str, &str), target: &str, body: &Value) -> Response {
        http::send(self.address(), &self.post_bytes(key, target, body)).expect("a whole response")
    }

    /// What [`Self::post_as`] sends.
    #[must_use]
    pub fn post_bytes(&self, (id, secret): (&str, &str), target: &str, body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let (authorization, length) = (http::basic(id, secret), body.len().to_string());
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
            ("content-length", length.as_str()),
        ];
        let head = http::head(self.address(), "POST", &format!("{BASE}{target}"), &headers);
        (head + &body).into_bytes()
    }

    /// GET.
    #[must_use]
    pub fn get(&self, target: &str) -> Response {
        self.request("GET", target)
    }

    /// The rows under a client id, on all nodes.
    #[must_use]
    pub fn find(&self, clientid: &str) -> Vec<Value> {
        self.get(&format!("/clients/{}", http::encode(clientid))).rows()
    }

    /// Kicks a client wherever it is.
    #[must_use]
    pub fn kick(&self, clientid: &str) -> Response {
        self.request("DELETE", &format!("/clients/{}", http::encode(clientid)))
    }

    /// The client's only row, as soon as there is one and it fulfils the condition.
    ///
    /// # Panics
    /// If that does not happen soon.
    pub fn row_when(&self, clientid: &str, condition: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("such row of {clientid:?}"), || {
            let mut rows = self.find(clientid);
            match rows.pop() {
                Some(row) if rows.is_empty() && condition(&row) => Ok(row),
                last => Err(format!("{rows:?} {last:?}")),
            }
        })
    }

    /// The client's only row, as soon as it is connected.
    pub fn row(&self, clientid: &str) -> Value {
        self.row_when(clientid, |row| row["connected"] == true)
    }
}

fn start_gateway(listen: &str, arguments: &[String]) -> Process {
    let mut all = vec!["--listen".to_owned(), listen.to_owned()];
    all.extend_from_slice(arguments);
    Process::start("rollcall-gateway", "gateway", &all)
}

/// Agents and a gateway over them.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of the gateway's configuration.
    pub agents: Vec<Agent>,
    /// Over all of them.
    pub gateway: Gateway,
}

impl Cluster {
    /// A gateway over these agents; all have answered it once.
    #[must_use]
    pub fn of(agents: Vec<Agent>) -> Self {
        Self::with(agents, &[])
    }

    /// As [`of`](Self::of), with further arguments of the gateway.
    #[must_use]
    pub fn with(agents: Vec<Agent>, arguments: &[&str]) -> Self {
        let addresses: Vec<SocketAddr> = agents.iter().map(|agent| agent.process.address).collect();
        let cluster = Self { gateway: Gateway::start(&addresses, arguments), agents };
        cluster.await_all_answering();
        cluster
    }

    /// Three nodes with an embedded broker each, named a, b and c.
    #[must_use]
    pub fn embedded() -> Self {
        Self::of(["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(Agent::embedded).into())
    }

    /// Waits until every node answers the gateway.
    ///
    /// # Panics
    /// If that does not happen soon.
    pub fn await_all_answering(&self) {
        eventually("answer of every node", || {
            let response = self.gateway.get("/clients?_limit=0");
            let nodes = &response.json()["meta"]["nodes"];
            if response.status == 200 && nodes["answered"] == self.agents.len() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&response.body).into_owned())
            }
        });
    }

    /// The names in `meta.nodes.failed` of a list, sorted.
    ///
    /// # Panics
    /// If the list is no 200.
    #[must_use]
    pub fn failed_nodes(&self) -> Vec<String> {
        let response = self.gateway.get("/clients?_limit=0");
        let body = response.json();
        assert_eq!(response.status, 200, "{body}");
        let failed = body["meta"]["nodes"]["failed"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            failed.iter().map(|node| node["node"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    }
}
