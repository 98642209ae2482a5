//! What carries bytes between hosts: TCP, unless whoever starts the gateway has something else, such as a simulated
//! network.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// An open connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// An open connection of whatever kind.
pub type BoxedStream = Box<dyn ByteStream>;

/// The connections that come in on a listener, each with its peer's address, without end.
pub(crate) fn accepted(listener: TcpListener) -> impl Stream<Item = (BoxedStream, SocketAddr)> + Send {
    unfold((listener, Failing::default()), async |(listener, mut failing)| {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    failing.over();
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%remote, %error, "cannot have a connection send at once");
                    }
                    return Some(((Box::new(stream) as BoxedStream, remote), (listener, failing)));
                }
                Err(error) => failing.wait(&error).await,
            }
        }
    })
}

/// A connection that is gone again before it is accepted concerns nobody; when the process is out of file
/// descriptors, trying again at once would only burn a core, and telling of every try would fill the log.
#[derive(Debug, Default)]
struct Failing {
    is_failing: bool,
    /// When the log was last told that it fails, and that it does no more.
    told: Option<Instant>,
    told_over: Option<Instant>,
}

/// How often connections are tried to be accepted while that fails, and how often that is told.
const RETRY: Duration = Duration::from_millis(100);
const TELL: Duration = Duration::from_secs(10);

impl Failing {
    async fn wait(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        self.is_failing = true;
        if is_due(&mut self.told) {
            tracing::error!(%error, "cannot accept connections");
        }
        sleep(RETRY).await;
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.is_failing) && is_due(&mut self.told_over) {
            tracing::info!("connections are accepted again");
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
