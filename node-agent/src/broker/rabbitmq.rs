//! RabbitMQ with its MQTT plugin, over the management HTTP API.
//!
//! RabbitMQ has no list of MQTT sessions. It has connections, and for every client that subscribes a queue or two:
//! `mqtt-subscription-{clientid}qos1` for QoS 1, which outlives the connection unless the session is clean, and
//! `...qos0`, which does not. So a session is a connection, a durable queue, or both; a client without connection and
//! without durable queue has no session, as far as the API tells.
//!
//! The API answers for the whole RabbitMQ cluster. Each agent reports the connections of its own node, and of offline
//! sessions those whose queue is there.
//!
//! Where it looks: `look` asks for everything now and then, [`super::polled`] finds out what is different, `live` asks
//! for the figures of a page's rows, `kick` ends sessions, `api` knows the paths.
//!
//! | field | what it says |
//! |---|---|
//! | clientid, username, ip_address, port | as the API says; of an offline session as of its last connection, unknown if the agent has not seen one |
//! | zone | the virtual host |
//! | proto_name, proto_ver | from the connection's protocol, such as `MQTT 3.1.1` |
//! | clean_start, expiry_interval | from the queue for QoS 1: unknown of a client without one; the expiry is the queue's `x-expires` |
//! | conn_state | connected for as long as the API lists the connection |
//! | connected_at | as the API says |
//! | created_at | when the first connection began that the agent has seen of the session |
//! | disconnected_at | when the agent noticed |
//! | is_bridge | unknown without the front |
//! | keepalive, mountpoint | unknown |
//! | subscriptions_cnt | bindings of the client's queues |
//! | inflight, mqueue_len | messages of the queues without acknowledgement, and waiting; behind the front `inflight` is what it counts of the present connection |
//! | max_inflight | the prefetch count of the connection's channel |
//! | recv_oct, send_oct, recv_cnt, send_cnt | of the present connection, from the kernel if RabbitMQ is on this host, else RabbitMQ's own, up to 5 s old |
//! | recv_pkt, send_pkt, awaiting_rel | of the present connection, by the front, which counts the bytes too |
//! | recv_msg, send_msg | of the present connection, up to 5 s old; behind the front as it counts |
//! | reductions | of the connection's process |
//! | the others | unknown |

mod api;
mod kick;
mod live;
mod look;
pub mod settings;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollcall_proto::SortField;
use rollcall_proto::v1::Statistics;
use tokio::sync::mpsc;

use self::api::{Api, Overview};
pub use self::settings::{FrontSettings, RabbitmqSettings, StartError};
use super::polled::{self, Seen, Sessions, Source};
use super::{Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, capabilities, tcp_info};
use crate::front::{Connection, Entrance, Front, Passing};

/// What the API tells.
const FIGURES: [SortField; 11] = [
    SortField::SubscriptionsCnt,
    SortField::Inflight,
    SortField::MaxInflight,
    SortField::MqueueLen,
    SortField::RecvOct,
    SortField::RecvCnt,
    SortField::RecvMsg,
    SortField::SendOct,
    SortField::SendCnt,
    SortField::SendMsg,
    SortField::Reductions,
];

/// What nobody tells of a client.
const UNKNOWN: [SortField; 2] = [SortField::Keepalive, SortField::Mountpoint];

/// What the front counts besides.
const COUNTED: [SortField; 3] = [SortField::AwaitingRel, SortField::RecvPkt, SortField::SendPkt];

/// The number of the front's only entrance.
const ENTRANCE: u16 = 1;

/// A RabbitMQ node, seen through the management API.
pub struct RabbitmqBroker {
    node: Arc<Node>,
    /// Lets clients in while it is there.
    _front: Option<Front>,
}

/// What all parts of the adapter share.
struct Node {
    api: Api,
    /// As configured.
    name: Option<String>,
    interval: Duration,
    sessions: Mutex<Sessions<Extra>>,
    /// What was last learnt of the node; `None`: it has to be learnt (again).
    overview: Mutex<Option<Overview>>,
    info: Mutex<BrokerInfo>,
    /// Where clients connect to the front, if there is one, and those that pass it.
    front: Option<SocketAddr>,
    passing: Arc<Passing>,
}

/// What is kept of a session to find it again.
#[derive(Clone, Debug, Default)]
struct Extra {
    /// Both ends of the connection: the broker's and the client's.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Whether it has a queue for QoS 0, and for QoS 1.
    queues: [bool; 2],
}

impl RabbitmqBroker {
    /// Reads every file that a start with these settings reads, and listens nowhere.
    ///
    /// # Errors
    /// As [`start`](Self::start), but for the front's address.
    pub fn check_files(settings: &RabbitmqSettings) -> Result<(), StartError> {
        Api::open(settings)?;
        settings.front.as_ref().map(FrontSettings::tls).transpose().map(drop)
    }

    /// Reads the files, asks nobody yet, and lets clients in by the front. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A setting, file or address that cannot be used.
    pub fn start(settings: &RabbitmqSettings) -> Result<Self, StartError> {
        let api = Api::open(settings)?;
        let entrance = settings.front.as_ref().map(entrance).transpose()?;
        let mut figures = FIGURES.to_vec();
        let mut unknown = UNKNOWN.to_vec();
        match &entrance {
            Some(_) => figures.extend(COUNTED),
            None => unknown.push(SortField::IsBridge),
        }
        let info = BrokerInfo {
            kind: "rabbitmq",
            capabilities: capabilities(&["kick", "offline-sessions"], &unknown, &figures),
            ..BrokerInfo::default()
        };
        let node = Node {
            api,
            name: settings.node.clone(),
            interval: Duration::from_millis(settings.poll_interval_ms),
            sessions: Mutex::default(),
            overview: Mutex::default(),
            info: Mutex::new(info),
            front: entrance.as_ref().map(Entrance::address),
            passing: Arc::default(),
        };
        let front = entrance.map(|entrance| Front::open(vec![entrance], Arc::clone(&node.passing)));
        Ok(Self { node: Arc::new(node), _front: front })
    }
}

fn entrance(settings: &FrontSettings) -> Result<Entrance, StartError> {
    let FrontSettings { listen, forward, .. } = *settings;
    Entrance::bind(ENTRANCE, listen, settings.tls()?, forward)
        .map_err(|error| StartError::Listen { address: listen, reason: error.to_string() })
}

impl Node {
    /// What the front counts of a connection, by its ends.
    fn passed(&self, ends: Option<(SocketAddr, SocketAddr)>, clientid: &str) -> Option<Arc<Connection>> {
        self.passing.find((ENTRANCE, tcp_info::canonical(ends?.1)), clientid)
    }
}

#[async_trait]
impl Broker for RabbitmqBroker {
    fn info(&self) -> BrokerInfo {
        lock(&self.node.info).clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        polled::follow(self.node.as_ref(), changes).await;
        Ok(())
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        live::statistics(&self.node, sessions).await
    }

    async fn figures(&self, figure: SortField, sessions: &[SessionRef]) -> Vec<Option<u64>> {
        let is_counted = self.node.front.is_some() && COUNTED.contains(&figure);
        if !is_counted && !FIGURES.contains(&figure) {
            return vec![None; sessions.len()];
        }
        let statistics = self.statistics(sessions).await;
        statistics.into_iter().map(|statistics| figure.figure(&statistics?)).collect()
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        kick::kick(Arc::clone(&self.node), session.clone()).await
    }
}

#[async_trait]
impl Source for Node {
    type Extra = Extra;

    async fn look(&self) -> Result<Vec<Seen<Extra>>, BrokerError> {
        let looked = look::look(self).await;
        if looked.is_err() {
            // It may be another version, or another node, when it is back.
            *lock(&self.overview) = None;
        }
        looked
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn sessions(&self) -> &Mutex<Sessions<Extra>> {
        &self.sessions
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
