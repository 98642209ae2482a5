//! Keeps the index true to the broker: applies the adapter's changes and remembers how the two stand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rollcall_proto::v1::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::broker::{Broker, BrokerError, ClientChange, SessionRef};
use crate::events::Events;
use crate::index::{Index, Resync};
use crate::metrics::BrokerFigures;

/// Changes that may wait for the index, two megabytes of a resync. A full channel makes the adapter wait.
const WAITING_CHANGES: usize = 256;

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
    /// A resync that has begun.
    resync: Mutex<Option<Resync>>,
    heard: watch::Sender<Heard>,
    figures: BrokerFigures,
    events: Events,
    /// Held over a change of a session and the telling of it, so that events come in the order of the changes, whether the
    /// broker told them or a kick made them.
    changing: Mutex<()>,
}

impl Follower {
    /// For an index that is empty as yet.
    #[must_use]
    pub fn new(index: Arc<Index>) -> Self {
        Self {
            index,
            agreement: Mutex::default(),
            resync: Mutex::default(),
            heard: watch::Sender::new(Heard::Nothing),
            figures: BrokerFigures::default(),
            events: Events::default(),
            changing: Mutex::default(),
        }
    }

    /// What has been heard of the broker.
    pub(crate) fn figures(&self) -> &BrokerFigures {
        &self.figures
    }

    /// What happens to clients.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// How index and broker stand now.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        lock(&self.agreement).clone()
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
            ClientChange::Present(client) => {
                self.figures.present();
                if let Some(resync) = &mut *lock(&self.resync) {
                    resync.add(&client);
                }
                let _changing = lock(&self.changing);
                let before = self.events.are_on().then(|| self.session(&client.clientid, client.session));
                let is_taken = self.index.present(&client);
                if let Some(before) = before.filter(|_| is_taken) {
                    self.events.changed(before.as_ref(), &client);
                }
            }
            ClientChange::Ended(session) => {
                self.figures.ended();
                self.end(&session, None);
            }
            ClientChange::ResyncBegun => {
                if lock(&self.resync).replace(Resync::default()).is_some() {
                    self.figures.resync(false);
                }
            }
            ClientChange::ResyncRows(clients) => {
                self.figures.resync_rows(clients.len());
                if let Some(resync) = &mut *lock(&self.resync) {
                    clients.iter().for_each(|client| resync.add(client));
                }
            }
            ClientChange::ResyncDone => {
                let resync = lock(&self.resync).take();
                match resync {
                    Some(resync) => self.finish(resync).await,
                    None => warn!("the broker's adapter has ended a resync that it had not begun"),
                }
            }
            ClientChange::BrokerFailed(error) => {
                warn!(%error, "the broker cannot be asked, its clients are shown as last known");
                self.figures.failed();
                if lock(&self.resync).take().is_some() {
                    self.figures.resync(false);
                }
                lock(&self.agreement).broker_error = Some(error);
                self.hear(Heard::Failure);
            }
        }
    }

    /// A session is over; by a kick, if the client is given that was found.
    pub(crate) fn end(&self, session: &SessionRef, kicked: Option<&Client>) {
        let _changing = lock(&self.changing);
        let are_on = self.events.are_on();
        let before = if are_on { self.session(&session.clientid, session.session) } else { None };
        let was_there = self.index.ended(&session.clientid, session.session);
        if let Some(kicked) = kicked {
            self.events.kicked(before.as_ref().unwrap_or(kicked));
        }
        if let Some(before) = before.filter(|_| was_there) {
            self.events.ended(&before);
        }
    }

    /// A session as it is in the index.
    fn session(&self, clientid: &str, session: u64) -> Option<Client> {
        self.index.get(clientid).into_iter().find(|client| client.session == session)
    }

    async fn finish(&self, resync: Resync) {
        let index = Arc::clone(&self.index);
        #[expect(clippy::disallowed_methods, reason = "no request waits for it: it belongs to the stream")]
        let applied = tokio::task::spawn_blocking(move || index.resync(resync)).await;
        let is_news = applied.as_ref().is_ok_and(|is_news| *is_news);
        if let Err(error) = applied {
            // A panic in the index: its own report has been printed, and the next resync tries again.
            warn!(%error, "a resync failed");
            return;
        }
        self.figures.resync(true);
        if is_news {
            self.events.resynced();
        }
        let mut agreement = lock(&self.agreement);
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
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time, milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rollcall_proto::v1::Client;

    use super::*;
    use crate::broker::{RESYNC_ROWS, send_resync};
    use crate::query::Queries;

    fn client(clientid: &str, session: u64) -> Client {
        Client { clientid: clientid.to_owned(), session, ..Client::default() }
    }

    struct Followed {
        follower: Follower,
        queries: Queries,
    }

    impl Followed {
        async fn with(clients: &[(&str, u64)]) -> Self {
            let index = Arc::new(Index::new("a"));
            let followed =
                Self { follower: Follower::new(Arc::clone(&index)), queries: Queries::new(index, 1) };
            followed.begin(clients).await;
            assert!(!followed.follower.is_known());
            followed.follower.apply(ClientChange::ResyncDone).await;
            assert!(followed.follower.is_known());
            followed
        }

        async fn begin(&self, clients: &[(&str, u64)]) {
            self.follower.apply(ClientChange::ResyncBegun).await;
            for &(clientid, session) in clients {
                self.follower.apply(ClientChange::ResyncRows(vec![client(clientid, session)])).await;
            }
        }

        /// The sessions of "a", "b" and so on.
        fn shown(&self) -> Vec<u64> {
            let sessions = ["a", "b", "c", "d"].into_iter().flat_map(|clientid| self.queries.get(clientid));
            sessions.map(|client| client.session).collect()
        }
    }

    #[tokio::test]
    async fn a_resync_is_shown_as_a_whole_when_it_is_done() {
        let followed = Followed::with(&[("a", 1), ("b", 2)]).await;
        followed.begin(&[("b", 2), ("c", 3), ("c", 4)]).await;
        assert_eq!(followed.shown(), [1, 2], "half a resync is none");
        let apply = async |change| followed.follower.apply(change).await;
        apply(ClientChange::Present(client("d", 5))).await;
        apply(ClientChange::Ended(SessionRef { clientid: "c".into(), session: 4 })).await;
        assert_eq!(followed.shown(), [1, 2, 5], "what comes in between holds at once");
        apply(ClientChange::ResyncDone).await;
        assert_eq!(followed.shown(), [2, 3, 5], "and for the resync");
    }

    #[tokio::test]
    async fn a_resync_that_is_broken_off_does_not_count() {
        let followed = Followed::with(&[("a", 1), ("b", 2)]).await;
        let before = followed.follower.agreement();
        followed.begin(&[("c", 3)]).await;
        followed.follower.apply(ClientChange::BrokerFailed("gone".into())).await;
        followed.follower.apply(ClientChange::ResyncRows(vec![client("d", 4)])).await;
        followed.follower.apply(ClientChange::ResyncDone).await;
        assert_eq!(followed.shown(), [1, 2]);
        let now = followed.follower.agreement();
        assert_eq!((now.resynced_at_ms, now.broker_error), (before.resynced_at_ms, Some("gone".into())));
        followed.begin(&[("c", 3)]).await;
        followed.begin(&[("d", 4)]).await;
        followed.follower.apply(ClientChange::ResyncDone).await;
        assert_eq!((followed.shown(), followed.follower.agreement().broker_error), (vec![4], None));
    }

    #[tokio::test]
    async fn a_resync_of_any_number_of_clients_is_told_in_small_parts() {
        for count in [0, 1, RESYNC_ROWS as u64, RESYNC_ROWS as u64 + 1, 1_000] {
            let (sender, mut receiver) = mpsc::channel(8);
            let clients = (0..count).map(|number| client("c", number));
            let send = tokio::spawn(async move { send_resync(&sender, clients).await });
            let (index, mut largest) = (Arc::new(Index::new("a")), 0);
            let follower = Follower::new(Arc::clone(&index));
            while let Some(change) = receiver.recv().await {
                if let ClientChange::ResyncRows(rows) = &change {
                    largest = largest.max(rows.len());
                }
                follower.apply(change).await;
            }
            assert!(send.await.unwrap().is_ok());
            assert_eq!((index.counts().clients, largest as u64), (count, count.min(RESYNC_ROWS as u64)));
        }
    }

    /// Both ends of a session at once, from the broker and from a kick: whoever is first, nothing is told of a session that is
    /// over.
    #[test]
    fn a_kick_and_the_brokers_news_are_told_in_the_order_in_which_they_took_effect() {
        use rollcall_proto::v1::ConnState;
        use rollcall_proto::v1::event::Kind;

        for round in 1..=2_000 {
            let follower = Follower::new(Arc::new(Index::new("a")));
            follower.events().turn_on();
            let present = Client { conn_state: ConnState::Connected.into(), ..client("a", round) };
            let session = SessionRef { clientid: "a".into(), session: round };
            let together = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    futures::executor::block_on(follower.apply(ClientChange::Present(present.clone())));
                });
                together.wait();
                follower.end(&session, Some(&present));
            });
            let told = follower.events().after(0, 9).events;
            let told: Vec<Kind> = told.iter().map(rollcall_proto::v1::Event::kind).collect();
            let is_either = told == [Kind::Kicked]
                || told == [Kind::Connected, Kind::Kicked, Kind::Disconnected, Kind::Ended];
            assert!(is_either, "round {round}: {told:?}");
        }
    }
}
