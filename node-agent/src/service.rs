//! The agent's gRPC service, `rollcall.v1.Node`.
//!
//! Every answer carries the agent's identity. Describe is always answered; the other calls are refused until the
//! broker's clients are known for the first time, admitted up to a limit, and refused while the agent drains.
//! Exports, which last as long as their reader takes, have a limit of their own. A call's deadline holds here too:
//! work stops when it has passed or the caller has gone. Reading many rows happens off the runtime's threads, as many
//! scans at once as there are cores. A kick that has begun is finished even if nobody waits for it: a half-kicked
//! client helps nobody.

mod count;
mod list;
mod rank;
mod raw;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use rollcall_proto::Protocol;
use rollcall_proto::v1::kick_response::Outcome;
use rollcall_proto::v1::node_server::Node;
use rollcall_proto::v1::{
    CountRequest, CountResponse, DescribeRequest, DescribeResponse, ExportRequest, GetRequest, GetResponse,
    Identity, KickRequest, KickResponse, ListRequest, ListResponse, SurveyRequest, SurveyResponse,
    WatchRequest, WatchResponse,
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

pub(crate) use self::raw::RawLists;
use crate::broker::{Broker, BrokerError, Kick, SessionRef};
use crate::calls::{Calls, Deadline, exceeded, not_yet_known};
use crate::follow::{Follower, now_ms};
use crate::index::Index;
use crate::listing::Listing;
use crate::metrics::{CallFigures, CountedCall, CountedStream};
use crate::query::{Count, List, Queries, QueryError, Selection, Survey};
use crate::scans::Scans;

/// Rows that may be looked at on a thread of the runtime: a fraction of a millisecond.
const SHORT: usize = 2_000;

/// The service. Clones are the same agent.
#[derive(Clone)]
pub(crate) struct NodeService {
    agent: Arc<Agent>,
}

/// What the calls share.
pub(crate) struct Agent {
    pub(crate) identity: Identity,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) index: Arc<Index>,
    pub(crate) queries: Queries,
    pub(crate) follower: Follower,
    pub(crate) calls: Calls,
    started_at_ms: i64,
    scans: Scans,
    pub(crate) figures: Arc<CallFigures>,
}

impl Agent {
    pub(crate) fn new(node_name: &str, broker: Arc<dyn Broker>, most_calls: u32) -> Self {
        let index = Arc::new(Index::new(node_name));
        Self {
            identity: Identity { name: node_name.to_owned(), incarnation: rand::random() },
            broker,
            queries: Queries::new(Arc::clone(&index), most_calls),
            follower: Follower::new(Arc::clone(&index)),
            index,
            calls: Calls::new(most_calls),
            started_at_ms: now_ms(),
            scans: Scans::default(),
            figures: Arc::default(),
        }
    }

    /// Searches of many rows that run.
    pub(crate) fn scans(&self) -> u32 {
        self.scans.running()
    }
}

impl NodeService {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    /// Who this is and how it fares.
    fn described(&self) -> DescribeResponse {
        let agent = &self.agent;
        let (info, counts, agreement) =
            (agent.broker.info(), agent.index.counts(), agent.follower.agreement());
        DescribeResponse {
            identity: Some(agent.identity.clone()),
            broker_kind: info.kind.to_owned(),
            broker_version: info.version,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: info.capabilities.into_iter().chain(["events".to_owned()]).collect(),
            connected: counts.connected,
            clients: counts.clients,
            started_at_ms: agent.started_at_ms,
            resynced_at_ms: agreement.resynced_at_ms,
            broker_error: agreement.broker_error.unwrap_or_default(),
            draining: agent.calls.is_draining(),
            mqtt_addresses: info.mqtt_addresses,
            protocol: Protocol::OURS.version,
            min_protocol: Protocol::OURS.least,
            calls_in_flight: u32::try_from(agent.calls.in_flight()).unwrap_or(u32::MAX),
            scans_running: agent.scans.running(),
        }
    }

    /// Answers a call, and counts how that ended.
    async fn counted<T>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut call = CountedCall::begin(&self.agent.figures, rpc);
        let answer = answer.await;
        call.ends(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        answer
    }

    /// Answers a call by a stream, and counts how that ended.
    async fn counted_stream<T: 'static>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<Response<MessageStream<T>>, Status>>,
    ) -> Result<Response<MessageStream<T>>, Status> {
        let mut call = CountedCall::begin(&self.agent.figures, rpc);
        match answer.await {
            Ok(response) => {
                Ok(response.map(|stream| Box::pin(CountedStream::new(stream, call)) as MessageStream<T>))
            }
            Err(status) => {
                call.ends(status.code());
                Err(status)
            }
        }
    }

    /// Lets a call in. Before the broker's clients are known every answer would be wrong: an empty list, a "not found".
    /// That the agent drains is said first: it tells the caller not to come back.
    fn admit(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.check_known()?;
        self.agent.calls.admit()
    }

    /// Lets an export in; as `admit`.
    fn admit_export(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.check_known()?;
        self.agent.calls.admit_export()
    }

    fn check_known(&self) -> Result<(), Status> {
        if !self.agent.calls.is_draining() && !self.agent.follower.is_known() {
            return Err(not_yet_known());
        }
        Ok(())
    }

    /// Asks the index, off the runtime if that takes long: if `rows` is large. `ask` gets a function that says
    /// whether to stop.
    async fn ask<T: Send + 'static>(
        &self,
        rows: usize,
        deadline: Deadline,
        ask: impl FnOnce(&Queries, &dyn Fn() -> bool) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, Status> {
        if rows <= SHORT {
            return ask(&self.agent.queries, &|| false).map_err(to_status);
        }
        let scan = self.agent.scans.begin().await?;
        let (gone, agent) = (Gone::default(), Arc::clone(&self.agent));
        let caller_gone = Arc::clone(&gone.0);
        #[expect(
            clippy::disallowed_methods,
            reason = "stops when the caller has gone or the deadline passed"
        )]
        let answer = tokio::task::spawn_blocking(move || {
            // It runs until it has seen that nobody waits for it, and takes its core as long.
            let _scan = scan;
            ask(&agent.queries, &|| caller_gone.load(Ordering::Relaxed) || deadline.has_passed())
        });
        let answer = answer.await.map_err(|error| Status::internal(format!("a query failed: {error}")))?;
        drop(gone);
        answer.map_err(to_status)
    }

    /// The clients that a question is about, ranked if it is about a live figure.
    async fn listing(&self, selection: &Selection, deadline: Deadline) -> Result<Listing, Status> {
        let asked = selection.clone();
        let Some(order) = selection.ranking() else {
            let rows = self.agent.queries.rows_to_visit(&asked);
            let ask = move |queries: &Queries, stop: &dyn Fn() -> bool| {
                queries.listing(&asked, Instant::now(), stop)
            };
            return self.ask(rows, deadline, ask).await;
        };
        let asked = asked.unranked();
        let rows = self.agent.queries.rows_to_visit(&asked);
        let view = self.ask(rows, deadline, move |queries, stop| queries.view(&asked, stop)).await?;
        rank::rank(&self.agent, view, order, deadline).await.map(Listing::Ranked)
    }

    async fn survey(&self, survey: Survey, deadline: Deadline) -> Result<SurveyResponse, Status> {
        let listing = self.listing(&survey.selection, deadline).await?;
        let answer = self.agent.queries.survey(&survey, listing, Instant::now());
        Ok(SurveyResponse { identity: Some(self.agent.identity.clone()), ..answer })
    }

    /// The rows of a list, chunk by chunk, out of one listing.
    async fn rows(
        &self,
        list: List,
        deadline: Deadline,
        call: OwnedSemaphorePermit,
    ) -> Result<Response<WrittenStream>, Status> {
        let listing = self.agent.calls.bound(deadline, self.listing(&list.selection, deadline)).await?;
        let chunks = list::chunks(Arc::clone(&self.agent), listing, &list, deadline, call);
        Ok(Response::new(Box::pin(chunks)))
    }

    /// Answers `List` in the bytes of its chunks.
    async fn written_list(&self, request: Request<ListRequest>) -> Result<Response<WrittenStream>, Status> {
        let answer = async {
            let call = self.admit()?;
            let deadline = Deadline::of(request.metadata());
            let list = List::try_from(request.into_inner()).map_err(to_status)?;
            self.rows(list, deadline, call).await
        };
        self.counted_stream("list", answer).await
    }

    /// Answers `Export` in the bytes of its chunks.
    async fn written_export(
        &self,
        request: Request<ExportRequest>,
    ) -> Result<Response<WrittenStream>, Status> {
        let answer = async {
            let call = self.admit_export()?;
            let deadline = Deadline::of(request.metadata());
            let list = List::try_from(request.into_inner()).map_err(to_status)?;
            self.rows(list, deadline, call).await
        };
        self.counted_stream("export", answer).await
    }
}

/// Chunks of rows, in order, each the bytes of a `ListResponse`.
type WrittenStream = MessageStream<Vec<u8>>;

/// Chunks of rows, in order.
type ListStream = MessageStream<ListResponse>;

/// An answer in several messages.
type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The messages of written chunks, for a caller of the trait; the server sends them as they are (`raw`).
fn read(written: Response<WrittenStream>) -> Response<ListStream> {
    let read = |chunk: Vec<u8>| {
        ListResponse::decode(chunk.as_slice()).map_err(|error| Status::internal(error.to_string()))
    };
    written.map(|chunks| Box::pin(chunks.map(move |chunk| chunk.and_then(read))) as ListStream)
}

/// Says that the caller has gone, by being dropped before it is of no use any more.
#[derive(Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Node for NodeService {
    type ListStream = ListStream;
    type ExportStream = ListStream;

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        let answer = async { Ok(Response::new(self.described())) };
        self.counted("describe", answer).await
    }

    async fn survey(&self, request: Request<SurveyRequest>) -> Result<Response<SurveyResponse>, Status> {
        let answer = async {
            let _call = self.admit()?;
            let deadline = Deadline::of(request.metadata());
            let survey = Survey::try_from(request.into_inner()).map_err(to_status)?;
            self.agent.calls.bound(deadline, self.survey(survey, deadline)).await.map(Response::new)
        };
        self.counted("survey", answer).await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListStream>, Status> {
        self.written_list(request).await.map(read)
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<ListStream>, Status> {
        self.written_export(request).await.map(read)
    }

    type CountStream = MessageStream<CountResponse>;

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Self::CountStream>, Status> {
        let answer = async {
            let call = self.admit()?;
            let deadline = Deadline::of(request.metadata());
            let count = Count::try_from(request.into_inner()).map_err(to_status)?;
            let rows = self.agent.queries.rows_to_count(&count);
            let answer = self.ask(rows, deadline, move |queries, stop| queries.count(&count, stop));
            let answer = self.agent.calls.bound(deadline, answer).await?;
            let chunks = count::chunks(self.agent.identity.clone(), answer, deadline, call);
            Ok(Response::new(Box::pin(chunks) as Self::CountStream))
        };
        self.counted_stream("count", answer).await
    }

    type WatchStream = MessageStream<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let answer = async {
            self.check_known()?;
            let call = self.agent.calls.admit_watch()?;
            let events = watch::events(Arc::clone(&self.agent), request.into_inner(), call);
            Ok(Response::new(Box::pin(events) as Self::WatchStream))
        };
        self.counted_stream("watch", answer).await
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let answer = async {
            let _call = self.admit()?;
            let deadline = Deadline::of(request.metadata());
            let GetRequest { clientid, without_statistics, session } = request.into_inner();
            let mut clients = match session {
                None => self.agent.queries.get(&clientid),
                Some(number) => {
                    let rows = self.agent.queries.rows_to_find_session();
                    let find = self.ask(rows, deadline, move |queries, _| Ok(queries.session(number)));
                    self.agent.calls.bound(deadline, find).await?
                }
            };
            if !without_statistics {
                let add = async {
                    list::add_statistics(self.agent.broker.as_ref(), &mut clients, deadline).await;
                    Ok(())
                };
                self.agent.calls.bound(deadline, add).await?;
            }
            let identity = Some(self.agent.identity.clone());
            Ok(Response::new(GetResponse { identity, clients, session }))
        };
        self.counted("get", answer).await
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        let answer = async {
            let call = self.admit()?;
            let deadline = Deadline::of(request.metadata());
            let agent = Arc::clone(&self.agent);
            let kick = tokio::spawn(async move {
                let _call = call;
                kick(&agent, request.into_inner()).await
            });
            let kick = async {
                kick.await.unwrap_or_else(|error| Err(Status::internal(format!("the kick failed: {error}"))))
            };
            let outcome = self.agent.calls.bound(deadline, kick).await?;
            let identity = Some(self.agent.identity.clone());
            Ok(Response::new(KickResponse { identity, outcome: outcome.into() }))
        };
        self.counted("kick", answer).await
    }
}

/// Ends the sessions asked for. After a failure the others are still tried, but the failure is reported: it is
/// not known that the client is gone.
async fn kick(agent: &Agent, request: KickRequest) -> Result<Outcome, Status> {
    let KickRequest { clientid, session, incarnation } = request;
    if incarnation.is_some_and(|incarnation| incarnation != agent.identity.incarnation) {
        return Ok(Outcome::OtherSession);
    }
    let mut sessions = agent.queries.get(&clientid);
    let has_client = !sessions.is_empty();
    if let Some(wanted) = session {
        sessions.retain(|client| client.session == wanted);
    }
    if sessions.is_empty() {
        return Ok(if has_client { Outcome::OtherSession } else { Outcome::NotFound });
    }
    let mut outcome = Outcome::NotFound;
    let mut failure = None;
    for client in sessions {
        let session = SessionRef { clientid: clientid.clone(), session: client.session };
        match agent.broker.kick(&session).await {
            Ok(ended) => {
                let was_kicked = ended == Kick::Kicked;
                agent.follower.end(&session, was_kicked.then_some(&client));
                if was_kicked {
                    info!(clientid = session.clientid, session = session.session, "client kicked");
                    outcome = Outcome::Kicked;
                }
            }
            Err(error) => {
                warn!(clientid = session.clientid, session = session.session, %error, "kick failed");
                failure = Some(error);
            }
        }
    }
    match failure {
        None => Ok(outcome),
        Some(error @ BrokerError::Late(_)) => Err(Status::deadline_exceeded(error.to_string())),
        Some(error @ BrokerError::Unavailable(_)) => Err(Status::unavailable(error.to_string())),
        Some(error @ BrokerError::Refused(_)) => Err(Status::internal(error.to_string())),
    }
}

fn to_status(error: QueryError) -> Status {
    match error {
        QueryError::SnapshotGone(_) | QueryError::TooManyGroups => {
            Status::failed_precondition(error.to_string())
        }
        QueryError::Stopped => exceeded(),
        QueryError::Filter(_)
        | QueryError::Order(_)
        | QueryError::After(_)
        | QueryError::Limit(_)
        | QueryError::Unranked { .. }
        | QueryError::Live { .. }
        | QueryError::Fences(_)
        | QueryError::GroupBy(_)
        | QueryError::Range { .. }
        | QueryError::OtherSnapshot(_) => Status::invalid_argument(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
