//! A broker on free ports, and a follower's view of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollcall_node_agent::broker::embedded::{EmbeddedBroker, EmbeddedSettings, ListenerSettings};
use rollcall_node_agent::broker::{Broker, ClientChange, SessionRef};
use rollcall_proto::v1::{Client, Statistics};
use tokio::sync::mpsc;

/// What a follower knows, by client id, and whether the stream ever contradicted itself.
#[derive(Default)]
struct Seen {
    clients: HashMap<String, Client>,
    ended: Vec<SessionRef>,
    /// The rows of a resync that has begun.
    resync: Option<Vec<Client>>,
    resyncs: usize,
}

impl Seen {
    fn apply(&mut self, change: ClientChange) {
        match change {
            ClientChange::Present(client) => {
                let session = session_of(&client);
                assert!(!self.ended.contains(&session), "{session:?} is back after its end");
                self.clients.insert(client.clientid.clone(), client);
            }
            ClientChange::Ended(session) => {
                if self.clients.get(&session.clientid).is_some_and(|client| client.session == session.session)
                {
                    self.clients.remove(&session.clientid);
                }
                self.ended.push(session);
            }
            ClientChange::ResyncBegun => self.resync = Some(Vec::new()),
            ClientChange::ResyncRows(rows) => self.resync.as_mut().unwrap().extend(rows),
            ClientChange::ResyncDone => {
                let clients = self.resync.take().unwrap();
                self.resyncs += 1;
                self.clients = clients.into_iter().map(|client| (client.clientid.clone(), client)).collect();
            }
            ClientChange::BrokerFailed(reason) => panic!("the embedded broker cannot fail: {reason}"),
        }
    }
}

pub(crate) struct Sandbox {
    pub(crate) broker: Arc<EmbeddedBroker>,
    pub(crate) addresses: Vec<SocketAddr>,
    seen: Arc<Mutex<Seen>>,
}

impl Deref for Sandbox {
    type Target = EmbeddedBroker;
    fn deref(&self) -> &EmbeddedBroker {
        &self.broker
    }
}

pub(crate) fn listener(address: &str) -> ListenerSettings {
    ListenerSettings { address: address.parse().unwrap(), ..ListenerSettings::default() }
}

/// One TCP listener on a free port; everything else as it comes.
pub(crate) fn settings() -> EmbeddedSettings {
    EmbeddedSettings {
        node_name: "a@127.0.0.1".into(),
        listeners: vec![listener("127.0.0.1:0")],
        ..EmbeddedSettings::default()
    }
}

pub(crate) fn session_of(client: &Client) -> SessionRef {
    SessionRef { clientid: client.clientid.clone(), session: client.session }
}

impl Sandbox {
    pub(crate) async fn start(settings: EmbeddedSettings) -> Self {
        let broker = Arc::new(EmbeddedBroker::start(settings).await.unwrap());
        let addresses = broker.info().mqtt_addresses.iter().map(|address| address.parse().unwrap()).collect();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (sender, mut receiver) = mpsc::channel(4);
        let (following, applying) = (Arc::clone(&broker), Arc::clone(&seen));
        tokio::spawn(async move { following.follow(sender).await });
        tokio::spawn(async move {
            while let Some(change) = receiver.recv().await {
                applying.lock().unwrap().apply(change);
            }
        });
        let sandbox = Self { broker, addresses, seen };
        sandbox.until("the first resync", |sandbox| sandbox.seen.lock().unwrap().resyncs > 0).await;
        sandbox
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Waits until the condition holds; at most 8 s.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !condition(self) {
            assert!(
                started.elapsed() < Duration::from_secs(8),
                "waited in vain for {what}: {:?}",
                self.rows()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All rows the follower has now, by client id.
    pub(crate) fn rows(&self) -> Vec<Client> {
        let mut rows: Vec<_> = self.seen.lock().unwrap().clients.values().cloned().collect();
        rows.sort_by(|a, b| a.clientid.cmp(&b.clientid));
        rows
    }

    pub(crate) fn row(&self, clientid: &str) -> Option<Client> {
        self.seen.lock().unwrap().clients.get(clientid).cloned()
    }

    /// The row, once it fulfils the condition.
    pub(crate) async fn row_when(&self, clientid: &str, condition: impl Fn(&Client) -> bool) -> Client {
        self.until(clientid, |sandbox| sandbox.row(clientid).is_some_and(|row| condition(&row))).await;
        self.row(clientid).unwrap()
    }

    pub(crate) async fn gone(&self, clientid: &str) {
        self.until(&format!("the end of {clientid}"), |sandbox| sandbox.row(clientid).is_none()).await;
    }

    /// A fresh follower's first word: everything the broker has.
    pub(crate) async fn resync(&self) -> Vec<Client> {
        let (sender, mut receiver) = mpsc::channel(1);
        let broker = Arc::clone(&self.broker);
        let following = tokio::spawn(async move { broker.follow(sender).await });
        let mut seen = Seen::default();
        while seen.resyncs == 0 {
            seen.apply(receiver.recv().await.expect("a resync"));
        }
        let mut rows: Vec<Client> = seen.clients.into_values().collect();
        drop(receiver);
        following.await.unwrap().unwrap();
        rows.sort_by(|a, b| a.clientid.cmp(&b.clientid));
        rows
    }

    pub(crate) async fn figures(&self, client: &Client) -> Option<Statistics> {
        self.statistics(&[session_of(client)]).await.remove(0)
    }

    /// The figures, once they fulfil the condition.
    pub(crate) async fn figures_when(
        &self,
        client: &Client,
        condition: impl Fn(&Statistics) -> bool,
    ) -> Statistics {
        let started = Instant::now();
        loop {
            let figures = self.figures(client).await.expect("the session is there");
            if condition(&figures) {
                return figures;
            }
            assert!(started.elapsed() < Duration::from_secs(8), "never fulfilled: {figures:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
