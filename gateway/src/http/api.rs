//! Everything under the base path: who asks, what for, and until when.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use rollcall_trust::guesses::Guesses;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::auth::{self, Refused};
use super::bulk::BulkKicks;
use super::decode::Shown;
use super::error::ApiError;
use super::guesses::Reports;
use super::kicks::Asked;
use super::limits::Limits;
use super::metrics::Scrapes;
use super::observe::{RemoteAddress, ShownKey};
use super::openapi::Described;
use super::places::Places;
use super::query::{self, Given};
use super::route::Route;
use super::{Drain, clients, counts, envelope, events, export, kicks, limits, nodes};
use crate::audit::Audit;
use crate::cluster::Cluster;
use crate::config::MetricsAccess;
use crate::keys::{Key, KeyRing};
use crate::live_keys::LiveKeys;
use crate::metrics::Metrics;

/// The header by which a client asks for an earlier deadline, milliseconds.
pub(super) const TIMEOUT_HEADER: &str = "Rollcall-Timeout-Ms";

/// What answering needs.
#[derive(Debug)]
pub(crate) struct Api {
    pub(super) cluster: Cluster,
    keys: Arc<LiveKeys>,
    pub(super) audit: Audit,
    /// Empty, or with a leading and without a trailing slash.
    pub(super) base_path: String,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) metrics_access: MetricsAccess,
    pub(super) scrapes: Scrapes,
    limits: Limits,
    guesses: Guesses,
    reports: Reports,
    places: Places,
    /// One for each export in progress; they have none of the others.
    exports: Arc<Semaphore>,
    /// One for each stream of events; the same holds.
    streams: Arc<Semaphore>,
    drain: Drain,
    bulk: BulkKicks,
    described: Described,
}

impl Api {
    /// Puts together what answering needs. `base_path` is empty, or has a leading and no trailing slash.
    pub(crate) fn new(
        cluster: Cluster,
        keys: Arc<LiveKeys>,
        audit: Audit,
        base_path: String,
        timeout: Duration,
        limits: Limits,
        drain: Drain,
    ) -> Self {
        let places = Places::new(limits);
        let exports = Arc::new(Semaphore::new(limits.exports));
        let guesses = Guesses::new(limits.wrong_keys);
        let described = Described::new(&base_path, &limits.kicks);
        let bulk = BulkKicks::new(cluster.clone(), audit.clone(), drain.clone(), limits);
        Self {
            cluster,
            keys,
            audit,
            base_path,
            timeout,
            metrics: Arc::default(),
            metrics_access: MetricsAccess::default(),
            scrapes: Scrapes::default(),
            limits,
            guesses,
            reports: Reports::default(),
            places,
            exports,
            streams: Arc::new(Semaphore::new(events::MOST_STREAMS)),
            drain,
            bulk,
            described,
        }
    }

    pub(super) fn base_path(&self) -> &str {
        &self.base_path
    }

    /// The same, with metrics for whoever this says.
    pub(crate) fn with_metrics_for(self, metrics_access: MetricsAccess) -> Self {
        Self { metrics_access, ..self }
    }

    /// What is counted of its users.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The keys at present.
    pub(super) fn keys(&self) -> Arc<KeyRing> {
        self.keys.current()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether a request's body means something.
    pub(super) fn takes_body(&self, request: &Request<Body>) -> bool {
        let path = self.under_base(request.uri().path());
        path.is_some_and(|path| matches!(Route::find(request.method(), path), Ok(Route::Kicks)))
    }

    /// Who is asking, unless the address has shown too many wrong keys to be listened to.
    pub(super) fn authenticate<'a>(&self, parts: &Parts, keys: &'a KeyRing) -> Result<&'a Key, ApiError> {
        let remote = parts.extensions.get::<RemoteAddress>().map(|remote| remote.0.ip());
        let now = Instant::now();
        if let Some(wait) = remote.and_then(|remote| self.guesses.wait(remote, now)) {
            return Err(ApiError::TooManyGuesses { seconds: wait.as_millis().div_ceil(1000) as u64 });
        }
        let outcome = auth::authenticate(&parts.headers, keys);
        if let (Err(Refused::Wrong), Some(remote)) = (&outcome, remote)
            && self.guesses.wrong(remote, now)
        {
            tracing::warn!(%remote, "too many wrong keys from one address, it is not listened to for a while");
        }
        Ok(outcome?)
    }

    /// What follows the base path, if the path is under it.
    fn under_base<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.base_path).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// When a request must be answered that may take so long.
    pub(super) fn deadline(headers: &HeaderMap, most: Duration) -> Result<Instant, ApiError> {
        let mut values = headers.get_all(TIMEOUT_HEADER).iter();
        let Some(value) = values.next() else { return Ok(Instant::now() + most) };
        let text = String::from_utf8_lossy(value.as_bytes());
        let asked = text.parse().ok().filter(|asked| *asked > 0 && values.next().is_none());
        let asked: u64 = asked.ok_or_else(|| ApiError::BadHeader {
            name: TIMEOUT_HEADER,
            value: Shown(&text).to_string(),
            expected: "one integer from 1, milliseconds",
        })?;
        Ok(Instant::now() + most.min(Duration::from_millis(asked)))
    }
}

/// Answers whatever is not a health route.
pub(super) async fn answer(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Some(path) = api.under_base(parts.uri.path()) else { return ApiError::NoRoute.into_response() };
    if let Some(described) = api.described.answer(&parts.method, path) {
        return described.unwrap_or_else(IntoResponse::into_response);
    }
    let route = Route::find(&parts.method, path);
    let kick = Asked::of(&parts.method, &route);
    let refuse = |key, error| refuse(&api, &parts, key, kick, error);
    // Before the slot: whoever has no key must not take the place of those who have one.
    let keys = api.keys.current();
    let key = match api.authenticate(&parts, &keys) {
        Ok(key) => key,
        Err(error) => {
            let response = refuse(None, error).await;
            limits::drop_body_later(&api.limits, body);
            return response;
        }
    };
    // Exports and bulk kicks have limits of their own: they may last for minutes. What is known of the nodes is told
    // without asking anybody, and wanted most when the gateway has too much to do.
    let is_export = matches!(route, Ok(Route::Export));
    let is_free = is_export
        || matches!(
            route,
            Ok(Route::Events | Route::Kicks | Route::Nodes | Route::Node { .. } | Route::Whoami)
        );
    let _place = match (!is_free).then(|| api.places.request()).transpose() {
        Ok(place) => place,
        Err(error) => return refuse(Some(key), error).await,
    };
    let most = if is_export { api.limits.export_node_timeout } else { api.timeout };
    let planned = Api::deadline(&parts.headers, most).and_then(|deadline| Ok((deadline, route?)));
    let mut response = match planned {
        Ok((deadline, route)) => {
            let operation = operate(&api, key, &parts, body, route, deadline);
            let kick = parts.method == Method::DELETE;
            let result = timeout_at(deadline, operation).await;
            let result = result.unwrap_or(Err(ApiError::Deadline { kick }));
            result.unwrap_or_else(|error| {
                tracing::debug!(%error, key = %key.id, "request refused");
                error.into_response()
            })
        }
        Err(error) => refuse(Some(key), error).await,
    };
    response.extensions_mut().insert(ShownKey(Arc::clone(&key.id)));
    response
}

/// Answers a request that is not looked at any closer. A kick goes on record all the same.
async fn refuse(
    api: &Api,
    parts: &Parts,
    key: Option<&Key>,
    kick: Option<Asked>,
    error: ApiError,
) -> Response {
    tracing::debug!(%error, key = key.map(|key| &*key.id), "request refused");
    let remote = parts.extensions.get::<RemoteAddress>().map(|remote| remote.0.ip());
    let report = |_: &Asked| match (&error, remote) {
        (ApiError::TooManyGuesses { .. } | ApiError::Refused(_), Some(remote)) => {
            api.reports.next(remote, Instant::now())
        }
        _ => Some(0),
    };
    let left_out = kick.as_ref().and_then(report);
    if let Some((asked, left_out)) = kick.zip(left_out) {
        // Who has no key, or asked for something else that cannot be, is not told that the header is wrong too.
        let deadline =
            Api::deadline(&parts.headers, api.timeout).unwrap_or_else(|_| Instant::now() + api.timeout);
        kicks::refused(&api.audit, parts, key, asked, &error, left_out, deadline).await;
    }
    error.into_response()
}

async fn operate(
    api: &Api,
    key: &Key,
    parts: &Parts,
    body: Body,
    route: Route,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let cluster = &api.cluster;
    let query = parts.uri.query().unwrap_or_default();
    match route {
        Route::Clients { node } => {
            let given = Given { node: node.as_deref(), username: None };
            clients::list(cluster, &api.places, query, given, deadline).await
        }
        Route::Username { node, username } => {
            let given = Given { node: node.as_deref(), username: Some(&username) };
            clients::list(cluster, &api.places, query, given, deadline).await
        }
        Route::Client { node, clientid } if parts.method == Method::DELETE => {
            kicks::kick(cluster, &api.audit, parts, key, node, &clientid, deadline).await
        }
        Route::Client { node, clientid } => clients::get(cluster, query, node, &clientid, deadline).await,
        Route::Counts => counts::count(cluster, &api.places, query, deadline).await,
        Route::Export => export::export(cluster, &api.exports, api.limits, parts, deadline).await,
        Route::Events => {
            let (drain, keys) = (api.drain.clone(), Arc::clone(&api.keys));
            let ending = events::Ending { drain, keys, key: key.clone() };
            events::events(cluster, &api.streams, api.limits, parts, ending, deadline).await
        }
        Route::Kicks => api.bulk.answer(parts, body, key, deadline).await,
        Route::Whoami => {
            query::none(query)?;
            Ok(envelope::json(StatusCode::OK, &envelope::whoami(key)))
        }
        Route::Nodes => {
            query::none(query)?;
            Ok(nodes::list(cluster))
        }
        Route::Node { node } => {
            query::none(query)?;
            nodes::one(cluster, &node)
        }
    }
}
