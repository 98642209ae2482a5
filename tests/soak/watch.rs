//! Memory and descriptors of the processes that live from the start to the end.
//!
//! Memory is flat if the median of the last fifth of the samples lies no more than [`ALLOWED`] and a twelfth above that of the
//! first fifth after the warm-up, which is a quarter of the time.

use std::time::Duration;

use rollcall_tests::bench::table::Table;
use rollcall_tests::process::Process;
use rollcall_tests::wait::within;

use crate::bed::{Bed, NODES, SPARED};

/// How often samples are taken, at least.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// By how much memory may grow whatever it was: an allocator's arenas come and go in pieces of megabytes.
const ALLOWED: u64 = 8 << 20;

/// How long after the last request connections may take to be closed, those cut by a proxy by keep-alive.
const CLOSED: Duration = Duration::from_secs(60);

/// The processes that are watched: the gateway and the nodes that are not killed.
const WATCHED: usize = 1 + SPARED.len();

pub(crate) struct Watch {
    /// Resident bytes, by process.
    memory: [Vec<u64>; WATCHED],
    /// Descriptors at the first sample and at the end.
    descriptors: [(u64, u64); WATCHED],
}

fn each<T>(bed: &Bed, mut of: impl FnMut(&Process) -> T) -> [T; WATCHED] {
    let gateway = of(&bed.gateway.process);
    let [first, second] = SPARED.map(|at| of(&bed.agents[at].lock().unwrap().process));
    [gateway, first, second]
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { memory: [const { Vec::new() }; WATCHED], descriptors: [(0, 0); WATCHED] }
    }

    pub(crate) fn sample(&mut self, bed: &Bed) {
        for (samples, resident) in self.memory.iter_mut().zip(each(bed, Process::resident)) {
            samples.push(resident);
        }
    }

    /// After the last request: what has grown.
    pub(crate) fn end(&mut self, bed: &Bed) -> Vec<String> {
        bed.await_all_answering();
        let mut failures = Vec::new();
        for (at, label) in Self::labels().into_iter().enumerate() {
            let (first, last) = self.levels(at);
            if last > first + first / 12 + ALLOWED {
                failures.push(format!(
                    "the memory of {label} grew from {} to {} MiB",
                    first >> 20,
                    last >> 20
                ));
            }
        }
        let most = self.descriptors.map(|(first, _)| first);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            within(CLOSED, "descriptors as at the start", || {
                let now = each(bed, Process::descriptors);
                // A probe may be on its way.
                let is_back = now.iter().zip(most).all(|(now, most)| *now <= most + 1);
                if is_back { Ok(()) } else { Err(format!("{most:?} at the start, {now:?} now")) }
            });
        }));
        if outcome.is_err() {
            failures.push("descriptors are not closed".to_owned());
        }
        for (descriptors, now) in self.descriptors.iter_mut().zip(each(bed, Process::descriptors)) {
            descriptors.1 = now;
        }
        failures
    }

    /// Notes the descriptors before any request.
    pub(crate) fn begin(&mut self, bed: &Bed) {
        for (descriptors, now) in self.descriptors.iter_mut().zip(each(bed, Process::descriptors)) {
            descriptors.0 = now;
        }
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(&[
            "process",
            "MiB after warm-up",
            "MiB at the end",
            "MiB at most",
            "fds at start",
            "fds at end",
        ]);
        for (at, label) in Self::labels().into_iter().enumerate() {
            let (first, last) = self.levels(at);
            let most = self.memory[at].iter().copied().max().unwrap_or_default();
            let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
            let (before, after) = self.descriptors[at];
            table.add([label, mib(first), mib(last), mib(most), before.to_string(), after.to_string()]);
        }
        table
    }

    fn labels() -> [String; WATCHED] {
        let [first, second] = SPARED.map(|at| format!("agent {}", NODES[at]));
        ["gateway".to_owned(), first, second]
    }

    /// The medians of the first and the last fifth after the warm-up.
    fn levels(&self, at: usize) -> (u64, u64) {
        let samples = &self.memory[at];
        let warm = &samples[samples.len() / 4..];
        let fifth = (warm.len() / 5).max(1).min(warm.len());
        (median(&warm[..fifth]), median(&warm[warm.len() - fifth..]))
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
