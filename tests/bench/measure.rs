//! Cases that take turns, round by round, so that a busy moment of the machine does not hit one of them alone.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall_tests::bench::samples::Samples;
use rollcall_tests::bench::usage;
use serde_json::Value;

use crate::load::Load;
use crate::subject::{self, Subject, Target};

/// A case that has taken so long is not measured in further rounds.
const ENOUGH: Duration = Duration::from_secs(10);

/// Something to measure.
#[derive(Clone, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) label: String,
    subject: &'a Subject,
    target: Arc<Target>,
    pub(crate) connections: usize,
}

impl<'a> Case<'a> {
    /// A path at one connection.
    pub(crate) fn new(label: impl Into<String>, subject: &'a Subject, path: &str) -> Self {
        Self { label: label.into(), subject, target: Arc::new(subject.target(path)), connections: 1 }
    }

    /// A path with `{page}` in it, which is another of so many pages at every request.
    pub(crate) fn over_pages(label: String, subject: &'a Subject, path: &str, pages: u64) -> Self {
        let target = Arc::new(subject.target(path).with_pages(pages));
        Self { label, subject, target, connections: 1 }
    }

    /// At so many.
    pub(crate) fn at(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) samples: Samples,
    /// Of the very first request, milliseconds.
    pub(crate) first_ms: Option<f64>,
    /// Requests that the processor times are of.
    requests: usize,
    agents: Option<Duration>,
    gateway: Option<Duration>,
    /// Rows of the first answer, and how many match according to it.
    pub(crate) rows: Option<usize>,
    pub(crate) count: Option<u64>,
    /// Tells the clients of the first answer from others.
    clients: Option<u64>,
    /// How long it has been measured.
    spent: Duration,
    /// Why there are no figures.
    pub(crate) refused: Option<String>,
}

impl Figures {
    /// Median latency, milliseconds; NaN if there is none.
    pub(crate) fn p50(&self) -> f64 {
        self.samples.quantile_ms(0.5)
    }

    /// Whether both brought the same clients, of which there were some: then the server has not looked at the
    /// parameters that tell the two apart.
    pub(crate) fn brought_the_same(&self, other: &Self) -> bool {
        self.clients.is_some() && self.clients == other.clients && self.rows > Some(0)
    }

    /// Processor time a request, of each agent on average, milliseconds.
    pub(crate) fn agent_ms(&self) -> Option<f64> {
        self.agents.map(|time| time.as_secs_f64() * 1000.0 / self.requests as f64)
    }

    /// Processor time a request, of the gateway, milliseconds.
    pub(crate) fn gateway_ms(&self) -> Option<f64> {
        self.gateway.map(|time| time.as_secs_f64() * 1000.0 / self.requests as f64)
    }
}

/// Cases and what came of them so far.
#[derive(Debug)]
pub(crate) struct Measurement<'a> {
    pub(crate) cases: Vec<Case<'a>>,
    pub(crate) figures: Vec<Figures>,
}

impl<'a> Measurement<'a> {
    pub(crate) fn new(cases: Vec<Case<'a>>) -> Self {
        let figures = vec![Figures::default(); cases.len()];
        Self { cases, figures }
    }

    /// So many rounds of all cases.
    pub(crate) fn rounds(&mut self, load: &Load, rounds: usize) {
        for _ in 0..rounds {
            self.round(load, 0..self.cases.len());
        }
    }

    /// One round of some of them.
    pub(crate) fn round(&mut self, load: &Load, which: std::ops::Range<usize>) {
        for (case, figures) in self.cases[which.clone()].iter().zip(&mut self.figures[which]) {
            if figures.refused.is_none() && figures.spent < ENOUGH {
                figures.add(case, load);
            }
        }
    }
}

impl Figures {
    fn add(&mut self, case: &Case<'_>, load: &Load) {
        let (before, start) = (times(case.subject), Instant::now());
        let outcome = match load.run(&case.target, case.connections) {
            Ok(outcome) => outcome,
            Err(problem) => {
                self.refused = Some(problem);
                return;
            }
        };
        let after = times(case.subject);
        self.spent += start.elapsed();
        let passed = |before: Option<Duration>, after: Option<Duration>| after?.checked_sub(before?);
        let add = |sum: &mut Option<Duration>, time: Option<Duration>| {
            *sum = time.map(|time| sum.unwrap_or_default() + time);
        };
        add(&mut self.agents, passed(before.0, after.0));
        add(&mut self.gateway, passed(before.1, after.1));
        self.requests += outcome.latencies.len() + case.connections;
        if self.first_ms.is_none() {
            self.first_ms = Some(outcome.first.as_secs_f64() * 1000.0);
            if let Ok(answer) = serde_json::from_slice::<Value>(&outcome.body) {
                let rows = subject::rows(&answer);
                let mut hasher = DefaultHasher::new();
                rows.iter().for_each(|row| row["clientid"].as_str().hash(&mut hasher));
                self.clients = Some(hasher.finish());
                self.rows = Some(rows.len());
                self.count = answer["meta"]["count"].as_u64();
            }
        }
        self.samples.add(outcome.elapsed, &outcome.latencies);
    }
}

/// Processor time so far: of each agent on average, and of the gateway.
fn times(subject: &Subject) -> (Option<Duration>, Option<Duration>) {
    let agents: Option<Vec<Duration>> =
        subject.agents.iter().map(|pid| usage::processor_time(*pid)).collect();
    let count = u32::try_from(subject.agents.len()).unwrap_or(u32::MAX);
    let mean = agents.filter(|times| !times.is_empty()).map(|times| times.iter().sum::<Duration>() / count);
    (mean, subject.gateway.and_then(usage::processor_time))
}
