//! Connections: accepting them, with TLS if there is a certificate, speaking HTTP on them, ending them.
//!
//! HTTP/1.1 and HTTP/2 by prior knowledge share one port; which it is shows in a connection's first bytes. hyper-util
//! finds out as well, but waits for those bytes without end. A connection that sends no whole head for
//! [`Limits::read_timeout`], be it new or between two requests, is closed without a word.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::{Stream, StreamExt as _};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rollcall_trust::Live;
use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::activity::{Abandoned, Activity, Noted};
use self::stream::HttpStream;
use self::transport::Transport;
use crate::byte_stream::BoxedStream;
use crate::http::RemoteAddress;
use crate::http::limits::Limits;
use crate::metrics::{Connections, Counted};

mod activity;
mod stream;
mod transport;

/// How far hyper's own limit on a request's head lies above ours: a head up to there is answered with a reason.
const HEAD_ROOM: usize = 2 << 20;

/// How long an HTTP/2 connection that was told to end waits for requests that were on their way, if its client does not say
/// that there are none.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// What an HTTP/2 client that knows its server speaks begins with.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes connections in until `shutdown` is ready or no more can come, then lets those that are there finish what they are at, for as long
/// as `drain_timeout`.
pub(crate) async fn serve(
    incoming: impl Stream<Item = (BoxedStream, SocketAddr)>,
    tls: Option<&Live<ServerConfig>>,
    app: Router,
    limits: Limits,
    connections: &Connections,
    drain_timeout: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let draining = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let accepting = async {
        let mut incoming = pin!(incoming);
        while let Some((stream, remote)) = incoming.next().await {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(%remote, limit = limits.connections, "connection closed, too many are open");
                connections.refused.inc();
                continue;
            };
            let (watcher, draining) = (graceful.watcher(), draining.clone());
            let acceptor = tls.map(|tls| TlsAcceptor::from(tls.current()));
            let serving = connection(stream, acceptor, remote, app.clone(), limits, watcher, draining);
            let open = Counted::one(&connections.open);
            tokio::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::debug!(%remote, %error, "connection failed");
                }
                drop((open, slot));
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    draining.cancel();
    let open = graceful.count();
    tracing::info!(connections = open, "draining");
    if timeout(drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!(?drain_timeout, "connections were still open at the end of the drain");
    }
}

async fn connection(
    stream: BoxedStream,
    acceptor: Option<TlsAcceptor>,
    remote: SocketAddr,
    app: Router,
    limits: Limits,
    watcher: Watcher,
    draining: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let begin = timeout(limits.read_timeout, begin(stream, acceptor));
    let (stream, first) = tokio::select! {
        begun = begin => match begun {
            Ok(begun) => begun?,
            Err(_) => return Ok(()),
        },
        // A connection that has not asked for anything is not waited for.
        () = draining.cancelled() => return Ok(()),
    };
    let is_h2 = first == H2_PREFACE;
    let io = TokioIo::new(HttpStream::new(stream, first, !is_h2));
    let answer = move |mut request: Request<Incoming>| {
        let app = app.clone();
        async move {
            request.extensions_mut().insert(RemoteAddress(remote));
            let response = app.oneshot(request.map(Body::new)).await;
            response.unwrap_or_else(|never| match never {})
        }
    };
    if is_h2 {
        let activity = Activity::begin();
        let of_requests = activity.clone();
        let service = service_fn(move |request| {
            let (exchange, answer) = (of_requests.request(), answer(request));
            async move { Ok::<_, Infallible>(answer.await.map(|body| Noted::new(body, exchange))) }
        });
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.head_bytes + HEAD_ROOM).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(limits.read_timeout);
        let mut connection = pin!(http.serve_connection(io, service));
        tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            () = draining.cancelled() => activity.begin_again(),
            abandoned = activity.abandoned(limits.read_timeout, stream::STALLED) => match abandoned {
                Abandoned::Idle => activity.begin_again(),
                Abandoned::Stalled => return Ok(()),
            },
        }
        // A request that is on its way is still answered, and the client knows that the next needs another connection.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            served = connection => served?,
            _ = activity.abandoned(LAST_REQUESTS, stream::STALLED) => {}
        }
        // By it a drain knows of this connection.
        drop(watcher);
    } else {
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.read_timeout)
            .max_buf_size(limits.head_bytes + HEAD_ROOM);
        watcher.watch(http.serve_connection(io, service)).await?;
    }
    Ok(())
}

/// Makes TLS, if there is an acceptor, and reads until it is clear whether this is HTTP/2.
async fn begin(stream: BoxedStream, acceptor: Option<TlsAcceptor>) -> io::Result<(Transport, Vec<u8>)> {
    let mut stream = match acceptor {
        None => Transport::Plain(stream),
        Some(acceptor) => Transport::Tls(Box::new(acceptor.accept(stream).await?)),
    };
    let mut first = Vec::with_capacity(H2_PREFACE.len());
    while first.len() < H2_PREFACE.len() && H2_PREFACE.starts_with(&first) {
        let most = H2_PREFACE.len() - first.len();
        if (&mut stream).take(most as u64).read_buf(&mut first).await? == 0 {
            break;
        }
    }
    Ok((stream, first))
}
