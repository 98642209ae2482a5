//! What happens to the clients of all nodes, as one stream.
//!
//! While anybody follows, and for [`LINGER`] after, one call to each node brings its events in; all followers read the same
//! window. An event has a number, which with the epoch (random, for as long as the calls last) is how a follower that comes
//! back says where it was. Who falls behind by more than the window is told how many it has lost, and holds up nobody.
//!
//! Of one node events come in the node's own order; of two nodes in the order in which this gateway heard of them. A node
//! whose stream breaks is `Down` until it is back; what happened meanwhile follows then, or `Resync` says that it is not
//! known. A message is taken in as a whole or not at all: one with a mistake ends the stream, and what came since the one
//! before counts as not known.
//!
//! Decided against: numbers that all gateways share, for which they would have to speak to each other; and a window for each
//! node, so that one that tells very much would push out its own events only: a reader would have to merge them, and is
//! told how many it has lost in either case.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use rollcall_proto::v1::event::Kind;
use rollcall_proto::{MAX_EVENTS_BYTES, Reason, Since, Window, v1};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
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

/// A message of a node, bytes at the most. Small, since a message of many empty events takes a hundred times as much in memory.
const MESSAGE_BYTES: usize = 2 * MAX_EVENTS_BYTES;

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
    tasks: Vec<AbortOnDropHandle<()>>,
    /// Ends the tasks when nobody has followed for a while.
    linger: Option<AbortOnDropHandle<()>>,
}

/// Up to where a node has told its events.
#[derive(Debug)]
struct Known {
    identity: v1::Identity,
    position: u64,
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
                tasks: Vec::new(),
                linger: None,
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
        if timeout_at(until, all).await.is_err() {
            self.settle();
        }
        follower
    }

    fn begin(self: &Arc<Self>, after: Option<Position>) -> Follower {
        let mut state = self.state();
        state.followers += 1;
        state.linger = None;
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
        let mut known = None;
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let error = match node.barred() {
                Some(barred) => barred,
                None => self.read(at, &mut known).await,
            };
            tracing::debug!(node = %node.label(), %error, "a node's events are not followed");
            if error.reason == Reason::Protocol {
                // What it has told since does not count, and what it will tell behind that would leave a gap.
                known = None;
            }
            self.note(at, Err(error.reason));
            if began.elapsed() > SILENCE {
                pause = PAUSES.0;
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Reads one stream of a node to its end, which is an error.
    async fn read(&self, at: usize, known: &mut Option<Known>) -> CallError {
        let node = &self.nodes[at];
        let request = known.as_ref().map_or_else(v1::WatchRequest::default, |known| v1::WatchRequest {
            after: Some(known.position),
            incarnation: known.identity.incarnation,
        });
        let mut client = node.export_client().max_decoding_message_size(MESSAGE_BYTES);
        let opened = call::by(Instant::now() + SILENCE, async {
            Ok(client.watch(Request::new(request)).await?.into_inner())
        });
        let mut stream = match opened.await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let mut is_first = true;
        loop {
            let told = match timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(told))) => told,
                Ok(Ok(None)) => return CallError::protocol("the stream of events ended"),
                Ok(Err(status)) => return status.into(),
                Err(_) => return CallError::timeout("no word of the node's events"),
            };
            if let Err(error) = self.take_in(at, known, told, is_first) {
                return error;
            }
            is_first = false;
        }
    }

    /// Takes in a message of a stream, of which the first says whose it is.
    fn take_in(
        &self,
        at: usize,
        known: &mut Option<Known>,
        told: v1::WatchResponse,
        is_first: bool,
    ) -> Result<(), CallError> {
        let node = &self.nodes[at];
        let named = is_first.then(|| node.identified(told.identity.clone(), &Scope::All)).transpose()?;
        // Another may have come to claim its name, or it another's, while the stream goes on.
        if let Some(barred) = node.barred() {
            return Err(barred);
        }
        let (identity, position) = match (named, known.take()) {
            (Some(identity), known) => {
                let same = known.filter(|known| known.identity == identity);
                (identity, same.map(|known| known.position))
            }
            (None, Some(known)) => (known.identity, Some(known.position)),
            (None, None) => return Err(CallError::protocol("events of nobody")),
        };
        let (is_lost, now) = (told.lost, told.position);
        let happened = happened(&identity.name, position, told)?;
        let was_down = matches!(self.note(at, Ok(())), Some(Err(_)));
        // What happened while it was not followed is told behind its last position, if that is known.
        if is_lost || was_down && position.is_none() {
            self.push(Happened::Resync { node: identity.name.clone() });
        }
        happened.into_iter().for_each(|happened| self.push(happened));
        *known = Some(Known { identity, position: now });
        Ok(())
    }

    /// Notes whether a node is followed, tells it if that is news, and gives back what was known before.
    fn note(&self, at: usize, followed: Result<(), Reason>) -> Option<Result<(), Reason>> {
        let mut state = self.state();
        let before = state.nodes.get_mut(at)?.replace(followed);
        drop(state);
        let node = &self.nodes[at];
        match (before, followed) {
            (None, _) => self.settled.send_modify(|settled| *settled += 1),
            (Some(Ok(())), Err(reason)) => self.push(Happened::Down(node.failed(reason))),
            (Some(Err(_)), Ok(())) => self.push(Happened::Up { node: node.label() }),
            _ => {}
        }
        before
    }

    /// Counts nodes that are not yet known to be followed or not as down, so that it is told when they are up.
    fn settle(&self) {
        let mut state = self.state();
        let late: Vec<_> = state.nodes.iter_mut().filter(|known| known.is_none()).collect();
        let count = late.len();
        late.into_iter().for_each(|known| *known = Some(Err(Reason::Timeout)));
        drop(state);
        self.settled.send_modify(|settled| *settled += count);
    }

    fn push(&self, happened: Happened) {
        let bytes = happened.bytes();
        let mut state = self.state();
        // Under the lock, so that number and window are always of one moment.
        self.last.send_replace(state.window.push(Arc::new(happened), bytes));
    }

    fn completeness(&self, scope: &Scope) -> Completeness {
        let known = self.state().nodes.clone();
        let in_scope = |node: &Node| match scope {
            Scope::All => true,
            Scope::Only(names) => names.contains(&node.label()),
        };
        let mut total = 0;
        let mut failed = Vec::new();
        for (node, known) in self.nodes.iter().zip(known).filter(|(node, _)| in_scope(node)) {
            total += 1;
            if let Err(reason) = known.unwrap_or(Err(Reason::Timeout)) {
                failed.push(node.failed(reason));
            }
        }
        super::fanout::completeness(total, failed)
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

    /// Which nodes of a scope are followed at present.
    #[must_use]
    pub fn completeness(&self, scope: &Scope) -> Completeness {
        self.events.completeness(scope)
    }

    /// What has happened since, at most so many events; nothing if nothing has. Then it stands at the last of them.
    pub fn next(&mut self, most: usize) -> Since<Arc<Happened>> {
        let since = self.events.state().window.since(self.position.number, most, usize::MAX);
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
        // Without a runtime the tasks are gone as well.
        if state.followers == 0
            && let Ok(runtime) = Handle::try_current()
        {
            let events = Arc::clone(&self.events);
            state.linger = Some(AbortOnDropHandle::new(runtime.spawn(async move {
                sleep(LINGER).await;
                events.stop_if(|state| state.followers == 0);
            })));
        }
    }
}

/// What a message tells behind a position, unless it is not known; checked as a whole.
fn happened(name: &str, after: Option<u64>, told: v1::WatchResponse) -> Result<Vec<Happened>, CallError> {
    let mut last = after.filter(|_| !told.lost);
    let mut all = Vec::with_capacity(told.events.len());
    for event in told.events {
        if let Some(last) = last
            && event.position.checked_sub(1) != Some(last)
        {
            let expected = last.saturating_add(1);
            let error = format!("an event of position {}, expected {expected}", event.position);
            return Err(CallError::protocol(error));
        }
        last = Some(event.position);
        all.push(match (event.kind(), event.client) {
            (Kind::Unspecified, _) => continue, // of a newer agent
            (Kind::Resynced, _) => Happened::Resync { node: name.to_owned() },
            (_, None) => return Err(CallError::protocol("an event without its client")),
            (_, Some(client)) if !client.node.is_empty() && client.node != name => {
                return Err(CallError::protocol("an event of another node's client"));
            }
            (kind, Some(client)) => {
                let client = Box::new(v1::Client { node: name.to_owned(), ..client });
                Happened::Client { kind, at_ms: event.at_ms, client }
            }
        });
    }
    if let Some(last) = last.filter(|last| *last != told.position) {
        let error = format!("events up to position {last}, which are said to go up to {}", told.position);
        return Err(CallError::protocol(error));
    }
    Ok(all)
}
