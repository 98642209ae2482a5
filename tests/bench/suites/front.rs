//! What the counting front costs the embedded broker: messages through an agent and clients on it, beside an agent without the
//! front.

use std::process::Command;

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::binaries;
use rollcall_tests::sandbox::Agent;

use super::Bench;
use crate::bed;
use crate::passing::{Broker, Comparison, MESSAGES, PAYLOAD};
use crate::report::Section;

/// Clients that connect; behind the front each takes three of the agent's descriptors, of which 20,000 are usual.
const CLIENTS: usize = 5000;

/// Messages that are alone on their way.
const TRIPS: usize = 5000;

pub(crate) fn measure(bench: &Bench) -> Result<Section, String> {
    // An agent without its broker knows no such flag's broker.
    let check = Command::new(binaries::path("rollcall-agent"))
        .args(["check-config", "--mqtt-listen", "127.0.0.1:0"])
        .output();
    if !check.is_ok_and(|check| check.status.success()) {
        return Err(
            "the agent was built without its embedded broker; name the suite and it is built with it"
                .to_owned(),
        );
    }
    let folder = tempfile::tempdir().map_err(|error| format!("no folder for a configuration: {error}"))?;
    let agents = [false, true].map(|counting_front| {
        let config = folder.path().join(format!("{counting_front}.toml"));
        let text = format!("[log]\nfilter = \"warn\"\n[embedded]\ncounting_front = {counting_front}\n");
        std::fs::write(&config, text).map(|()| {
            let config = config.to_string_lossy();
            Agent::start(
                bed::NODES[usize::from(counting_front)],
                &["--config", &config, "--mqtt-listen", "127.0.0.1:0"],
            )
        })
    });
    let agents = match agents {
        [Ok(plain), Ok(counted)] => [plain, counted],
        [Err(error), _] | [_, Err(error)] => return Err(format!("no configuration can be written: {error}")),
    };
    let brokers = [0, 1].map(|at: usize| Broker { mqtt: agents[at].mqtt(), pid: agents[at].process.pid() });
    let mut comparison = Comparison::new();
    let per_message = comparison.messages(brokers, bench.options.rounds);
    comparison.trips(brokers, bench.options.rounds, TRIPS);
    comparison.connections(brokers, CLIENTS, |broker| {
        for agent in agents.iter().filter(|agent| agent.process.pid() == broker.pid) {
            drop(bed::gateway(&[agent.process.address], CLIENTS as u64, vec![broker.pid]));
        }
    });
    let section = Section {
        notes: Vec::new(),
        table: comparison.table,
        json: comparison.json,
        goals: vec![(Figure::Front, per_message)],
    };
    Ok(section.note(format!(
        "{MESSAGES} messages of {PAYLOAD} bytes, QoS 0, from one client to one other, and {TRIPS} one at a time, median of {} \
         rounds in turns; then {CLIENTS} clients, one after the other",
        bench.options.rounds
    )))
}
