//! Keeps the index true to the broker: applies the adapter's changes and remembers how the two stand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::broker::{Broker, BrokerError, ClientChange};
use crate::index::Index;

/// Changes that may wait for the index. A full channel makes the adapter wait.
const WAITING_CHANGES: usize = 1024;

/// How index and broker stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// When the index last agreed with the broker as a whole, milliseconds since 1970; `None`: never yet.
    pub resynced_at_ms: Option<i64>,
    /// What went wrong since, for people.
    pub broker_error: Option<String>,
}

/// What has been heard of the broker since the start; it only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Nothing,
    /// It cannot be asked at present.
    Failure,
    /// Its clients, at least once.
    Clients,
}

/// An index that follows its broker.
#[derive(Debug)]
pub struct Follower {
    index: Arc<Index>,
    agreement: Mutex<Agreement>,
    heard: watch::Sender<Heard>,
}

impl Follower {
    /// For an index that is empty as yet.
    #[must_use]
    pub fn new(index: Arc<Index>) -> Self {
        Self { index, agreement: Mutex::default(), heard: watch::Sender::new(Heard::Nothing) }
    }

    /// How index and broker stand now.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        self.lock().clone()
    }

    /// Waits until the broker's clients are known, or it is known that the broker cannot tell them at present.
    pub async fn heard(&self) {
        self.wait_for(Heard::Failure).await;
    }

    /// Waits until the broker's clients are known for the first time.
    pub async fn known(&self) {
        self.wait_for(Heard::Clients).await;
    }

    /// Whether the broker's clients have ever been known. Before that the index is not the broker's, but empty.
    #[must_use]
    pub fn is_known(&self) -> bool {
        *self.heard.borrow() == Heard::Clients
    }

    /// Follows until the broker is gone for good, and then says why; dropped, it stops.
    pub async fn follow(&self, broker: &dyn Broker) -> BrokerError {
        let (sender, mut receiver) = mpsc::channel(WAITING_CHANGES);
        let (ended, is_ended) = oneshot::channel();
        let follow = async {
            let result = broker.follow(sender).await;
            // Taken by the other half, which outlives this one.
            let _ = ended.send(());
            result
        };
        let apply = async {
            let mut is_ended = is_ended;
            loop {
                let change = tokio::select! {
                    change = receiver.recv() => change,
                    // An adapter that keeps a sender has nothing to say any more either.
                    _ = &mut is_ended, if !receiver.is_closed() => {
                        receiver.close();
                        continue;
                    }
                };
                let Some(change) = change else { return };
                self.apply(change).await;
            }
        };
        let (result, ()) = futures::join!(follow, apply);
        match result {
            Err(error) => error,
            Ok(()) => BrokerError::Unavailable("it tells no more changes".to_owned()),
        }
    }

    /// Takes one change in.
    pub(crate) async fn apply(&self, change: ClientChange) {
        match change {
            ClientChange::Present(client) => self.index.present(client),
            ClientChange::Ended(session) => drop(self.index.ended(&session.clientid, session.session)),
            ClientChange::Resync(clients) => self.resync(clients).await,
            ClientChange::BrokerFailed(error) => {
                warn!(%error, "the broker cannot be asked, its clients are shown as last known");
                self.lock().broker_error = Some(error);
                self.hear(Heard::Failure);
            }
        }
    }

    async fn resync(&self, clients: Vec<rollcall_proto::v1::Client>) {
        let index = Arc::clone(&self.index);
        #[expect(clippy::disallowed_methods, reason = "no request waits for it: it belongs to the stream")]
        let applied = tokio::task::spawn_blocking(move || index.resync(clients)).await;
        if let Err(error) = applied {
            // A panic in the index: its own report has been printed, and the next resync tries again.
            warn!(%error, "a resync failed");
            return;
        }
        let mut agreement = self.lock();
        agreement.resynced_at_ms = Some(now_ms());
        if agreement.broker_error.take().is_some() {
            info!(clients = self.index.counts().clients, "the broker can be asked again");
        }
        drop(agreement);
        self.hear(Heard::Clients);
    }

    fn hear(&self, heard: Heard) {
        self.heard.send_if_modified(|known| {
            let is_news = heard > *known;
            *known = heard.max(*known);
            is_news
        });
    }

    async fn wait_for(&self, least: Heard) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.heard.subscribe().wait_for(|&heard| heard >= least).await;
    }

    fn lock(&self) -> MutexGuard<'_, Agreement> {
        self.agreement.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time, milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
