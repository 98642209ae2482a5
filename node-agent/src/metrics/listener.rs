//! The listener that Prometheus scrapes. It is one of its own, as the gateways' speaks gRPC and may want certificates that no
//! scraper has, and it is off unless configured. It tells numbers, the node's name and versions, of no client anything.
//!
//! It has few connections and little patience: whoever holds them all keeps scrapers out, and nobody else.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rollcall_metrics::{Format, render};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

use super::Page;
use crate::incoming::{Connection, accepted};
use crate::service::Agent;

/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 16;

/// How long a request may take to come, and a connection to ask again.
const READ: Duration = Duration::from_secs(30);

/// How long a connection may last: longer than it takes to scrape, however often, and not for ever.
const LIFETIME: Duration = Duration::from_secs(600);

/// The largest head of a request, bytes.
const MOST_HEAD: usize = 16 << 10;

/// Answers scrapes, without end; dropped, it closes its connections.
pub(crate) async fn serve(listener: TcpListener, agent: &Arc<Agent>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut incoming = Box::pin(accepted(listener));
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Some(connection) = incoming.next().await else { return };
        while connections.try_join_next().is_some() {}
        let agent = Arc::clone(agent);
        connections.spawn(async move {
            let _place = place;
            let remote = connection.remote();
            if let Err(error) = converse(connection, agent).await {
                debug!(%remote, %error, "a scraper's connection failed");
            }
        });
    }
}

async fn converse(connection: Connection, agent: Arc<Agent>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = answer(&request, &agent);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ).max_buf_size(MOST_HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(connection), service));
    tokio::select! {
        served = &mut served => return served,
        () = sleep(LIFETIME) => served.as_mut().graceful_shutdown(),
    }
    // Who reads none of an answer is not waited for.
    timeout(READ, served).await.unwrap_or(Ok(()))
}

fn answer(request: &Request<Incoming>, agent: &Arc<Agent>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return said(StatusCode::NOT_FOUND, "there is nothing at this path, expected /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = said(StatusCode::METHOD_NOT_ALLOWED, "expected one of GET, HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accepted);
    match render(format, Page(Arc::clone(agent))) {
        Ok(text) => {
            let mut response = Response::new(Full::new(text.into()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            response
        }
        Err(error) => {
            error!(%error, "the metrics cannot be written");
            said(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n")
        }
    }
}

fn said(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
