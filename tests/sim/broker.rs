//! A broker whose clients are known: the adapter between an agent and [`Truth`](crate::truth::Truth).
//!
//! A new adapter numbers its sessions anew from 1, so that a number alone says nothing across a restart of the agent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt as _;
use rollcall_node_agent::broker::{
    Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, send_resync,
};
use rollcall_proto::v1::{Client, Statistics};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::truth::{Event, NewClient};
use crate::world::{Shared, now};

pub(crate) struct ScriptedBroker {
    world: Shared,
    broker: usize,
    info: BrokerInfo,
    numbers: Mutex<Numbers>,
}

/// The only live figure that the broker can tell, and it never changes.
pub(crate) fn figure(uid: u32) -> u64 {
    u64::from(uid % 7)
}

/// The adapter's own session numbers.
#[derive(Default)]
struct Numbers {
    of: BTreeMap<u32, u64>,
    sessions: BTreeMap<u64, u32>,
}

impl Numbers {
    fn number(&mut self, uid: u32) -> u64 {
        if let Some(number) = self.of.get(&uid) {
            return *number;
        }
        let number = self.of.len() as u64 + 1;
        self.of.insert(uid, number);
        self.sessions.insert(number, uid);
        number
    }
}

impl ScriptedBroker {
    pub(crate) fn new(world: Shared, broker: usize) -> Self {
        let info = BrokerInfo { kind: "scripted", version: "1".to_owned(), ..BrokerInfo::default() };
        Self { world, broker, info, numbers: Mutex::default() }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self, mut client: Client) -> Client {
        client.session = self.numbers().number(u32::try_from(client.session).unwrap_or_default());
        client
    }

    async fn take_time(&self) {
        let slow = self.world.lock().slow[self.broker];
        if slow > 0 {
            sleep(Duration::from_millis(slow)).await;
        }
    }

    fn note_unconfirmed(&self, session: &SessionRef, reason: &'static str) {
        let unconfirmed = &mut self.world.lock().kicks.unconfirmed;
        unconfirmed.push((now(), session.clientid.clone(), reason));
    }

    /// Ends a session; its client may come back.
    fn carry_out(&self, uid: u32) -> Kick {
        let mut state = self.world.lock();
        let state = &mut *state;
        if !state.truth.end(uid, true, now()) {
            return Kick::NotFound;
        }
        state.kicks.done.push((now(), uid));
        let Some(session) = state.truth.session(uid) else { return Kick::NotFound };
        let line = format!("broker {} kicked {} ({uid})", self.broker, session.clientid);
        if state.rng.random_bool(0.6) {
            let client = NewClient {
                clientid: session.clientid.clone(),
                username: session.username.clone(),
                zone: session.zone,
                created_before: 0,
            };
            let elsewhere = state.rng.random_bool(0.2);
            let brokers = state.truth.present.len();
            let broker = if elsewhere { state.rng.random_range(0..brokers) } else { self.broker };
            let at = now() + state.rng.random_range(0..400);
            state.returning.push((at, broker, client));
        }
        state.log(now(), line);
        Kick::Kicked
    }
}

#[async_trait]
impl Broker for ScriptedBroker {
    fn info(&self) -> BrokerInfo {
        self.info.clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        // Until then the agent knows of nobody, and must not say so.
        let wait = self.world.lock().rng.random_range(0..400);
        sleep(Duration::from_millis(wait)).await;
        let (feed, mut events) = mpsc::unbounded_channel();
        let clients = self.world.lock().truth.follow(self.broker, feed);
        let clients: Vec<Client> = clients.into_iter().map(|client| self.own(client)).collect();
        if send_resync(&changes, clients).await.is_err() {
            return Ok(());
        }
        loop {
            let change = match events.recv().await {
                Some(Event::Present(client)) => ClientChange::Present(self.own(*client)),
                Some(Event::Ended { clientid, uid }) => {
                    ClientChange::Ended(SessionRef { clientid, session: self.numbers().number(uid) })
                }
                // The simulation is over.
                None => std::future::pending().await,
            };
            if changes.send(change).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        self.take_time().await;
        let numbers = self.numbers();
        let figures = |session: &SessionRef| {
            let uid = numbers.sessions.get(&session.session)?;
            Some(Statistics { mqueue_len: Some(figure(*uid)), ..Statistics::default() })
        };
        sessions.iter().map(figures).collect()
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        let Some(uid) = self.numbers().sessions.get(&session.session).copied() else {
            self.world.wrong(format!("broker {} is to kick {session:?}, which it never had", self.broker));
            return Ok(Kick::NotFound);
        };
        if self.world.lock().truth.session(uid).is_none_or(|known| known.clientid != session.clientid) {
            self.world
                .wrong(format!("broker {} is to kick {session:?}, which is another client's", self.broker));
            return Ok(Kick::NotFound);
        }
        let (way, wait) = {
            let mut state = self.world.lock();
            (state.rng.random_range(0..10), state.rng.random_range(0..200))
        };
        let wait = Duration::from_millis(wait);
        match way {
            // Refused, and nothing done.
            0 => {
                self.note_unconfirmed(session, "protocol");
                Err(BrokerError::Refused("not now".to_owned()))
            }
            // Not done in time, but done in the end.
            1 => {
                let _ = self.carry_out(uid);
                self.note_unconfirmed(session, "timeout");
                Err(BrokerError::Late("it takes its time".to_owned()))
            }
            // Done at once, said later.
            2..6 => {
                let done = self.carry_out(uid);
                sleep(wait).await;
                self.take_time().await;
                Ok(done)
            }
            _ => {
                sleep(wait).await;
                self.take_time().await;
                Ok(self.carry_out(uid))
            }
        }
    }
}
