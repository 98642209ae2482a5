//! One expected node: its address, its channel, and what was last heard of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rollcall_proto::v1::node_client::NodeClient;
use rollcall_proto::{MAX_MESSAGE_BYTES, Reason, v1};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Endpoint;

use super::bearer::{Bearer, Link};
use super::call::{self, CallError};
use super::connect::{self, Dial};
use super::figures::NodeFigures;
use super::health::{Caller, Health, LastError, News, Renamed};
use super::last_failure::LastFailure;
use super::roster::{Roster, Standing};
use super::{ClusterSettings, NodeState, NodeView, Scope};
use crate::page::completeness::FailedNode;
use crate::page::share::Expected;

/// Settings that no channel can be made from.
#[derive(Debug, Error)]
pub enum InvalidNode {
    /// The address is not host:port.
    #[error("node {address:?} is not an address, expected host:port: {source}")]
    Address {
        /// As configured.
        address: String,
        /// What tonic says.
        source: tonic::transport::Error,
    },
}

/// What a node may send ahead of the reader in an export, bytes: some two chunks of ordinary rows, so that the node works
/// on the next while one is merged.
const EXPORT_WINDOW: u32 = 512 << 10;

/// The longest name of a node, bytes. Cursors hold it.
const MAX_NAME: usize = 128;

/// The longest that a request waits for its place among a node's calls.
const PLACE_WAIT: Duration = Duration::from_millis(250);

/// The pause between two probes of which the second is wanted as soon as may be.
const SOON: Duration = Duration::from_millis(100);

/// An expected node. It stays one, with its last known name, while its agent is away.
#[derive(Debug)]
pub(super) struct Node {
    /// host:port of the agent.
    pub address: String,
    channel: Link,
    endpoint: Endpoint,
    dial: Arc<dyn Dial>,
    connect_timeout: Duration,
    bearer: Bearer,
    failure: LastFailure,
    health: Mutex<Health>,
    /// Who has the name, and this node's number there.
    roster: Arc<Roster>,
    index: usize,
    /// One for each call that may be in flight.
    places: Semaphore,
    most_calls: usize,
    probe_timeout: Duration,
    /// Asks for a probe.
    wake: Arc<Notify>,
    /// Probes that have ended.
    probes: watch::Sender<u64>,
    /// How many clients it said last that it has; [`UNTOLD`] before it said so.
    clients: AtomicU64,
    figures: Arc<NodeFigures>,
}

/// No node has that many.
const UNTOLD: u64 = u64::MAX;

fn stub(channel: Link) -> NodeClient<Link> {
    NodeClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl Node {
    /// Makes the node's one channel. It connects when first used and again whenever it is used after it broke, so
    /// the probe that runs every few seconds is the background reconnect.
    pub(super) fn new(
        address: &str,
        settings: &ClusterSettings,
        dial: Arc<dyn Dial>,
        (roster, index): (Arc<Roster>, usize),
    ) -> Result<Self, InvalidNode> {
        let invalid = |source| InvalidNode::Address { address: address.to_owned(), source };
        let mut endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(invalid)?
            // Without pings a channel into a healed partition stays dead until TCP gives up, minutes later.
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true);
        if settings.tls.is_some() {
            // What the calls say of themselves; tonic's own TLS, which it would ask for by the address, is not used.
            let origin = Endpoint::from_shared(format!("https://{address}")).map_err(invalid)?.uri().clone();
            endpoint = endpoint.origin(origin);
        }
        let failure = LastFailure::default();
        let bearer = Bearer(settings.token.clone());
        let channel = connect::channel(&endpoint, address, &dial, settings.connect_timeout, &failure);
        Ok(Self {
            address: address.to_owned(),
            channel: Link::new(channel, bearer.clone()),
            endpoint,
            dial,
            connect_timeout: settings.connect_timeout,
            bearer,
            failure,
            health: Mutex::new(Health::new(settings.circuit, SystemTime::now())),
            wake: roster.wake(index),
            roster,
            index,
            places: Semaphore::new(settings.max_node_calls),
            most_calls: settings.max_node_calls,
            probe_timeout: settings.circuit.probe_timeout,
            probes: watch::Sender::default(),
            clients: AtomicU64::new(UNTOLD),
            figures: Arc::default(),
        })
    }

    /// The node's stub; clones share the channel.
    pub(super) fn client(&self) -> NodeClient<Link> {
        stub(self.channel())
    }

    /// The node's one channel; clones share it.
    pub(super) fn channel(&self) -> Link {
        self.channel.clone()
    }

    /// A stub with a connection of its own, for a call that is read slowly: what it leaves unread would take up the
    /// window that all calls of the shared connection have together.
    pub(super) fn export_client(&self) -> NodeClient<Link> {
        let endpoint = self.endpoint.clone();
        let endpoint =
            endpoint.initial_stream_window_size(EXPORT_WINDOW).initial_connection_window_size(EXPORT_WINDOW);
        let channel =
            connect::channel(&endpoint, &self.address, &self.dial, self.connect_timeout, &self.failure);
        stub(Link::new(channel, self.bearer.clone()))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // What is known is whole at every moment, so a panic elsewhere does not spoil it.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something in, and says in the log what state came of it.
    fn learn<T>(&self, learn: impl FnOnce(&mut Health, SystemTime) -> T) -> T {
        let now = SystemTime::now();
        let mut health = self.health();
        let (before, was_open) = (health.state, health.circuit().is_some());
        let learned = learn(&mut health, now);
        self.roster.update(self.index, health.name.as_deref(), health.lives(), now);
        let (node, address) = (health.name.as_deref().unwrap_or_default(), self.address.as_str());
        let error = health.last_error.as_ref().map_or("", |error| error.text.as_str());
        if before != health.state {
            match health.state {
                NodeState::Connected => tracing::info!(%node, %address, "node answers"),
                NodeState::Draining => tracing::info!(%node, %address, "node is going away"),
                NodeState::Incompatible => tracing::error!(%node, %address, %error, "node is not understood"),
                _ => tracing::warn!(%node, %address, %error, "node does not answer"),
            }
        }
        match (was_open, health.circuit()) {
            (false, Some(reason)) => {
                tracing::warn!(%node, %address, %reason, "node is not asked until it answers a probe");
            }
            (true, None) => tracing::info!(%node, %address, "node is asked again"),
            _ => {}
        }
        learned
    }

    /// The name its agent told last, unless it is another address's.
    pub(super) fn name(&self) -> Option<String> {
        let name = self.health().name.clone()?;
        self.roster.owns(self.index).then_some(name)
    }

    /// The name, or the address where none is its own.
    pub(super) fn label(&self) -> String {
        self.name().unwrap_or_else(|| self.address.clone())
    }

    /// Whether it is not known which node is there.
    pub(super) fn is_unnamed(&self) -> bool {
        self.health().name.is_none()
            || matches!(self.roster.seen(self.index).standing, Standing::Superseded { .. })
    }

    /// How an answer that lacks this node names it.
    pub(super) fn failed(&self, reason: Reason) -> FailedNode {
        FailedNode::new(self.label(), reason).at(self.index)
    }

    /// How many clients it said it has.
    pub(super) fn clients(&self) -> Option<u64> {
        self.health().description.as_ref().map(|description| description.clients)
    }

    /// What a list can expect of it.
    pub(super) fn expected(&self) -> Expected {
        let answers = self.barred().is_none() && self.health().state != NodeState::Unavailable;
        let count = Some(self.clients.load(Relaxed)).filter(|&clients| clients != UNTOLD);
        Expected { count, answers }
    }

    /// Notes how many clients it said that it has.
    pub(super) fn note_clients(&self, clients: u64) {
        self.clients.store(clients, Relaxed);
    }

    pub(super) fn view(&self) -> NodeView {
        let health = self.health().clone();
        let seen = self.roster.seen(self.index);
        let NodeSeen { name, state, last_error, previous } = NodeSeen::of(&health, &seen);
        NodeView {
            address: self.address.clone(),
            name,
            state,
            since: health.since.max(seen.since),
            changes: health.changes + seen.changes,
            failures: health.failures,
            circuit: health.circuit(),
            calls: self.most_calls.saturating_sub(self.places.available_permits()),
            last_seen: health.last_seen,
            last_error,
            previous,
            restarts: health.restarts,
            description: health.description,
        }
    }

    /// Why it is not asked, if so.
    pub(super) fn barred(&self) -> Option<CallError> {
        if let Some(barred) = self.health().barred() {
            return Some(barred);
        }
        // An address has another standing than its own only by what the roster knows of others too.
        if self.roster.owns(self.index) {
            return None;
        }
        let seen = self.roster.seen(self.index);
        matches!(seen.standing, Standing::Contested { .. })
            .then(|| CallError::not_asked(Reason::Protocol, conflict(seen.holder.as_deref())))
    }

    /// Waits for a place among the node's calls; not for long, and not past `until`. One node that is slow must not take
    /// in all of the gateway's requests.
    pub(super) async fn place(&self, until: Instant) -> Result<SemaphorePermit<'_>, CallError> {
        let until = until.min(Instant::now() + PLACE_WAIT);
        match timeout_at(until, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(CallError::not_asked(
                Reason::Overloaded,
                format!("{} calls of this gateway to the node are in flight already", self.most_calls),
            )),
        }
    }

    /// Takes in the identity that an answer came with, and gives it back if it is one that the request is about:
    /// behind an address may be another node than the last time.
    pub(super) fn identified(
        &self,
        identity: Option<v1::Identity>,
        scope: &Scope,
    ) -> Result<v1::Identity, CallError> {
        let identity = identity.unwrap_or_default();
        let name = &identity.name;
        if name.is_empty() {
            return Err(CallError::protocol("the answer names no node"));
        }
        if name.len() > MAX_NAME {
            return Err(CallError::protocol(format!(
                "a node name of {} bytes, expected at most {MAX_NAME}",
                name.len()
            )));
        }
        let news = self.learn(|health, now| health.identified(&identity, now));
        match news {
            News::Nothing | News::Named => {}
            News::Renamed { from } => {
                tracing::warn!(address = %self.address, %from, %name, "another node is at this address now");
                self.wake.notify_one();
            }
            News::Restarted => {
                tracing::info!(node = %name, address = %self.address, "node has started again");
                self.wake.notify_one();
            }
        }
        match scope {
            Scope::Only(names) if !names.contains(name) => {
                Err(CallError::other_node(format!("the node at {} is {name:?} now", self.address)))
            }
            _ => Ok(identity),
        }
    }

    /// What its calls came to.
    pub(super) fn figures(&self) -> &Arc<NodeFigures> {
        &self.figures
    }

    /// Notes how a call ended of which it does not count how long it took.
    pub(super) fn note<T>(&self, outcome: &Result<T, CallError>) {
        self.learn_of(outcome, Duration::ZERO);
    }

    /// Notes how a call ended, and after what time.
    pub(super) fn note_after<T>(&self, outcome: &Result<T, CallError>, took: Duration) {
        self.figures.called(outcome, took);
        self.learn_of(outcome, took);
    }

    fn learn_of<T>(&self, outcome: &Result<T, CallError>, took: Duration) {
        match outcome {
            Ok(_) => self.learn(Health::answered),
            Err(error) => {
                tracing::debug!(address = %self.address, %error, "call failed");
                let error = self.explained(error);
                self.learn(|health, now| health.failed(&error, took, Caller::Request, now));
                if error.reason == Reason::Timeout {
                    // Whether that is the node's fault a probe will tell.
                    self.wake.notify_one();
                }
            }
        }
    }

    /// With what the connection said, where the call's status says only that it failed.
    fn explained(&self, error: &CallError) -> CallError {
        let mut error = error.clone();
        if error.reason == Reason::Unreachable
            && !error.told
            && let Some(why) = self.failure.get()
        {
            error.detail = format!("{}: {why}", error.detail);
        }
        error
    }

    /// Probes the node now and at every interval; sooner where that is asked for.
    pub(super) async fn follow(&self, interval: Duration) {
        loop {
            self.probe().await;
            let ended = Instant::now();
            let pause = if self.health().is_in_doubt() { SOON.min(interval) } else { interval };
            tokio::select! {
                () = sleep_until(ended + pause) => {}
                () = self.wake.notified() => sleep_until(ended + SOON.min(interval)).await,
            }
        }
    }

    /// Waits for the end of a probe, but not past `until`.
    pub(super) async fn probed(&self, until: Instant) {
        let mut probes = self.probes.subscribe();
        self.wake.notify_one();
        // The sender lives as long as `self`.
        let _ = timeout_at(until, probes.changed()).await;
    }

    /// Asks the agent who it is and how it fares, and then goes the way of the reads: an agent may be there and not know
    /// its broker's clients, or be stuck.
    async fn probe(&self) {
        let begun = Instant::now();
        let until = begun + self.probe_timeout;
        let outcome = self.describe_and_read(until).await;
        match &outcome {
            Ok(()) => self.figures.probes.note::<()>(&Ok(())),
            Err(Failed::Incompatible(error) | Failed::Call(error)) => self.figures.probes.note_failure(error),
        }
        match outcome {
            Ok(()) => self.learn(Health::probed),
            Err(Failed::Incompatible(error)) => self.learn(|health, now| health.incompatible(&error, now)),
            Err(Failed::Call(error)) => {
                let error = self.explained(&error);
                self.learn(|health, now| health.failed(&error, begun.elapsed(), Caller::Probe, now));
            }
        }
        self.probes.send_modify(|probes| *probes += 1);
    }

    async fn describe_and_read(&self, until: Instant) -> Result<(), Failed> {
        let describe = async {
            let request = call::request(v1::DescribeRequest {}, until);
            Ok(self.client().describe(request).await?.into_inner())
        };
        let description = call::by(until, describe).await?;
        self.identified(description.identity.clone(), &Scope::All)?;
        let drains = description.draining;
        self.note_clients(description.clients);
        self.learn(|health, now| health.described(description, now)).map_err(Failed::Incompatible)?;
        if drains {
            return Ok(());
        }
        let read = async {
            let nobody = v1::GetRequest { without_statistics: true, ..v1::GetRequest::default() };
            Ok(self.client().get(call::request(nobody, until)).await?.into_inner())
        };
        let answer = call::by(until, read).await.map_err(|error| match error.reason {
            Reason::Timeout if !error.told => {
                CallError::timeout("the agent says how it fares, and does not answer a read")
            }
            _ => error,
        })?;
        self.identified(answer.identity, &Scope::All)?;
        Ok(())
    }
}

/// Why a probe failed.
enum Failed {
    Call(CallError),
    /// Gateway and agent would misread each other.
    Incompatible(CallError),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A node as far as other addresses have a say in it.
struct NodeSeen {
    name: Option<String>,
    state: NodeState,
    last_error: Option<LastError>,
    previous: Option<Renamed>,
}

impl NodeSeen {
    fn of(health: &Health, seen: &super::roster::Seen) -> Self {
        let Health { name, state, last_error, previous, .. } = health.clone();
        let at = seen.since;
        match seen.standing {
            Standing::Own => Self { name, state, last_error, previous },
            Standing::Contested { .. } => {
                let text = format!("{}: {}", Reason::Protocol, conflict(seen.holder.as_deref()));
                let last_error = Some(LastError { text, at });
                Self { name, state: NodeState::Conflict, last_error, previous }
            }
            Standing::Superseded { .. } => {
                let previous = name.map(|from| Renamed { from, at }).or(previous);
                Self { name: None, state, last_error, previous }
            }
        }
    }
}

fn conflict(holder: Option<&str>) -> String {
    format!("the agent at {} claims the same name", holder.unwrap_or("another address"))
}
