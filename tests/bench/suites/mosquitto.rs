//! What the agent costs the Mosquitto that it is a plugin of: messages through one broker and clients on it, beside a broker
//! without the plugin.

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::mosquitto::Mosquitto;

use super::Bench;
use crate::bed;
use crate::passing::{Broker, Comparison, MESSAGES, PAYLOAD};
use crate::report::Section;

/// Clients that connect.
const CLIENTS: usize = 10_000;

pub(crate) fn measure(bench: &Bench) -> Result<Section, String> {
    if !Mosquitto::is_installed() {
        return Err("mosquitto is not installed (Debian: mosquitto)".to_owned());
    }
    let plain = Mosquitto::start(None, &[]);
    let loaded = Mosquitto::start(Some(bed::NODES[0]), &[]);
    let brokers = [&plain, &loaded].map(|broker| Broker { mqtt: broker.mqtt, pid: broker.pid() });
    let mut comparison = Comparison::new();
    let per_message = comparison.messages(brokers, bench.options.rounds);
    comparison.connections(brokers, CLIENTS, |broker| {
        if broker.pid == loaded.pid()
            && let Some(agent) = loaded.agent
        {
            drop(bed::gateway(&[agent], CLIENTS as u64, vec![broker.pid]));
        }
    });
    let section = Section {
        notes: Vec::new(),
        table: comparison.table,
        json: comparison.json,
        goals: vec![(Figure::Plugin, per_message)],
    };
    Ok(section.note(format!(
        "{MESSAGES} messages of {PAYLOAD} bytes, QoS 0, from one client to one other, median of {} rounds in turns; then \
         {CLIENTS} clients, one after the other",
        bench.options.rounds
    )))
}
