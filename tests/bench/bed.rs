//! Agents and a gateway of our own, on which to measure.

use std::net::SocketAddr;
use std::time::Duration;

use rollcall_tests::sandbox::{Agent, Gateway};
use rollcall_tests::wait::within;

use crate::subject::Subject;

/// How long agents may take until all of their clients are there. Millions take minutes on a busy machine.
const FILLED: Duration = Duration::from_secs(600);

/// The nodes of a cluster of three.
pub(crate) const NODES: [&str; 3] = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"];

/// Three agents of made-up clients, and a gateway.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) subject: Subject,
    _gateway: Gateway,
    _agents: Vec<Agent>,
}

impl Bed {
    pub(crate) fn start(clients: usize) -> Self {
        let agents: Vec<Agent> = NODES.iter().map(|name| synthetic(name, clients, 0)).collect();
        let addresses: Vec<SocketAddr> = agents.iter().map(|agent| agent.process.address).collect();
        let pids = agents.iter().map(|agent| agent.process.pid()).collect();
        let (gateway, subject) = gateway(&addresses, 3 * clients as u64, pids);
        Self { subject, _gateway: gateway, _agents: agents }
    }
}

/// An agent of made-up clients, some of which reconnect every second.
pub(crate) fn synthetic(name: &str, clients: usize, churn: u32) -> Agent {
    let (clients, churn) = (clients.to_string(), churn.to_string());
    let arguments =
        ["--broker", "synthetic", "--clients", &clients, "--churn", &churn, "--log-filter", "warn"];
    Agent::start(name, &arguments)
}

/// A gateway over agents of so many clients in all, all of which it has seen.
pub(crate) fn gateway(nodes: &[SocketAddr], total: u64, agents: Vec<u32>) -> (Gateway, Subject) {
    // The access log would be a part of what is measured. Nothing measured here is to end by a deadline.
    let gateway = Gateway::start(nodes, &["--log-filter", "warn", "--request-timeout", "60s"]);
    await_clients(&gateway, total);
    let subject = Subject::own(gateway.address().to_string(), total, agents, gateway.process.pid());
    (gateway, subject)
}

/// Waits until so many clients are seen through it.
pub(crate) fn await_clients(gateway: &Gateway, total: u64) {
    within(FILLED, &format!("{total} clients"), || {
        let response = gateway.get("/clients?_limit=0");
        let count = (response.status == 200).then(|| response.json()["meta"]["count"].as_u64()).flatten();
        if count == Some(total) { Ok(()) } else { Err(format!("status {}, {count:?}", response.status)) }
    });
}
