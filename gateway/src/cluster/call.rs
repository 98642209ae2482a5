//! One call to one node: a deadline that holds, a reason when it fails, one retry where that is safe.
//!
//! What is left of the request's time is sent to the node as grpc-timeout and enforced here as well, over the whole
//! call with its stream: tonic's own timeouts send no header, surface as CANCELLED and end with the response's
//! head. Only reads are retried, once, when the connection was found broken before anything came back, and only
//! while the retry budget lasts; a timeout is never retried, because the time is gone.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rollcall_proto::{REASON_METADATA, Reason};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Status};

/// Why a call brought no answer.
#[derive(Clone, Debug, Error)]
#[error("{reason}: {detail}")]
pub(super) struct CallError {
    /// What the API says.
    pub reason: Reason,
    /// What the log says.
    pub detail: String,
    /// The node itself gave the reason, so it is there.
    pub told: bool,
    /// The node is well, but what was asked for cannot be had of it.
    pub well: bool,
    /// That is because a snapshot is gone, and asking with a new one may work; or because a count has too many groups.
    pub failed_precondition: bool,
    /// The connection broke before anything came back.
    retryable: bool,
}

impl CallError {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            told: false,
            well: false,
            failed_precondition: false,
            retryable: false,
        }
    }

    /// The node answered what the contract does not allow.
    pub(super) fn protocol(detail: impl Into<String>) -> Self {
        Self::new(Reason::Protocol, detail)
    }

    /// What was asked for cannot be had, and that is not the node's fault.
    pub(super) fn failed_precondition(detail: impl Into<String>) -> Self {
        Self { well: true, failed_precondition: true, ..Self::protocol(detail) }
    }

    /// Another node than the request is about answered.
    pub(super) fn other_node(detail: impl Into<String>) -> Self {
        Self { well: true, ..Self::protocol(detail) }
    }

    /// The node was not asked, for this reason.
    pub(super) fn not_asked(reason: Reason, detail: impl Into<String>) -> Self {
        Self::new(reason, detail)
    }

    /// The node's answer did not come in time.
    pub(super) fn timeout(detail: impl Into<String>) -> Self {
        Self::new(Reason::Timeout, detail)
    }
}

/// The one table from gRPC statuses to reasons.
impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let told = status
            .metadata()
            .get(REASON_METADATA)
            .and_then(|value| value.to_str().ok())
            .and_then(Reason::from_word);
        // A status made on this side for a broken connection carries its cause; one that the node sent does not.
        let broken_here = std::error::Error::source(&status).is_some();
        let reason = told.unwrap_or(match status.code() {
            Code::Cancelled if was_never_sent(&status) => Reason::Unreachable,
            Code::DeadlineExceeded | Code::Cancelled => Reason::Timeout,
            Code::Unavailable => Reason::Unreachable,
            Code::ResourceExhausted => Reason::Overloaded,
            Code::Unknown | Code::Internal if broken_here => Reason::Unreachable,
            _ => Reason::Protocol,
        });
        let detail = match status.code() {
            Code::Unauthenticated => {
                format!("the agent refuses the token of node-token-file: {}", shorten(status.message()))
            }
            code => format!("{code:?}: {}", shorten(status.message())),
        };
        let failed_precondition = status.code() == Code::FailedPrecondition;
        Self {
            told: told.is_some(),
            well: failed_precondition,
            failed_precondition,
            retryable: reason == Reason::Unreachable && told.is_none(),
            ..Self::new(reason, detail)
        }
    }
}

/// Whether the connection was gone before the request was on it, which hyper calls canceled.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Nodes may send error texts of any length; a log line holds the beginning.
fn shorten(text: &str) -> String {
    const MOST: usize = 200;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

/// A request that tells the node how long the caller waits.
pub(super) fn request<T>(message: T, until: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    request
}

/// Runs a call up to a moment.
pub(super) async fn by<T>(
    until: Instant,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let late = |_| Err(CallError::timeout("no answer within the deadline"));
    timeout_at(until, call).await.unwrap_or_else(late)
}

/// Runs a read up to a moment, and once more if the connection was found broken and the budget allows.
pub(super) async fn read_by<T, F>(
    until: Instant,
    budget: &RetryBudget,
    read: impl Fn() -> F,
) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let first = by(until, read()).await;
    match first {
        Err(failed) if failed.retryable && budget.take() => by(until, read()).await,
        answer => {
            if answer.is_ok() {
                budget.give();
            }
            answer
        }
    }
}

/// Retries one gateway may spend: a tenth of its successful reads, saved up to ten. When a node is down for good,
/// retries stop adding load.
#[derive(Debug)]
pub(super) struct RetryBudget {
    tenths: AtomicU32,
}

impl RetryBudget {
    const MOST: u32 = 100;

    fn take(&self) -> bool {
        self.tenths
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| tenths.checked_sub(10))
            .is_ok()
    }

    fn give(&self) {
        // A full budget is the common case and writes nothing.
        let _ = self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| {
            (tenths < Self::MOST).then_some(tenths + 1)
        });
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tenths: AtomicU32::new(Self::MOST) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn each_status_has_its_reason() {
        for (code, reason) in [
            (Code::Unavailable, Reason::Unreachable),
            (Code::DeadlineExceeded, Reason::Timeout),
            (Code::Cancelled, Reason::Timeout),
            (Code::ResourceExhausted, Reason::Overloaded),
            (Code::Unimplemented, Reason::Protocol),
            (Code::InvalidArgument, Reason::Protocol),
            (Code::Internal, Reason::Protocol),
            (Code::OutOfRange, Reason::Protocol),
        ] {
            assert_eq!(CallError::from(Status::new(code, "x")).reason, reason, "{code:?}");
        }
        // Whatever a node says, no other word than these comes of it.
        for code in (0..=16).map(Code::from_i32) {
            for word in ["", "gone", "DRAINING", "draining"] {
                let mut status = Status::new(code, "x");
                status.metadata_mut().insert(REASON_METADATA, MetadataValue::from_static(word));
                let error = CallError::from(status);
                assert!(Reason::ALL.contains(&error.reason));
                assert_eq!(error.told, word == "draining", "{code:?} {word:?}");
                let untold = CallError::from(Status::new(code, "x")).reason;
                assert_eq!(error.reason, if error.told { Reason::Draining } else { untold });
            }
        }
        let mut draining = Status::unavailable("going away");
        draining.metadata_mut().insert(REASON_METADATA, MetadataValue::from_static("draining"));
        let error = CallError::from(draining);
        assert_eq!((error.reason, error.retryable), (Reason::Draining, false));
        assert!(CallError::from(Status::failed_precondition("gone")).failed_precondition);
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(CallError::from(Status::internal("ü".repeat(5000))).detail.chars().count(), 211);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_its_deadline() {
        let until = Instant::now() + Duration::from_secs(1);
        let answer = by(until, std::future::pending::<Result<(), _>>()).await;
        assert_eq!(answer.unwrap_err().reason, Reason::Timeout);
        assert_eq!(Instant::now(), until);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_broken_connection_is_retried_once_and_within_the_budget() {
        let until = Instant::now() + Duration::from_secs(1);
        let calls = AtomicUsize::new(0);
        let answer_with = |code| {
            let calls = &calls;
            move || {
                calls.fetch_add(1, Ordering::Relaxed);
                async move { Err::<(), _>(Status::new(code, "x").into()) }
            }
        };
        let budget = RetryBudget::default();
        for _ in 0..2 {
            assert!(read_by(until, &budget, answer_with(Code::Unavailable)).await.is_err());
        }
        assert_eq!(calls.swap(0, Ordering::Relaxed), 4);
        assert!(read_by(until, &budget, answer_with(Code::DeadlineExceeded)).await.is_err());
        assert_eq!(calls.swap(0, Ordering::Relaxed), 1);
        for _ in 0..20 {
            assert!(read_by(until, &budget, answer_with(Code::Unavailable)).await.is_err());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 28, "eight retries were left");
    }
}
