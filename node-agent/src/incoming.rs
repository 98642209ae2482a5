//! The connections a server is spoken to on: TCP, unless whoever runs the agent has something else, such as a simulated
//! network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, error, info};

/// An open connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection that came in.
pub struct Connection {
    stream: Box<dyn ByteStream>,
    remote: SocketAddr,
    /// What was read of it already and is to be read again.
    ahead: Vec<u8>,
    /// What is let go of when it ends.
    _place: Option<Box<dyn Send>>,
}

impl Connection {
    /// A connection of any kind, and the address of who opened it.
    #[must_use]
    pub fn new(stream: Box<dyn ByteStream>, remote: SocketAddr) -> Self {
        Self { stream, remote, ahead: Vec::new(), _place: None }
    }

    /// The address of who opened it.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The connection of which these bytes were read, as if they had not been. It keeps `place` until it ends.
    pub(crate) fn spoken(self, first: Vec<u8>, place: Box<dyn Send>) -> Self {
        Self { ahead: first, _place: Some(place), ..self }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: None, remote_addr: Some(self.remote) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..length]);
        self.ahead.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The connections that come in on a listener, without end. tonic's own stream of them ends the server when the process
/// is out of file descriptors.
pub(crate) fn accepted(listener: TcpListener) -> impl Stream<Item = Connection> + Send {
    unfold((listener, Failing::default()), async |(listener, mut failing)| {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    failing.over();
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(%remote, %error, "cannot have a connection send at once");
                    }
                    return Some((Connection::new(Box::new(stream), remote), (listener, failing)));
                }
                Err(error) => failing.wait(&error).await,
            }
        }
    })
}

/// As the gateway does: one that is gone already concerns nobody, trying again at once would only burn a core, and telling of
/// every try would fill the log.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    is_failing: bool,
    /// When the log was last told that it fails, and that it does no more.
    told: Option<Instant>,
    told_over: Option<Instant>,
}

/// How often connections are tried to be accepted while that fails, and how often that is told.
const RETRY: Duration = Duration::from_millis(100);
const TELL: Duration = Duration::from_secs(10);

impl Failing {
    pub(crate) async fn wait(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        self.is_failing = true;
        if is_due(&mut self.told) {
            error!(%error, "cannot accept connections");
        }
        sleep(RETRY).await;
    }

    pub(crate) fn over(&mut self) {
        if std::mem::take(&mut self.is_failing) && is_due(&mut self.told_over) {
            info!("connections are accepted again");
        }
    }
}

/// Whether the log can be told something that it was told then; now is noted if so.
fn is_due(told: &mut Option<Instant>) -> bool {
    let is_due = told.is_none_or(|told| told.elapsed() >= TELL);
    if is_due {
        *told = Some(Instant::now());
    }
    is_due
}
