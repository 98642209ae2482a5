//! The boundary to a broker: what an adapter must be able to tell and do.
//!
//! An adapter keeps the agent's index true by a stream of [`ClientChange`]s and answers for live figures and
//! kicks on demand. The stream is the only way into the index, so an adapter decides the order in which the
//! index learns things; it should read a client's present state from the broker when it hears of an event,
//! rather than build the state from the event, because then a late, doubled or lost event does no harm.
//!
//! A resync tells all clients a few at a time ([`ClientChange::ResyncBegun`], [`ClientChange::ResyncRows`],
//! [`ClientChange::ResyncDone`]), so that neither side ever holds the messages of all of them; [`send_resync`] does it for
//! an adapter that has them at hand. The index takes it in as a whole when it is done: until then, and if it never is, the
//! clients known before are shown and none of them ends.
//!
//! Decided against: letting queries go to the broker. Brokers answer "all clients" in time linear in the
//! clients, and none of them sorts or pages; see ARCHITECTURE.md, "Index identity, hydrate statistics".

#[cfg(feature = "embedded")]
pub mod embedded;
pub mod file;
#[cfg(feature = "polled")]
mod http;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "polled")]
mod polled;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "polled")]
mod secret;
pub mod synthetic;
#[cfg(feature = "tcp-info")]
pub mod tcp_info;

use async_trait::async_trait;
use rollcall_proto::SortField;
use rollcall_proto::v1::{Client, Statistics};
use thiserror::Error;
use tokio::sync::mpsc;

/// What an adapter tells the index. `Client` carries identity only: `node` and `statistics` are left empty and
/// `ip_address` is canonical ([`rollcall_proto::address::to_wire`]).
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all changes are of the large kind")]
pub enum ClientChange {
    /// The client has this state now: it connected, changed, or lost its connection and keeps its session.
    Present(Client),
    /// The session is over.
    Ended(SessionRef),
    /// What follows up to `ResyncDone` is everything the broker has. A resync that has begun and is not done does not
    /// count. `Present` and `Ended` may come in between: they hold at once, and for the resync too.
    ResyncBegun,
    /// Some of what the broker has, [`RESYNC_ROWS`] or about as many. Of two with one clientid and session the later
    /// counts.
    ResyncRows(Vec<Client>),
    /// That was everything. Sessions that were not in it are over.
    ResyncDone,
    /// The broker cannot be asked at present; for people, without secrets. The index keeps what it has, and a resync
    /// that is not done does not count. The next `ResyncDone` says that all is well again.
    BrokerFailed(String),
}

/// Clients that one change of a resync should tell: hundreds of changes may wait, and a message takes half a kilobyte.
pub const RESYNC_ROWS: usize = 16;

/// Tells all clients as one resync.
///
/// # Errors
/// Nobody follows any more.
pub async fn send_resync(
    changes: &mpsc::Sender<ClientChange>,
    clients: impl IntoIterator<Item = Client>,
) -> Result<(), mpsc::error::SendError<ClientChange>> {
    changes.send(ClientChange::ResyncBegun).await?;
    let mut clients = clients.into_iter();
    loop {
        let rows: Vec<Client> = clients.by_ref().take(RESYNC_ROWS).collect();
        if rows.is_empty() {
            return changes.send(ClientChange::ResyncDone).await;
        }
        changes.send(ClientChange::ResyncRows(rows)).await?;
    }
}

/// Names one session of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionRef {
    /// MQTT client identifier.
    pub clientid: String,
    /// The adapter's number for the session, never used again for another one.
    pub session: u64,
}

/// How a kick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kick {
    /// The broker has neither connection nor session any more.
    Kicked,
    /// The broker had no such session.
    NotFound,
}

/// What went wrong between agent and broker. Messages are for operators and hold no secret.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The broker did not answer, or not in time.
    #[error("the broker does not answer: {0}")]
    Unavailable(String),
    /// The broker has begun and not finished in time; it may still finish.
    #[error("the broker is not done yet: {0}")]
    Late(String),
    /// The broker refused or answered something unexpected.
    #[error("the broker refused: {0}")]
    Refused(String),
}

/// What is known about a broker as a whole. Of one that is not in the agent's process it can change: it may be away at
/// first, and another version when it is back.
#[derive(Clone, Debug, Default)]
pub struct BrokerInfo {
    /// The adapter's name: embedded, file, nats, rabbitmq, ...
    pub kind: &'static str,
    /// The broker's own version.
    pub version: String,
    /// See `DescribeResponse.capabilities`.
    pub capabilities: Vec<String>,
    /// Addresses MQTT clients can connect to, host:port.
    pub mqtt_addresses: Vec<String>,
}

/// What a broker may not tell of a client's identity. It tells of every client under which id it is, and whether it is
/// connected.
pub const MAY_BE_UNKNOWN: [SortField; 14] = [
    SortField::Username,
    SortField::Zone,
    SortField::ProtoName,
    SortField::ProtoVer,
    SortField::IpAddress,
    SortField::Port,
    SortField::IsBridge,
    SortField::Mountpoint,
    SortField::Keepalive,
    SortField::CleanStart,
    SortField::ExpiryInterval,
    SortField::ConnectedAt,
    SortField::DisconnectedAt,
    SortField::CreatedAt,
];

/// Names of abilities, of what is told of a client's identity, which is all but the fields that are unknown of every one,
/// and of the live figures that are told, as they stand in [`BrokerInfo::capabilities`].
#[must_use]
pub fn capabilities(abilities: &[&str], unknown: &[SortField], figures: &[SortField]) -> Vec<String> {
    let told = MAY_BE_UNKNOWN.iter().filter(|field| !unknown.contains(field));
    let identity = told.map(|field| format!("identity:{}", field.name()));
    let figures = figures.iter().map(|figure| format!("statistics:{}", figure.name()));
    abilities.iter().map(ToString::to_string).chain(identity).chain(figures).collect()
}

/// A broker node, seen through its adapter.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// What is known about it now, without asking it.
    fn info(&self) -> BrokerInfo;

    /// Sends every change of its clients, beginning with a resync, until the receiver is dropped. A full channel
    /// is waited for, never skipped. Returns early only when the broker is gone for good.
    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError>;

    /// The live figures of some sessions, in their order. `None`, or an absent field, where the broker cannot
    /// tell or the session has ended.
    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>>;

    /// One live figure of some sessions, in their order, as `statistics` would tell it. A sort by the figure asks for
    /// all clients, thousands at a time: an adapter that can tell one figure for less than all should.
    async fn figures(&self, figure: SortField, sessions: &[SessionRef]) -> Vec<Option<u64>> {
        let statistics = self.statistics(sessions).await;
        statistics.into_iter().map(|statistics| figure.figure(&statistics?)).collect()
    }

    /// Ends connection and session. When it returns `Kicked`, the broker has neither any more; the adapter
    /// still reports the end of the session on its stream.
    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError>;
}

/// The clients of a resync that comes next, and with nothing in between.
#[cfg(test)]
pub(crate) async fn received_resync(changes: &mut mpsc::Receiver<ClientChange>) -> Vec<Client> {
    match changes.recv().await {
        Some(ClientChange::ResyncBegun) => {}
        other => panic!("expected a resync, got {other:?}"),
    }
    let mut clients = Vec::new();
    loop {
        match changes.recv().await {
            Some(ClientChange::ResyncRows(rows)) => clients.extend(rows),
            Some(ClientChange::ResyncDone) => return clients,
            other => panic!("expected more of a resync, got {other:?}"),
        }
    }
}
