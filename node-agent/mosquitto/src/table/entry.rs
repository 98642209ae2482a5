//! What is known of one session.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rollcall_proto::address;
use rollcall_proto::v1::{Client, ConnState};

use super::{Facts, Handle};

/// A session, and what is counted over its life.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) clientid: String,
    /// Never given again.
    pub(super) number: u64,
    /// `None` if it was loaded.
    pub(super) created_at_ms: Option<i64>,
    pub(super) received_messages: AtomicU64,
    pub(super) subscriptions: AtomicU64,
}

/// The present or last connection of a session.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` of one that ended before the broker's start, like all that follows and is not known.
    pub(super) handle: Option<Handle>,
    pub(super) facts: Facts,
    pub(super) connected_at_ms: Option<i64>,
}

/// What is known of a session that was loaded and has had no connection since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) expiry_interval: u32,
    /// Before that the broker is not asked about it, milliseconds since 1970; `None`: never.
    pub(super) ask_from_ms: Option<i64>,
}

/// One session of the table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: Arc<Session>,
    pub(super) connection: Connection,
    pub(super) loaded: Option<Loaded>,
    /// `None` while connected.
    pub(super) away_since_ms: Option<i64>,
    /// The plugin is about to end it; whoever comes now begins a new one.
    pub(super) is_ending: bool,
    /// Whether the agent has been told of the session.
    pub(super) is_reported: bool,
    /// Whether a change waits to be told.
    pub(super) is_queued: bool,
}

impl Entry {
    /// As the agent is to be told of it.
    pub(super) fn client(&self) -> Client {
        let Connection { facts, connected_at_ms, .. } = &self.connection;
        let is_away = self.away_since_ms.is_some();
        let conn_state = if is_away { ConnState::Disconnected } else { ConnState::Connected };
        Client {
            clientid: facts.clientid.clone(),
            session: self.session.number,
            username: facts.username.clone(),
            proto_name: facts.protocol.map(|level| if level == 3 { "MQIsdp" } else { "MQTT" }.to_owned()),
            proto_ver: facts.protocol,
            ip_address: facts.address.map(address::to_wire).unwrap_or_default(),
            keepalive: facts.keepalive,
            clean_start: facts.clean_start,
            // Of any other session the broker does not say how long it keeps it.
            expiry_interval: if facts.may_stay() {
                self.loaded.map(|loaded| loaded.expiry_interval)
            } else {
                Some(0)
            },
            conn_state: conn_state.into(),
            connected_at_ms: *connected_at_ms,
            disconnected_at_ms: self.away_since_ms.filter(|_| self.loaded.is_none()),
            created_at_ms: self.session.created_at_ms,
            ..Client::default()
        }
    }
}
