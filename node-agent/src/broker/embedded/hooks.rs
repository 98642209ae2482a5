//! The broker's events: they count, and they say which client to look at again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use rmqtt::hook::{Handler, HookResult, Parameter, Register, ReturnType, Type};
use rmqtt::session::Session;
use rmqtt::types::{ClientId, FromType, Reason};

use super::registry::{ConnectionRecord, Registry};
use crate::broker::tcp_info;

/// Where a connection's record hangs on the broker's object for it.
const RECORD: &str = "rollcall.connection";

/// The events an [`Observer`] wants.
const TYPES: [Type; 8] = [
    Type::SessionCreated,
    Type::ClientConnected,
    Type::ClientDisconnected,
    Type::SessionTerminated,
    Type::ClientKeepalive,
    Type::MessagePublish,
    Type::MessageDelivered,
    Type::MessageDropped,
];

/// Hears the broker's events. It is called within the broker's packet loops, so all it does is add to counters
/// and name clients; nothing here waits for anybody.
#[derive(Clone)]
pub(super) struct Observer(pub(super) Arc<Registry>);

impl Observer {
    /// Starts to listen.
    pub(super) async fn register(self, hooks: &dyn Register) {
        for hook in TYPES {
            hooks.add(hook, Box::new(self.clone())).await;
        }
    }

    async fn observe(&self, parameter: &Parameter<'_>) {
        let registry = &self.0;
        match parameter {
            Parameter::SessionCreated(session) => {
                record(registry, session).await;
            }
            Parameter::ClientConnected(session) => {
                record(registry, session).await;
                registry.changed(&session.id.client_id);
            }
            Parameter::ClientDisconnected(session, _) => {
                // The one packet that no keep-alive event follows.
                if session.disconnect().await.is_ok_and(|disconnect| disconnect.is_some()) {
                    record(registry, session).await.received_packets.fetch_add(1, Ordering::Relaxed);
                }
                registry.changed(&session.id.client_id);
            }
            Parameter::SessionTerminated(session, _) => {
                let record = record(registry, session).await;
                registry.end(&session.id.client_id, &record);
                registry.changed(&session.id.client_id);
            }
            // Fires after every packet the client sent, not only after its pings.
            Parameter::ClientKeepalive(session, _) => {
                record(registry, session).await.received_packets.fetch_add(1, Ordering::Relaxed);
            }
            // The will of a client is published in its name, but it is no packet.
            Parameter::MessagePublish(Some(session), from, _)
                if !matches!(from.typ(), FromType::LastWill) =>
            {
                record(registry, session).await.session.received_messages.fetch_add(1, Ordering::Relaxed);
            }
            Parameter::MessageDelivered(session, _, _) => {
                record(registry, session).await.session.sent_messages.fetch_add(1, Ordering::Relaxed);
            }
            Parameter::MessageDropped(Some(to), _, _, Reason::MessageQueueFull) => {
                if let Some(session) = registry.session(&to.client_id)
                    && to.create_time >= session.began_ms
                {
                    session.dropped_messages.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Handler for Observer {
    async fn hook(&self, parameter: &Parameter, result: Option<HookResult>) -> ReturnType {
        self.observe(parameter).await;
        (true, result)
    }
}

/// The record of a connection. It is made by whoever asks first: the hook that announces the connection, or a
/// reader who finds the connection in the broker's table before that.
pub(super) async fn record(registry: &Registry, session: &Session) -> Arc<ConnectionRecord> {
    if let Some(record) = session.extra_attrs.read().await.get::<Arc<ConnectionRecord>>(RECORD) {
        return Arc::clone(record);
    }
    let mut attributes = session.extra_attrs.write().await;
    if let Some(record) = attributes.get::<Arc<ConnectionRecord>>(RECORD) {
        return Arc::clone(record);
    }
    let resumed = session.session_present().await.unwrap_or(false);
    let id = &session.id;
    let passed = id
        .remote_addr
        .and_then(|remote| registry.passing.find((id.lid, tcp_info::canonical(remote)), &id.client_id));
    let record = registry.connect(&id.client_id, resumed, id.create_time, passed);
    attributes.insert(ClientId::from_static(RECORD), Arc::clone(&record));
    record
}
