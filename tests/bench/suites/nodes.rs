//! The same number of clients on 3, 10 and 50 nodes: what more nodes cost. The agents of a cluster share one process, so
//! that 50 of them fit on a small machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rollcall_node_agent::broker::Broker;
use rollcall_node_agent::broker::synthetic::SyntheticBroker;
use rollcall_node_agent::config::{BrokerConfig, Config};
use rollcall_tests::process::Process;
use rollcall_tests::sandbox::Gateway;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Bench, encoded, last_page, sample};
use crate::bed;
use crate::measure::{Case, Measurement};
use crate::report::Section;
use crate::subject::Subject;

/// Makes this program serve agents instead of measure: a number, all clients, and the file to write addresses to.
pub(crate) const COMMAND: &str = "serve-agents";

const COUNTS: [usize; 3] = [3, 10, 50];

/// The clusters all stand at once, so that their cases take turns; more clients would not fit.
const MOST_CLIENTS: usize = 3_000_000;

/// A cluster whose agents share a process.
struct Crowd {
    subject: Subject,
    _gateway: Gateway,
    _agents: Process,
}

pub(crate) fn measure(bench: &Bench) -> Result<Section, String> {
    let clients = (3 * bench.options.clients).min(MOST_CLIENTS);
    let crowds: Vec<Crowd> = COUNTS.iter().map(|count| Crowd::start(*count, clients)).collect();
    let mut cases = Vec::new();
    let deep = last_page(clients as u64) / 2 + 1;
    for (crowd, count) in crowds.iter().zip(COUNTS) {
        let id = encoded(&sample(bench, &crowd.subject)?, "clientid");
        for (label, path) in [
            ("page 1".to_owned(), "/clients?_limit=100".to_owned()),
            (format!("page {deep}"), format!("/clients?_limit=100&_page={deep}")),
            ("get".to_owned(), format!("/clients/{id}")),
            ("count".to_owned(), "/client_counts".to_owned()),
            ("count by zone".to_owned(), "/client_counts?_group_by=zone".to_owned()),
        ] {
            cases.push(Case::new(format!("{count} nodes, {label}"), &crowd.subject, &path));
        }
    }
    let mut measurement = Measurement::new(cases);
    measurement.rounds(&bench.load, bench.options.rounds);
    let figures = &measurement.figures;
    let kinds = figures.len() / COUNTS.len();
    let ratio = |(at, own): (usize, &crate::measure::Figures)| own.p50() / figures[at % kinds].p50();
    let ratios: Vec<f64> = figures.iter().enumerate().map(ratio).collect();
    Ok(Section::of(&measurement, "x 3 nodes", &ratios).note(format!(
        "{clients} clients in all; agent CPU is of all agents together, which share a process"
    )))
}

impl Crowd {
    fn start(count: usize, clients: usize) -> Self {
        let file = NamedTempFile::new().expect("a file for the addresses");
        let own = std::env::current_exe().expect("a program knows its own path");
        let path = file.path().to_str().expect("a path in UTF-8").to_owned();
        let arguments = [COMMAND.to_owned(), count.to_string(), clients.to_string(), path];
        let agents = Process::start_at(&own, &format!("{count} agents"), &arguments);
        let text = std::fs::read_to_string(file.path()).expect("the addresses can be read");
        let addresses: Vec<SocketAddr> = text.lines().map(|line| line.parse().expect("an address")).collect();
        let (gateway, subject) = bed::gateway(&addresses, clients as u64, vec![agents.pid()]);
        Self { subject, _gateway: gateway, _agents: agents }
    }
}

/// Serves so many agents until it is killed.
pub(crate) fn serve(count: &str, clients: &str, file: &Path) {
    let count: usize = count.parse().expect("a number of agents");
    let clients: usize = clients.parse().expect("a number of clients");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut listeners = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            let address = listener.local_addr().expect("a bound socket");
            listeners.push((listener, address));
        }
        let lines: String = listeners.iter().map(|(_, address)| format!("{address}\n")).collect();
        std::fs::write(file, lines).expect("the addresses can be written");
        let mut agents = JoinSet::new();
        let first = listeners[0].1;
        for (at, (listener, _)) in listeners.into_iter().enumerate() {
            let name = format!("n{at}@127.0.0.1");
            // As even as it goes.
            let own = (clients / count + usize::from(at < clients % count)) as u64;
            let broker: Arc<dyn Broker> = Arc::new(SyntheticBroker::new(own, 0, &name));
            let config = Config::new(name, BrokerConfig::Synthetic { clients: own, seed: 0, churn: 0 });
            agents.spawn(rollcall_node_agent::run::run(config, listener, broker, std::future::pending()));
        }
        println!("ready {first}");
        panic!("an agent ended: {:?}", agents.join_next().await);
    });
}
