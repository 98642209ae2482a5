//! What all parts of the adapter share, and how they look things up in the broker's tables.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rmqtt::context::ServerContext;
use rmqtt::session::Session;
use rmqtt::types::{ClientId, Id};
use rollcall_proto::v1::Client;

use super::listen::Door;
use super::registry::{ConnectionRecord, Registry};
use super::{hooks, read};
use crate::broker::SessionRef;
use crate::broker::tcp_info::{self, Traffic};

/// What all parts of the adapter share.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) scx: ServerContext,
    pub(super) registry: Arc<Registry>,
    /// In the order of their numbers, which begin at 1.
    pub(super) doors: Vec<Door>,
    pub(super) resync: Duration,
}

/// A listener's number and the client's address and port: names a connection.
pub(super) type TrafficKey = (u16, SocketAddr);

/// A session and the record of its present or last connection.
pub(super) type Row = (Session, Arc<ConnectionRecord>);

impl Node {
    /// The name under which the broker's table finds a client.
    pub(super) fn id(&self, clientid: &ClientId) -> Id {
        Id::from(self.scx.node.id(), clientid.clone())
    }

    /// A client's entry in the broker's table, and whether the task behind it still runs.
    pub(super) async fn entry(&self, clientid: &ClientId) -> Option<(Session, bool)> {
        let entry = self.scx.extends.shared().await.entry(self.id(clientid));
        let session = entry.session()?;
        let is_running = entry.tx().is_some_and(|tx| !tx.is_closed());
        Some((session, is_running))
    }

    /// Client ids of all entries. The broker's table is only walked for these: its iterator holds locks that a
    /// look at an entry would take again.
    pub(super) async fn clientids(&self) -> Vec<ClientId> {
        self.scx.extends.shared().await.iter().map(|entry| entry.id().client_id.clone()).collect()
    }

    pub(super) async fn record(&self, session: &Session) -> Arc<ConnectionRecord> {
        hooks::record(&self.registry, session).await
    }

    pub(super) async fn client(&self, session: &Session) -> Client {
        let record = self.record(session).await;
        read::client(session, &record, self.door(session).map(|door| door.zone.as_str())).await
    }

    pub(super) async fn live_session(&self, wanted: &SessionRef) -> Option<Row> {
        let (session, _) = self.entry(&ClientId::from(wanted.clientid.as_str())).await?;
        let record = self.record(&session).await;
        let is_wanted = record.session.number == wanted.session
            && self.registry.is_alive(&wanted.clientid, wanted.session);
        is_wanted.then_some((session, record))
    }

    pub(super) fn door(&self, session: &Session) -> Option<&Door> {
        self.doors.get(usize::from(session.id.lid).checked_sub(1)?)
    }

    pub(super) fn traffic_key(session: &Session) -> Option<TrafficKey> {
        Some((session.id.lid, tcp_info::canonical(session.id.remote_addr?)))
    }

    /// What the kernel knows of the connections of these rows.
    pub(super) async fn traffic(&self, rows: impl Iterator<Item = &Row>) -> HashMap<TrafficKey, Traffic> {
        let mut wanted: HashMap<(SocketAddr, SocketAddr), TrafficKey> = HashMap::new();
        for (session, _) in rows {
            if let Some(door) = self.door(session).filter(|door| door.direct)
                && let Some(key) = Self::traffic_key(session)
                && session.connected().await.unwrap_or(false)
            {
                wanted.insert((door.address, key.1), key);
            }
        }
        let told = tcp_info::of_connections(wanted.keys().copied().collect()).await;
        // The answers may be about others too.
        told.into_iter().filter_map(|(ends, traffic)| Some((*wanted.get(&ends)?, traffic))).collect()
    }

    /// Removes the entry of a connection whose task has gone; false if another connection is under way instead.
    pub(super) async fn remove_orphan(&self, session: &Session) -> bool {
        let locked = self.scx.extends.shared().await.entry(session.id.clone()).try_lock().await;
        let Ok(mut entry) = locked else { return false };
        if entry.id_same() != Some(true) || entry.remove_with(&session.id).await.is_err() {
            return false;
        }
        self.registry.end(&session.id.client_id, &self.record(session).await);
        true
    }
}
