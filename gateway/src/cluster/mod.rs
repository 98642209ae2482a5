//! The cluster as one: every operation of the API, over all nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rollcall_proto::{Order, Reason, v1};
use rollcall_trust::Live;
use rollcall_trust::token::Tokens;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::call::RetryBudget;
use self::list::Guesses;
use self::node::Node;
use self::roster::Roster;
use self::tls::TlsDial;
use crate::page::completeness::{Completeness, FailedNode, in_words};
use crate::page::cursor::Position;
use crate::page::groups::{GroupBy, Top};
use crate::page::hints::Hints;
use crate::page::kinds::Kind;
use crate::page::rows::PageRows;

mod bearer;
mod call;
mod connect;
mod counts;
mod events;
mod export;
mod fanout;
mod figures;
mod get;
mod health;
mod kick;
mod last_failure;
mod list;
mod node;
mod raw;
mod roster;
mod sessions;
mod tls;

pub use self::connect::{Dial, TcpDial};
pub use self::events::{Follower as EventFollower, Happened, Position as EventPosition};
pub use self::export::{Export, ExportQuery};
pub(crate) use self::figures::{DURATIONS, NodeFigures};
pub use self::health::{LastError, Policy, Renamed};
pub use self::node::InvalidNode;
pub use self::sessions::{Ended, Session, Sessions};

/// The nodes a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every expected node.
    #[default]
    All,
    /// These, by name. Never empty.
    Only(Vec<String>),
}

/// A page of a list, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ListQuery {
    /// Which clients.
    pub filter: v1::Filter,
    /// In which order.
    pub order: Order,
    /// Where it begins.
    pub start: Start,
    /// Rows a page, 0 to 10,000; 0 counts only.
    pub limit: u32,
    /// On which nodes.
    pub scope: Scope,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// At the first row of this page, counted from 1.
    Page(u64),
    /// Where a cursor points.
    Cursor(Position),
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct ListAnswer {
    /// Strictly increasing in the query's order; `node` is set in every row.
    pub rows: PageRows,
    /// Clients that match on the nodes that answered, exactly.
    pub count: u64,
    /// Whether rows follow.
    pub has_more: bool,
    /// The last row's key, if more rows follow it. `None` with `has_more` where there is no last row: of a page by number,
    /// from live data, of a list that has lost more clients than were left before it was read.
    pub next: Option<v1::Key>,
    /// Whether the page refers to one state of each node, as far as could be seen.
    pub consistent: bool,
    /// Which nodes answered.
    pub completeness: Completeness,
}

/// A count, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct CountQuery {
    /// Which clients.
    pub filter: v1::Filter,
    /// By what; `None` asks for the total only.
    pub group_by: Option<GroupBy>,
    /// How many groups, the largest, at the most.
    pub top: usize,
    /// On which nodes.
    pub scope: Scope,
}

/// How many clients match.
#[derive(Clone, Debug)]
pub struct CountAnswer {
    /// On the nodes that answered, exactly.
    pub count: u64,
    /// The largest groups of the nodes that answered, exactly; `None` if none were asked for.
    pub top: Option<Top>,
    /// Which nodes answered.
    pub completeness: Completeness,
}

/// Everything the cluster has under one client id.
#[derive(Clone, Debug)]
pub struct GetAnswer {
    /// One row a session, in default order; `node` is set.
    pub rows: PageRows,
    /// Which nodes answered. If no row was found and a node is missing, [`ClusterError::NotFoundIncomplete`] is given instead.
    pub completeness: Completeness,
}

/// A kick that ended at least one session.
#[derive(Clone, Debug)]
pub struct KickAnswer {
    /// Nodes that had the client and have it no more, sorted.
    pub kicked_on: Vec<String>,
    /// Which nodes answered.
    pub completeness: Completeness,
}

/// One expected node, as last seen.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Where the gateway reaches its agent, host:port.
    pub address: String,
    /// The name its agent told last; absent if none was told, or if another address has it by now.
    pub name: Option<String>,
    /// What the agent said last; absent if the node that is there never said anything.
    pub description: Option<v1::DescribeResponse>,
    /// Whether it can be asked.
    pub state: NodeState,
    /// Since when.
    pub since: SystemTime,
    /// How often that has changed since the gateway first heard of the node.
    pub changes: u64,
    /// Calls and probes that failed since the last answer.
    pub failures: u32,
    /// The reason that reads fail with at once; `None` while the node is asked.
    pub circuit: Option<Reason>,
    /// Calls of this gateway in flight.
    pub calls: usize,
    /// When an answer last came in.
    pub last_seen: Option<SystemTime>,
    /// What last went wrong; kept when all is well again.
    pub last_error: Option<LastError>,
    /// The name that was known at the address before.
    pub previous: Option<Renamed>,
    /// Restarts of the agent seen by this gateway.
    pub restarts: u64,
}

impl NodeView {
    /// What answers call the node: its name, or its address where the name is not told or not its own.
    #[must_use]
    pub fn label(&self) -> &str {
        let name = self.name.as_deref().filter(|_| self.state != NodeState::Conflict);
        name.unwrap_or(&self.address)
    }
}

/// Whether a node can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Not yet probed since the gateway started.
    Unknown,
    /// It answers reads.
    Connected,
    /// It answers, and says it is going away.
    Draining,
    /// It does not answer, or not what the contract allows.
    Unavailable,
    /// It answers under the name of another node, so it is not asked.
    Conflict,
    /// It speaks a protocol that this gateway would misread, or the other way round, so it is not asked.
    Incompatible,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Connected,
        Self::Draining,
        Self::Unavailable,
        Self::Conflict,
        Self::Incompatible,
    ];

    /// The word used in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Incompatible => "incompatible",
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClusterError {
    /// The scope names a node that is not of this cluster, and every node of the cluster is known by name.
    #[error("there is no node {name:?}; the nodes are {}", known.join(", "))]
    UnknownNode {
        /// As asked for.
        name: String,
        /// The names of all nodes, sorted.
        known: Vec<String>,
    },
    /// The scope names an unknown node, but some address has never told its node's name, so it may be that one.
    #[error("node {name:?} is not known, and no agent has answered yet at {}", silent.join(", "))]
    NodeNotYetKnown {
        /// As asked for.
        name: String,
        /// The addresses that have not told a name.
        silent: Vec<String>,
    },
    /// The cursor is of a client whose key was too long for the cursor to hold it, and which does not tell its place any more.
    #[error("{lost}, and with that the place the cursor stands for; begin the walk again")]
    CursorLost {
        /// What has happened.
        lost: Lost,
    },
    /// The cursor is of a client whose key was too long for the cursor to hold it, and the only node that can tell it did not.
    #[error(
        "the place the cursor stands for is known to one node alone, which did not answer: {}",
        in_words(failed)
    )]
    PlaceUnknown {
        /// The node and why.
        failed: Vec<FailedNode>,
    },
    /// The clients to be counted fall into more groups than can be added up.
    #[error("the clients fall into too many groups to be counted; narrow the filter")]
    TooManyGroups,
    /// Not one node answered.
    #[error("no node answered: {}", in_words(failed))]
    NobodyAnswered {
        /// Every node and why.
        failed: Vec<FailedNode>,
    },
    /// No answering node has the client, and some nodes did not answer, so that it cannot be said to be absent.
    #[error("client {clientid:?} is on no node that answered, but some did not: {}", in_words(failed))]
    NotFoundIncomplete {
        /// As asked for.
        clientid: String,
        /// The silent nodes and why.
        failed: Vec<FailedNode>,
    },
    /// Every node answered and none has the client: the one case in which "not found" may be said.
    #[error("client {clientid:?} is on no node")]
    NotFound {
        /// As asked for.
        clientid: String,
    },
    /// The client took up a new session each time between being found and being kicked, so that one was not kicked.
    #[error(
        "client {clientid:?} kept moving while it was being kicked and may still be connected{}",
        kicked_elsewhere(kicked_on)
    )]
    Moved {
        /// As asked for.
        clientid: String,
        /// Nodes that had the client too and have it no more, sorted.
        kicked_on: Vec<String>,
        /// Nodes that did not answer, and why.
        failed: Vec<FailedNode>,
    },
    /// A node failed after it had sent some of its clients, so that it is not known who matches.
    #[error("a node failed while the clients were read: {}", in_words(failed))]
    BrokeOff {
        /// Every node that failed, and why.
        failed: Vec<FailedNode>,
    },
    /// A node that has the client did not confirm the kick. Unless it refused, the kick may have been carried out.
    #[error(
        "node {} has client {clientid:?} and did not confirm the kick ({}){}",
        owner.node, owner.reason, what_is_known(owner.reason, kicked_on)
    )]
    OwnerFailed {
        /// As asked for.
        clientid: String,
        /// Nodes that had the client too and have it no more, sorted.
        kicked_on: Vec<String>,
        /// The node that has the client and why it failed.
        owner: FailedNode,
        /// It, and all others that did not answer or confirm.
        failed: Vec<FailedNode>,
    },
}

/// What happened to the client that a cursor points behind.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Lost {
    /// Its node has no such session.
    #[error("the client the cursor points behind is gone, or the agent of node {node} was restarted")]
    Client {
        /// The node that had it.
        node: String,
    },
    /// It is there and stands elsewhere in the order.
    #[error("the client the cursor points behind has another {field} now")]
    Value {
        /// What the list is sorted by.
        field: &'static str,
    },
    /// Its node is none of the cluster's.
    #[error("node {node} of the client the cursor points behind is none of the cluster any more")]
    Node {
        /// The node that had it.
        node: String,
    },
}

impl ClusterError {
    /// Whether a kick that ended so may have ended sessions all the same.
    #[must_use]
    pub fn may_have_kicked(&self) -> bool {
        match self {
            Self::OwnerFailed { owner, kicked_on, .. } => !is_refusal(owner.reason) || !kicked_on.is_empty(),
            Self::Moved { kicked_on, .. } => !kicked_on.is_empty(),
            _ => false,
        }
    }
}

/// Whether a node that failed for this reason has refused what it was asked for, so that it did nothing.
fn is_refusal(reason: Reason) -> bool {
    matches!(reason, Reason::Overloaded | Reason::Draining)
}

fn what_is_known(reason: Reason, kicked_on: &[String]) -> String {
    let mut known = String::new();
    if !is_refusal(reason) {
        known.push_str("; it may have been carried out");
    }
    known + &kicked_elsewhere(kicked_on)
}

fn kicked_elsewhere(kicked_on: &[String]) -> String {
    if kicked_on.is_empty() {
        return String::new();
    }
    format!("; the client was kicked on {}", kicked_on.join(", "))
}

/// The nodes and how to ask them. Cheap to clone; the background probes end with the last clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    nodes: Vec<Arc<Node>>,
    retry_budget: RetryBudget,
    guesses: Guesses,
    hints: Mutex<Hints>,
    events: Arc<events::Events>,
    /// Ends the probes, and the following of files, when dropped.
    _background: AbortOnDrop,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The calls it makes hold it.
        self.events.stop();
    }
}

#[derive(Debug)]
struct AbortOnDrop(Vec<JoinHandle<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Kept back from a request's time for merging and writing the answer: a tenth, at most this.
const MOST_RESERVE: Duration = Duration::from_millis(250);

impl Cluster {
    /// Starts following the nodes at these addresses in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`InvalidNode`] names an address or TLS setting that no connection can be made with.
    pub fn start(settings: &ClusterSettings) -> Result<Self, InvalidNode> {
        Self::start_with(settings, Arc::new(TcpDial::within(settings.connect_timeout)))
    }

    /// As [`Cluster::start`], over connections of another kind than TCP.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(settings: &ClusterSettings, dial: Arc<dyn Dial>) -> Result<Self, InvalidNode> {
        let dial = match &settings.tls {
            Some(tls) => Arc::new(TlsDial::over(dial, tls.clone())),
            None => dial,
        };
        let roster = Arc::new(Roster::new(&settings.nodes, SystemTime::now()));
        let node = |(index, address): (usize, &String)| {
            Node::new(address, settings, Arc::clone(&dial), (Arc::clone(&roster), index)).map(Arc::new)
        };
        let nodes = settings.nodes.iter().enumerate().map(node).collect::<Result<Vec<_>, _>>()?;
        let interval = settings.probe_interval;
        let probes =
            nodes.iter().cloned().map(|node| tokio::spawn(async move { node.follow(interval).await }));
        let mut background: Vec<_> = probes.collect();
        background
            .extend(settings.tls.clone().map(|tls| tokio::spawn(async move { tls.files.follow().await })));
        background
            .extend(settings.token.clone().map(|token| tokio::spawn(async move { token.follow().await })));
        let background = AbortOnDrop(background);
        let (retry_budget, guesses) = (RetryBudget::default(), Guesses::default());
        let hints = Mutex::default();
        let events = Arc::new(events::Events::new(nodes.clone()));
        let inner = Inner { nodes, retry_budget, guesses, hints, events, _background: background };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// One page.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`, `NobodyAnswered`, `CursorLost`, `PlaceUnknown`.
    pub async fn list(&self, query: &ListQuery, deadline: Instant) -> Result<ListAnswer, ClusterError> {
        list::list(self, query, deadline).await
    }

    /// A count.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`, `NobodyAnswered`, `TooManyGroups`.
    pub async fn count(&self, query: &CountQuery, deadline: Instant) -> Result<CountAnswer, ClusterError> {
        counts::count(self, query, deadline).await
    }

    /// Every client that matches, one after the other. The nodes have until `start_by` for their first rows, and
    /// `node_timeout` for the next ones whenever they are waited for.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`, `NobodyAnswered`.
    pub async fn export(
        &self,
        query: &ExportQuery,
        start_by: Instant,
        node_timeout: Duration,
    ) -> Result<Export, ClusterError> {
        export::export(self, query, start_by, node_timeout).await
    }

    /// What happens to clients from now on, or behind a position. Waits until it is known of each node whether it can be followed,
    /// but not past `until`.
    pub async fn follow(&self, after: Option<EventPosition>, until: Instant) -> EventFollower {
        self.inner.events.follow(after, self.reserve(until)).await
    }

    /// Whether there are these nodes.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`.
    pub async fn check_scope(&self, scope: &Scope, until: Instant) -> Result<(), ClusterError> {
        self.in_scope(scope, until).await.map(drop)
    }

    /// Every session under a client id.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`, `NobodyAnswered`, `NotFoundIncomplete`.
    pub async fn get(
        &self,
        clientid: &str,
        scope: &Scope,
        deadline: Instant,
    ) -> Result<GetAnswer, ClusterError> {
        get::get(self, clientid, scope, deadline).await
    }

    /// Ends connection and session wherever they are.
    ///
    /// # Errors
    /// All of [`ClusterError`].
    pub async fn kick(
        &self,
        clientid: &str,
        scope: &Scope,
        deadline: Instant,
    ) -> Result<KickAnswer, ClusterError> {
        kick::kick(self, clientid, scope, deadline).await
    }

    /// The sessions of clients that match, at most `most` of them, from one state of each node; and whether there are
    /// more.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`, `NobodyAnswered`, `BrokeOff`.
    pub async fn sessions(
        &self,
        filter: &v1::Filter,
        scope: &Scope,
        most: usize,
        deadline: Instant,
    ) -> Result<Sessions, ClusterError> {
        sessions::sessions(self, filter, scope, most, deadline).await
    }

    /// Ends one session, if it is still there, and nothing else.
    pub async fn end(&self, session: &Session, deadline: Instant) -> Ended {
        session.end(self.reserve(deadline)).await
    }

    /// How many nodes a scope has.
    ///
    /// # Errors
    /// `UnknownNode`, `NodeNotYetKnown`.
    pub async fn size(&self, scope: &Scope, deadline: Instant) -> Result<usize, ClusterError> {
        Ok(self.in_scope(scope, deadline).await?.len())
    }

    /// Every expected node as last seen, in the order of the configuration.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        self.inner.nodes.iter().map(|node| node.view()).collect()
    }

    /// Every expected node as last seen, with what its calls came to, in the order of the configuration.
    pub(crate) fn seen(&self) -> Vec<(NodeView, Arc<NodeFigures>)> {
        self.inner.nodes.iter().map(|node| (node.view(), Arc::clone(node.figures()))).collect()
    }

    /// How many nodes there are.
    pub(crate) fn size_of_all(&self) -> usize {
        self.inner.nodes.len()
    }

    /// How many clients of which kind the nodes have, by their addresses; absent are those that did not answer.
    pub(crate) async fn kinds(&self, deadline: Instant) -> HashMap<String, Vec<(Kind, u64)>> {
        counts::kinds(self, deadline).await
    }

    /// How many clients the nodes said they have, all together.
    #[must_use]
    pub fn clients(&self) -> u64 {
        let counts = self.inner.nodes.iter().filter_map(|node| node.clients());
        counts.fold(0, u64::saturating_add)
    }

    fn guesses(&self) -> &Guesses {
        &self.inner.guesses
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        // A hint that is half noted is a wrong one at worst.
        self.inner.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retry_budget(&self) -> &RetryBudget {
        &self.inner.retry_budget
    }

    /// The nodes a scope names. A name that is not known is looked for at the addresses that have not told theirs.
    async fn in_scope(&self, scope: &Scope, deadline: Instant) -> Result<Vec<Arc<Node>>, ClusterError> {
        let Scope::Only(names) = scope else { return Ok(self.inner.nodes.clone()) };
        if names.iter().any(|name| self.named(name).is_none()) {
            let until = self.share(deadline, 1, 2);
            let unnamed = self.inner.nodes.iter().filter(|node| node.is_unnamed() && node.barred().is_none());
            futures::future::join_all(unnamed.map(|node| node.probed(until))).await;
        }
        let mut nodes: Vec<Arc<Node>> = Vec::with_capacity(names.len());
        for name in names {
            let node = self.named(name).ok_or_else(|| self.unknown(name))?;
            if !nodes.iter().any(|other| Arc::ptr_eq(other, &node)) {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    fn named(&self, name: &str) -> Option<Arc<Node>> {
        self.inner.nodes.iter().find(|node| node.name().as_deref() == Some(name)).cloned()
    }

    fn unknown(&self, name: &str) -> ClusterError {
        let name = name.to_owned();
        let silent = self.inner.nodes.iter().filter(|node| node.is_unnamed());
        let silent: Vec<String> = silent.map(|node| node.address.clone()).collect();
        if !silent.is_empty() {
            return ClusterError::NodeNotYetKnown { name, silent };
        }
        let mut known: Vec<String> = self.inner.nodes.iter().filter_map(|node| node.name()).collect();
        known.sort();
        ClusterError::UnknownNode { name, known }
    }

    /// The moment by which the last calls of a request must have ended.
    fn reserve(&self, deadline: Instant) -> Instant {
        let left = deadline.saturating_duration_since(Instant::now());
        deadline - (left / 10).min(MOST_RESERVE)
    }

    /// The moment by which calls must have ended that may use this share of the time left, so that a silent node
    /// leaves some to the calls that follow.
    fn share(&self, deadline: Instant, numerator: u32, denominator: u32) -> Instant {
        let now = Instant::now();
        now + self.reserve(deadline).saturating_duration_since(now) * numerator / denominator
    }
}

/// What the cluster needs to know at start.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Agents' addresses, host:port, at least one, no two the same.
    pub nodes: Vec<String>,
    /// How to speak TLS to the agents; `None` speaks plain HTTP/2.
    pub tls: Option<NodeTls>,
    /// The token to show to agents; followed for as long as the cluster is.
    pub token: Option<Arc<Live<Tokens>>>,
    /// How often each node is probed.
    pub probe_interval: Duration,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// When a node is no longer waited for.
    pub circuit: Policy,
    /// Calls to one node in flight at once, at least 1; exports beside them.
    pub max_node_calls: usize,
}

impl ClusterSettings {
    /// These nodes, by plain HTTP/2, and everything else as it is unless it is configured.
    #[must_use]
    pub fn over(nodes: Vec<String>) -> Self {
        Self {
            nodes,
            tls: None,
            token: None,
            probe_interval: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            circuit: Policy { probe_timeout: Duration::from_secs(2), circuit_failures: 3 },
            max_node_calls: 128,
        }
    }
}

/// TLS towards the agents.
#[derive(Clone, Debug)]
pub struct NodeTls {
    /// The authorities of agents' certificates, and what the gateway shows to agents that ask for a certificate. They are
    /// followed for as long as the cluster is.
    pub files: Arc<Live<ClientConfig>>,
    /// The name agents' certificates must carry, where it is not the host of the address.
    pub domain: Option<ServerName<'static>>,
}
