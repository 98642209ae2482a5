//! What the agent tells Prometheus: what it counts itself ([`CallFigures`]), and all of it as one page, family by family as
//! [`catalog`] has them; `listener` serves it.
//!
//! As at the gateway nothing is per client, and what is not known is absent.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use rollcall_metrics::{Counters, Families, Figures, Histograms, process};
use rollcall_proto::Matcher;
use rollcall_proto::v1::{ConnState, Filter, GroupBy, group};
use tonic::{Code, Status};

use crate::service::Agent;

pub mod catalog;
pub(crate) mod listener;

/// Upper bounds of durations, seconds.
const DURATIONS: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How often the index's bytes are added up: of a million clients that takes a millisecond or two.
pub(crate) const MEASURE_INDEX: Duration = Duration::from_secs(10);

/// What the agent counts of its calls.
#[derive(Debug)]
pub(crate) struct CallFigures {
    calls: Counters<2>,
    took: Histograms<1>,
    token_refusals: Counters<1>,
    /// Of the index, when last added up; 0: never.
    index_bytes: AtomicU64,
}

impl Default for CallFigures {
    fn default() -> Self {
        Self {
            calls: Counters::new(&catalog::CALLS),
            took: Histograms::new(&catalog::CALL_DURATION, &DURATIONS),
            token_refusals: Counters::from_zero(
                &catalog::TOKEN_REFUSALS,
                TokenRefusal::ALL.map(|refusal| [refusal.as_str()]),
            ),
            index_bytes: AtomicU64::new(0),
        }
    }
}

/// Why a call was refused that should have shown a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRefusal {
    /// It shows none.
    Missing,
    /// It shows another.
    Wrong,
    /// It was not looked at, after too many wrong ones from its address.
    TooMany,
}

impl TokenRefusal {
    const ALL: [Self; 3] = [Self::Missing, Self::Wrong, Self::TooMany];

    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::TooMany => "too_many",
        }
    }
}

impl CallFigures {
    pub(crate) fn token_refused(&self, refusal: TokenRefusal) {
        self.token_refusals.count([refusal.as_str()]);
    }
}

/// A call that is answered. One that is dropped before its end was given up by its caller.
pub(crate) struct CountedCall {
    figures: Arc<CallFigures>,
    rpc: &'static str,
    begun: Instant,
    outcome: &'static str,
}

impl CountedCall {
    pub(crate) fn begin(figures: &Arc<CallFigures>, rpc: &'static str) -> Self {
        let begun = Instant::now();
        Self { figures: Arc::clone(figures), rpc, begun, outcome: outcome(Code::Cancelled) }
    }

    /// It has ended so.
    pub(crate) fn ends(&mut self, code: Code) {
        self.outcome = outcome(code);
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.figures.calls.count([self.rpc, self.outcome]);
        self.figures.took.observe([self.rpc], self.begun.elapsed().as_secs_f64());
    }
}

/// How metrics name the code that a call ended with.
fn outcome(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::FailedPrecondition => "failed_precondition",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        Code::Internal => "internal",
        _ => "other",
    }
}

/// An answer's stream, which is its call's end.
pub(crate) struct CountedStream<S> {
    stream: S,
    call: Option<CountedCall>,
}

impl<S> CountedStream<S> {
    pub(crate) fn new(stream: S, call: CountedCall) -> Self {
        Self { stream, call: Some(call) }
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for CountedStream<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.poll_next_unpin(cx);
        let code = match &polled {
            Poll::Ready(None) => Code::Ok,
            Poll::Ready(Some(Err(status))) => status.code(),
            _ => return polled,
        };
        if let Some(mut call) = self.call.take() {
            call.ends(code);
        }
        polled
    }
}

/// What has been heard of the broker, by number.
#[derive(Debug)]
pub(crate) struct BrokerFigures {
    changes: Counters<1>,
    resyncs: Counters<1>,
    failures: Counters<0>,
}

impl Default for BrokerFigures {
    fn default() -> Self {
        Self {
            changes: Counters::from_zero(&catalog::CHANGES, [["present"], ["ended"], ["resync_row"]]),
            resyncs: Counters::from_zero(&catalog::RESYNCS, [["done"], ["broken_off"]]),
            failures: Counters::from_zero(&catalog::BROKER_FAILURES, [[]]),
        }
    }
}

impl BrokerFigures {
    pub(crate) fn present(&self) {
        self.changes.count(["present"]);
    }

    pub(crate) fn ended(&self) {
        self.changes.count(["ended"]);
    }

    pub(crate) fn resync_rows(&self, rows: usize) {
        self.changes.count_many(["resync_row"], rows as u64);
    }

    pub(crate) fn resync(&self, is_done: bool) {
        self.resyncs.count([if is_done { "done" } else { "broken_off" }]);
    }

    pub(crate) fn failed(&self) {
        self.failures.count([]);
    }
}

/// The page of one scrape.
pub(crate) struct Page(pub(crate) Arc<Agent>);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Page").field(&self.0.identity).finish()
    }
}

impl Page {
    fn write_clients(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self(agent) = self;
        let mut clients = families.begin(&catalog::CLIENTS)?;
        let everyone = Matcher::new(Filter::default()).ok().filter(|_| agent.follower.is_known());
        let counted =
            everyone.and_then(|everyone| agent.index.count(&everyone, GroupBy::ConnState, &|| false).ok());
        for (state, name) in [
            (ConnState::Connected, "connected"),
            (ConnState::Idle, "idle"),
            (ConnState::Disconnected, "disconnected"),
        ] {
            if let Some(counted) = &counted {
                let is_it = |value: &group::Value| *value == group::Value::ConnState(state.into());
                let group = counted.groups.iter().find(|group| group.value.as_ref().is_some_and(is_it));
                clients.add_whole(&[name], group.map_or(0, |group| group.count))?;
            }
        }
        let mut bytes = families.begin(&catalog::INDEX_BYTES)?;
        match agent.figures.index_bytes.load(Relaxed) {
            0 => {}
            known => bytes.add_whole(&[], known)?,
        }
        families.one(&catalog::SNAPSHOTS, agent.queries.snapshots() as f64)
    }

    fn write_broker(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self(agent) = self;
        let figures = agent.follower.figures();
        figures.changes.write(families)?;
        figures.resyncs.write(families)?;
        let agreement = agent.follower.agreement();
        let mut resynced = families.begin(&catalog::RESYNCED)?;
        if let Some(at) = agreement.resynced_at_ms {
            resynced.add(&[], at as f64 / 1000.0)?;
        }
        let mut up = families.begin(&catalog::BROKER_UP)?;
        if agreement.broker_error.is_some() {
            up.add_whole(&[], 0)?;
        } else if agent.follower.is_known() {
            up.add_whole(&[], 1)?;
        }
        figures.failures.write(families)
    }
}

impl Figures for Page {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self(agent) = self;
        let info = agent.broker.info();
        families.begin(&catalog::BUILD)?.add(&[env!("CARGO_PKG_VERSION")], 1.0)?;
        families.begin(&catalog::AGENT)?.add(&[&agent.identity.name, info.kind, &info.version], 1.0)?;
        self.write_clients(families)?;
        self.write_broker(families)?;
        agent.figures.calls.write(families)?;
        agent.figures.took.write(families)?;
        agent.figures.token_refusals.write(families)?;
        families.one(&catalog::CALLS_IN_FLIGHT, agent.calls.in_flight() as f64)?;
        families.one(&catalog::SCANS, agent.scans().into())?;
        families.one(&catalog::DRAINING, u8::from(agent.calls.is_draining()).into())?;
        process::write(families)
    }
}

/// Adds up the index's bytes now and then, without end.
pub(crate) async fn measure_index(agent: &Arc<Agent>) {
    let mut interval = tokio::time::interval(MEASURE_INDEX);
    loop {
        interval.tick().await;
        let of = Arc::clone(agent);
        #[expect(clippy::disallowed_methods, reason = "some milliseconds, and no request waits for it")]
        let measured = tokio::task::spawn_blocking(move || of.index.bytes()).await;
        // A panic there has been reported, and the figure stays as it was.
        if let Ok(bytes) = measured {
            agent.figures.index_bytes.store(bytes as u64, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
