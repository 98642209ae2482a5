//! What happens to the clients of all nodes, as one stream.
//!
//! While anybody follows, and for [`LINGER`] after, one call to each node brings its events in; all followers read the same
//! window. An event has a number, which with the epoch (random, for as long as the calls last) is how a follower that comes
//! back says where it was. Who falls behind by more than the window is told how many it has lost, and holds up nobody.
//!
//! Of one node events come in the node's own order; of two nodes in the order in which this gateway heard of them. A node
//! whose stream breaks is `Down` until it is back; what happened meanwhile follows then, or `Resync` says that it is not
//! known. One gateway's numbers mean nothing to another: to share them, gateways would have to speak to each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use rollcall_proto::v1::event::Kind;
use rollcall_proto::{Reason, Since, Window, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;

use super::Scope;
use super::call::{self, CallError};
use super::node::Node;
use crate::page::completeness::{Completeness, FailedNode};

/// Events that are kept at the most.
const WINDOW: usize = 16_384;

/// Bytes of their clients on the wire at the most, some 200 a client: a client id may have 64 KiB.
const WINDOW_BYTES: usize = 16 << 20;

/// How long events are followed though nobody reads them, so that a reader can come back.
const LINGER: Duration = Duration::from_secs(60);

/// How long a node may be silent; it speaks every 3 s.
const SILENCE: Duration = Duration::from_secs(10);

/// Between two attempts to follow a node: at first, and at the most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Happened {
    /// To a client, whose `node` is set.
    Client {
        /// What; never unspecified or a resync.
        kind: Kind,
        /// When its node heard of it, milliseconds since 1970.
        at_ms: i64,
        /// As it is now, or was last.
        client: Box<v1::Client>,
    },
    /// A node is followed again.
    Up {
        /// Its name.
        node: String,
    },
    /// A node can be followed no more.
    Down(FailedNode),
    /// What happened on a node is not known one by one: its clients have to be read anew.
    Resync {
        /// Its name.
        node: String,
    },
}

impl Happened {
    fn bytes(&self) -> usize {
        match self {
            Self::Client { client, .. } => client.encoded_len(),
            Self::Up { .. } | Self::Down(_) | Self::Resync { .. } => 0,
        }
    }
}

/// Where a follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which run of numbers.
    pub epoch: u64,
    /// The number of the last event it has had.
    pub number: u64,
}

/// The events of the cluster.
#[derive(Debug)]
pub(super) struct Events {
    nodes: Vec<Arc<Node>>,
    state: Mutex<State>,
    /// The number of the last event.
    last: watch::Sender<u64>,
    /// How many nodes are known to be followed or not.
    settled: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    epoch: u64,
    window: Window<Arc<Happened>>,
    /// Whether each node is followed, and why not; `None`: not known yet.
    nodes: Vec<Option<Result<(), Reason>>>,
    followers: usize,
    /// Counts the times that somebody began to follow.
    begun: u64,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Somebody who follows, until it is dropped.
#[derive(Debug)]
pub struct Follower {
    events: Arc<Events>,
    last: watch::Receiver<u64>,
    position: Position,
    /// Where it wanted to take up is not known here.
    pub is_behind: bool,
}

impl Events {
    pub(super) fn new(nodes: Vec<Arc<Node>>) -> Self {
        Self {
            nodes,
            state: Mutex::new(State {
                epoch: 0,
                window: Window::new(WINDOW, WINDOW_BYTES),
                nodes: Vec::new(),
                followers: 0,
                begun: 0,
                tasks: Vec::new(),
            }),
            last: watch::Sender::default(),
            settled: watch::Sender::default(),
        }
    }

    /// Begins to follow, behind a position if it is still known. Waits until it is known of each node whether it can be
    /// followed, but not past `until`.
    pub(super) async fn follow(self: &Arc<Self>, after: Option<Position>, until: Instant) -> Follower {
        let follower = self.begin(after);
        let mut settled = self.settled.subscribe();
        let all = settled.wait_for(|settled| *settled >= self.nodes.len());
        // Nodes that take longer are told when they are up.
        let _ = tokio::time::timeout_at(until, all).await;
        follower
    }

    fn begin(self: &Arc<Self>, after: Option<Position>) -> Follower {
        let mut state = self.state();
        state.followers += 1;
        state.begun += 1;
        if state.tasks.is_empty() {
            state.epoch = rand::random();
            state.nodes = vec![None; self.nodes.len()];
            self.settled.send_replace(0);
            let tasks = (0..self.nodes.len())
                .map(|at| AbortOnDropHandle::new(tokio::spawn(Arc::clone(self).follow_node(at))));
            state.tasks = tasks.collect();
        }
        let now = Position { epoch: state.epoch, number: state.window.last() };
        let known = after.filter(|after| after.epoch == now.epoch && after.number <= now.number);
        let last = self.last.subscribe();
        drop(state);
        let is_behind = after.is_some() && known.is_none();
        Follower { events: Arc::clone(self), last, position: known.unwrap_or(now), is_behind }
    }

    /// Brings in the events of a node, for ever.
    async fn follow_node(self: Arc<Self>, at: usize) {
        let node = &self.nodes[at];
        let mut from: Option<(v1::Identity, u64)> = None;
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let error = match node.barred() {
                Some(barred) => barred,
                None => self.read(at, &mut from).await,
            };
            tracing::debug!(node = %node.label(), %error, "a node's events are not followed");
            self.note(at, Err(error.reason));
            if began.elapsed() > SILENCE {
                pause = PAUSES.0;
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Reads one stream of a node to its end, which is an error.
    async fn read(&self, at: usize, from: &mut Option<(v1::Identity, u64)>) -> CallError {
        let node = &self.nodes[at];
        let request = from.as_ref().map_or_else(v1::WatchRequest::default, |(identity, position)| {
            v1::WatchRequest { after: Some(*position), incarnation: identity.incarnation }
        });
        let mut client = node.export_client();
        let opened = call::by(Instant::now() + SILENCE, async {
            Ok(client.watch(Request::new(request)).await?.into_inner())
        });
        let mut stream = match opened.await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let mut name = None;
        loop {
            let told = match timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(told))) => told,
                Ok(Ok(None)) => return CallError::protocol("the stream of events ended"),
                Ok(Err(status)) => return status.into(),
                Err(_) => return CallError::timeout("no word of the node's events"),
            };
            if name.is_none() {
                let identity = match node.identified(told.identity.clone(), &Scope::All) {
                    Ok(identity) => identity,
                    Err(error) => return error,
                };
                name = Some(identity.name.clone());
                let is_another = from.as_ref().is_some_and(|(before, _)| *before != identity);
                *from = Some((identity, told.position));
                self.note(at, Ok(()));
                if is_another && !told.lost {
                    self.push(Happened::Resync { node: node.label() });
                }
            }
            let Some(name) = &name else { continue };
            if let Err(error) = self.take_in(name, &told) {
                return error;
            }
            if let Some((_, position)) = from {
                *position = told.position;
            }
        }
    }

    fn take_in(&self, name: &str, told: &v1::WatchResponse) -> Result<(), CallError> {
        if told.lost {
            self.push(Happened::Resync { node: name.to_owned() });
        }
        for event in &told.events {
            let kind = event.kind();
            let happened = match (kind, &event.client) {
                (Kind::Unspecified, _) => continue, // of a newer agent
                (Kind::Resynced, _) => Happened::Resync { node: name.to_owned() },
                (_, None) => return Err(CallError::protocol("an event without its client")),
                (_, Some(client)) if !client.node.is_empty() && client.node != name => {
                    return Err(CallError::protocol("an event of another node's client"));
                }
                (kind, Some(client)) => {
                    let client = Box::new(v1::Client { node: name.to_owned(), ..client.clone() });
                    Happened::Client { kind, at_ms: event.at_ms, client }
                }
            };
            self.push(happened);
        }
        Ok(())
    }

    /// Notes whether a node is followed, and tells it if that is news.
    fn note(&self, at: usize, followed: Result<(), Reason>) {
        let mut state = self.state();
        let Some(known) = state.nodes.get_mut(at) else { return };
        let before = known.replace(followed);
        drop(state);
        let node = &self.nodes[at];
        match (before, followed) {
            (None, _) => self.settled.send_modify(|settled| *settled += 1),
            (Some(Ok(())), Err(reason)) => self.push(Happened::Down(node.failed(reason))),
            (Some(Err(_)), Ok(())) => self.push(Happened::Up { node: node.label() }),
            _ => {}
        }
    }

    fn push(&self, happened: Happened) {
        let bytes = happened.bytes();
        let mut state = self.state();
        // Under the lock, so that number and window are always of one moment.
        self.last.send_replace(state.window.push(Arc::new(happened), bytes));
    }

    fn completeness(&self) -> Completeness {
        let state = self.state();
        let failed: Vec<FailedNode> = (self.nodes.iter().zip(&state.nodes))
            .filter_map(|(node, known)| {
                known.unwrap_or(Err(Reason::Timeout)).err().map(|reason| node.failed(reason))
            })
            .collect();
        drop(state);
        super::fanout::completeness(self.nodes.len(), failed)
    }

    /// Ends the calls to the nodes, and forgets what they brought.
    pub(super) fn stop(&self) {
        self.stop_if(|_| true);
    }

    fn stop_if(&self, wanted: impl FnOnce(&State) -> bool) {
        let mut state = self.state();
        if !wanted(&state) {
            return;
        }
        let tasks = std::mem::take(&mut state.tasks);
        state.window = Window::new(WINDOW, WINDOW_BYTES);
        self.last.send_replace(0);
        drop(state);
        drop(tasks);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Which nodes are followed at present.
    #[must_use]
    pub fn completeness(&self) -> Completeness {
        self.events.completeness()
    }

    /// What has happened since, at most so many events; nothing if nothing has. Then it stands at the last of them.
    pub fn next(&mut self, most: usize) -> Since<Arc<Happened>> {
        let since = self.events.state().window.since(self.position.number, most);
        self.position.number += since.lost + since.items.len() as u64;
        since
    }

    /// Waits until there is more.
    pub async fn more(&mut self) {
        let number = self.position.number;
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.last.wait_for(|last| *last > number).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.events.state();
        state.followers -= 1;
        let (is_last, begun) = (state.followers == 0, state.begun);
        drop(state);
        if is_last {
            let events = Arc::clone(&self.events);
            tokio::spawn(async move {
                sleep(LINGER).await;
                events.stop_if(|state| state.followers == 0 && state.begun == begun);
            });
        }
    }
}
