//! The connections that pass the front, and what each has counted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::meter::{Connect, Counts, Meter};

/// MQTT 5, section 3.14.2.1: why a server ends a connection.
pub(crate) const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// A listener's number and the client's address and port, in canonical form: names a connection.
pub(crate) type Key = (u16, SocketAddr);

/// One client's connection. What it has counted stays when it has ended.
#[derive(Debug)]
pub(crate) struct Connection {
    meter: Mutex<Meter>,
    /// What the client is told when the broker closes.
    reason: AtomicU8,
    cut: Notify,
}

impl Connection {
    pub(super) fn new() -> Self {
        Self { meter: Mutex::new(Meter::new()), reason: AtomicU8::new(0), cut: Notify::new() }
    }

    // A panic while it is locked cannot leave it half-changed for others: it counts one connection only.
    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn received(&self, bytes: &[u8]) {
        self.meter().received(bytes);
    }

    pub(super) fn sent(&self, bytes: &[u8]) {
        self.meter().sent(bytes);
    }

    /// What has passed so far.
    pub(crate) fn counts(&self) -> Counts {
        self.meter().counts()
    }

    /// Whether CONNECT said that a bridge connects; `None` before it has passed.
    pub(crate) fn is_bridge(&self) -> Option<bool> {
        self.meter().connect().map(Connect::is_bridge)
    }

    /// The client id of a CONNECT that says that a bridge connects.
    pub(super) fn bridge(&self) -> Option<String> {
        let meter = self.meter();
        let connect = meter.connect().filter(|connect| connect.is_bridge())?;
        Some(String::from_utf8_lossy(connect.clientid()).into_owned())
    }

    /// Whether CONNECT came from this client, or from one whose id the broker was to make up.
    fn is_of(&self, clientid: &str) -> bool {
        self.meter()
            .connect()
            .is_some_and(|connect| connect.clientid().is_empty() || connect.clientid() == clientid.as_bytes())
    }

    /// Has an MQTT 5 client told this reason if the broker closes its connection; 0 for none.
    pub(crate) fn part(&self, reason: u8) {
        self.reason.store(reason, Ordering::Relaxed);
    }

    /// What the client is to be sent now that the broker has closed.
    pub(super) fn farewell(&self) -> Option<[u8; 4]> {
        match self.reason.load(Ordering::Relaxed) {
            0 => None,
            reason => self.meter().farewell(reason),
        }
    }

    /// Ends the connection shortly, whether or not the client takes what is still to be sent to it.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }

    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }
}

/// All connections that pass at present.
#[derive(Debug, Default)]
pub(crate) struct Passing(Mutex<HashMap<Key, Arc<Connection>>>);

impl Passing {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Connection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection under this key, if it is this client's.
    pub(crate) fn find(&self, key: Key, clientid: &str) -> Option<Arc<Connection>> {
        let found = self.lock().get(&key).cloned();
        found.filter(|connection| connection.is_of(clientid))
    }

    /// A new connection, found under this key for as long as the returned value lives.
    pub(super) fn enter(self: &Arc<Self>, key: Key) -> Passage {
        let connection = Arc::new(Connection::new());
        self.lock().insert(key, Arc::clone(&connection));
        Passage { passing: Arc::clone(self), key, connection }
    }

    /// All of them.
    #[cfg(any(feature = "embedded", test))]
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().cloned().collect()
    }
}

/// A connection's place among those that pass.
pub(super) struct Passage {
    passing: Arc<Passing>,
    key: Key,
    pub(super) connection: Arc<Connection>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut connections = self.passing.lock();
        // The port may have been taken by another already.
        if connections.get(&self.key).is_some_and(|present| Arc::ptr_eq(present, &self.connection)) {
            connections.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_by_its_key_and_its_client_until_it_ends() {
        let passing = Arc::new(Passing::default());
        let key = (1, SocketAddr::from(([10, 0, 0, 1], 4321)));
        let first = passing.enter(key);
        assert!(passing.find(key, "c").is_none(), "CONNECT has not passed");
        first.connection.received(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c");
        assert!(Arc::ptr_eq(&passing.find(key, "c").unwrap(), &first.connection));
        assert!(passing.find(key, "d").is_none(), "another client");
        assert!(passing.find((2, key.1), "c").is_none(), "another listener");
        let second = passing.enter(key);
        second.connection.received(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0");
        drop(first);
        let made_up = passing.find(key, "made up by the broker").unwrap();
        assert!(Arc::ptr_eq(&made_up, &second.connection));
        drop(second);
        assert!(passing.all().is_empty());
    }
}
