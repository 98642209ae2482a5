//! What a node's calls came to since the gateway started, for metrics.

use std::array;
use std::time::Duration;

use rollcall_metrics::{Counter, Histogram};
use rollcall_proto::Reason;

use super::call::CallError;

/// Upper bounds of durations, seconds: from a call over loopback to the longest deadline there usually is.
pub(crate) const DURATIONS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// How calls end, beside those that failed.
const ANSWERED: &str = "answered";
const SKIPPED: &str = "skipped";

/// One node's figures.
#[derive(Debug)]
pub(crate) struct NodeFigures {
    /// Calls for requests.
    pub(crate) calls: Outcomes,
    pub(crate) probes: Outcomes,
    /// How long calls took that were made, whatever came of them.
    pub(crate) took: Histogram,
    /// Rows that came for pages.
    pub(crate) rows: Counter,
}

impl Default for NodeFigures {
    fn default() -> Self {
        Self {
            calls: Outcomes::default(),
            probes: Outcomes::default(),
            took: Histogram::new(DURATIONS),
            rows: Counter::default(),
        }
    }
}

impl NodeFigures {
    /// A call has ended after this time.
    pub(super) fn called<T>(&self, outcome: &Result<T, CallError>, took: Duration) {
        self.calls.note(outcome);
        self.took.observe(took.as_secs_f64());
    }
}

/// How often calls ended how.
#[derive(Debug)]
pub(crate) struct Outcomes {
    answered: Counter,
    failed: [Counter; Reason::ALL.len()],
    skipped: Counter,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            answered: Counter::default(),
            failed: array::from_fn(|_| Counter::default()),
            skipped: Counter::default(),
        }
    }
}

impl Outcomes {
    pub(super) fn note<T>(&self, outcome: &Result<T, CallError>) {
        match outcome {
            Ok(_) => drop(self.answered.inc()),
            Err(error) => self.note_failure(error),
        }
    }

    pub(super) fn note_failure(&self, error: &CallError) {
        // What cannot be had of a node that is well is an answer.
        let place = Reason::ALL.iter().position(|reason| *reason == error.reason && !error.well);
        place.map_or(&self.answered, |place| &self.failed[place]).inc();
    }

    /// The node was not asked, as it is known not to answer.
    pub(super) fn skip(&self) {
        self.skipped.inc();
    }

    /// Every outcome there is and how often it came.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let failed =
            Reason::ALL.iter().zip(&self.failed).map(|(reason, counter)| (reason.as_str(), counter.get()));
        [(ANSWERED, self.answered.get()), (SKIPPED, self.skipped.get())].into_iter().chain(failed)
    }

    /// As [`Outcomes::each`], of nodes that are always asked.
    pub(crate) fn each_asked(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.each().filter(|(outcome, _)| *outcome != SKIPPED)
    }
}
