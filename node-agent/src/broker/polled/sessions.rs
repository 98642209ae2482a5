//! Which session is which, from one look to the next. Knows no broker and no clock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollcall_proto::v1::{Client, ConnState};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::broker::{ClientChange, SessionRef};

/// How long a connection that was kicked is left out of what is found.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Where a session is: a broker with several tenants can have a client id once in each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The tenant: virtual host, account.
    pub(crate) zone: String,
    /// MQTT client identifier.
    pub(crate) clientid: String,
}

impl Place {
    fn of(client: &Client) -> Self {
        Self { zone: client.zone.clone().unwrap_or_default(), clientid: client.clientid.clone() }
    }
}

/// A session as a look found it.
#[derive(Clone, Debug)]
pub(crate) struct Seen<E> {
    /// Its state. What is absent of a session without connection is filled in from what was known of it, and so are
    /// its number and when it began.
    pub(crate) client: Client,
    /// Names the connection for ever; `None` while there is none.
    pub(crate) connection: Option<String>,
    /// Whether it is known to outlive its connection.
    pub(crate) is_persistent: bool,
    /// What the adapter wants to find again.
    pub(crate) extra: E,
}

/// A session that is alive.
#[derive(Clone, Debug)]
pub(crate) struct Found<E> {
    pub(crate) place: Place,
    /// As last seen.
    pub(crate) seen: Seen<E>,
}

/// What is left of sessions that were kicked.
#[derive(Debug)]
struct Kicked {
    connections: Vec<String>,
    at: Instant,
}

/// The sessions of one broker node.
#[derive(Debug)]
pub(crate) struct Sessions<E> {
    last_number: u64,
    known: HashMap<Place, Seen<E>>,
    places: HashMap<u64, Place>,
    kicked: HashMap<Place, Kicked>,
    listener: Option<mpsc::UnboundedSender<ClientChange>>,
}

impl<E> Default for Sessions<E> {
    fn default() -> Self {
        Self {
            last_number: 0,
            known: HashMap::new(),
            places: HashMap::new(),
            kicked: HashMap::new(),
            listener: None,
        }
    }
}

/// A panic while this is held cannot leave the maps half-changed.
pub(crate) fn lock<E>(sessions: &Mutex<Sessions<E>>) -> MutexGuard<'_, Sessions<E>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Clone> Sessions<E> {
    /// Where kicks are reported from now on.
    pub(crate) fn listen(&mut self) -> mpsc::UnboundedReceiver<ClientChange> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listener = Some(sender);
        receiver
    }

    /// All clients as last seen.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.known.values().map(|seen| seen.client.clone()).collect()
    }

    /// All sessions as last seen.
    pub(crate) fn seen(&self) -> impl Iterator<Item = &Seen<E>> {
        self.known.values()
    }

    /// All sessions as last seen, and where they are.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Place, &Seen<E>)> {
        self.known.iter()
    }

    /// Whether a session of this client is known.
    pub(crate) fn knows(&self, zone: &str, clientid: &str) -> bool {
        self.known.contains_key(&Place { zone: zone.to_owned(), clientid: clientid.to_owned() })
    }

    /// A session, if it is alive.
    pub(crate) fn find(&self, session: &SessionRef) -> Option<Found<E>> {
        let place = self.places.get(&session.session).filter(|place| place.clientid == session.clientid)?;
        let seen = self.known.get(place)?;
        Some(Found { place: place.clone(), seen: seen.clone() })
    }

    /// A session was kicked, and with it these connections: what a look that has begun already finds of it is not
    /// true any more. Reports its end. Does nothing to a session that is over.
    pub(crate) fn kicked(&mut self, session: &SessionRef, connections: Vec<String>, now: Instant) {
        let Some(place) = self.places.remove(&session.session) else { return };
        self.known.remove(&place);
        let kicked = self.kicked.entry(place).or_insert(Kicked { connections: Vec::new(), at: now });
        kicked.connections.extend(connections);
        kicked.at = now;
        self.report_end(session);
    }

    /// A session is found to be over. Does nothing to one that is over already.
    pub(crate) fn ended(&mut self, session: &SessionRef) {
        let Some(place) = self.places.remove(&session.session) else { return };
        self.known.remove(&place);
        self.report_end(session);
    }

    fn report_end(&self, session: &SessionRef) {
        if let Some(listener) = &self.listener {
            // Nobody follows any more: then nobody needs to know.
            let _ = listener.send(ClientChange::Ended(session.clone()));
        }
    }

    /// Takes in all that a look found which began at `started`, and says what is different.
    pub(crate) fn take(&mut self, started: Instant, seen: Vec<Seen<E>>, now_ms: i64) -> Vec<ClientChange> {
        self.kicked.retain(|_, kicked| started.saturating_duration_since(kicked.at) < REMEMBERED);
        let mut found: HashMap<Place, Seen<E>> = HashMap::with_capacity(seen.len());
        for seen in seen {
            let place = Place::of(&seen.client);
            if self.kicked.get(&place).is_some_and(|kicked| kicked.hides(&seen, started)) {
                continue;
            }
            // While one connection takes over from another, both may be there.
            let is_later = |other: &Seen<E>| {
                let age = |seen: &Seen<E>| (seen.connection.is_some(), seen.client.connected_at_ms);
                age(&seen) > age(other)
            };
            if found.get(&place).is_none_or(is_later) {
                found.insert(place, seen);
            }
        }

        let mut changes = Vec::new();
        let mut before = std::mem::take(&mut self.known);
        for (place, mut seen) in found {
            match before.remove(&place) {
                Some(known) if is_same_session(&known, &seen) => {
                    go_on(&known, &mut seen, now_ms);
                    if known.client != seen.client {
                        changes.push(ClientChange::Present(seen.client.clone()));
                    }
                }
                known => {
                    if let Some(known) = known {
                        changes.push(self.end(&known));
                    }
                    self.last_number += 1;
                    seen.client.session = self.last_number;
                    self.places.insert(self.last_number, place.clone());
                    changes.push(ClientChange::Present(seen.client.clone()));
                }
            }
            self.known.insert(place, seen);
        }
        for known in before.into_values() {
            changes.push(self.end(&known));
        }
        changes
    }

    fn end(&mut self, known: &Seen<E>) -> ClientChange {
        let Client { clientid, session, .. } = &known.client;
        self.places.remove(session);
        ClientChange::Ended(SessionRef { clientid: clientid.clone(), session: *session })
    }
}

impl Kicked {
    /// Whether what a look found that began then is what was kicked.
    fn hides<E>(&self, seen: &Seen<E>, started: Instant) -> bool {
        match &seen.connection {
            Some(connection) => self.connections.contains(connection),
            None => started <= self.at,
        }
    }
}

fn is_same_session<E>(known: &Seen<E>, seen: &Seen<E>) -> bool {
    let is_same_connection = known.connection.is_some() && known.connection == seen.connection;
    is_same_connection || known.is_persistent && seen.is_persistent
}

/// Fills in what goes on from what was known.
fn go_on<E>(known: &Seen<E>, seen: &mut Seen<E>, now_ms: i64) {
    let (before, client) = (&known.client, &mut seen.client);
    client.session = before.session;
    client.created_at_ms = before.created_at_ms.or(client.created_at_ms);
    if seen.connection.is_some() {
        if known.connection == seen.connection {
            // What was once seen of a connection may be out of sight later.
            client.clean_start = client.clean_start.or(before.clean_start);
            client.expiry_interval = client.expiry_interval.or(before.expiry_interval);
        }
        return;
    }
    let offline = client.clone();
    *client = before.clone();
    client.conn_state = ConnState::Disconnected.into();
    client.clean_start = offline.clean_start.or(before.clean_start);
    client.expiry_interval = offline.expiry_interval.or(before.expiry_interval);
    client.disconnected_at_ms = match known.connection {
        Some(_) => offline.disconnected_at_ms.or(Some(now_ms)),
        None => before.disconnected_at_ms,
    };
}

#[cfg(test)]
mod tests;
