//! The embedded broker: crate rmqtt in the agent's own process.
//!
//! Promises: every session the broker has, online and offline, is listed with the values of its CONNECT; figures
//! are counted, not estimated; a kick ends connection and session, and the client finds no session when it comes
//! back. Sessions and retained messages live in memory and end with the process. Several brokers can run in one
//! process: all state hangs on the broker's own context.
//!
//! Where it looks: `listen` opens the doors, `node` finds things in the broker's tables, `read` makes rows of
//! them, `registry` keeps numbers and counters that outlive a connection, `hooks` feeds it from the broker's
//! events, `crate::front` counts what passes, `follow` reports changes, `kick` ends sessions, [`super::tcp_info`] asks the kernel.
//!
//! | field | what it says |
//! |---|---|
//! | clientid | as in CONNECT; what the broker made up for an empty one |
//! | username, keepalive, clean_start | as in CONNECT |
//! | proto_name, proto_ver | level 3, 4 or 5; the name that goes with it (`MQIsdp` for 3) |
//! | ip_address, port | the socket's peer, or what the PROXY header says |
//! | zone | the listener's |
//! | is_bridge | unknown: a CONNECT with the bridge bit is refused; bridges then connect without it |
//! | mountpoint | unknown: there are none |
//! | expiry_interval | MQTT 3: 0 with Clean Session, else the setting; MQTT 5: CONNECT's, or DISCONNECT's if it said another; never above the upper bound |
//! | conn_state | connected, or disconnected from DISCONNECT or the loss of the connection on |
//! | connected_at, disconnected_at, created_at | when CONNECT was accepted, when the connection was over, when the session's first CONNECT was accepted |
//! | subscriptions_cnt, max_subscriptions | exact; 0 = no limit |
//! | inflight, max_inflight | exact, also offline; the smaller of the setting and MQTT 5's Receive Maximum |
//! | mqueue_len, max_mqueue | exact; the setting |
//! | mqueue_dropped | over the session; because the queue was full, not because a message was too old |
//! | awaiting_rel | unknown; max_awaiting_rel is the setting `max_inflight` |
//! | recv_pkt | of the present or last connection, CONNECT and DISCONNECT included; not a packet that made the broker close the connection |
//! | recv_msg | over the session; a QoS 2 message sent again before it was complete counts once, a will does not count |
//! | send_msg | over the session, messages sent again after a reconnect included |
//! | recv_oct, send_oct | of the present connection; bytes of the TCP stream, with TLS and WebSocket framing; unknown while offline and behind a PROXY header |
//! | recv_cnt, send_cnt | likewise; TCP segments, those without data included |
//! | send_pkt | unknown: acknowledgements are not counted |
//! | mailbox_len, heap_size, reductions | unknown: there is no Erlang process |
//!
//! A broker that was shut down leaves its emptied context behind, which the crate ties in a knot; that matters
//! only to a process that starts brokers without end.
//!
//! The broker refuses clients by itself when the machine's load is high. That is switched off: it would refuse
//! them in all brokers of a process at once, and a busy machine is no reason to turn clients away.

mod authenticate;
mod follow;
mod hooks;
mod kick;
mod listen;
mod node;
pub mod passwords;
mod read;
mod registry;
mod retained;
pub mod settings;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use rmqtt::context::ServerContext;
use rmqtt::hook::Type;
use rmqtt::types::NodeId;
use rollcall_proto::SortField;
use rollcall_proto::v1::Statistics;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use self::authenticate::Authenticator;
use self::hooks::Observer;
use self::node::{Node, Row};
use self::passwords::{PasswordFile, PasswordFileError};
use self::registry::Registry;
use self::retained::RetainedMessages;
pub use self::settings::{Authentication, EmbeddedSettings, ListenerSettings, TlsSettings, Transport};
use super::{Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, capabilities};
use crate::front::Front;

/// The version of the broker crate, pinned in Cargo.toml.
const VERSION: &str = "rmqtt 0.24.0";

/// The broker's number within its own cluster, of which it is the only member.
const NODE_ID: NodeId = 1;

/// MQTT 5, section 3.14.2.1.
const SERVER_SHUTTING_DOWN: u8 = 0x8b;

/// How many clients are sent away at a time at shutdown, and how long that may take in all.
const PARTING_AT_ONCE: usize = 256;
const PARTING: Duration = Duration::from_secs(5);

/// Why the broker did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("embedded broker: {0}")]
    Settings(String),
    /// An address cannot be listened on.
    #[error("embedded broker: cannot listen on {address}: {reason}")]
    Listen {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// Certificate or key cannot be used.
    #[error("embedded broker: cannot use certificate {cert} with key {key}: {reason}")]
    Tls {
        /// Path of the certificate chain.
        cert: String,
        /// Path of the key.
        key: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The password file cannot be used.
    #[error(transparent)]
    Passwords(#[from] PasswordFileError),
}

/// A running MQTT broker and its adapter. Dropped without [`shutdown`](Self::shutdown), it stops listening, but
/// leaves its clients connected.
pub struct EmbeddedBroker {
    node: Arc<Node>,
    info: BrokerInfo,
    /// Each has a listener.
    servers: Mutex<JoinSet<()>>,
    front: Mutex<Option<Front>>,
}

impl EmbeddedBroker {
    /// Reads every file that a start with these settings reads, and listens nowhere.
    ///
    /// # Errors
    /// As [`start`](Self::start), but for addresses.
    pub fn check_files(settings: &EmbeddedSettings) -> Result<(), StartError> {
        settings.check().map_err(StartError::Settings)?;
        install_crypto_provider();
        if let Authentication::PasswordFile(path) = &settings.authentication {
            PasswordFile::load(path)?;
        }
        let certified = settings.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        certified.map(listen::certificate).try_for_each(|files| files.map(drop))
    }

    /// Starts the broker and listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A setting, address, certificate or password file that cannot be used. Nothing listens then.
    pub async fn start(settings: EmbeddedSettings) -> Result<Self, StartError> {
        settings.check().map_err(StartError::Settings)?;
        install_crypto_provider();
        let users = match &settings.authentication {
            Authentication::Anonymous => None,
            Authentication::PasswordFile(path) => Some(PasswordFile::load(path)?),
        };
        if users.is_none()
            && let Some(open) =
                settings.listeners.iter().find(|listener| !listener.address.ip().is_loopback())
        {
            warn!(node = settings.node_name, address = %open.address, "everybody who reaches this address can connect and publish; a password file would ask who they are");
        }
        if let Some(users) = users.as_ref().filter(|users| users.is_empty()) {
            warn!(node = settings.node_name, ?users, "the password file is empty, so nobody can connect");
        }
        let (mut doors, mut listeners, mut entrances) = (Vec::new(), Vec::new(), Vec::new());
        for (number, listener) in (1..).zip(&settings.listeners) {
            let opening = listen::open(&settings, number, listener)?;
            doors.push(opening.door);
            listeners.push((number, opening.listener, opening.secured));
            entrances.extend(opening.entrance);
        }

        let scx = ServerContext::new()
            .node_id(NODE_ID)
            .busy_check_enable(false)
            .mqtt_max_sessions(isize::try_from(settings.max_sessions).unwrap_or(isize::MAX))
            .build()
            .await;
        *scx.extends.retain_mut().await = Box::new(RetainedMessages::new(settings.max_retained));
        let registry = Arc::new(Registry::default());
        let hooks = scx.extends.hook_mgr().register();
        Observer(Arc::clone(&registry)).register(hooks.as_ref()).await;
        if let Some(users) = users {
            hooks.add(Type::ClientAuthenticate, Box::new(Authenticator::new(users))).await;
        }
        hooks.start().await;

        let mut servers = JoinSet::new();
        for (number, listener, secured) in listeners {
            servers.spawn(listen::serve(scx.clone(), number, listener, secured));
        }

        let counted = !entrances.is_empty();
        let front = counted.then(|| Front::open(entrances, Arc::clone(&registry.passing)));

        let mqtt_addresses = doors.iter().map(|door| door.address.to_string()).collect();
        info!(node = settings.node_name, addresses = ?mqtt_addresses, "embedded broker listens");
        let counts_traffic = doors.first().is_some_and(listen::kernel_counts);
        Ok(Self {
            info: BrokerInfo {
                kind: "embedded",
                version: VERSION.to_owned(),
                capabilities: capabilities(
                    &["kick", "offline-sessions"],
                    unknown(counted),
                    &known_figures(counts_traffic, counted),
                ),
                mqtt_addresses,
            },
            node: Arc::new(Node {
                name: settings.node_name,
                scx,
                registry,
                doors,
                resync: Duration::from_secs(settings.resync_secs.into()),
            }),
            servers: Mutex::new(servers),
            front: Mutex::new(front),
        })
    }

    /// Stops listening, then ends all connections and sessions, within 5 s. Clients see their connection close; MQTT 5
    /// clients behind the counting front are told why.
    pub async fn shutdown(&self) {
        let passing = &self.node.registry.passing;
        let front = self.front.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(front) = front {
            front.close().await;
        }
        for connection in passing.all() {
            connection.part(SERVER_SHUTTING_DOWN);
        }
        let mut servers = std::mem::take(&mut *self.servers.lock().unwrap_or_else(PoisonError::into_inner));
        // Listeners are closed when their servers have ended.
        servers.shutdown().await;
        let clientids = self.node.clientids().await;
        let node = &self.node;
        let parting = stream::iter(clientids).for_each_concurrent(PARTING_AT_ONCE, |clientid| async move {
            let mut entry = node.scx.extends.shared().await.entry(node.id(&clientid));
            if let Err(error) = entry.kick(true, true, true).await {
                debug!(%clientid, %error, "client not sent away at shutdown");
            }
        });
        if timeout(PARTING, parting).await.is_err() {
            warn!(node = self.node.name, "some clients did not let go of their connection at shutdown");
        }
        for connection in passing.all() {
            connection.cut();
        }
        info!(node = self.node.name, "embedded broker stopped");
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn info(&self) -> BrokerInfo {
        self.info.clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        follow::follow(Arc::clone(&self.node), changes).await;
        Ok(())
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        self.live(sessions, |_| true).await
    }

    async fn figures(&self, figure: SortField, sessions: &[SessionRef]) -> Vec<Option<u64>> {
        let from_kernel: fn(&Row) -> bool = match figure {
            SortField::RecvCnt | SortField::SendCnt => |_| true,
            SortField::RecvOct | SortField::SendOct => |(_, record)| record.passed.is_none(),
            _ => |_| false,
        };
        let statistics = self.live(sessions, from_kernel).await;
        statistics.into_iter().map(|statistics| figure.figure(&statistics?)).collect()
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        kick::kick(Arc::clone(&self.node), session.clone()).await
    }
}

impl EmbeddedBroker {
    /// The live figures of some sessions; those that the kernel has to be asked for only of rows of which they are wanted.
    async fn live(&self, sessions: &[SessionRef], from_kernel: fn(&Row) -> bool) -> Vec<Option<Statistics>> {
        let mut rows = Vec::with_capacity(sessions.len());
        for wanted in sessions {
            rows.push(self.node.live_session(wanted).await);
        }
        let traffic = self.node.traffic(rows.iter().flatten().filter(|row| from_kernel(row))).await;
        let mut statistics = Vec::with_capacity(rows.len());
        for row in &rows {
            statistics.push(match row {
                Some((session, record)) => {
                    let traffic = Node::traffic_key(session).and_then(|key| traffic.get(&key)).copied();
                    Some(read::statistics(session, record, traffic).await)
                }
                None => None,
            });
        }
        statistics
    }
}

/// TLS libraries ask for a process-wide default, and two providers are linked in. An embedding program that chose
/// one before keeps its choice.
fn install_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // It can fail only because somebody else was quicker.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// The broker has no mountpoints, and without the front nobody sees the bridge bit.
fn unknown(counted: bool) -> &'static [SortField] {
    if counted { &[SortField::Mountpoint] } else { &[SortField::Mountpoint, SortField::IsBridge] }
}

fn known_figures(counts_traffic: bool, counted: bool) -> Vec<SortField> {
    let mut known = vec![
        SortField::SubscriptionsCnt,
        SortField::MaxSubscriptions,
        SortField::Inflight,
        SortField::MaxInflight,
        SortField::MqueueLen,
        SortField::MaxMqueue,
        SortField::MqueueDropped,
        SortField::MaxAwaitingRel,
        SortField::RecvPkt,
        SortField::RecvMsg,
        SortField::SendMsg,
    ];
    if counted {
        known.extend([SortField::AwaitingRel, SortField::SendPkt]);
    }
    if counts_traffic || counted {
        known.extend([SortField::RecvOct, SortField::SendOct]);
    }
    if counts_traffic {
        known.extend([SortField::RecvCnt, SortField::SendCnt]);
    }
    known
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_reported_is_the_one_linked() {
        let linked = rmqtt::node::Node::version().replace('/', " ");
        assert!(linked.starts_with(super::VERSION), "{linked}");
    }
}
