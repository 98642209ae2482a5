//! Keeps a follower's view equal to what the broker has.
//!
//! One task per follower reads the present state of whatever client changed and reports it, in the order in
//! which it read. What it reports does not depend on what happened, only on what is there now, so events that
//! come late, twice or out of order do no harm; one that never comes is made good by the next resync.
//!
//! The broker's table has short gaps. While one connection takes over from another, the session is in neither's
//! entry for some microseconds; and an entry may be left behind by a client that closed its connection in the
//! middle of CONNECT, which the broker then shows as connected for ever. So every changed client is read again
//! [`SETTLE`] later, and what is contradictory is left as it was until it has been so [`PATIENCE`] times; then
//! the session is over, and an entry left behind is removed from the broker too.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rmqtt::session::Session;
use rmqtt::types::ClientId;
use rollcall_proto::v1::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, info};

use super::node::Node;
use super::registry::Follower;
use crate::broker::{ClientChange, RESYNC_ROWS, SessionRef};

/// How long after a change a client is looked at again.
const SETTLE: Duration = Duration::from_millis(250);

/// How many looks in a row a contradiction must survive.
const PATIENCE: u8 = 8;

/// What is remembered of what was reported: enough to tell whether it is different now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reported {
    session: u64,
    /// Of the whole row. Two connections of one session can differ in their port alone.
    hash: u64,
}

impl From<&Client> for Reported {
    fn from(client: &Client) -> Self {
        let mut hasher = DefaultHasher::new();
        client.hash(&mut hasher);
        Self { session: client.session, hash: hasher.finish() }
    }
}

/// What one look at a client found.
enum Look {
    /// A session in good order.
    Present(Box<Client>),
    /// A live session whose connection's task has gone: in the middle of a takeover, or left behind.
    Orphaned(Session),
    /// A live session that has no entry: in the middle of a takeover, or over.
    Missing(u64),
    /// No live session.
    Over,
}

/// Follows until the receiver is dropped.
pub(super) async fn follow(node: Arc<Node>, changes: mpsc::Sender<ClientChange>) {
    let view = View {
        events: node.registry.follow(),
        node,
        changes,
        reported: HashMap::new(),
        again: VecDeque::new(),
    };
    // An error says that nobody listens any more.
    let _ = view.run().await;
}

type Sent = Result<(), mpsc::error::SendError<ClientChange>>;

struct View {
    node: Arc<Node>,
    events: Follower,
    changes: mpsc::Sender<ClientChange>,
    reported: HashMap<ClientId, Reported>,
    /// Clients to look at again, when, and how often they were contradictory; in order of time.
    again: VecDeque<(Instant, ClientId, u8)>,
}

impl View {
    async fn run(mut self) -> Sent {
        self.resync().await?;
        let period = self.node.resync;
        let mut resync = interval_at(Instant::now() + period, period);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.again.front().map(|(at, ..)| *at);
            tokio::select! {
                () = self.changes.closed() => return Ok(()),
                changed = self.events.changed() => {
                    for clientid in changed {
                        self.look_at(clientid, 0).await?;
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some((_, clientid, contradictions)) = self.again.pop_front() {
                        self.look_at(clientid, contradictions).await?;
                    }
                }
                _ = resync.tick() => self.resync().await?,
            }
        }
    }

    /// Reports one client as it is now. `contradictions` is 0 for a fresh event.
    async fn look_at(&mut self, clientid: ClientId, contradictions: u8) -> Sent {
        let is_fresh = contradictions == 0;
        match look(&self.node, &clientid).await {
            Look::Present(client) => {
                self.report(clientid.clone(), *client).await?;
                if is_fresh {
                    self.look_again(clientid, 1);
                }
            }
            Look::Over => {
                self.report_end(&clientid).await?;
            }
            Look::Missing(number) if contradictions >= PATIENCE => {
                debug!(%clientid, "session ended without a word from the broker");
                self.node.registry.end_number(&clientid, number);
                self.report_end(&clientid).await?;
            }
            Look::Orphaned(session) if contradictions >= PATIENCE => {
                if self.node.remove_orphan(&session).await {
                    info!(%clientid, "removed a session whose connection was lost during CONNECT");
                    self.report_end(&clientid).await?;
                } else {
                    self.look_again(clientid, 1);
                }
            }
            Look::Missing(_) | Look::Orphaned(_) => self.look_again(clientid, contradictions + 1),
        }
        Ok(())
    }

    fn look_again(&mut self, clientid: ClientId, contradictions: u8) {
        self.again.push_back((Instant::now() + SETTLE, clientid, contradictions));
    }

    async fn report(&mut self, clientid: ClientId, client: Client) -> Sent {
        let present = Reported::from(&client);
        let before = self.reported.insert(clientid.clone(), present);
        if before == Some(present) {
            return Ok(());
        }
        if let Some(before) = before
            && before.session != present.session
        {
            self.send_end(&clientid, before.session).await?;
        }
        self.changes.send(ClientChange::Present(client)).await
    }

    async fn report_end(&mut self, clientid: &ClientId) -> Sent {
        match self.reported.remove(clientid) {
            Some(before) => self.send_end(clientid, before.session).await,
            None => Ok(()),
        }
    }

    async fn send_end(&self, clientid: &ClientId, session: u64) -> Sent {
        let session = SessionRef { clientid: clientid.to_string(), session };
        self.changes.send(ClientChange::Ended(session)).await
    }

    /// Reports everything, and looks again at what is contradictory.
    async fn resync(&mut self) -> Sent {
        // The broker's table first: a session that begins after it was read announces itself by an event.
        let mut clientids = self.node.clientids().await;
        clientids.extend(self.node.registry.clientids());
        clientids.sort_unstable();
        clientids.dedup();
        let mut reported = HashMap::with_capacity(clientids.len());
        self.changes.send(ClientChange::ResyncBegun).await?;
        let mut rows = Vec::with_capacity(RESYNC_ROWS);
        for clientid in clientids {
            let client = match look(&self.node, &clientid).await {
                Look::Present(client) => *client,
                Look::Orphaned(session) => {
                    self.look_again(clientid.clone(), 1);
                    let client = self.node.client(&session).await;
                    // Until it is settled, what was reported stays.
                    if self.reported.get(&clientid).is_none_or(|before| before.session != client.session) {
                        continue;
                    }
                    client
                }
                Look::Missing(_) => {
                    self.look_again(clientid, 1);
                    continue;
                }
                Look::Over => continue,
            };
            reported.insert(clientid, Reported::from(&client));
            rows.push(client);
            if rows.len() == RESYNC_ROWS {
                let rows = std::mem::replace(&mut rows, Vec::with_capacity(RESYNC_ROWS));
                self.changes.send(ClientChange::ResyncRows(rows)).await?;
            }
        }
        self.reported = reported;
        self.changes.send(ClientChange::ResyncRows(rows)).await?;
        self.changes.send(ClientChange::ResyncDone).await
    }
}

async fn look(node: &Node, clientid: &ClientId) -> Look {
    let alive = node.registry.session(clientid).map(|session| session.number);
    let Some((session, is_running)) = node.entry(clientid).await else {
        return alive.map_or(Look::Over, Look::Missing);
    };
    let record = node.record(&session).await;
    if !node.registry.is_alive(clientid, record.session.number) {
        return Look::Over;
    }
    if !is_running {
        return Look::Orphaned(session);
    }
    Look::Present(Box::new(node.client(&session).await))
}
