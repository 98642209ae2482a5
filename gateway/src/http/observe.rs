//! What surrounds every request: its id, the access log, its part in the metrics, and a net under panics.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request};
use hyper::body::Body as _;
use tokio::time::Instant;

use super::api::Api;
use super::error::{ApiError, RefusedBy};
use super::{page, route};
use crate::metrics::{Counted, Metrics};

/// Names a request in the log; taken from the request where it gives one that a log line can hold.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer request ids are replaced.
const LONGEST_ID: usize = 128;

/// Where a request came from; a connection puts it into each of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoteAddress(pub(crate) SocketAddr);

/// Nodes that answered, of how many: left for the access log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) answered: usize,
    pub(super) total: usize,
}

/// The key a request showed: left for the access log.
#[derive(Clone, Debug)]
pub(super) struct ShownKey(pub(super) Arc<str>);

/// A request's id, for what is logged of it later.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    pub(super) fn shown(&self) -> &str {
        shown(&self.0)
    }
}

/// What observing needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Observer {
    metrics: Arc<Metrics>,
    /// Empty, or with a leading and without a trailing slash.
    base_path: Arc<str>,
}

impl Observer {
    pub(super) fn of(api: &Api) -> Self {
        Self { metrics: Arc::clone(&api.metrics), base_path: api.base_path.as_str().into() }
    }

    /// How metrics name the route of a path: one of a few names, whatever is asked for.
    fn route(&self, path: &str) -> &'static str {
        match path {
            "/health/live" => "/health/live",
            "/health/ready" => "/health/ready",
            "/metrics" => "/metrics",
            path if page::has(path) => "/",
            path => path.strip_prefix(&*self.base_path).and_then(route::label).unwrap_or("other"),
        }
    }
}

/// Answers a request, logs and counts it.
pub(super) async fn observe(
    State(observer): State<Observer>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let _in_flight = Counted::one(&observer.metrics.in_flight);
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let url = request.uri().clone();
    let remote = request.extensions().get::<RemoteAddress>().map(|remote| remote.0);

    let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = outcome.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().copied();
        let what = what.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(request = %shown(&id), panic = what.unwrap_or("?"), "a request's handler panicked");
        ApiError::Internal { request: shown(&id).to_owned() }.into_response()
    });
    if method == Method::HEAD {
        leave_out_body(&mut response);
    }
    let route = observer.route(url.path());
    observer.metrics.answered(route, &method, response.status(), begun.elapsed());
    if let Some(RefusedBy(limit)) = response.extensions().get() {
        observer.metrics.refused(limit);
    }
    let key = response.extensions().get::<ShownKey>().map(|key| &*key.0);
    let nodes = response.extensions().get::<Answered>();
    tracing::info!(
        target: "rollcall_gateway::access",
        request = %shown(&id),
        remote = remote.map(tracing::field::display),
        key,
        %method,
        url = url.path_and_query().map(tracing::field::display),
        status = response.status().as_u16(),
        duration_ms = begun.elapsed().as_micros() as f64 / 1000.0,
        answered = nodes.map(|nodes| nodes.answered),
        nodes = nodes.map(|nodes| nodes.total),
        "request"
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, id);
    response
}

/// The request's own id if it is visible ASCII of sane length, else a random one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= LONGEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = headers.get(REQUEST_ID).filter(sane) {
        return id.clone();
    }
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Every id is ASCII.
fn shown(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

/// An answer to HEAD says how long the body would be.
fn leave_out_body(response: &mut Response) {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Body::empty();
}
