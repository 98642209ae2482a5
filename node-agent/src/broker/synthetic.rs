//! Made-up clients, for load tests and trials: the same for the same count, seed and node name.
//!
//! - Rows spread over everything that can be filtered or sorted by; session times lie in the 30 days before a fixed
//!   moment (2026-01-01 UTC), so that answers do not change with the clock. A table of fewer clients is the
//!   beginning of one of more. Different nodes have different ids, which interleave in id order.
//! - Nothing is kept but the numbers of kicked rows: a row is computed when it is asked for.
//! - A kick takes the row out until the agent starts again.
//! - With churn, clients keep reconnecting, for benchmarks of what an agent absorbs; see
//!   [`SyntheticBroker::with_churn`].

mod churn;
mod rows;

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollcall_proto::v1::Statistics;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::churn::{Churn, Debt};
use self::rows::Rows;
use super::{Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, capabilities, send_resync};

/// The most clients one broker makes up. Each takes some hundred bytes in the index, and as many again while the
/// agent starts.
pub const MAX_CLIENTS: u32 = 20_000_000;

/// The most reconnects a second.
pub const MAX_CHURN: u32 = 1_000_000;

/// Between two batches of reconnects.
const TICK: Duration = Duration::from_millis(10);
/// How late reconnects may be before they are left out.
const LATE: Duration = Duration::from_millis(100);

/// The made-up broker.
#[derive(Debug)]
pub struct SyntheticBroker {
    info: BrokerInfo,
    rows: Rows,
    churn: Churn,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kicked: HashSet<u32>,
    /// Reconnects so far.
    changes: u64,
    /// Counts the streams; only the last one makes clients reconnect.
    streams: u64,
    /// Where kicks are reported.
    ended: Option<mpsc::UnboundedSender<SessionRef>>,
}

impl SyntheticBroker {
    /// `clients` rows, at most [`MAX_CLIENTS`]; which ones, `seed` and node name say.
    #[must_use]
    pub fn new(clients: u64, seed: u64, node: &str) -> Self {
        let others = capabilities(&["kick", "offline-sessions"], &[], &[]).into_iter();
        let figures = rows::FIGURES.into_iter().map(|figure| format!("statistics:{figure}"));
        let info = BrokerInfo {
            kind: "synthetic",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: others.chain(figures).collect(),
            mqtt_addresses: Vec::new(),
        };
        let count = u32::try_from(clients).unwrap_or(u32::MAX).min(MAX_CLIENTS);
        let rows = Rows::new(count, seed, node);
        Self { info, rows, churn: Churn::new(rows, 0), state: Mutex::default() }
    }

    /// So many reconnects a second, at most [`MAX_CHURN`], as long as the agent keeps up: what it has not taken a tenth
    /// of a second later is left out, not made up for. A reconnect gives a client another port and `connected_at`, and
    /// one that starts clean another session as well, so that it is an end and a beginning. Which client, port and time,
    /// the number of the reconnect says, not the clock: reconnect `n` is `n / rate` seconds after the moment of the
    /// rows.
    #[must_use]
    pub fn with_churn(mut self, reconnects_per_second: u32) -> Self {
        self.churn = Churn::new(self.rows, reconnects_per_second.min(MAX_CHURN));
        self
    }

    /// The row a session is of, unless it was kicked.
    fn row(&self, state: &State, session: &SessionRef) -> Option<u32> {
        let row = self.rows.row_of(&session.clientid)?;
        let present = self.churn.session(row, state.changes);
        (present == session.session && !state.kicked.contains(&row)).then_some(row)
    }

    /// The next reconnect as the index learns of it; `None` if another stream has taken over.
    fn reconnect(&self, stream: u64) -> Option<Vec<ClientChange>> {
        let mut state = self.lock();
        if state.streams != stream {
            return None;
        }
        let before = state.changes;
        state.changes += 1;
        let row = self.churn.row(before);
        if state.kicked.contains(&row) {
            return Some(Vec::new());
        }
        drop(state);
        let was = self.churn.session(row, before);
        let client = self.churn.client(row, before + 1);
        let ended = (was != client.session)
            .then(|| ClientChange::Ended(SessionRef { clientid: client.clientid.clone(), session: was }));
        Some(ended.into_iter().chain([ClientChange::Present(client)]).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for SyntheticBroker {
    fn info(&self) -> BrokerInfo {
        self.info.clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let (kicked, changes_before, stream) = {
            let mut state = self.lock();
            // From here on kicks are reported behind the resync, so it may have rows that are gone by then.
            state.ended = Some(sender);
            state.streams += 1;
            (state.kicked.clone(), state.changes, state.streams)
        };
        let (count, churn) = (self.rows.count(), self.churn);
        let rows = (0..count).filter(|row| !kicked.contains(row));
        if send_resync(&changes, rows.map(|row| churn.client(row, changes_before))).await.is_err() {
            return Ok(());
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut debt = Debt::new(churn.rate());
        let mut last = Instant::now();
        loop {
            tokio::select! {
                () = changes.closed() => return Ok(()),
                session = ended.recv() => {
                    // `None`: another stream has taken over, which is told of the kicks from now on.
                    let Some(session) = session else { return Ok(()) };
                    if changes.send(ClientChange::Ended(session)).await.is_err() {
                        return Ok(());
                    }
                }
                _ = tick.tick(), if churn.rate() > 0 => {
                    let now = Instant::now();
                    for _ in 0..debt.due(now - std::mem::replace(&mut last, now)) {
                        let Some(news) = self.reconnect(stream) else { return Ok(()) };
                        for change in news {
                            if changes.send(change).await.is_err() {
                                return Ok(());
                            }
                        }
                    }
                }
            }
        }
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        let state = self.lock();
        let figures = |session| {
            let row = self.row(&state, session)?;
            Some(self.rows.statistics(row, self.churn.last(row, state.changes).is_some()))
        };
        sessions.iter().map(figures).collect()
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        let mut state = self.lock();
        let Some(row) = self.row(&state, session) else { return Ok(Kick::NotFound) };
        state.kicked.insert(row);
        if let Some(ended) = &state.ended {
            // Nobody follows any more: then nobody needs to know.
            let _ = ended.send(session.clone());
        }
        Ok(Kick::Kicked)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use rollcall_proto::v1::Client;

    use super::*;
    use crate::broker::received_resync;

    async fn first(broker: &Arc<SyntheticBroker>) -> (Vec<Client>, mpsc::Receiver<ClientChange>) {
        let (sender, mut changes) = mpsc::channel(8);
        let followed = Arc::clone(broker);
        tokio::spawn(async move { followed.follow(sender).await });
        (received_resync(&mut changes).await, changes)
    }

    #[tokio::test]
    async fn a_kicked_row_is_reported_once_and_stays_away() {
        let broker = Arc::new(SyntheticBroker::new(100, 1, "a@127.0.0.1"));
        let (clients, mut changes) = first(&broker).await;
        assert_eq!(clients.len(), 100);
        let session = SessionRef { clientid: clients[41].clientid.clone(), session: clients[41].session };
        let stranger = SessionRef { session: session.session + 1, ..session.clone() };
        let sessions = [session.clone(), stranger.clone()];
        let told = broker.statistics(&sessions).await;
        assert!(told[0].is_some_and(|figures| figures.recv_msg.is_some()) && told[1].is_none());

        assert_eq!(broker.kick(&stranger).await.unwrap(), Kick::NotFound);
        assert_eq!(broker.kick(&session).await.unwrap(), Kick::Kicked);
        assert_eq!(broker.kick(&session).await.unwrap(), Kick::NotFound);
        match changes.recv().await {
            Some(ClientChange::Ended(ended)) => assert_eq!(ended, session),
            other => panic!("expected the end of the session, got {other:?}"),
        }
        assert!(changes.try_recv().is_err());
        assert_eq!(broker.statistics(&sessions).await, [None, None]);
        let (clients, _changes) = first(&broker).await;
        assert!(clients.len() == 99 && clients.iter().all(|client| client.clientid != session.clientid));
    }

    /// Takes the news in as an index does, under the sessions they are of.
    fn take(known: &mut HashMap<u64, Client>, change: ClientChange) -> usize {
        match change {
            ClientChange::Present(client) => {
                known.insert(client.session, client);
                return 1;
            }
            ClientChange::Ended(session) => {
                let gone = known.remove(&session.session);
                assert_eq!(gone.map(|client| client.clientid), Some(session.clientid), "an unknown session");
            }
            other => panic!("expected a change of one client, got {other:?}"),
        }
        0
    }

    #[tokio::test(start_paused = true)]
    async fn reconnects_come_at_their_rate_and_a_later_stream_begins_where_they_led() {
        let broker = Arc::new(SyntheticBroker::new(300, 1, "a@127.0.0.1").with_churn(150));
        let (clients, mut changes) = first(&broker).await;
        let mut known: HashMap<u64, Client> = clients.into_iter().map(|row| (row.session, row)).collect();
        let began = Instant::now();
        let mut reconnects = 0;
        while reconnects < 450 {
            reconnects += take(&mut known, changes.recv().await.unwrap());
        }
        let seconds = began.elapsed().as_secs_f64();
        assert!((2.9..3.1).contains(&seconds), "450 reconnects at 150 a second in {seconds} s");
        assert_eq!(known.len(), 300, "one session a client");

        let (clients, _later) = first(&broker).await;
        // What the first stream had sent and nobody has taken yet.
        while let Some(change) = changes.recv().await {
            take(&mut known, change);
        }
        assert!(clients.len() == 300 && clients.iter().all(|row| known.get(&row.session) == Some(row)));
        let sessions: Vec<SessionRef> = clients
            .iter()
            .map(|row| SessionRef { clientid: row.clientid.clone(), session: row.session })
            .collect();
        // The later stream goes on, so that some sessions are over by now.
        let told: Vec<Statistics> = broker.statistics(&sessions).await.into_iter().flatten().collect();
        assert!(told.len() > 280 && told.iter().all(|figures| figures.recv_oct.is_some()), "{}", told.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_kicked_row_does_not_reconnect() {
        let broker = Arc::new(SyntheticBroker::new(3, 1, "a@127.0.0.1").with_churn(100));
        let (clients, mut changes) = first(&broker).await;
        let present = |state: &State| {
            broker.churn.session(broker.rows.row_of(&clients[0].clientid).unwrap(), state.changes)
        };
        let kicked = SessionRef { clientid: clients[0].clientid.clone(), session: present(&broker.lock()) };
        assert_eq!(broker.kick(&kicked).await.unwrap(), Kick::Kicked);
        let mut is_over = false;
        for _ in 0..60 {
            match changes.recv().await.unwrap() {
                ClientChange::Ended(ended) => is_over |= ended == kicked,
                ClientChange::Present(client) => assert!(!is_over || client.clientid != kicked.clientid),
                other => panic!("expected a change of one client, got {other:?}"),
            }
        }
        assert!(is_over);
    }

    #[test]
    fn figures_it_names_are_those_it_has() {
        let rows = Rows::new(1_000, 1, "a");
        let online = (0..1_000).find(|&row| rows.client(row).disconnected_at_ms.is_none()).unwrap();
        let text = format!("{:?}", rows.statistics(online, false));
        assert_eq!(text.matches("Some(").count(), rows::FIGURES.len());
        for figure in rows::FIGURES {
            assert!(text.contains(&format!("{figure}: Some(")), "{figure}");
        }
    }
}
