//! What holds for every call: how many at once, until when, and none any more while the agent drains.

use std::sync::Arc;
use std::time::Duration;

use rollcall_proto::{REASON_METADATA, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Exports in flight at the most. Each keeps one state of the index alive, and lasts as long as its reader takes.
const MOST_EXPORTS: u32 = 8;

/// Streams of events at the most: one for each gateway.
const MOST_WATCHES: u32 = 32;

/// Admits calls up to a limit, exports up to another so that slow readers leave the calls' places alone, and none while
/// draining.
#[derive(Debug)]
pub(crate) struct Calls {
    free: Arc<Semaphore>,
    most: u32,
    free_exports: Arc<Semaphore>,
    draining: CancellationToken,
    /// Streams of events; they do not keep a drain waiting.
    free_watches: Arc<Semaphore>,
    /// Ends the calls in flight.
    cut_off: CancellationToken,
}

impl Calls {
    pub(crate) fn new(most: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most as usize)),
            most,
            free_exports: Arc::new(Semaphore::new(MOST_EXPORTS as usize)),
            draining: CancellationToken::new(),
            free_watches: Arc::new(Semaphore::new(MOST_WATCHES as usize)),
            cut_off: CancellationToken::new(),
        }
    }

    /// Lets a call in; it counts until the permit is dropped.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.admit_to(&self.free, || format!("the agent is at its limit of {} calls", self.most))
    }

    /// Lets an export in; as [`Calls::admit`].
    pub(crate) fn admit_export(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.admit_to(&self.free_exports, || format!("the agent is at its limit of {MOST_EXPORTS} exports"))
    }

    fn admit_to(
        &self,
        free: &Arc<Semaphore>,
        full: impl FnOnce() -> String,
    ) -> Result<OwnedSemaphorePermit, Status> {
        if self.is_draining() {
            return Err(draining());
        }
        Arc::clone(free)
            .try_acquire_owned()
            .map_err(|_| refusal(Code::ResourceExhausted, full(), Reason::Overloaded))
    }

    /// Lets a stream of events in; as [`Calls::admit`].
    pub(crate) fn admit_watch(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.admit_to(&self.free_watches, || {
            format!("the agent is at its limit of {MOST_WATCHES} streams of events")
        })
    }

    /// Waits until the agent drains.
    pub(crate) async fn drains(&self) {
        self.draining.cancelled().await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Admits no more calls.
    pub(crate) fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends the calls in flight with an error.
    pub(crate) fn cut_off(&self) {
        self.cut_off.cancel();
    }

    /// Does a call's work, as long as it has time and is not cut off.
    pub(crate) async fn bound<T>(
        &self,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            // Work that is done at once never waits for the end of anything.
            biased;
            result = deadline.bound(work) => result,
            () = self.cut_off.cancelled() => Err(draining()),
        }
    }

    /// How many calls and exports are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        let places = self.most as usize + MOST_EXPORTS as usize;
        places.saturating_sub(self.free.available_permits() + self.free_exports.available_permits())
    }

    /// Waits until no call is in flight; only of use while draining.
    pub(crate) async fn idle(&self) {
        // All permits at once are free only when no call has one. The semaphore is never closed.
        let _ = self.free.acquire_many(self.most).await;
        let _ = self.free_exports.acquire_many(MOST_EXPORTS).await;
    }
}

/// What an agent says that goes away.
pub(crate) fn draining() -> Status {
    refusal(Code::Unavailable, "the agent is shutting down", Reason::Draining)
}

/// The refusal of an agent whose index is empty only because it has not heard of its broker.
pub(crate) fn not_yet_known() -> Status {
    refusal(Code::Unavailable, "the broker's clients are not known yet", Reason::Unreachable)
}

fn refusal(code: Code, message: impl Into<String>, reason: Reason) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_METADATA, MetadataValue::from_static(reason.as_str()));
    Status::with_metadata(code, message, metadata)
}

/// Until when a call's answer is of use. tonic ends a call at its `grpc-timeout` too, but as CANCELLED, and not
/// while a stream's body is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    end: Option<Instant>,
}

impl Deadline {
    /// Reads `grpc-timeout`. Without one, or with a malformed one, there is no deadline.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let start = Instant::now();
        let timeout =
            metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
        Self { start, end: timeout.and_then(|timeout| start.checked_add(timeout)) }
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Does the work, as long as there is time.
    async fn bound<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match self.end {
            None => work.await,
            Some(end) => timeout_at(end, work).await.unwrap_or_else(|_| Err(exceeded())),
        }
    }

    /// When a part of the answer that can be left out has to be there: `longest` from now, and with a fifth of the
    /// call's time, at most half a second, left to send the rest.
    pub(crate) fn with_reserve(&self, longest: Duration) -> Instant {
        let latest = Instant::now() + longest;
        match self.end {
            None => latest,
            Some(end) => {
                let reserve = (end.saturating_duration_since(self.start) / 5).min(Duration::from_millis(500));
                end.checked_sub(reserve).map_or(latest, |end| end.min(latest))
            }
        }
    }
}

pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("the deadline passed before the answer was whole")
}

/// The header's form: at most 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_is_read_in_every_unit_and_nothing_else_is() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("5s", None),
            ("5é", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_be_left_out_leaves_time_for_the_rest() {
        let deadline = |text| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", MetadataValue::from_static(text));
            Deadline::of(&metadata)
        };
        let within =
            |deadline: Deadline| deadline.with_reserve(Duration::from_secs(2)).duration_since(Instant::now());
        assert_eq!(within(deadline("1S")), Duration::from_millis(800));
        assert_eq!(within(deadline("2200m")), Duration::from_millis(1_760));
        assert_eq!(within(deadline("1H")), Duration::from_secs(2));
        assert_eq!(within(Deadline::of(&MetadataMap::new())), Duration::from_secs(2));
        let short = deadline("100m");
        let result = short.bound(std::future::pending::<Result<(), Status>>()).await;
        assert_eq!(result.unwrap_err().code(), Code::DeadlineExceeded);
        assert!(short.has_passed());
    }

    #[tokio::test]
    async fn exports_have_places_of_their_own_and_are_waited_for() {
        let calls = Calls::new(1);
        let exports: Vec<_> = (0..MOST_EXPORTS).map(|_| calls.admit_export().unwrap()).collect();
        assert_eq!(calls.admit_export().unwrap_err().code(), Code::ResourceExhausted);
        drop(calls.admit().unwrap());
        assert_eq!(calls.in_flight(), MOST_EXPORTS as usize);
        calls.drain();
        let idle = tokio::time::timeout(Duration::from_millis(20), calls.idle());
        assert!(idle.await.is_err());
        drop(exports);
        calls.idle().await;
        assert_eq!(calls.admit_export().unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn calls_are_counted_until_they_end_and_refused_with_the_reason() {
        let calls = Calls::new(2);
        let reason = |status: Status| {
            let word = status.metadata().get(REASON_METADATA).map(|word| word.to_str().unwrap().to_owned());
            (status.code(), word.and_then(|word| Reason::from_word(&word)))
        };
        let (first, _second) = (calls.admit().unwrap(), calls.admit().unwrap());
        let refused = reason(calls.admit().unwrap_err());
        assert_eq!(refused, (Code::ResourceExhausted, Some(Reason::Overloaded)));
        drop(first);
        let third = calls.admit().unwrap();
        assert_eq!(calls.in_flight(), 2);
        calls.drain();
        let refused = reason(calls.admit().unwrap_err());
        assert_eq!(refused, (Code::Unavailable, Some(Reason::Draining)));
        drop((third, _second));
        calls.idle().await;
        assert_eq!(calls.in_flight(), 0);
    }
}
