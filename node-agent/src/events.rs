//! What happens to clients, as it happens: the last of it, kept for those who follow.
//!
//! Events have positions, which count up from 1 in an incarnation of the agent. A follower that was away for less than the
//! [`WINDOW`] takes up where it was. One that falls behind by more is told that it has lost events, and holds up nobody:
//! whoever tells events never waits.
//!
//! Nothing is kept before somebody follows for the first time, so an agent that nobody follows pays nothing for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use rollcall_proto::v1::event::Kind;
use rollcall_proto::v1::{Client, ConnState, Event};
use rollcall_proto::{MAX_EVENTS_BYTES, Window};
use tokio::sync::watch;

use crate::follow::now_ms;

/// Events that are kept at the most.
const WINDOW: usize = 8192;

/// Bytes of them on the wire at the most, some 200 an event: a client id may have 64 KiB.
const WINDOW_BYTES: usize = 4 << 20;

/// The last events of this agent.
#[derive(Debug)]
pub struct Events {
    is_on: AtomicBool,
    window: Mutex<Window<Event>>,
    /// The position of the last event.
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            window: Mutex::new(Window::new(WINDOW, WINDOW_BYTES)),
            last: watch::Sender::default(),
        }
    }
}

/// What follows a position.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct After {
    pub(crate) events: Vec<Event>,
    /// Some are told no more.
    pub(crate) lost: bool,
}

impl Events {
    /// From now on events are kept.
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Release);
    }

    pub(crate) fn are_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Tells each change of the last position.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// What followed a position, at most so many events, and [`MAX_EVENTS_BYTES`] of them. A position that there has not been
    /// is one that is lost.
    pub(crate) fn after(&self, position: u64, most: usize) -> After {
        let window = self.window();
        if position > window.last() {
            return After { events: Vec::new(), lost: true };
        }
        let since = window.since(position, most, MAX_EVENTS_BYTES);
        After { events: since.items, lost: since.lost > 0 }
    }

    /// A session that is there has changed from what it was, if it was there, to what it is.
    pub(crate) fn changed(&self, before: Option<&Client>, now: &Client) {
        let is_connected = |client: &Client| client.conn_state() == ConnState::Connected;
        let was_connected = before.is_some_and(is_connected);
        // One that took its session over while it was connected has connected again.
        let is_anew = before.is_none_or(|before| before.connected_at_ms != now.connected_at_ms);
        if is_connected(now) && (!was_connected || is_anew) {
            self.push(Kind::Connected, Some(now));
        } else if was_connected && !is_connected(now) {
            self.push(Kind::Disconnected, Some(now));
        }
    }

    /// A session is over, which was so.
    pub(crate) fn ended(&self, client: &Client) {
        if client.conn_state() == ConnState::Connected {
            self.push(Kind::Disconnected, Some(client));
        }
        self.push(Kind::Ended, Some(client));
    }

    /// A session was ended by a kick.
    pub(crate) fn kicked(&self, client: &Client) {
        self.push(Kind::Kicked, Some(client));
    }

    /// All clients were read anew and were not as they were known; what happened in between is not known one by one.
    pub(crate) fn resynced(&self) {
        self.push(Kind::Resynced, None);
    }

    fn push(&self, kind: Kind, client: Option<&Client>) {
        if !self.are_on() {
            return;
        }
        let client = client.map(|client| Client { statistics: None, ..client.clone() });
        let mut window = self.window();
        let event = Event { position: window.last() + 1, at_ms: now_ms(), kind: kind.into(), client };
        let bytes = event.encoded_len();
        // Under the lock, so that position and window are always of one moment.
        self.last.send_replace(window.push(event, bytes));
    }

    fn window(&self) -> MutexGuard<'_, Window<Event>> {
        // Each event is put in whole.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(state: ConnState, connected_at_ms: i64) -> Client {
        Client {
            clientid: "c".into(),
            conn_state: state.into(),
            connected_at_ms: Some(connected_at_ms),
            ..Client::default()
        }
    }

    fn kinds(after: &After) -> Vec<Kind> {
        after.events.iter().map(Event::kind).collect()
    }

    #[test]
    fn changes_of_a_session_are_told_as_what_they_mean() {
        let events = Events::default();
        events.turn_on();
        let (on, off) = (client(ConnState::Connected, 1), client(ConnState::Disconnected, 1));
        let again = client(ConnState::Connected, 2);
        events.changed(None, &on);
        events.changed(Some(&on), &Client { username: Some("u".into()), ..on.clone() });
        events.changed(Some(&on), &off);
        events.changed(Some(&off), &off);
        events.changed(Some(&off), &again);
        events.changed(Some(&on), &again);
        events.changed(None, &off);
        events.ended(&off);
        events.ended(&on);
        events.kicked(&on);
        events.resynced();
        let all = events.after(0, 100);
        let expected = [
            Kind::Connected,
            Kind::Disconnected,
            Kind::Connected,
            Kind::Connected,
            Kind::Ended,
            Kind::Disconnected,
            Kind::Ended,
            Kind::Kicked,
            Kind::Resynced,
        ];
        assert_eq!((kinds(&all), all.lost), (expected.to_vec(), false));
        assert!(all.events.iter().map(|event| event.position).eq(1..=9));
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let events = Events::default();
        events.turn_on();
        let large = Client { clientid: "x".repeat(64 << 10), ..client(ConnState::Connected, 1) };
        for _ in 0..200 {
            events.kicked(&large);
        }
        let first = events.after(0, usize::MAX);
        assert!(first.lost);
        let mut kept = first.events;
        while kept.last().unwrap().position < 200 {
            let more = events.after(kept.last().unwrap().position, usize::MAX);
            let bytes: usize = more.events.iter().map(Event::encoded_len).sum();
            assert!(!more.lost && !more.events.is_empty() && bytes <= MAX_EVENTS_BYTES, "{bytes}");
            kept.extend(more.events);
        }
        let bytes: usize = kept.iter().map(Event::encoded_len).sum();
        assert!(bytes <= WINDOW_BYTES && bytes > WINDOW_BYTES - (65 << 10), "{bytes}");
        assert_eq!(events.window().bytes(), bytes);
    }

    #[test]
    fn who_was_away_takes_up_where_it_was_or_hears_that_it_cannot() {
        let events = Events::default();
        events.turn_on();
        assert_eq!(events.after(0, 9), After::default());
        for _ in 0..WINDOW + 3 {
            events.resynced();
        }
        let last = WINDOW as u64 + 3;
        let positions = |after: &After| after.events.iter().map(|event| event.position).collect::<Vec<_>>();
        let behind = events.after(last - 2, 9);
        assert_eq!((positions(&behind), behind.lost), (vec![last - 1, last], false));
        let just = events.after(3, 1);
        assert_eq!((positions(&just), just.lost), (vec![4], false));
        let late = events.after(2, 1);
        assert_eq!((positions(&late), late.lost), (vec![4], true));
        assert_eq!(events.after(last, 9), After::default());
        assert!(events.after(last + 1, 9).lost, "a position of another agent");
    }
}
