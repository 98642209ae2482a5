//! Many kicks by one request: `POST /client_kicks`.
//!
//! A bulk kick finds out whom it is about before it kicks anybody, so that what it refuses it refuses as a whole: more
//! clients than it may kick, or a silent node, whose clients would be passed over. By ids, each client is then kicked as
//! `DELETE` kicks it: looked for when its turn comes, and once more if it moves meanwhile. By filter, exactly the sessions
//! that matched are ended: whether a client's next session matches is not known, so it is left alone. Decided against
//! a walk in pages between kicks: clients that come back at once would be met again.
//!
//! The answer is a stream of JSON lines that [`run`] writes while it kicks. Every kick is on record as if it had been
//! asked for alone, and so is the whole, before anything is done.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use rollcall_proto::v1::Filter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

pub(crate) use self::body::BadBody;
pub(crate) use self::json::Json;

use self::body::{BulkRequest, Which};
use self::run::{Run, Target};
use super::Drain;
use super::clients::noted;
use super::decode::Shown;
use super::envelope;
use super::error::ApiError;
use super::kicks::{BULK, without_success};
use super::limits::{self, Limits};
use super::observe::Answered;
use super::pieces::pieces;
use super::query;
use super::record::{Ending, Pending};
use crate::audit::{Audit, Outcome};
use crate::cluster::{Cluster, ClusterError, CountQuery, Sessions};
use crate::keys::{Key, Role};
use crate::page::completeness::Completeness;
use crate::page::groups::{GroupBy, Value};

pub(super) mod body;
mod json;
mod lines;
mod run;
mod turns;

/// Clients that a dry run shows.
const SAMPLE: usize = 100;

/// What bulk kicks need.
#[derive(Debug)]
pub(super) struct BulkKicks {
    cluster: Cluster,
    audit: Audit,
    drain: Drain,
    limits: Limits,
    /// One for each in progress.
    places: Arc<Semaphore>,
}

impl BulkKicks {
    pub(super) fn new(cluster: Cluster, audit: Audit, drain: Drain, limits: Limits) -> Self {
        let places = Arc::new(Semaphore::new(limits.kicks.at_once));
        Self { cluster, audit, drain, limits, places }
    }

    /// Answers with the beginning of a bulk kick, which goes on by itself, or with what a dry run found. Whom it is about
    /// has to be known by `deadline`; each kick may then take as long.
    pub(super) async fn answer(
        &self,
        parts: &Parts,
        body: Body,
        key: &Key,
        deadline: Instant,
    ) -> Result<Response, ApiError> {
        let each = deadline.saturating_duration_since(Instant::now());
        let mut pending = Pending::of(&self.audit, parts, Some(key), BULK);
        pending.harmless = true;
        let read = match self.admit(parts, key) {
            Ok(place) => self.read(body, deadline).await.map(|(json, request)| (place, json, request)),
            Err(error) => {
                pending.end_by(deadline, without_success(&error)).await;
                limits::drop_body_later(&self.limits, body);
                return Err(error);
            }
        };
        let (place, json, request) = match read {
            Ok(read) => read,
            Err(error) => {
                pending.end_by(deadline, without_success(&error)).await;
                return Err(error);
            }
        };
        if let Err(error) = pending.begin_by(deadline, Some(json)).await {
            tracing::error!(%error, "a bulk kick cannot be put on record, so it is not carried out");
            return Err(ApiError::Unrecorded);
        }
        if request.dry_run {
            let found = in_time(deadline, self.dry_run(&request, deadline)).await;
            let ending = found.as_ref().map_or_else(without_success, |_| Ending {
                status: Some(StatusCode::OK.as_u16()),
                ..Ending::new(Outcome::DryRun)
            });
            pending.end_by(deadline, ending).await;
            return found;
        }
        let (targets, completeness) = match in_time(deadline, self.find(&request, deadline)).await {
            Ok(found) => found,
            Err(error) => {
                pending.end_by(deadline, without_success(&error)).await;
                return Err(error);
            }
        };
        let Completeness { total, answered, .. } = completeness;
        let (pieces, taken) = pieces(self.limits.export_client_timeout);
        pending.harmless = false;
        let run = Run {
            cluster: self.cluster.clone(),
            drain: self.drain.clone(),
            scope: request.scope,
            targets,
            each,
            rate: request.rate,
            completeness,
            pieces,
            pending,
            place,
        };
        self.drain.spawn(run.run());
        let mut response = Response::new(taken.body(()));
        response.extensions_mut().insert(Answered { answered, total });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }

    /// Whether to look at the body at all; and a place among the bulk kicks.
    fn admit(&self, parts: &Parts, key: &Key) -> Result<OwnedSemaphorePermit, ApiError> {
        if key.role != Role::Operator {
            return Err(ApiError::Forbidden { key: key.id.to_string() });
        }
        if self.drain.has_begun() {
            return Err(ApiError::Draining);
        }
        query::none(parts.uri.query().unwrap_or_default())?;
        check_type(&parts.headers)?;
        let full = |_| ApiError::TooManyBulkKicks { limit: self.limits.kicks.at_once };
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }

    async fn read(&self, body: Body, deadline: Instant) -> Result<(Json, BulkRequest), ApiError> {
        // A tenth is left to say that it did not come.
        let left = deadline.saturating_duration_since(Instant::now());
        let bytes = timeout_at(deadline - left / 10, limits::kick_body(&self.limits, body)).await;
        let bytes = bytes.unwrap_or(Err(ApiError::BodyBroken))?;
        let json = body::json(&bytes)?;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let request = body::request(&json, &self.limits.kicks, now_ms)?;
        Ok((json, request))
    }

    /// Whom to kick, none of whom has been kicked yet.
    async fn find(
        &self,
        request: &BulkRequest,
        deadline: Instant,
    ) -> Result<(Vec<Target>, Completeness), ApiError> {
        let most = request.most;
        match &request.which {
            Which::Ids(ids) => {
                if ids.len() > most {
                    let what = "client ids are in the body";
                    return Err(ApiError::TooManyToKick { count: ids.len() as u64, what, most });
                }
                let total = self.cluster.size(&request.scope, deadline).await.map_err(in_body)?;
                let targets = ids.iter().cloned().map(Target::Client).collect();
                Ok((targets, Completeness { total, answered: total, failed: Vec::new() }))
            }
            Which::Matching { filter, partial, confirmed } => {
                let everybody = || self.by_node(Filter::default(), request, deadline);
                // Before and after, as some may come and go meanwhile.
                let before = if *confirmed { None } else { Some(everybody().await?) };
                let found = self.cluster.sessions(filter, &request.scope, most, deadline).await;
                let found = found.map_err(in_body)?;
                check_partial(*partial, &found.completeness)?;
                if found.more {
                    let count = self.by_node(Filter::clone(filter), request, deadline).await?.count;
                    // Some may have left since.
                    let count = count.max(most as u64 + 1);
                    return Err(ApiError::TooManyToKick { count, what: "sessions match", most });
                }
                if let Some(before) = before.filter(|_| found.sessions.len() > 1) {
                    let after = everybody().await?;
                    if before.are_all(&found) || after.are_all(&found) {
                        return Err(BadBody::Unconfirmed.into());
                    }
                }
                let targets = found.sessions.into_iter().map(Target::Session).collect();
                Ok((targets, found.completeness))
            }
        }
    }

    /// How many sessions match, on each of the nodes that the request is about.
    async fn by_node(
        &self,
        filter: Filter,
        request: &BulkRequest,
        deadline: Instant,
    ) -> Result<Counted, ApiError> {
        let scope = request.scope.clone();
        let query = CountQuery { filter, group_by: Some(GroupBy::Node), top: usize::MAX, scope };
        let counted = self.cluster.count(&query, deadline).await.map_err(in_body)?;
        let groups = counted.top.map_or_else(Vec::new, |top| top.groups);
        let by_node = groups.into_iter().filter_map(|group| match group.value {
            Some(Value::Text(node)) => Some((node, group.count)),
            _ => None,
        });
        Ok(Counted { count: counted.count, by_node: by_node.collect(), completeness: counted.completeness })
    }

    async fn dry_run(&self, request: &BulkRequest, deadline: Instant) -> Result<Response, ApiError> {
        let (filter, partial) = match &request.which {
            Which::Ids(ids) => (Filter { clientid: ids.clone(), ..Filter::default() }, true),
            Which::Matching { filter, partial, .. } => (Filter::clone(filter), *partial),
        };
        let (counted, sample) = futures::future::join(
            self.by_node(filter.clone(), request, deadline),
            self.cluster.sessions(&filter, &request.scope, SAMPLE, deadline),
        )
        .await;
        let (Counted { count, by_node, mut completeness }, sample) = (counted?, sample.map_err(in_body)?);
        for node in sample.completeness.failed {
            completeness.lacks(node);
        }
        check_partial(partial, &completeness)?;
        let sample = sample.sessions.iter().map(|session| (session.node(), session.clientid()));
        let limited = match &request.which {
            Which::Ids(ids) => ids.len() as u64,
            Which::Matching { .. } => count,
        };
        let max = (request.most, limited <= request.most as u64);
        let body = lines::dry_run(count, max, &by_node, &completeness, sample);
        Ok(noted(envelope::json(StatusCode::OK, &body), &completeness))
    }
}

/// How many sessions there are, and of those on which node.
struct Counted {
    count: u64,
    by_node: Vec<(String, u64)>,
    completeness: Completeness,
}

impl Counted {
    /// Whether those that were found are all that there are, for all that is known: on the nodes that answered both times.
    /// Nodes come and go, and one that was not asked for its sessions has none that the filter might exclude.
    fn are_all(&self, found: &Sessions) -> bool {
        let failed = |of: &Completeness, node: &str| of.failed.iter().any(|failed| failed.node == node);
        let there = self.by_node.iter().filter(|(node, _)| !failed(&found.completeness, node));
        let there: u64 = there.map(|(_, count)| count).sum();
        let found = found.sessions.iter().filter(|session| !failed(&self.completeness, session.node()));
        there <= found.count() as u64
    }
}

async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    timeout_at(deadline, work).await.unwrap_or(Err(ApiError::Deadline { kick: false }))
}

/// A body of another type may come from a page of another origin that a browser knows a key for: browsers send forms and
/// plain text across origins unasked.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let told = headers.get(CONTENT_TYPE).map_or("".into(), |value| String::from_utf8_lossy(value.as_bytes()));
    let essence = told.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let value = Shown(&told).to_string();
    Err(ApiError::BadHeader { name: "Content-Type", value, expected: "application/json" })
}

/// An error of the cluster, where the scope came from the body.
fn in_body(error: ClusterError) -> ApiError {
    match error {
        ClusterError::UnknownNode { name, known } => BadBody::UnknownNode { name, known }.into(),
        error => error.into(),
    }
}

fn check_partial(partial: bool, completeness: &Completeness) -> Result<(), ApiError> {
    if partial || completeness.is_whole() {
        return Ok(());
    }
    Err(ApiError::PartialKick(completeness.clone()))
}
