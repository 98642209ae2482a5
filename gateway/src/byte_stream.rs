//! What carries bytes between hosts: TCP, unless whoever starts the gateway has something else, such as a simulated
//! network.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// An open connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// An open connection of whatever kind.
pub type BoxedStream = Box<dyn ByteStream>;

/// The connections that come in on a listener, each with its peer's address, without end.
pub(crate) fn accepted(listener: TcpListener) -> impl Stream<Item = (BoxedStream, SocketAddr)> + Send {
    unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%remote, %error, "cannot have a connection send at once");
                    }
                    return Some(((Box::new(stream) as BoxedStream, remote), listener));
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    })
}

/// A connection that is gone again before it is accepted concerns nobody; when the process is out of file
/// descriptors, trying again at once would only burn a core.
async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "cannot accept connections");
    sleep(Duration::from_millis(100)).await;
}
