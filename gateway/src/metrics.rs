//! What the gateway tells Prometheus: what it counts itself ([`Metrics`]), and all of it as one page (`page`), family by
//! family as [`catalog`] has them.
//!
//! Nothing here is per client: the number of samples grows with nodes, kinds of clients and routes alone. What is not known
//! is absent, never 0: a node that did not answer a scrape has no clients in it, and `rollcall_node_up` is 0.

use std::time::Duration;

use rollcall_metrics::{Counter, Counters, Gauge, Histograms};

use crate::audit::Outcome;
use crate::cluster::DURATIONS;
use crate::http::LIMITS;

pub mod catalog;
pub(crate) mod page;

pub(crate) use self::page::Page;

/// What the gateway counts of its users.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Counters<3>,
    took: Histograms<1>,
    refusals: Counters<1>,
    /// Requests that are being answered.
    pub(crate) in_flight: Gauge,
    /// Of the listener.
    pub(crate) connections: Connections,
}

/// Connections of users.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    /// How many are open.
    pub(crate) open: Gauge,
    /// How many were closed as they came, because too many were open.
    pub(crate) refused: Counter,
}

/// One more in a gauge, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn one(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Counters::new(&catalog::HTTP_REQUESTS),
            took: Histograms::new(&catalog::HTTP_REQUEST_DURATION, &DURATIONS),
            refusals: Counters::from_zero(&catalog::HTTP_REFUSALS, LIMITS.map(|limit| [limit])),
            in_flight: Gauge::default(),
            connections: Connections::default(),
        }
    }
}

impl Metrics {
    /// A request was answered; its route is one of a few, never the path itself.
    pub(crate) fn answered(
        &self,
        route: &'static str,
        method: &http::Method,
        status: http::StatusCode,
        took: Duration,
    ) {
        self.requests.count([route, method_name(method), status_name(status)]);
        self.took.observe([route], took.as_secs_f64());
    }

    /// A request was refused by this limit.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.refusals.count([limit]);
    }
}

/// Of methods that are none of ours there could be any number.
fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Every status that the gateway answers with (`http::error`, `http::envelope`).
fn status_name(status: http::StatusCode) -> &'static str {
    const KNOWN: [(u16, &str); 13] = [
        (200, "200"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (409, "409"),
        (413, "413"),
        (429, "429"),
        (500, "500"),
        (502, "502"),
        (503, "503"),
        (504, "504"),
    ];
    KNOWN.into_iter().find(|(code, _)| *code == status.as_u16()).map_or("other", |(_, name)| name)
}

/// What comes of kicks, and of putting them on record.
#[derive(Debug)]
pub(crate) struct KickFigures {
    kicks: Counters<1>,
    bulk_kicks: Counters<1>,
    /// Records that could not be written, or not in time.
    pub(crate) failures: Counter,
}

impl Default for KickFigures {
    fn default() -> Self {
        use Outcome::{Done, DryRun, Failed, Gone, Kicked, Moved, NotFound, Refused, Stopped, Unknown};
        let kicks = [Kicked, NotFound, Gone, Moved, Refused, Failed, Unknown];
        let bulk_kicks = [Done, Stopped, DryRun, Refused, Failed, Unknown];
        Self {
            kicks: Counters::from_zero(&catalog::KICKS, kicks.map(|outcome| [outcome.as_str()])),
            bulk_kicks: Counters::from_zero(
                &catalog::BULK_KICKS,
                bulk_kicks.map(|outcome| [outcome.as_str()]),
            ),
            failures: Counter::default(),
        }
    }
}

impl KickFigures {
    /// A kick has ended.
    pub(crate) fn kick(&self, outcome: Outcome) {
        self.kicks.count([outcome.as_str()]);
    }

    /// A bulk kick has, whose kicks are counted one by one besides.
    pub(crate) fn bulk_kick(&self, outcome: Outcome) {
        self.bulk_kicks.count([outcome.as_str()]);
    }
}

#[cfg(test)]
mod tests;
