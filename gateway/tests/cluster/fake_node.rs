//! A node-agent that holds its rows in a sorted Vec and can be told to misbehave.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rollcall_proto::group::GroupValue;
use rollcall_proto::v1::kick_response::Outcome;
use rollcall_proto::v1::node_server::{Node, NodeServer};
use rollcall_proto::{Matcher, Order, REASON_METADATA, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status};

/// What a node does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Honest,
    /// Takes a call and never answers.
    Hang,
    /// Answers Describe, hangs in everything else.
    HangInQueries,
    /// Answers Describe and Get, hangs in lists.
    HangInLists,
    /// Answers what probes ask, hangs in everything else.
    HangsButForProbes,
    /// Sends a list, a count or an export, and then chunks with nothing in them, one in a while and for ever.
    Drips,
    /// Refuses for a reason that there is not.
    OddReason,
    /// Sends the first chunk of a list or an export and then nothing.
    HangMidway,
    /// The same of an export, of which the first chunk is late.
    LateAndHangMidway,
    /// Sends the first chunk of an export and then an error.
    BreakMidway,
    /// Sends the first chunk of an export again and again.
    Repeats,
    Draining,
    Overloaded,
    /// Rows in descending order where ascending was asked for.
    Unsorted,
    /// Rows under another node's name.
    ForeignRows,
    /// One row more than asked for.
    TooManyRows,
    /// Refuses every list but the first.
    OverloadedAgain,
    /// Answers no list but the first.
    HangsAgain,
    /// Is another node from its second list on.
    RenamedAgain,
    /// An agent of before lists could be counted from the end.
    KnowsNoEnd,
    /// Says that its rows are of other ranks than they are.
    MisstatesRanks,
    /// Leaves the last row of a list out.
    TooFewRows,
    /// Answers without identity.
    Nameless,
    /// Surveys with keys in disorder.
    LyingSurvey,
    /// Groups that do not add up to the total.
    LyingCount,
    /// More groups than a count may have.
    TooManyGroups,
    /// Every snapshot is gone when it is used.
    ForgetsSnapshots,
    /// The first snapshot is gone when it is used.
    ForgetsOneSnapshot,
    /// With every survey and every list of rows some clients go and more come, before all others.
    Changes,
    /// Does so, and every snapshot is gone when it is used.
    ChangesAndForgets,
    /// Kicks find another session than the one located.
    Reconnected,
    /// The first kick finds another session than the one located, and that one is there from then on.
    ReconnectsOnce,
    /// A kick is never answered.
    HangInKick,
    /// A kick takes a while.
    SlowInKick,
    /// Kicks are refused.
    OverloadedInKick,
    /// Kicks find nobody.
    GoneInKick,
    /// Kicks find another incarnation of the agent.
    RestartedInKick,
    /// Kicks find another session than the one located, and from then on nobody can be located.
    ReconnectedAndSilent,
    /// From the first kick on nobody can be located.
    SilentAfterKick,
    /// Sends rows from before the key that a list begins behind, as if they were those behind it.
    BeginsBeforeKey,
    /// Describes and lists, and never answers who has a session.
    HangsInSessions,
    /// An agent of before sessions could be looked up by their number.
    KnowsNoSessions,
    /// Refuses exports.
    OverloadedInExports,
}

#[derive(Debug)]
pub(crate) struct FakeNode {
    name: Mutex<String>,
    incarnation: AtomicU64,
    /// Clients that Describe speaks of, where they are not those there are.
    pub(crate) described: Mutex<Option<u64>>,
    rows: Mutex<Vec<v1::Client>>,
    pub(crate) behaviour: Behaviour,
    /// What happens to its clients before each list and each survey.
    before: Mutex<Before>,
    /// From now on it does nothing wrong any more, in calls that begin.
    pub(crate) mended: AtomicBool,
    /// The oldest protocol it wants its gateways to speak.
    pub(crate) min_protocol: AtomicU32,
    pub(crate) calls: Calls,
    /// The rows of those that are kept, in their order.
    snapshots: Mutex<HashMap<u64, Vec<v1::Client>>>,
    /// How many have been taken.
    snapshots_taken: AtomicU64,
    /// The last list of clients it was asked for.
    pub(crate) last_list: Mutex<Option<v1::ListRequest>>,
    /// Sessions it has ended; their rows are there all the same.
    pub(crate) kicked: Mutex<Vec<(String, u64)>>,
    /// What those who follow its events have asked for.
    pub(crate) watches: Mutex<Vec<v1::WatchRequest>>,
    /// What they will be told, one after the other. Who comes when none is left is told that events are not known.
    told: Mutex<VecDeque<mpsc::UnboundedReceiver<Told>>>,
}

/// A message of a stream of events, or its end.
pub(crate) type Told = Result<v1::WatchResponse, Status>;

/// What happens to clients.
pub(crate) type Happens = Box<dyn FnMut(&mut Vec<v1::Client>) + Send>;

/// What happens to them before each call, if anything.
#[derive(Default)]
struct Before(Option<Happens>);

impl std::fmt::Debug for Before {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Before").field(&self.0.is_some()).finish()
    }
}

/// Calls taken, by kind.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) surveys: AtomicUsize,
    pub(crate) lists: AtomicUsize,
    pub(crate) rows_sent: AtomicUsize,
    pub(crate) kicks: AtomicUsize,
    /// Describes.
    pub(crate) describes: AtomicUsize,
    /// Calls that have no answer yet and whose caller waits.
    pub(crate) open: AtomicUsize,
    /// Exports that have not ended.
    pub(crate) exports_open: AtomicUsize,
}

impl FakeNode {
    pub(crate) fn new(name: &str, rows: Vec<v1::Client>, behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self {
            name: Mutex::new(name.to_owned()),
            incarnation: AtomicU64::new(1),
            described: Mutex::default(),
            rows: Mutex::new(rows),
            behaviour,
            before: Mutex::default(),
            mended: AtomicBool::default(),
            min_protocol: AtomicU32::default(),
            calls: Calls::default(),
            snapshots: Mutex::default(),
            snapshots_taken: AtomicU64::default(),
            last_list: Mutex::default(),
            kicked: Mutex::default(),
            watches: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// Serves on a free loopback port until the runtime ends.
    pub(crate) async fn serve(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = NodeServer::new(Service(Arc::clone(self)));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        address
    }

    pub(crate) fn rows(&self) -> MutexGuard<'_, Vec<v1::Client>> {
        self.rows.lock().unwrap()
    }

    /// From now on this happens to its clients before each list and each survey.
    pub(crate) fn before_each_call(&self, happens: impl FnMut(&mut Vec<v1::Client>) + Send + 'static) {
        self.before.lock().unwrap().0 = Some(Box::new(happens));
    }

    fn something_happens(&self) {
        if let Some(happens) = &mut self.before.lock().unwrap().0 {
            happens(&mut self.rows());
        }
    }

    pub(crate) fn name(&self) -> String {
        self.name.lock().unwrap().clone()
    }

    /// As if another agent had started at the address.
    pub(crate) fn becomes(&self, name: &str) {
        *self.name.lock().unwrap() = name.to_owned();
        self.incarnation.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the next who follows its events what is sent here, until it is dropped.
    pub(crate) fn tells(&self) -> mpsc::UnboundedSender<Told> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.told.lock().unwrap().push_back(receiver);
        sender
    }

    pub(crate) fn identity(&self) -> Option<v1::Identity> {
        let name = if self.behaviour == Behaviour::Nameless { String::new() } else { self.name() };
        Some(v1::Identity { name, incarnation: self.incarnation.load(Ordering::Relaxed) })
    }

    fn matching(&self, filter: Option<v1::Filter>, order: Order) -> Vec<v1::Client> {
        let matcher = Matcher::new(filter.unwrap_or_default()).unwrap();
        let mut rows: Vec<v1::Client> =
            self.rows().iter().filter(|row| matcher.matches(&row.as_client_ref())).cloned().collect();
        for row in &mut rows {
            row.node = self.name();
        }
        rows.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
        rows
    }

    /// The rows of a question about a snapshot, or about those at present.
    fn asked_for(
        &self,
        snapshot: u64,
        filter: Option<v1::Filter>,
        order: Order,
    ) -> Result<Vec<v1::Client>, Status> {
        if snapshot == 0 {
            return Ok(self.matching(filter, order));
        }
        let kept = self.snapshots.lock().unwrap().get(&snapshot).cloned();
        kept.ok_or_else(|| Status::failed_precondition("snapshot is gone"))
    }

    /// Takes a snapshot, and keeps it unless it is one to be forgotten.
    fn keep(&self, rows: &[v1::Client]) -> u64 {
        let number = 1 + self.snapshots_taken.fetch_add(1, Ordering::Relaxed);
        let is_forgotten = match self.behaviour {
            Behaviour::ForgetsSnapshots | Behaviour::ChangesAndForgets => true,
            Behaviour::ForgetsOneSnapshot => number == 1,
            _ => false,
        };
        if !is_forgotten {
            self.snapshots.lock().unwrap().insert(number, rows.to_vec());
        }
        number
    }

    /// How many snapshots it keeps.
    pub(crate) fn snapshots(&self) -> usize {
        self.snapshots.lock().unwrap().len()
    }

    /// Lets thirty clients go and fifty come, if that is what it does.
    fn change(&self) {
        if !matches!(self.behaviour, Behaviour::Changes | Behaviour::ChangesAndForgets) {
            return;
        }
        let call = self.calls.surveys.load(Ordering::Relaxed) + self.calls.lists.load(Ordering::Relaxed);
        let mut rows = self.rows();
        rows.drain(..30);
        let new = |number: u64| v1::Client {
            clientid: format!("a-{call:03}-{number}"),
            session: 1_000_000 + 100 * call as u64 + number,
            ..v1::Client::default()
        };
        rows.extend((0..50).map(new));
    }

    fn behaviour(&self) -> Behaviour {
        if self.mended.load(Ordering::Relaxed) { Behaviour::Honest } else { self.behaviour }
    }

    async fn misbehave(&self) -> Result<(), Status> {
        let _open = Call::begin(&self.calls.open);
        let refusal = |status: Status, reason: &'static str| {
            let mut status = status;
            status.metadata_mut().insert(REASON_METADATA, reason.parse().unwrap());
            Err(status)
        };
        match self.behaviour() {
            Behaviour::Hang | Behaviour::HangInQueries | Behaviour::HangsButForProbes => {
                std::future::pending().await
            }
            Behaviour::Draining => refusal(Status::unavailable("going away"), "draining"),
            Behaviour::OddReason => refusal(Status::unavailable("moon"), "full-moon"),
            Behaviour::Overloaded => refusal(Status::resource_exhausted("busy"), "overloaded"),
            _ => Ok(()),
        }
    }
}

struct Service(Arc<FakeNode>);

fn first_after(rows: &[v1::Client], order: Order, after: Option<&v1::Key>) -> u64 {
    let Some(after) = after.map(|key| order.key_from_wire(key).unwrap()) else { return 0 };
    rows.partition_point(|row| order.compare(&order.key(&row.as_client_ref()), &after).is_le()) as u64
}

fn order_of(order: Option<v1::Order>) -> Order {
    order.map(|order| Order::try_from(order).unwrap()).unwrap_or_default()
}

#[tonic::async_trait]
impl Node for Service {
    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        self.0.calls.describes.fetch_add(1, Ordering::Relaxed);
        if self.0.behaviour() == Behaviour::Hang {
            std::future::pending::<()>().await;
        }
        let min_protocol = self.0.min_protocol.load(Ordering::Relaxed);
        Ok(Response::new(v1::DescribeResponse {
            identity: self.0.identity(),
            clients: self.0.described.lock().unwrap().unwrap_or(self.0.rows().len() as u64),
            protocol: min_protocol + 1,
            min_protocol,
            ..v1::DescribeResponse::default()
        }))
    }

    async fn survey(
        &self,
        request: Request<v1::SurveyRequest>,
    ) -> Result<Response<v1::SurveyResponse>, Status> {
        let node = &self.0;
        node.calls.surveys.fetch_add(1, Ordering::Relaxed);
        node.misbehave().await?;
        node.something_happens();
        let request = request.into_inner();
        let order = order_of(request.order);
        let rows = node.asked_for(request.snapshot, request.filter, order)?;
        let snapshot = match request.snapshot {
            0 if request.without_snapshot => 0,
            0 => node.keep(&rows),
            known => known,
        };
        let count = rows.len() as u64;
        let first = first_after(&rows, order, request.after.as_ref());
        let (start, end) = (request.start.max(first).min(count), request.end.min(count));
        let length = end.saturating_sub(start);
        let picked = length.min(request.fences.into());
        let mut fences: Vec<v1::Fence> = (0..picked)
            .map(|k| start + k * length / picked)
            .map(|rank| v1::Fence { rank, key: Some(order.key(&rows[rank as usize].as_client_ref()).into()) })
            .collect();
        if node.behaviour == Behaviour::LyingSurvey {
            fences.reverse();
        }
        node.change();
        Ok(Response::new(v1::SurveyResponse { identity: node.identity(), snapshot, count, fences, first }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<v1::ListResponse, Status>> + Send>>;

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let node = &self.0;
        let is_first = node.calls.lists.fetch_add(1, Ordering::Relaxed) == 0;
        match node.behaviour {
            Behaviour::OverloadedAgain if !is_first => return Err(Status::resource_exhausted("busy")),
            Behaviour::HangsAgain if !is_first => std::future::pending().await,
            Behaviour::HangInLists if node.behaviour() != Behaviour::Honest => {
                let _open = Call::begin(&node.calls.open);
                std::future::pending::<()>().await;
            }
            Behaviour::RenamedAgain if !is_first => node.becomes("renamed"),
            _ => node.misbehave().await?,
        }
        let request = request.into_inner();
        *node.last_list.lock().unwrap() = Some(request.clone());
        if request.snapshot == 0 {
            node.something_happens();
        }
        let order = order_of(request.order);
        let matching = node.asked_for(request.snapshot, request.filter, order)?;
        if request.release_snapshot {
            node.snapshots.lock().unwrap().remove(&request.snapshot);
        }
        if request.limit > 0 {
            node.change();
        }
        let count = matching.len() as u64;
        let first = first_after(&matching, order, request.after.as_ref());
        let mut limit = request.limit as usize;
        if node.behaviour == Behaviour::TooManyRows {
            limit += 1;
        }
        let from_end = request.from_end && node.behaviour != Behaviour::KnowsNoEnd;
        let start = if from_end {
            count.saturating_sub(request.offset + u64::from(request.limit)).max(first)
        } else {
            (first + request.offset).min(count)
        };
        let is_behind = first > 0 || request.snapshot != 0 && request.offset > 0;
        let is_early = node.behaviour == Behaviour::BeginsBeforeKey && is_behind;
        let from = if is_early { start - 1 } else { start };
        let mut rows: Vec<v1::Client> = matching.into_iter().skip(from as usize).take(limit).collect();
        if node.behaviour == Behaviour::TooFewRows {
            rows.pop();
        }
        node.calls.rows_sent.fetch_add(rows.len(), Ordering::Relaxed);
        for row in &mut rows {
            row.node = if node.behaviour == Behaviour::ForeignRows { "other".into() } else { String::new() };
        }
        if node.behaviour == Behaviour::Unsorted {
            rows.reverse();
        }
        let mut chunks: Vec<v1::ListResponse> = rows
            .chunks(10)
            .map(|rows| v1::ListResponse { clients: rows.to_vec(), ..v1::ListResponse::default() })
            .collect();
        if chunks.is_empty() {
            chunks.push(v1::ListResponse::default());
        }
        chunks[0].identity = node.identity();
        chunks[0].count = count;
        chunks[0].first = first;
        chunks[0].start = match node.behaviour {
            Behaviour::KnowsNoEnd => 0,
            Behaviour::MisstatesRanks => start + 1,
            _ => start,
        };
        let stream = async_stream(chunks, node.behaviour);
        Ok(Response::new(stream))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.watches.lock().unwrap().push(request.into_inner());
        let told = self.0.told.lock().unwrap().pop_front();
        let told = told.ok_or_else(|| Status::unimplemented("unknown method Watch"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(told))))
    }

    type CountStream = Pin<Box<dyn Stream<Item = Result<v1::CountResponse, Status>> + Send>>;

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<Self::CountStream>, Status> {
        let node = &self.0;
        node.misbehave().await?;
        let request = request.into_inner();
        let group_by = request.group_by();
        if node.behaviour == Behaviour::TooManyGroups && group_by == v1::GroupBy::Username {
            return Err(Status::failed_precondition("too many groups"));
        }
        let rows = node.matching(request.filter, Order::default());
        let mut groups: Vec<v1::Group> = Vec::new();
        for row in rows.iter().filter(|_| group_by != v1::GroupBy::Unspecified) {
            let group = v1::Group::of(GroupValue::of(group_by, &row.as_client_ref()), 1);
            match groups.iter_mut().find(|known| known.value == group.value) {
                Some(known) => known.count += 1,
                None => groups.push(group),
            }
        }
        if node.behaviour == Behaviour::LyingCount {
            groups.push(v1::Group { value: None, count: 1 });
        }
        let mut chunks: Vec<v1::CountResponse> = groups
            .chunks(2)
            .map(|groups| v1::CountResponse { groups: groups.to_vec(), ..v1::CountResponse::default() })
            .collect();
        if chunks.is_empty() {
            chunks.push(v1::CountResponse::default());
        }
        chunks[0].identity = node.identity();
        chunks[0].count = rows.len() as u64;
        Ok(Response::new(async_stream(chunks, node.behaviour)))
    }

    type ExportStream = Self::ListStream;

    async fn export(
        &self,
        request: Request<v1::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        use futures::StreamExt as _;
        let node = Arc::clone(&self.0);
        node.misbehave().await?;
        if node.behaviour == Behaviour::OverloadedInExports {
            return Err(Status::resource_exhausted("busy"));
        }
        let request = request.into_inner();
        let mut rows = node.matching(request.filter, order_of(request.order));
        for row in &mut rows {
            row.node = if node.behaviour == Behaviour::ForeignRows { "other".into() } else { String::new() };
            row.statistics = (!request.without_statistics)
                .then(|| v1::Statistics { recv_oct: Some(row.session), ..v1::Statistics::default() });
        }
        if node.behaviour == Behaviour::Unsorted {
            rows.reverse();
        }
        let mut chunks: Vec<_> = rows
            .chunks(100)
            .map(|rows| v1::ListResponse { clients: rows.to_vec(), ..v1::ListResponse::default() })
            .collect();
        if chunks.is_empty() {
            chunks.push(v1::ListResponse::default());
        }
        if node.behaviour == Behaviour::Repeats {
            chunks.push(chunks[0].clone());
            chunks.swap_remove(1);
        }
        chunks[0].count = rows.len() as u64;
        chunks[0].identity = node.identity();
        let behaviour = node.behaviour;
        let counted = Arc::clone(&node);
        let open = Open::new(node);
        let all = futures::stream::iter(chunks).map(move |chunk: v1::ListResponse| {
            counted.calls.rows_sent.fetch_add(chunk.clients.len(), Ordering::Relaxed);
            Ok(chunk)
        });
        let stream: Self::ExportStream = match behaviour {
            Behaviour::HangMidway => Box::pin(all.take(1).chain(futures::stream::pending())),
            Behaviour::LateAndHangMidway => {
                tokio::time::sleep(Duration::from_millis(400)).await;
                Box::pin(all.take(1).chain(futures::stream::pending()))
            }
            Behaviour::Drips => Box::pin(all.chain(drip())),
            Behaviour::BreakMidway => {
                let broken = futures::stream::iter([Err(Status::unavailable("gone"))]);
                Box::pin(all.take(1).chain(broken))
            }
            _ => Box::pin(all),
        };
        Ok(Response::new(Box::pin(stream.inspect(move |_| {
            let _ = &open;
        }))))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        // What probes ask for.
        let is_probe = request.clientid.is_empty()
            && request.session.is_none()
            && self.0.behaviour == Behaviour::HangsButForProbes;
        if !is_probe {
            self.0.misbehave().await?;
        }
        let falls_silent = [Behaviour::ReconnectedAndSilent, Behaviour::SilentAfterKick];
        if falls_silent.contains(&self.0.behaviour) && self.0.calls.kicks.load(Ordering::Relaxed) > 0 {
            std::future::pending::<()>().await;
        }
        let v1::GetRequest { clientid, session, .. } = request;
        let session = session.filter(|_| self.0.behaviour != Behaviour::KnowsNoSessions);
        if session.is_some() && self.0.behaviour() == Behaviour::HangsInSessions {
            std::future::pending::<()>().await;
        }
        let mut clients = match session {
            Some(session) => {
                let rows = self.0.rows();
                rows.iter().filter(|row| row.session == session).cloned().collect()
            }
            None => {
                let filter = v1::Filter { clientid: vec![clientid], ..v1::Filter::default() };
                self.0.matching(Some(filter), Order::default())
            }
        };
        self.0.calls.rows_sent.fetch_add(clients.len(), Ordering::Relaxed);
        for row in &mut clients {
            row.node.clear();
        }
        Ok(Response::new(v1::GetResponse { identity: self.0.identity(), clients, session }))
    }

    async fn kick(&self, request: Request<v1::KickRequest>) -> Result<Response<v1::KickResponse>, Status> {
        let is_first = self.0.calls.kicks.fetch_add(1, Ordering::Relaxed) == 0;
        let request = request.into_inner();
        let outcome = match self.0.behaviour {
            Behaviour::ReconnectsOnce if is_first => {
                let mut rows = self.0.rows();
                let row = rows.iter_mut().find(|row| row.clientid == request.clientid).unwrap();
                row.session += 1_000;
                Outcome::OtherSession
            }
            Behaviour::HangInKick => {
                let _open = Call::begin(&self.0.calls.open);
                std::future::pending().await
            }
            Behaviour::Reconnected | Behaviour::ReconnectedAndSilent => Outcome::OtherSession,
            Behaviour::OverloadedInKick => return Err(Status::resource_exhausted("busy")),
            Behaviour::GoneInKick => Outcome::NotFound,
            Behaviour::RestartedInKick => {
                let identity = self.0.identity();
                let identity = identity.map(|old| v1::Identity { incarnation: old.incarnation + 1, ..old });
                let outcome = Outcome::OtherSession.into();
                return Ok(Response::new(v1::KickResponse { identity, outcome }));
            }
            _ => {
                if self.0.behaviour == Behaviour::SlowInKick {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let session = request.session.expect("a kick names the session it found");
                assert_eq!(request.incarnation, self.0.identity().map(|identity| identity.incarnation));
                let has = |row: &&v1::Client| row.clientid == request.clientid && row.session == session;
                assert!(
                    self.0.rows().iter().any(|row| has(&row)),
                    "a kick of a session that was not located"
                );
                self.0.kicked.lock().unwrap().push((request.clientid, session));
                Outcome::Kicked
            }
        };
        Ok(Response::new(v1::KickResponse { identity: self.0.identity(), outcome: outcome.into() }))
    }
}

/// A call, as long as it is being answered.
struct Call<'a>(&'a AtomicUsize);

impl<'a> Call<'a> {
    fn begin(open: &'a AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An export, as long as its stream lives.
struct Open(Arc<FakeNode>);

impl Open {
    fn new(node: Arc<FakeNode>) -> Self {
        node.calls.exports_open.fetch_add(1, Ordering::Relaxed);
        Self(node)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.calls.exports_open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn async_stream<T: Default + Send + 'static>(
    chunks: Vec<T>,
    behaviour: Behaviour,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    use futures::StreamExt as _;
    let stream = futures::stream::iter(chunks.into_iter().map(Ok));
    match behaviour {
        Behaviour::HangMidway => Box::pin(stream.take(1).chain(futures::stream::pending())),
        Behaviour::Drips => Box::pin(stream.chain(drip())),
        _ => Box::pin(stream),
    }
}

/// Chunks with nothing in them.
fn drip<T: Default + Send + 'static>() -> impl Stream<Item = Result<T, Status>> + Send {
    use futures::StreamExt as _;
    futures::stream::repeat(()).then(async |()| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(T::default())
    })
}

/// How long a test of honest nodes waits: these sort all their rows for every call, on a machine that may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test waits for an answer that lacks a silent node.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);
