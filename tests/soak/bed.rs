//! The nodes, their proxies and the gateway.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rollcall_tests::asker::Asked;
use rollcall_tests::http::{self, Response, basic};
use rollcall_tests::process::run;
use rollcall_tests::proxy::Proxy;
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, BASE, Gateway, OPERATOR};
use rollcall_tests::truth::Truth;
use rollcall_tests::wait::eventually;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

/// The gateway's deadline.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// The nodes: two of a table, two with a broker, one of synthetic clients.
pub(crate) const NODES: [&str; 5] = ["table-a", "table-b", "mqtt-a", "mqtt-b", "churning"];

/// Where the nodes with a broker stand among them.
pub(crate) const BROKERS: [usize; 2] = [2, 3];

/// Where the node of synthetic clients stands.
pub(crate) const CHURNING: usize = 4;

/// Nodes that may stand still and lose their links, but are not killed: their memory is watched.
pub(crate) const SPARED: [usize; 2] = [0, CHURNING];

/// Its clients, and how many of them reconnect a second.
pub(crate) const SYNTHETIC: u64 = 20_000;
pub(crate) const CHURN: u32 = 100;

/// How long it may take until what a broker knows shows in answers, on a busy machine.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);

/// Everything that runs. Locked are those that are killed and started again.
pub(crate) struct Bed {
    pub(crate) gateway: Gateway,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) agents: Vec<Mutex<Agent>>,
    pub(crate) mqtt: [SocketAddr; 2],
    pub(crate) asked: Asked,
    /// Of each node, until when what is known of its clients is uncertain because of a fault.
    uncertain: Vec<Mutex<Instant>>,
    /// Of each node, whether it has crashed and those who follow events have not been told of it yet.
    missed: Vec<AtomicBool>,
    checks: [(&'static str, AtomicU64); 6],
    _table: NamedTempFile,
    _certificates: TempDir,
}

/// A check beside those of the askers, by its place in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    LiveGet,
    LiveList,
    LiveKick,
    ChurningList,
    ChurningPage,
    Event,
}

impl Bed {
    pub(crate) fn new(random: &mut StdRng, minutes: f64) -> Self {
        let names: Vec<String> = NODES.map(|name| format!("{name}@127.0.0.1")).to_vec();
        let tables = &names[..2];
        let rows = rows::clients(random, tables, 600);
        // As many as can be kicked in that time.
        let spare_rows = Asked::spare_rows(tables, (minutes * 2500.0).clamp(2000.0, 80_000.0) as usize);
        let all: Vec<Value> = rows.iter().chain(&spare_rows).cloned().collect();
        let table = rows::table(&all);
        let path = table.path().to_str().unwrap();
        let (clients, churn) = (SYNTHETIC.to_string(), CHURN.to_string());
        let of_table = ["--broker", "file", "--file", path];
        let embedded = ["--mqtt-listen", "127.0.0.1:0"];
        let synthetic = ["--broker", "synthetic", "--clients", &clients, "--churn", &churn];
        let arguments = [&of_table[..], &of_table, &embedded, &embedded, &synthetic];
        // Both sides prove to the other who they are.
        let certificates = certificates();
        let file = |name: &str| certificates.path().join(name).to_str().unwrap().to_owned();
        let (ca, cert, key) = (file("ca.pem"), file("agent-127.0.0.1.pem"), file("agent-127.0.0.1.key"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
        let start =
            |(name, arguments): (&String, &[&str])| Agent::start(name, &[arguments, &tls[..]].concat());
        let agents: Vec<Agent> = names.iter().zip(arguments).map(start).collect();
        let mqtt = BROKERS.map(|at| agents[at].mqtt());
        let proxies: Vec<Proxy> = agents.iter().map(|agent| Proxy::to(agent.process.address)).collect();
        let addresses: Vec<SocketAddr> = proxies.iter().map(|proxy| proxy.address).collect();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let mut spares: Vec<_> =
            spare_rows.iter().map(|row| (text(row, "clientid"), text(row, "node"))).collect();
        spares.sort();
        let truth =
            Truth { rows, nodes: names, addresses: addresses.iter().map(SocketAddr::to_string).collect() };
        let quiet = "warn,rollcall_gateway::access=off";
        let (cert, key) = (file("gateway.pem"), file("gateway.key"));
        let arguments = [
            "--node-ca",
            &ca,
            "--node-cert",
            &cert,
            "--node-key",
            &key,
            "--request-timeout",
            "3s",
            "--export-node-timeout",
            "3s",
            "--log-filter",
            quiet,
            "--audit-log",
            "/dev/null",
        ];
        let bed = Self {
            gateway: Gateway::start(&addresses, &arguments),
            proxies,
            agents: agents.into_iter().map(Mutex::new).collect(),
            mqtt,
            asked: Asked::new(truth, spares, TIMEOUT),
            uncertain: NODES.iter().map(|_| Mutex::new(Instant::now())).collect(),
            checks: [
                ("live client", AtomicU64::new(0)),
                ("live clients, list", AtomicU64::new(0)),
                ("live client, kick", AtomicU64::new(0)),
                ("churning, count", AtomicU64::new(0)),
                ("churning, page", AtomicU64::new(0)),
                ("event", AtomicU64::new(0)),
            ],
            missed: NODES.iter().map(|_| AtomicBool::new(false)).collect(),
            _table: table,
            _certificates: certificates,
        };
        bed.await_all_answering();
        bed
    }

    pub(crate) fn await_all_answering(&self) {
        eventually("answer of every node", || {
            let body = self.ask("GET", "/clients?_limit=0").map_err(|e| e.to_string())?.json();
            if body["meta"]["nodes"]["answered"] == NODES.len() { Ok(()) } else { Err(body.to_string()) }
        });
    }

    pub(crate) fn ask(&self, method: &str, target: &str) -> std::io::Result<Response> {
        let key = basic(OPERATOR.0, OPERATOR.1);
        let head = format!(
            "{method} {BASE}{target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: {key}\r\n\r\n"
        );
        http::send(self.gateway.address(), head.as_bytes())
    }

    /// Notes a check that came out right.
    pub(crate) fn checked(&self, check: Check) {
        self.checks[check as usize].1.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn checks(&self) -> Vec<(&'static str, u64)> {
        self.checks.iter().map(|(what, count)| (*what, count.load(Ordering::Relaxed))).collect()
    }

    /// Says that nothing is certain about a node's clients from now until so long.
    pub(crate) fn doubt(&self, node: usize, until: Instant) {
        let mut uncertain = self.uncertain[node].lock().unwrap();
        *uncertain = until.max(*uncertain);
    }

    /// Says that a node's fault is over, so that its clients are certain again before long.
    pub(crate) fn settle(&self, node: usize) {
        *self.uncertain[node].lock().unwrap() = Instant::now() + SETTLE;
    }

    /// Says that a node is about to crash.
    pub(crate) fn crashes(&self, node: usize) {
        self.missed[node].store(true, Ordering::Relaxed);
    }

    /// Says that those who follow events have been told to read a node's clients anew.
    pub(crate) fn told_anew(&self, node: usize) {
        self.missed[node].store(false, Ordering::Relaxed);
    }

    /// Whether a node has crashed, and that is still to be told.
    pub(crate) fn is_missed(&self, node: usize) -> bool {
        self.missed[node].load(Ordering::Relaxed)
    }

    /// Whether a node's clients are known for certain.
    pub(crate) fn is_certain(&self, node: usize) -> bool {
        *self.uncertain[node].lock().unwrap() <= Instant::now()
    }
}

/// An authority, and certificates of both sides for 127.0.0.1.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let hosts = ["--agent", "127.0.0.1", "--gateway", "127.0.0.1"];
    let (status, _, err) = run("rollcall-gateway", &[&["dev-certs", "--dir", dir], &hosts[..]].concat());
    assert!(status.success(), "{err}");
    folder
}
