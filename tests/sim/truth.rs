//! What is so: every session there ever was, on which broker, in which state, from when to when; and which agent stood
//! behind which address when.
//!
//! Times are milliseconds of the simulation. An agent hears of a change within [`LAG`], so what it answers at a moment is
//! true of some moment within that time before.

use std::collections::{BTreeMap, BTreeSet};

use rollcall_proto::v1::{Client, ConnState};
use tokio::sync::mpsc::UnboundedSender;

/// The most time from a change at a broker to the index of its agent: some ticks of the simulation.
pub(crate) const LAG: u64 = 20;

/// What stands behind a row's `created_at` and `connected_at`, milliseconds since 1970 at the simulation's begin.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub(crate) const ZONES: [&str; 3] = ["edge", "core", "lab"];

/// From a broker to the adapter that follows it. Sessions stand under their [`Session::uid`].
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Present(Box<Client>),
    Ended { clientid: String, uid: u32 },
}

/// From some moment on, until the next version or the session's end.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) from: u64,
    pub(crate) is_connected: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Its place among all sessions of the simulation. A row shows it as `expiry_interval`.
    pub(crate) uid: u32,
    pub(crate) broker: usize,
    pub(crate) clientid: String,
    pub(crate) username: Option<String>,
    pub(crate) zone: &'static str,
    pub(crate) created_ms: u64,
    pub(crate) versions: Vec<Version>,
    pub(crate) ended: Option<u64>,
    /// Ended by a kick.
    pub(crate) kicked: bool,
}

impl Session {
    pub(crate) fn born(&self) -> u64 {
        self.versions[0].from
    }

    /// The versions that were so at some moment of a window.
    pub(crate) fn within(&self, window: Window) -> impl Iterator<Item = &Version> {
        let ends = self.versions.iter().skip(1).map(|next| next.from);
        let ends = ends.chain([self.ended.unwrap_or(u64::MAX)]);
        self.versions
            .iter()
            .zip(ends)
            .filter(move |(version, end)| version.from <= window.to && *end >= window.seen_from())
            .map(|(version, _)| version)
    }

    /// Whether it was there, as the predicate wants it, all the time.
    pub(crate) fn throughout(&self, window: Window, holds: impl Fn(&Version) -> bool) -> bool {
        self.born() <= window.seen_from()
            && self.ended.is_none_or(|ended| ended > window.to)
            && self.within(window).all(holds)
    }

    fn client(&self) -> Client {
        let version = self.versions.last().cloned().unwrap_or(Version { from: 0, is_connected: false });
        let state = if version.is_connected { ConnState::Connected } else { ConnState::Disconnected };
        let at = |ms: u64| i64::try_from(EPOCH_MS + ms).ok();
        Client {
            clientid: self.clientid.clone(),
            session: self.uid.into(),
            username: self.username.clone(),
            zone: Some(self.zone.to_owned()),
            proto_name: Some("MQTT".to_owned()),
            proto_ver: Some(5),
            expiry_interval: Some(self.uid),
            clean_start: Some(false),
            conn_state: state.into(),
            created_at_ms: at(self.created_ms),
            connected_at_ms: at(self.born()),
            disconnected_at_ms: if version.is_connected { None } else { at(version.from) },
            ..Client::default()
        }
    }
}

/// The time from a request to its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Window {
    /// The earliest moment an answer may be true of.
    pub(crate) fn seen_from(self) -> u64 {
        self.from.saturating_sub(LAG)
    }
}

/// An agent behind an address, for a time.
#[derive(Clone, Debug)]
pub(crate) struct Occupant {
    pub(crate) broker: usize,
    pub(crate) name: String,
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
}

impl Occupant {
    fn touches(&self, window: Window) -> bool {
        self.from <= window.to && self.to.is_none_or(|to| to >= window.seen_from())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// By uid; there is none of uid 0.
    sessions: Vec<Session>,
    /// Who is there now, by broker.
    pub(crate) present: Vec<BTreeMap<String, u32>>,
    /// Who follows, by broker: two agents may follow one.
    feeds: Vec<Vec<UnboundedSender<Event>>>,
    /// By slot, that is by address.
    pub(crate) occupants: Vec<Vec<Occupant>>,
}

impl Truth {
    pub(crate) fn new(brokers: usize, slots: usize) -> Self {
        Self {
            sessions: Vec::new(),
            present: vec![BTreeMap::new(); brokers],
            feeds: vec![Vec::new(); brokers],
            occupants: vec![Vec::new(); slots],
        }
    }

    pub(crate) fn session(&self, uid: u32) -> Option<&Session> {
        self.sessions.get((uid as usize).checked_sub(1)?)
    }

    pub(crate) fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// A client connects to a broker. If the broker has a session of it, that one is taken over.
    pub(crate) fn connect(&mut self, broker: usize, client: NewClient, now: u64) {
        if let Some(&uid) = self.present[broker].get(&client.clientid) {
            return self.change(uid, true, now);
        }
        let uid = self.sessions.len() as u32 + 1;
        let NewClient { clientid, username, zone, created_before } = client;
        self.present[broker].insert(clientid.clone(), uid);
        let created_ms = now.saturating_sub(created_before);
        let versions = vec![Version { from: now, is_connected: true }];
        let session = Session {
            uid,
            broker,
            clientid,
            username,
            zone,
            created_ms,
            versions,
            ended: None,
            kicked: false,
        };
        self.tell(broker, Event::Present(Box::new(session.client())));
        self.sessions.push(session);
    }

    /// A connection is lost or comes back, and the session stays.
    pub(crate) fn change(&mut self, uid: u32, is_connected: bool, now: u64) {
        let session = &mut self.sessions[uid as usize - 1];
        if session.versions.last().is_some_and(|version| version.is_connected == is_connected) {
            return;
        }
        session.versions.push(Version { from: now, is_connected });
        let (broker, client) = (session.broker, session.client());
        self.tell(broker, Event::Present(Box::new(client)));
    }

    /// A session ends. Whether it was there.
    pub(crate) fn end(&mut self, uid: u32, kicked: bool, now: u64) -> bool {
        let session = &mut self.sessions[uid as usize - 1];
        if session.ended.is_some() {
            return false;
        }
        session.ended = Some(now);
        session.kicked = kicked;
        let (broker, clientid) = (session.broker, session.clientid.clone());
        self.present[broker].remove(&clientid);
        self.tell(broker, Event::Ended { clientid, uid });
        true
    }

    /// Takes on a follower: everything there is, and from then on every change goes to `feed`.
    pub(crate) fn follow(&mut self, broker: usize, feed: UnboundedSender<Event>) -> Vec<Client> {
        self.feeds[broker].push(feed);
        self.present[broker].values().map(|&uid| self.sessions[uid as usize - 1].client()).collect()
    }

    fn tell(&mut self, broker: usize, event: Event) {
        // A follower that has crashed hears nothing.
        self.feeds[broker].retain(|feed| feed.send(event.clone()).is_ok());
    }

    pub(crate) fn occupy(&mut self, slot: usize, broker: usize, name: String, now: u64) {
        self.vacate(slot, now);
        self.occupants[slot].push(Occupant { broker, name, from: now, to: None });
    }

    pub(crate) fn vacate(&mut self, slot: usize, now: u64) {
        if let Some(last) = self.occupants[slot].last_mut() {
            last.to.get_or_insert(now);
        }
    }

    /// Who stood behind an address all the time, if it was one.
    pub(crate) fn stable(&self, slot: usize, window: Window) -> Option<&Occupant> {
        let mut touching = self.occupants[slot].iter().filter(|occupant| occupant.touches(window));
        let first = touching.next()?;
        let is_whole = first.from <= window.seen_from() && first.to.is_none_or(|to| to > window.to);
        (is_whole && touching.next().is_none()).then_some(first)
    }

    /// Whether nobody stood behind an address, all the time.
    pub(crate) fn is_empty(&self, slot: usize, window: Window) -> bool {
        !self.occupants[slot].iter().any(|occupant| occupant.touches(window))
    }

    /// The names under which a broker's clients may have been shown.
    pub(crate) fn names(&self, broker: usize, window: Window) -> BTreeSet<&str> {
        let all = self.occupants.iter().flatten();
        all.filter(|occupant| occupant.broker == broker && occupant.touches(window))
            .map(|occupant| occupant.name.as_str())
            .collect()
    }

    /// The addresses an answer may mean that names a node: those where it has ever been.
    pub(crate) fn slots_of(&self, label: &str) -> BTreeSet<usize> {
        let mut slots = BTreeSet::new();
        for (slot, occupants) in self.occupants.iter().enumerate() {
            let address = address(slot);
            if label == address || occupants.iter().any(|occupant| occupant.name == label) {
                slots.insert(slot);
            }
        }
        slots
    }
}

/// Where the gateways look for the agent of a slot.
pub(crate) fn address(slot: usize) -> String {
    format!("{}:7000", host(slot))
}

pub(crate) fn host(slot: usize) -> String {
    format!("node{slot}")
}

/// What a client says of itself.
#[derive(Clone, Debug)]
pub(crate) struct NewClient {
    pub(crate) clientid: String,
    pub(crate) username: Option<String>,
    pub(crate) zone: &'static str,
    /// How long before its present session began, milliseconds.
    pub(crate) created_before: u64,
}
