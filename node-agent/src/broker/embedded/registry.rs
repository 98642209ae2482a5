//! Numbers and counters of sessions: what must outlive a connection and what the broker itself does not keep.
//!
//! The registry decides which session numbers are alive; the broker's own table says what state they are in. A
//! session is alive from the moment a connection begins it until the broker says that it is over, or until
//! another session takes its client id. A number is never given again, and a dead one never comes back.
//!
//! Followers are told which client ids changed, never what changed. Each keeps a set, so a burst about one
//! client costs one entry, nothing is lost while its reader is slow, and memory is bounded by the clients.
//!
//! Decided against: keeping counters on the broker's connection object alone, where they would end with the
//! connection, although messages are counted over the session.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmqtt::types::ClientId;
use tokio::sync::Notify;

use crate::front::{Connection, Passing};

/// What is counted over the life of a session.
#[derive(Debug)]
pub(super) struct SessionRecord {
    /// The session's number.
    pub(super) number: u64,
    /// When its first connection was made, milliseconds since 1970; an event of an older connection under the
    /// same client id belongs to an earlier session.
    pub(super) began_ms: i64,
    /// PUBLISH packets taken from the client.
    pub(super) received_messages: AtomicU64,
    /// PUBLISH packets sent to the client.
    pub(super) sent_messages: AtomicU64,
    /// Messages dropped because the queue was full.
    pub(super) dropped_messages: AtomicU64,
}

/// What is counted over the life of a connection.
#[derive(Debug)]
pub(super) struct ConnectionRecord {
    /// The session it serves.
    pub(super) session: Arc<SessionRecord>,
    /// Packets received, CONNECT included.
    pub(super) received_packets: AtomicU64,
    /// What the front counts of it, if it came in that way.
    pub(super) passed: Option<Arc<Connection>>,
}

/// The live sessions of one broker, and who follows them.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// The connections that pass the front.
    pub(super) passing: Arc<Passing>,
    last_number: AtomicU64,
    /// The present or last connection of every live session.
    live: Mutex<HashMap<ClientId, Arc<ConnectionRecord>>>,
    followers: Mutex<Vec<Arc<Changes>>>,
}

// A panic while one of these locks is held cannot leave the maps half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Records a new connection. It goes on with the live session under its client id if the broker `resumed`
    /// one, and begins a new session otherwise.
    pub(super) fn connect(
        &self,
        clientid: &ClientId,
        resumed: bool,
        began_ms: i64,
        passed: Option<Arc<Connection>>,
    ) -> Arc<ConnectionRecord> {
        let mut live = lock(&self.live);
        let old = live.get(clientid).filter(|_| resumed).map(|connection| Arc::clone(&connection.session));
        let session = old.unwrap_or_else(|| {
            Arc::new(SessionRecord {
                number: self.last_number.fetch_add(1, Ordering::Relaxed) + 1,
                began_ms,
                received_messages: AtomicU64::new(0),
                sent_messages: AtomicU64::new(0),
                dropped_messages: AtomicU64::new(0),
            })
        });
        let connection = Arc::new(ConnectionRecord { session, received_packets: AtomicU64::new(1), passed });
        live.insert(clientid.clone(), Arc::clone(&connection));
        connection
    }

    /// Ends a session, if this connection is still the one that serves it.
    pub(super) fn end(&self, clientid: &ClientId, connection: &Arc<ConnectionRecord>) {
        let mut live = lock(&self.live);
        if live.get(clientid).is_some_and(|present| Arc::ptr_eq(present, connection)) {
            live.remove(clientid);
        }
    }

    /// Ends a session by its number; false if it was not alive.
    pub(super) fn end_number(&self, clientid: &str, number: u64) -> bool {
        let mut live = lock(&self.live);
        let alive = live.get(clientid).is_some_and(|connection| connection.session.number == number);
        if alive {
            live.remove(clientid);
        }
        alive
    }

    /// The live session under a client id.
    pub(super) fn session(&self, clientid: &str) -> Option<Arc<SessionRecord>> {
        lock(&self.live).get(clientid).map(|connection| Arc::clone(&connection.session))
    }

    /// Whether a session is alive.
    pub(super) fn is_alive(&self, clientid: &str, number: u64) -> bool {
        lock(&self.live).get(clientid).is_some_and(|connection| connection.session.number == number)
    }

    /// Client ids of all live sessions.
    pub(super) fn clientids(&self) -> Vec<ClientId> {
        lock(&self.live).keys().cloned().collect()
    }

    /// Tells every follower that a client changed.
    pub(super) fn changed(&self, clientid: &ClientId) {
        for follower in lock(&self.followers).iter() {
            follower.add(clientid);
        }
    }

    /// A new follower's changes, from now on, for as long as the returned value lives.
    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        let changes = Arc::new(Changes::default());
        lock(&self.followers).push(Arc::clone(&changes));
        Follower { registry: Arc::clone(self), changes }
    }
}

/// The client ids that changed since a follower last looked.
#[derive(Debug, Default)]
struct Changes {
    clientids: Mutex<HashSet<ClientId>>,
    some: Notify,
}

impl Changes {
    fn add(&self, clientid: &ClientId) {
        let was_empty = {
            let mut clientids = lock(&self.clientids);
            let was_empty = clientids.is_empty();
            clientids.insert(clientid.clone());
            was_empty
        };
        if was_empty {
            self.some.notify_one();
        }
    }
}

/// One reader of changes.
#[derive(Debug)]
pub(super) struct Follower {
    registry: Arc<Registry>,
    changes: Arc<Changes>,
}

impl Follower {
    /// The clients that changed since the last call; waits until there is one. Dropping the future loses nothing.
    pub(super) async fn changed(&self) -> HashSet<ClientId> {
        loop {
            let changed = std::mem::take(&mut *lock(&self.changes.clientids));
            if !changed.is_empty() {
                return changed;
            }
            self.changes.some.notified().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        lock(&self.registry.followers).retain(|changes| !Arc::ptr_eq(changes, &self.changes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_session_keeps_its_number_and_a_new_one_never_gets_an_old_one() {
        let registry = Registry::default();
        let id = ClientId::from("c");
        let first = registry.connect(&id, false, 1, None);
        let resumed = registry.connect(&id, true, 2, None);
        assert_eq!(first.session.number, resumed.session.number);
        assert_eq!(resumed.session.began_ms, 1);
        let clean = registry.connect(&id, false, 3, None);
        assert_eq!(clean.session.number, first.session.number + 1);
        assert!(!registry.is_alive("c", first.session.number));
        assert!(registry.end_number("c", clean.session.number));
        assert!(!registry.end_number("c", clean.session.number));
        // The broker resumes something that was already declared over: it is a new session to us.
        assert_eq!(registry.connect(&id, true, 4, None).session.number, clean.session.number + 1);
    }

    #[test]
    fn a_late_word_from_an_old_connection_ends_nothing() {
        let registry = Registry::default();
        let id = ClientId::from("c");
        let old = registry.connect(&id, false, 1, None);
        let new = registry.connect(&id, true, 2, None);
        registry.end(&id, &old);
        assert!(registry.is_alive("c", new.session.number));
        registry.end(&id, &new);
        assert!(registry.session("c").is_none());
    }

    #[tokio::test]
    async fn a_follower_gets_every_changed_client_once() {
        let registry = Arc::new(Registry::default());
        registry.changed(&ClientId::from("before"));
        let follower = registry.follow();
        for _ in 0..3 {
            registry.changed(&ClientId::from("a"));
            registry.changed(&ClientId::from("b"));
        }
        let mut changed: Vec<_> = follower.changed().await.into_iter().collect();
        changed.sort();
        assert_eq!(changed, [ClientId::from("a"), ClientId::from("b")]);
        registry.changed(&ClientId::from("c"));
        assert_eq!(follower.changed().await.len(), 1);
        drop(follower);
        assert!(lock(&registry.followers).is_empty());
    }
}
