//! What a request may cost before anybody has looked at it.
//!
//! hyper's own limits lie above these, so that an over-large head is answered here, with a reason; see
//! [`crate::serve`] for what lies beyond hyper's. Bodies mean nothing to any operation but one: a small one is read and
//! dropped, because some HTTP clients cannot send a DELETE without one. That of a bulk kick is left where it is until it
//! is known who sends it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::api::Api;
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
    /// Those of bulk kicks.
    pub kicks: KickLimits,
}

/// The limits of bulk kicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KickLimits {
    /// Carried out at once, beside the requests; more are refused.
    pub at_once: usize,
    /// Clients that one may kick.
    pub most: usize,
    /// Clients that one may kick that does not say how many; no more than `most`.
    pub default_most: usize,
    /// Kicks a second of one.
    pub most_rate: u32,
    /// Kicks a second of one that does not say how many; no more than `most_rate`.
    pub default_rate: u32,
    /// Bytes of one's body.
    pub body_bytes: usize,
}

/// Lets a request through if it is within the limits, without its body but where that is wanted.
pub(super) async fn enforce(State(api): State<Arc<Api>>, request: Request<Body>, next: Next) -> Response {
    let limits = api.limits();
    if let Err(error) = check_head(&limits, &request) {
        return error.into_response();
    }
    if api.takes_body(&request) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    if let Err(error) = drop_body(&limits, body).await {
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

/// Reads a body to its end that nobody wants.
pub(super) async fn drop_body(limits: &Limits, body: Body) -> Result<(), ApiError> {
    receive(body, limits.body_bytes, limits.read_timeout, drop).await
}

/// Reads a body that nobody wants to its end after the answer: many HTTP clients read none before they have sent all of
/// their request, and an answer that waited for that would come too late where it is not sent.
pub(super) fn drop_body_later(limits: &Limits, body: Body) {
    let limits = *limits;
    tokio::spawn(async move { drop_body(&limits, body).await });
}

/// Reads the body of a bulk kick.
pub(super) async fn kick_body(limits: &Limits, body: Body) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    receive(body, limits.kicks.body_bytes, limits.read_timeout, |piece| bytes.extend_from_slice(&piece))
        .await?;
    Ok(bytes)
}

/// Reads a body of at most so many bytes.
async fn receive(
    mut body: Body,
    most: usize,
    read_timeout: Duration,
    mut take: impl FnMut(Bytes),
) -> Result<(), ApiError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(too_large("request body".into(), announced, most));
    }
    let frames = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::BodyBroken)?.into_data() else { continue };
            read += data.len();
            if read > most {
                return Err(too_large("request body".into(), read, most));
            }
            take(data);
        }
        Ok(())
    };
    timeout(read_timeout, frames).await.unwrap_or(Err(ApiError::BodyBroken))
}

fn too_large(what: String, bytes: usize, limit: usize) -> ApiError {
    ApiError::TooLarge { what, bytes: bytes as u64, limit: limit as u64 }
}
