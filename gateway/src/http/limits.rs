//! What a request may cost before anybody has looked at it.
//!
//! hyper's own limits lie above these, so that an over-large head is answered here, with a reason; see
//! [`crate::serve`] for what lies beyond hyper's. Bodies mean nothing to any operation: a small one is read and
//! dropped, because some HTTP clients cannot send a DELETE without one.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::error::ApiError;

/// The limits of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests answered at once; more are refused.
    pub requests: usize,
    /// Heavy requests answered at once, of the requests; see [`super::places`].
    pub heavy_requests: usize,
    /// Exports written at once, beside the requests; more are refused.
    pub exports: usize,
    /// How long an export waits for a node's next rows.
    pub export_node_timeout: Duration,
    /// How long an export waits for its client to take what is written.
    pub export_client_timeout: Duration,
    /// Wrong keys an address may show at once, beyond one a second; 0: any number.
    pub wrong_keys: u32,
    /// Connections at once; more are closed as they come.
    pub connections: usize,
    /// Bytes of a request's URL.
    pub url_bytes: usize,
    /// Bytes of a request's head: method, URL and headers.
    pub head_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// How long a head, and then a body, may take to arrive.
    pub read_timeout: Duration,
}

/// Lets a request through if it is within the limits, without its body.
pub(super) async fn enforce(State(limits): State<Limits>, request: Request<Body>, next: Next) -> Response {
    if let Err(error) = check_head(&limits, &request) {
        return error.into_response();
    }
    let (parts, body) = request.into_parts();
    if let Err(error) =
        timeout(limits.read_timeout, drop_body(&limits, body)).await.unwrap_or(Err(ApiError::BodyBroken))
    {
        return error.into_response();
    }
    next.run(Request::from_parts(parts, Body::empty())).await
}

fn check_head(limits: &Limits, request: &Request<Body>) -> Result<(), ApiError> {
    let url = request.uri();
    let url = url.path().len() + url.query().map_or(0, |query| query.len() + 1);
    if url > limits.url_bytes {
        return Err(too_large("URL".into(), url, limits.url_bytes));
    }
    // "GET URL HTTP/1.1\r\n", then "name: value\r\n" each.
    let lines =
        || request.headers().iter().map(|(name, value)| (name, name.as_str().len() + value.len() + 4));
    let head = url + 16 + lines().map(|(_, bytes)| bytes).sum::<usize>();
    if head > limits.head_bytes {
        let largest = lines().max_by_key(|(_, bytes)| *bytes);
        let largest = largest.map_or_else(String::new, |(name, _)| format!(", mostly {name},"));
        return Err(too_large(format!("request head{largest}"), head, limits.head_bytes));
    }
    Ok(())
}

async fn drop_body(limits: &Limits, mut body: Body) -> Result<(), ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut read = 0;
    if announced > limits.body_bytes {
        return Err(too_large("request body".into(), announced, limits.body_bytes));
    }
    while let Some(frame) = body.frame().await {
        read += frame.map_err(|_| ApiError::BodyBroken)?.data_ref().map_or(0, bytes::Bytes::len);
        if read > limits.body_bytes {
            return Err(too_large("request body".into(), read, limits.body_bytes));
        }
    }
    Ok(())
}

fn too_large(what: String, bytes: usize, limit: usize) -> ApiError {
    ApiError::TooLarge { what, bytes: bytes as u64, limit: limit as u64 }
}
