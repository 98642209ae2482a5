//! The clients of the broker, as far as its events tell.
//!
//! A client is `pending` from its login until the broker's loop comes round: by then a refused one has no client id any
//! more. What is known of a session outlives its connection: when a connection ends the broker is asked whether it keeps
//! the session, and again later, in ever longer steps, because it does not say when a session expires.
//!
//! Sessions that the broker has loaded at its start are there from the beginning, without a connection. The broker is asked
//! of one only when it may have expired: to a session that has had no connection yet the question does what the end of a
//! connection does.
//!
//! Client contexts of the broker are known by their address, as a key alone: a [`Handle`]. It is good from the login
//! until the broker says that the client has gone, and only in the broker's thread.

mod entry;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rollcall_node_agent::broker::{ClientChange, SessionRef};
use rollcall_proto::v1::{Client, Statistics};

use self::entry::{Connection, Entry, Loaded, Session};
use crate::persistence::Stored;

/// A client context of the broker, while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Handle(pub(crate) usize);

/// What the broker tells of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) clientid: String,
    pub(crate) username: Option<String>,
    pub(crate) address: Option<IpAddr>,
    /// The level of CONNECT; `None` of a session that was loaded.
    pub(crate) protocol: Option<u32>,
    pub(crate) keepalive: Option<u32>,
    /// As `protocol`.
    pub(crate) clean_start: Option<bool>,
}

impl Facts {
    /// Whether the session may outlive the connection. What an MQTT 5 client asked for is not told.
    fn may_stay(&self) -> bool {
        self.protocol.is_none_or(|protocol| protocol >= 5) || self.clean_start == Some(false)
    }
}

/// What can be asked of the broker in its own thread, between two of its steps.
pub(crate) trait BrokerCalls {
    /// What it tells of a client; `None` if that has no client id, as nobody has who was refused.
    fn facts(&self, client: Handle) -> Option<Facts>;
    /// How many subscriptions a client holds.
    fn subscriptions(&self, client: Handle) -> u64;
    /// Closes the connection under a client id. False if there is neither connection nor session. Of a session
    /// without connection it changes nothing. The end of the connection is an event, which comes within the call.
    fn kick(&self, clientid: &str) -> bool;
}

/// What the agent is to be told.
#[derive(Debug)]
enum Queued {
    Present(String),
    Ended(SessionRef),
}

/// What is there under a client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not this session.
    Gone,
    Connected,
    /// The session without a connection.
    Away,
}

/// The longest time until the broker is asked again whether it keeps a session. Asking costs the broker some bytes a
/// session that it gives back only when the client returns.
const LONGEST_LOOK_MS: i64 = 6 * 3_600_000;

/// The shortest.
const SHORTEST_LOOK_MS: i64 = 2_000;

/// How old a number of subscriptions may be, about.
const SWEEP_MS: i64 = 1_000;

/// The table. Its clients are those of one broker process from its start on.
#[derive(Default)]
pub(crate) struct Table {
    last_session: u64,
    /// In the order of their logins.
    pending: Vec<(Handle, Facts)>,
    connected: HashMap<Handle, Arc<Session>>,
    entries: HashMap<String, Entry>,
    queue: VecDeque<Queued>,
    /// When the broker is to be asked of which session, by its number; those that came back since are among them.
    looks: BinaryHeap<Reverse<(i64, u64, String)>>,
    /// Client ids that the plugin itself may take over for a moment, with the password for it.
    takeovers: HashMap<String, Takeover>,
    /// Its own connections, and their client ids.
    own: HashMap<Handle, String>,
    /// Some clients come in past the login, so that a session that is thought to be away may be connected.
    has_unseen: bool,
    /// Whose subscriptions have not been read yet in this sweep.
    sweep: Vec<Handle>,
    sweep_began_ms: i64,
}

#[derive(Debug)]
struct Takeover {
    session: u64,
    password: String,
}

/// What to answer to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is none of ours.
    NotOurs,
    /// It is the plugin's own.
    Allow,
    /// It claims to be, and is not, or comes too late.
    Refuse,
}

impl Table {
    /// With the sessions that the broker has loaded at its start, which is now.
    pub(crate) fn load(&mut self, sessions: BTreeMap<String, Stored>, now_ms: i64) {
        for (clientid, stored) in sessions {
            let ask_from_ms = stored.may_be_over_at_ms(now_ms);
            let Stored { expiry_interval, subscriptions, .. } = stored;
            self.last_session += 1;
            let session = Session {
                clientid: clientid.clone(),
                number: self.last_session,
                created_at_ms: None,
                received_messages: AtomicU64::new(0),
                subscriptions: AtomicU64::new(subscriptions),
            };
            let facts = Facts {
                clientid: clientid.clone(),
                username: None,
                address: None,
                protocol: None,
                keepalive: None,
                clean_start: None,
            };
            if let Some(at_ms) = ask_from_ms {
                self.looks.push(Reverse((
                    at_ms.saturating_add(SHORTEST_LOOK_MS),
                    session.number,
                    clientid.clone(),
                )));
            }
            let entry = Entry {
                session: Arc::new(session),
                connection: Connection { handle: None, facts, connected_at_ms: None },
                loaded: Some(Loaded { expiry_interval, ask_from_ms }),
                away_since_ms: Some(now_ms),
                is_ending: false,
                is_reported: false,
                is_queued: false,
            };
            self.entries.insert(clientid.clone(), entry);
            self.changed(&clientid);
        }
    }

    /// A login is about to be decided.
    pub(crate) fn authenticating(
        &mut self,
        handle: Handle,
        facts: Facts,
        password: Option<&[u8]>,
    ) -> Verdict {
        if facts.username.as_deref() == Some(OWN_USER) {
            let Some(takeover) = self.takeovers.remove(&facts.clientid) else { return Verdict::Refuse };
            let is_right = password.is_some_and(|given| {
                subtle::ConstantTimeEq::ct_eq(given, takeover.password.as_bytes()).into()
            });
            if !is_right || self.standing(&facts.clientid, takeover.session) != Standing::Away {
                return Verdict::Refuse;
            }
            if let Some(entry) = self.entries.get_mut(&facts.clientid) {
                entry.is_ending = true;
            }
            self.own.insert(handle, facts.clientid);
            return Verdict::Allow;
        }
        self.pending.push((handle, facts));
        Verdict::NotOurs
    }

    /// The loop has come round: who logged in and is still there was accepted.
    pub(crate) fn settle(&mut self, calls: &dyn BrokerCalls, now_ms: i64) {
        for (handle, _) in std::mem::take(&mut self.pending) {
            if let Some(facts) = calls.facts(handle) {
                self.connect(handle, facts, now_ms);
            }
        }
    }

    /// A client has sent a message; false if it is not known.
    pub(crate) fn message(&self, handle: Handle) -> bool {
        let session = self.connected.get(&handle);
        if let Some(session) = session {
            session.received_messages.fetch_add(1, Ordering::Relaxed);
        }
        session.is_some()
    }

    /// As [`message`](Self::message), of a client that was not known.
    pub(crate) fn first_message(&mut self, handle: Handle, calls: &dyn BrokerCalls, now_ms: i64) {
        self.settle_one(handle, calls, now_ms);
        if self.message(handle) || self.own.contains_key(&handle) {
            return;
        }
        // The broker's own bridges have no address.
        let Some(facts) = calls.facts(handle).filter(|facts| facts.address.is_some()) else { return };
        self.unseen(&facts.clientid);
        self.connect(handle, facts, now_ms);
        self.message(handle);
    }

    /// A client's connection ends now. Its handle is void from here on.
    pub(crate) fn disconnected(&mut self, handle: Handle, calls: &dyn BrokerCalls, now_ms: i64) {
        self.settle_one(handle, calls, now_ms);
        if self.own.remove(&handle).is_some() {
            return;
        }
        let Some(session) = self.connected.remove(&handle) else {
            self.disconnected_unknown(handle, calls);
            return;
        };
        let clientid = session.clientid.clone();
        let Some(entry) =
            self.entries.get_mut(&clientid).filter(|entry| entry.connection.handle == Some(handle))
        else {
            return;
        };
        if !entry.connection.facts.may_stay() {
            self.end(&clientid);
            return;
        }
        session.subscriptions.store(calls.subscriptions(handle), Ordering::Relaxed);
        entry.away_since_ms = Some(now_ms);
        self.looks.push(Reverse((now_ms, session.number, clientid.clone())));
        self.changed(&clientid);
    }

    /// A session that was away and is taken over has no connection that could end; but who came in past the login
    /// shows here for the first time.
    fn disconnected_unknown(&mut self, handle: Handle, calls: &dyn BrokerCalls) {
        let Some(Facts { clientid, address: Some(_), .. }) = calls.facts(handle) else { return };
        let is_taken_over = self.pending.iter().any(|(_, facts)| facts.clientid == clientid)
            || self.own.values().any(|own| *own == clientid);
        if !is_taken_over && !self.entries.contains_key(&clientid) {
            self.unseen(&clientid);
        }
    }

    /// Accepts one login before the loop comes round, if there is one.
    fn settle_one(&mut self, handle: Handle, calls: &dyn BrokerCalls, now_ms: i64) {
        if let Some(at) = self.pending.iter().position(|(pending, _)| *pending == handle) {
            self.pending.remove(at);
            if let Some(facts) = calls.facts(handle) {
                self.connect(handle, facts, now_ms);
            }
        }
    }

    fn connect(&mut self, handle: Handle, facts: Facts, now_ms: i64) {
        let clientid = facts.clientid.clone();
        let is_resumed = self.entries.get(&clientid).is_some_and(|entry| {
            facts.clean_start == Some(false) && !entry.is_ending && entry.connection.facts.may_stay()
        });
        let connection = Connection { handle: Some(handle), facts, connected_at_ms: Some(now_ms) };
        if let Some(entry) = self.entries.get_mut(&clientid).filter(|_| is_resumed) {
            entry.connection = connection;
            entry.loaded = None;
            entry.away_since_ms = None;
            self.connected.insert(handle, Arc::clone(&entry.session));
        } else {
            self.end(&clientid);
            self.last_session += 1;
            let session = Arc::new(Session {
                clientid: clientid.clone(),
                number: self.last_session,
                created_at_ms: Some(now_ms),
                received_messages: AtomicU64::new(0),
                subscriptions: AtomicU64::new(0),
            });
            self.connected.insert(handle, Arc::clone(&session));
            let entry = Entry {
                session,
                connection,
                loaded: None,
                away_since_ms: None,
                is_ending: false,
                is_reported: false,
                is_queued: false,
            };
            self.entries.insert(clientid.clone(), entry);
        }
        self.changed(&clientid);
    }

    /// The session under a client id is over.
    fn end(&mut self, clientid: &str) {
        let Some(entry) = self.entries.remove(clientid) else { return };
        if let Some(handle) = entry.connection.handle {
            self.connected.remove(&handle);
        }
        if entry.is_reported {
            let clientid = clientid.to_owned();
            self.queue.push_back(Queued::Ended(SessionRef { clientid, session: entry.session.number }));
        }
    }

    fn changed(&mut self, clientid: &str) {
        let Some(entry) = self.entries.get_mut(clientid) else { return };
        if !entry.is_queued {
            entry.is_queued = true;
            self.queue.push_back(Queued::Present(clientid.to_owned()));
        }
    }

    /// Whether clients may be connected that are not known yet.
    pub(crate) fn has_unseen(&self) -> bool {
        self.has_unseen
    }

    fn unseen(&mut self, clientid: &str) {
        if !self.has_unseen {
            self.has_unseen = true;
            tracing::warn!(
                %clientid,
                "a client came in without a login that plugins see, by certificate or enhanced authentication: such \
                 clients are listed only from their first message on, and sessions that expire stay listed"
            );
        }
    }

    /// Sessions without a connection of which the broker is to be asked now whether it keeps them, some of them, with
    /// their numbers.
    pub(crate) fn due(&mut self, now_ms: i64, most: usize) -> Vec<(String, u64)> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some(Reverse((at, ..))) = self.looks.peek()
            && *at <= now_ms
            && let Some(Reverse((_, session, clientid))) = self.looks.pop()
        {
            if self.may_ask(&clientid, session, now_ms) {
                due.push((clientid, session));
            }
        }
        due
    }

    /// Whether the broker can be asked of a session: asking about a client that is connected would kick it, and about one
    /// that was loaded begin the time until it expires.
    pub(crate) fn may_ask(&self, clientid: &str, session: u64, now_ms: i64) -> bool {
        let is_believed = |loaded: Loaded| loaded.ask_from_ms.is_none_or(|from_ms| now_ms < from_ms);
        !self.has_unseen
            && self.standing(clientid, session) == Standing::Away
            && !self.entries.get(clientid).and_then(|entry| entry.loaded).is_some_and(is_believed)
            && !self.pending.iter().any(|(_, facts)| facts.clientid == clientid)
            && !self.own.values().any(|own| own == clientid)
    }

    /// What the broker said of a session without a connection.
    pub(crate) fn looked_at(&mut self, clientid: &str, session: u64, is_kept: bool, now_ms: i64) {
        let Some(entry) = self.entries.get(clientid).filter(|entry| entry.session.number == session) else {
            return;
        };
        let Some(since_ms) = entry.away_since_ms else { return };
        if is_kept {
            let wait = ((now_ms - since_ms) / 2).clamp(SHORTEST_LOOK_MS, LONGEST_LOOK_MS);
            self.looks.push(Reverse((now_ms + wait, session, clientid.to_owned())));
        } else {
            self.end(clientid);
        }
    }

    /// How a session stands.
    pub(crate) fn standing(&self, clientid: &str, session: u64) -> Standing {
        match self.entries.get(clientid) {
            Some(entry) if entry.session.number != session => Standing::Gone,
            Some(entry) if entry.away_since_ms.is_none() => Standing::Connected,
            Some(_) => Standing::Away,
            None => Standing::Gone,
        }
    }

    /// Lets the plugin itself in once, under this client id and with this password, as long as the session is away.
    pub(crate) fn allow_takeover(&mut self, clientid: &str, session: u64, password: String) {
        self.takeovers.insert(clientid.to_owned(), Takeover { session, password });
    }

    /// The takeover has ended, well or not.
    pub(crate) fn end_takeover(&mut self, clientid: &str, session: u64, is_over: bool, now_ms: i64) {
        self.takeovers.remove(clientid);
        let Some(entry) = self.entries.get_mut(clientid).filter(|entry| entry.session.number == session)
        else {
            return;
        };
        if is_over && entry.away_since_ms.is_some() {
            self.end(clientid);
        } else {
            entry.is_ending = false;
            self.looks.push(Reverse((now_ms, session, clientid.to_owned())));
        }
    }

    /// Reads the subscriptions of some clients, the next ones at each call, all of them at most once in `SWEEP_MS`.
    pub(crate) fn sweep(&mut self, calls: &dyn BrokerCalls, most: usize, now_ms: i64) {
        if self.sweep.is_empty() {
            if (0..SWEEP_MS).contains(&(now_ms - self.sweep_began_ms)) {
                return;
            }
            self.sweep_began_ms = now_ms;
            self.sweep.extend(self.connected.keys());
        }
        let rest = self.sweep.len().saturating_sub(most);
        for handle in self.sweep.drain(rest..) {
            if let Some(session) = self.connected.get(&handle) {
                session.subscriptions.store(calls.subscriptions(handle), Ordering::Relaxed);
            }
        }
    }

    /// All clients as they are now. What was queued is in it, and is queued no more.
    pub(crate) fn all(&mut self) -> Vec<Client> {
        self.queue.clear();
        let rows = self.entries.values_mut().map(|entry| {
            entry.is_queued = false;
            entry.is_reported = true;
            entry.client()
        });
        rows.collect()
    }

    /// Whether there is a change to tell.
    pub(crate) fn has_news(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next changes, some of them.
    pub(crate) fn changes(&mut self, most: usize) -> Vec<ClientChange> {
        let mut changes = Vec::new();
        while changes.len() < most
            && let Some(queued) = self.queue.pop_front()
        {
            match queued {
                Queued::Ended(session) => changes.push(ClientChange::Ended(session)),
                Queued::Present(clientid) => {
                    // Of an entry that has ended since, and of one that began anew, another word follows.
                    let Some(entry) = self.entries.get_mut(&clientid).filter(|entry| entry.is_queued) else {
                        continue;
                    };
                    entry.is_queued = false;
                    entry.is_reported = true;
                    changes.push(ClientChange::Present(entry.client()));
                }
            }
        }
        changes
    }

    /// The live figures of a session.
    pub(crate) fn statistics(&self, clientid: &str, session: u64) -> Option<Statistics> {
        let entry = self.entries.get(clientid).filter(|entry| entry.session.number == session)?;
        Some(Statistics {
            subscriptions_cnt: Some(entry.session.subscriptions.load(Ordering::Relaxed)),
            max_subscriptions: Some(0),
            // What it has sent before the broker's start nobody has counted.
            recv_msg: entry
                .session
                .created_at_ms
                .map(|_| entry.session.received_messages.load(Ordering::Relaxed)),
            ..Statistics::default()
        })
    }

    /// The session number under a client id.
    #[cfg(test)]
    fn session(&self, clientid: &str) -> Option<u64> {
        self.entries.get(clientid).map(|entry| entry.session.number)
    }
}

/// The user name under which the plugin connects to its own broker.
pub(crate) const OWN_USER: &str = "rollcall-agent";

#[cfg(test)]
mod tests;
