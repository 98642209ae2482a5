//! The figures as a table and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Options;
use crate::load::{Outcome, Target};
use crate::memory::Memory;

/// One target under one number of connections, over all rounds.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// Which target.
    pub(crate) target: usize,
    pub(crate) connections: usize,
    /// Requests a second, one per round.
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

impl Measurement {
    /// Every target under every number of connections, in the order in which they take turns.
    pub(crate) fn all(targets: &[Target], connections: &[usize]) -> Vec<Self> {
        let pairs = connections
            .iter()
            .flat_map(|connections| (0..targets.len()).map(|target| (*connections, target)));
        pairs
            .map(|(connections, target)| Self {
                target,
                connections,
                rates: Vec::new(),
                latencies: Vec::new(),
            })
            .collect()
    }

    pub(crate) fn add(&mut self, outcome: Outcome) {
        self.rates.push(outcome.latencies.len() as f64 / outcome.elapsed.as_secs_f64());
        self.latencies.extend(outcome.latencies);
        self.latencies.sort_unstable();
    }

    /// The median round's requests a second.
    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }

    /// A quantile of all rounds' latencies, milliseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * quantile).round() as usize;
        self.latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
    }
}

pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) page_bytes: usize,
    pub(crate) measurements: &'a [Measurement],
    pub(crate) memory: Memory,
}

impl Report<'_> {
    /// How many times as many requests the static route answers under as many connections.
    fn ratio(&self, measurement: &Measurement) -> f64 {
        let still =
            self.measurements.iter().find(|m| m.target == 0 && m.connections == measurement.connections);
        still.map_or(f64::NAN, |still| still.rate() / measurement.rate())
    }

    pub(crate) fn table(&self, targets: &[Target]) -> String {
        let mut table = format!(
            "{} rounds of {} s each, {} cores, a page of 100 rows is {} bytes\n\n{:<28} {:>5} {:>10} {:>9} {:>9} {:>14}\n",
            self.options.rounds,
            self.options.seconds,
            cores(),
            self.page_bytes,
            "",
            "conns",
            "req/s",
            "p50 ms",
            "p99 ms",
            "static/this"
        );
        for measurement in self.measurements {
            let _ = writeln!(
                table,
                "{:<28} {:>5} {:>10.0} {:>9.2} {:>9.2} {:>14.1}",
                targets[measurement.target].label,
                measurement.connections,
                measurement.rate(),
                measurement.quantile(0.5),
                measurement.quantile(0.99),
                self.ratio(measurement),
            );
        }
        let memory = self.memory;
        let _ = write!(
            table,
            "\nresident memory per idle client: {:.0} bytes ({} clients of a file {:.1} MiB, none {:.1} MiB)",
            memory.per_client(),
            memory.clients,
            mebibytes(memory.full),
            mebibytes(memory.empty)
        );
        table
    }

    pub(crate) fn json(&self, targets: &[Target]) -> Value {
        let rounded = |figure: f64| (figure * 1000.0).round() / 1000.0;
        let measurements: Vec<Value> = self
            .measurements
            .iter()
            .map(|measurement| {
                json!({
                    "target": targets[measurement.target].label,
                    "connections": measurement.connections,
                    "requests": measurement.latencies.len(),
                    "requests_per_second": rounded(measurement.rate()),
                    "p50_ms": rounded(measurement.quantile(0.5)),
                    "p99_ms": rounded(measurement.quantile(0.99)),
                    "static_ratio": rounded(self.ratio(measurement)),
                })
            })
            .collect();
        json!({
            "cores": cores(),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "page_bytes": self.page_bytes,
            "measurements": measurements,
            "memory": {
                "clients": self.memory.clients,
                "resident_bytes": self.memory.full,
                "resident_bytes_empty": self.memory.empty,
                "bytes_per_client": rounded(self.memory.per_client()),
            },
        })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
