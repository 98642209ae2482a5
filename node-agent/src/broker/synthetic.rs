//! Made-up clients, for load tests and trials: the same for the same count, seed and node name.
//!
//! - Rows spread over everything that can be filtered or sorted by; session times lie in the 30 days before a fixed
//!   moment (2026-01-01 UTC), so that answers do not change with the clock. A table of fewer clients is the
//!   beginning of one of more. Different nodes have different ids, which interleave in id order.
//! - Nothing is kept but the numbers of kicked rows: a row is computed when it is asked for.
//! - A kick takes the row out until the agent starts again.

mod rows;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rollcall_proto::v1::{Client, Statistics};
use tokio::sync::mpsc;

use self::rows::Rows;
use super::{Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef};

/// The most clients one broker makes up. Each takes some hundred bytes in the index, and some more while the
/// agent starts.
pub const MAX_CLIENTS: u32 = 20_000_000;

/// The made-up broker.
#[derive(Debug)]
pub struct SyntheticBroker {
    info: BrokerInfo,
    rows: Rows,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    kicked: HashSet<u32>,
    /// Where kicks are reported.
    ended: Option<mpsc::UnboundedSender<SessionRef>>,
}

impl SyntheticBroker {
    /// `clients` rows, at most [`MAX_CLIENTS`]; which ones, `seed` and node name say.
    #[must_use]
    pub fn new(clients: u64, seed: u64, node: &str) -> Self {
        let abilities = ["kick", "offline-sessions"].into_iter().map(str::to_owned);
        let figures = rows::FIGURES.into_iter().map(|figure| format!("statistics:{figure}"));
        let info = BrokerInfo {
            kind: "synthetic",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: abilities.chain(figures).collect(),
            mqtt_addresses: Vec::new(),
        };
        let count = u32::try_from(clients).unwrap_or(u32::MAX).min(MAX_CLIENTS);
        let rows = Rows::new(count, seed, node);
        Self { info, rows, state: Arc::default() }
    }

    /// The row a session is of, unless it was kicked.
    fn row(&self, state: &State, session: &SessionRef) -> Option<u32> {
        let row = self.rows.row_of(&session.clientid)?;
        (Rows::session(row) == session.session && !state.kicked.contains(&row)).then_some(row)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for SyntheticBroker {
    fn info(&self) -> &BrokerInfo {
        &self.info
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let kicked = {
            let mut state = self.lock();
            // From here on kicks are reported behind the resync, so it may have rows that are gone by then.
            state.ended = Some(sender);
            state.kicked.clone()
        };
        let rows = self.rows;
        #[expect(clippy::disallowed_methods, reason = "seconds of computing that no request waits for")]
        let made = tokio::task::spawn_blocking(move || -> Vec<Client> {
            (0..rows.count()).filter(|row| !kicked.contains(row)).map(|row| rows.client(row)).collect()
        });
        let clients = made.await.map_err(|error| BrokerError::Unavailable(error.to_string()))?;
        if changes.send(ClientChange::Resync(clients)).await.is_err() {
            return Ok(());
        }
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
            }
        }
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        let state = self.lock();
        sessions.iter().map(|session| Some(self.rows.statistics(self.row(&state, session)?))).collect()
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
    use super::*;

    async fn first(broker: &Arc<SyntheticBroker>) -> (Vec<Client>, mpsc::Receiver<ClientChange>) {
        let (sender, mut changes) = mpsc::channel(8);
        let followed = Arc::clone(broker);
        tokio::spawn(async move { followed.follow(sender).await });
        match changes.recv().await {
            Some(ClientChange::Resync(clients)) => (clients, changes),
            other => panic!("expected a resync, got {other:?}"),
        }
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

    #[test]
    fn figures_it_names_are_those_it_has() {
        let rows = Rows::new(1_000, 1, "a");
        let online = (0..1_000).find(|&row| rows.client(row).disconnected_at_ms.is_none()).unwrap();
        let text = format!("{:?}", rows.statistics(online));
        assert_eq!(text.matches("Some(").count(), rows::FIGURES.len());
        for figure in rows::FIGURES {
            assert!(text.contains(&format!("{figure}: Some(")), "{figure}");
        }
    }
}
