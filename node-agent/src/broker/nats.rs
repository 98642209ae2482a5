//! A NATS server with MQTT, over its monitoring endpoint and, where logins are given, over NATS itself.
//!
//! The monitoring endpoint (`/connz`) lists connections. What it cannot tell is in the stream `$MQTT_sess` of each
//! account: one record a session, online or offline, read with a login of that account (`records`). Without a login
//! the adapter knows connections only. A login of the system account makes changes show at once (`events`).
//!
//! Asked for logins, the endpoint shows the **password** of every MQTT client in the field `jwt`, and so do the system
//! account's events. No type here has such a field, so it is skipped while it is parsed; bodies are wiped after
//! parsing, and messages of errors hold no part of a body ([`super::http`]).
//!
//! A kick connects as the client, with its id and Clean Session (`takeover`): the server closes the other connection
//! and forgets the session. A server from 2.10 on can be asked to close a connection by the system account; that is
//! done for clean sessions of accounts without a login.
//!
//! | field | what it says |
//! |---|---|
//! | clientid, ip_address, port, connected_at | as the endpoint says; of an offline session as of its last connection, unknown if the agent has not seen one |
//! | username | the user that the server took the client for; unknown if it has no name |
//! | zone | the account |
//! | proto_name, proto_ver | MQTT and 4: the server speaks nothing else up to 2.14 |
//! | clean_start | from the session's record |
//! | expiry_interval | 0 of a clean session, else the largest number there is: sessions do not expire |
//! | created_at | when the first connection began that the agent has seen of the session |
//! | disconnected_at | when the agent noticed |
//! | keepalive, is_bridge, mountpoint | unknown |
//! | subscriptions_cnt | from the session's record |
//! | inflight, mqueue_len | of QoS 1 and 2, from the consumers in the session's record |
//! | recv_oct, send_oct, recv_cnt, send_cnt | of the present connection, from the kernel if the server is on this host |
//! | the others | unknown: the server counts NATS messages, not MQTT packets |

mod events;
mod kick;
mod live;
mod login;
mod look;
mod monitor;
mod records;
pub mod settings;
mod takeover;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollcall_proto::SortField;
use rollcall_proto::v1::Statistics;
use tokio::sync::{Notify, mpsc};

use self::login::Login;
use self::monitor::{Monitor, Server};
use self::records::{Account, Record};
pub use self::settings::{NatsAccount, NatsLogin, NatsSettings, StartError};
use self::takeover::Takeover;
use super::polled::{self, Seen, Sessions, Source};
use super::{Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, capabilities};

/// What the kernel tells.
const OF_CONNECTIONS: [SortField; 4] =
    [SortField::RecvOct, SortField::RecvCnt, SortField::SendOct, SortField::SendCnt];

/// What nobody tells of a client.
const UNKNOWN: [SortField; 3] = [SortField::Keepalive, SortField::IsBridge, SortField::Mountpoint];

/// What only records tell: without them whoever leaves is gone.
const UNKNOWN_WITHOUT_RECORDS: [SortField; 3] =
    [SortField::CleanStart, SortField::ExpiryInterval, SortField::DisconnectedAt];

/// What the sessions' records tell.
const OF_RECORDS: [SortField; 3] = [SortField::SubscriptionsCnt, SortField::Inflight, SortField::MqueueLen];

/// A NATS server, seen from beside it.
pub struct NatsBroker {
    node: Arc<Node>,
}

/// What all parts of the adapter share.
struct Node {
    settings: NatsSettings,
    monitor: Monitor,
    /// By account.
    accounts: HashMap<String, Account>,
    system: Option<Login>,
    takeover: Takeover,
    sessions: Mutex<Sessions<Extra>>,
    /// What was last learnt of the server; `None`: it has to be learnt (again).
    server: Mutex<Option<Server>>,
    /// Something happened to a client, or may have while nobody could say so.
    changed: Arc<Notify>,
    figures: Vec<SortField>,
    info: Mutex<BrokerInfo>,
}

/// What is kept of a session to find it again.
#[derive(Clone, Debug, Default)]
struct Extra {
    /// The server's number of the connection.
    cid: u64,
    /// Both ends of the connection: the server's and the client's.
    ends: Option<(SocketAddr, SocketAddr)>,
    record: Option<Arc<Record>>,
}

impl NatsBroker {
    /// Reads every file that a start with these settings reads.
    ///
    /// # Errors
    /// A setting or file that cannot be used.
    pub fn check_files(settings: &NatsSettings) -> Result<(), StartError> {
        settings.read().map(drop)
    }

    /// Reads the files and waits for nobody. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A setting or file that cannot be used.
    pub async fn open(settings: &NatsSettings) -> Result<Self, StartError> {
        let files = settings.read()?;
        let changed = Arc::new(Notify::new());
        let login = async |username: &str, password| {
            Login::open(settings, username, password, &files, &changed).await
        };
        let mut accounts = HashMap::new();
        for (account, password) in settings.accounts.iter().zip(&files.accounts) {
            accounts.insert(account.name.clone(), Account::new(login(&account.username, password).await?));
        }
        let system = match (&settings.system, &files.system) {
            (Some(system), Some(password)) => Some(login(&system.username, password).await?),
            _ => None,
        };
        let figures: Vec<SortField> = match accounts.is_empty() {
            true => OF_CONNECTIONS.into(),
            false => OF_RECORDS.into_iter().chain(OF_CONNECTIONS).collect(),
        };
        let (mut abilities, mut unknown) = (Vec::new(), UNKNOWN.to_vec());
        match accounts.is_empty() {
            true => unknown.extend(UNKNOWN_WITHOUT_RECORDS),
            false => abilities.extend(["kick", "offline-sessions"]),
        }
        let info = BrokerInfo {
            kind: "nats",
            capabilities: capabilities(&abilities, &unknown, &figures),
            ..BrokerInfo::default()
        };
        let node = Node {
            monitor: Monitor::new(settings, &files)?,
            takeover: Takeover::new(settings, files)?,
            accounts,
            system,
            settings: settings.clone(),
            sessions: Mutex::default(),
            server: Mutex::default(),
            changed,
            figures,
            info: Mutex::new(info),
        };
        Ok(Self { node: Arc::new(node) })
    }
}

#[async_trait]
impl Broker for NatsBroker {
    fn info(&self) -> BrokerInfo {
        lock(&self.node.info).clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        tokio::select! {
            () = polled::follow(self.node.as_ref(), changes) => {}
            () = events::listen(&self.node) => {}
        }
        Ok(())
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        live::statistics(&self.node, sessions).await
    }

    async fn figures(&self, figure: SortField, sessions: &[SessionRef]) -> Vec<Option<u64>> {
        if !self.node.figures.contains(&figure) {
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
            *lock(&self.server) = None;
        }
        looked
    }

    async fn event(&self) {
        self.changed.notified().await;
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.settings.poll_interval_ms)
    }

    fn sessions(&self) -> &Mutex<Sessions<Extra>> {
        &self.sessions
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
