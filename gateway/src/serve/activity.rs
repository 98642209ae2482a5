//! What an HTTP/2 connection is at: whether it has asked for anything lately, and whether it takes what it asked for.
//!
//! hyper closes an HTTP/1 connection that sends no head in time, and a connection that takes nothing shows by a write
//! that does not end. Neither holds of HTTP/2: a client that answers pings is well, as far as hyper goes, whatever it leaves
//! undone, and one that opens no window has nothing written to it. So every answer notes when its client took the last of
//! it, in pieces of [`PIECE`], and whoever serves the connection closes it when [`Activity::abandoned`] is ready.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, sleep};

/// Bytes of an answer given to hyper at a time: as many as HTTP/2 lets a client take without a word by default.
const PIECE: usize = 64 << 10;

/// The longest time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Clones are of the same connection.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Requests whose answers have not been taken to their end: since when it is the client's turn, `None` while it is ours.
    open: HashMap<u64, Option<Instant>>,
    last: u64,
    /// When the last of them ended.
    idle_since: Instant,
}

impl Activity {
    /// Of a connection that begins now.
    pub(super) fn begin() -> Self {
        let state = State { open: HashMap::new(), last: 0, idle_since: Instant::now() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come; it counts until the returned value is dropped.
    pub(super) fn request(&self) -> Exchange {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.open.insert(number, None);
        Exchange { activity: self.clone(), number }
    }

    /// Counts idle time from now on.
    pub(super) fn begin_again(&self) {
        self.lock().idle_since = Instant::now();
    }

    /// Ready when nothing was asked for in so long a time, or an answer was there to be taken and none of it was.
    pub(super) async fn abandoned(&self, idle: Duration, stalled: Duration) -> Abandoned {
        loop {
            let (due, why) = {
                let state = self.lock();
                let waiting = state.open.values().flatten().min().map(|since| *since + stalled);
                if state.open.is_empty() {
                    (Some(state.idle_since + idle), Abandoned::Idle)
                } else {
                    (waiting, Abandoned::Stalled)
                }
            };
            let left = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return why;
            }
            sleep(left.min(LOOK)).await;
        }
    }
}

/// Why nobody seems to be at a connection's other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// Nothing was asked for.
    Idle,
    /// An answer is not taken.
    Stalled,
}

/// A request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    activity: Activity,
    number: u64,
}

impl Exchange {
    fn is_turn_of_client(&self, is_it: bool) {
        let since = is_it.then(Instant::now);
        self.activity.lock().open.insert(self.number, since);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.open.remove(&self.number);
        if state.open.is_empty() {
            state.idle_since = Instant::now();
        }
    }
}

/// An answer's body that notes how far its client has come.
pub(super) struct Noted {
    body: Body,
    /// Of the frame that is being given.
    rest: Bytes,
    exchange: Arc<Exchange>,
}

/// A part of an answer. While it waits for its client the exchange has not ended, also when the body has.
struct Piece {
    bytes: Bytes,
    _exchange: Arc<Exchange>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Noted {
    pub(super) fn new(body: Body, exchange: Exchange) -> Self {
        Self { body, rest: Bytes::new(), exchange: Arc::new(exchange) }
    }
}

impl HttpBody for Noted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // hyper asks when what it was given before is on its way.
        if self.rest.is_empty() {
            self.exchange.is_turn_of_client(false);
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => {
                    self.exchange.is_turn_of_client(true);
                    return Poll::Ready(end);
                }
            }
        }
        self.exchange.is_turn_of_client(true);
        let most = self.rest.len().min(PIECE);
        let piece = Piece { bytes: self.rest.split_to(most), _exchange: Arc::clone(&self.exchange) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::timeout;

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);
    const STALLED: Duration = Duration::from_secs(300);

    async fn is_abandoned_within(activity: &Activity, time: Duration) -> bool {
        timeout(time, activity.abandoned(IDLE, STALLED)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_is_idle_and_who_is_waited_for_is_not() {
        let activity = Activity::begin();
        assert!(!is_abandoned_within(&activity, IDLE - LOOK).await);
        let exchange = activity.request();
        // An answer may take its time to be made.
        assert!(!is_abandoned_within(&activity, STALLED * 2).await);
        drop(exchange);
        assert!(!is_abandoned_within(&activity, IDLE - LOOK).await);
        assert!(is_abandoned_within(&activity, LOOK * 2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_noticed_whatever_else_is() {
        let activity = Activity::begin();
        let large = Body::from(vec![b'x'; PIECE * 3 + 1]);
        let mut slow = Noted::new(large, activity.request());
        let mut taken = 0;
        for _ in 0..2 {
            taken += slow.frame().await.unwrap().unwrap().into_data().unwrap().len();
            // Others come and go meanwhile.
            drop(Noted::new(Body::from("x"), activity.request()).collect().await.unwrap());
            assert!(!is_abandoned_within(&activity, STALLED - LOOK).await);
        }
        assert_eq!((taken, slow.size_hint().exact()), (PIECE * 2, Some(PIECE as u64 + 1)));
        assert!(is_abandoned_within(&activity, LOOK * 2).await);
        let rest = slow.collect().await.unwrap().to_bytes();
        assert_eq!(rest.len(), PIECE + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_an_answer_is_waited_for_too_and_for_as_long() {
        let activity = Activity::begin();
        let mut body = Noted::new(Body::from("last"), activity.request());
        let last = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.frame().await.is_none());
        drop(body);
        // As hyper leaves it to h2 when the client opens no window.
        assert!(!is_abandoned_within(&activity, STALLED - LOOK).await);
        assert!(is_abandoned_within(&activity, LOOK * 2).await);
        drop(last);
        assert!(!is_abandoned_within(&activity, IDLE - LOOK).await);
    }
}
