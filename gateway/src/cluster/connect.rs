//! How connections to the agents come up.
//!
//! A [`Dial`] gives a stream of bytes to an address; what is spoken on it is tonic's business. That it takes no longer
//! than it may is seen to here, since `Endpoint::connect_timeout` would have a connector of ours that is late fail with
//! UNKNOWN instead of UNAVAILABLE.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

use super::last_failure::LastFailure;
use crate::byte_stream::BoxedStream;

/// Opens connections.
pub trait Dial: Debug + Send + Sync {
    /// Opens one to host:port. Whoever asked drops the future when it takes too long.
    ///
    /// # Errors
    /// Nobody is there.
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedStream>>;
}

/// Opens TCP connections. Of a name with several addresses each gets a share of the time.
#[derive(Clone, Debug)]
pub struct TcpDial {
    connector: HttpConnector,
}

impl TcpDial {
    /// Opens connections that come up in this time.
    #[must_use]
    pub fn within(connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        Self { connector }
    }
}

impl Dial for TcpDial {
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedStream>> {
        let connector = self.connector.clone();
        let uri = Uri::builder().scheme("http").authority(address).path_and_query("/").build();
        Box::pin(async move {
            let uri = uri.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let connected = connector.oneshot(uri).await.map_err(io::Error::other)?;
            Ok(Box::new(connected.into_inner()) as BoxedStream)
        })
    }
}

/// A channel that connects when it is first used, and again when it is used after it broke.
pub(super) fn channel(
    endpoint: &Endpoint,
    address: &str,
    dial: &Arc<dyn Dial>,
    connect_timeout: Duration,
    failure: &LastFailure,
) -> Channel {
    let (address, dial, failure) = (address.to_owned(), Arc::clone(dial), failure.clone());
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let (dialing, failure) = (dial.dial(&address), failure.clone());
        async move {
            let connected = timeout(connect_timeout, dialing).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let stream = connected.inspect_err(|error| failure.note(error))?;
            Ok::<_, io::Error>(TokioIo::new(failure.watch(stream)))
        }
    }))
}

#[cfg(test)]
mod tests {
    use rollcall_proto::Reason;
    use rollcall_proto::v1::DescribeRequest;
    use rollcall_proto::v1::node_client::NodeClient;
    use tokio::time::Instant;

    use super::*;
    use crate::cluster::call::CallError;

    #[derive(Debug)]
    struct Never;

    impl Dial for Never {
        fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<BoxedStream>> {
            Box::pin(std::future::pending())
        }
    }

    async fn ask(address: &str, dial: Arc<dyn Dial>) -> CallError {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = channel(&endpoint, address, &dial, Duration::from_secs(3), &LastFailure::default());
        NodeClient::new(channel).describe(DescribeRequest {}).await.unwrap_err().into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_come_up_in_time_is_unreachable() {
        let begun = Instant::now();
        let error = ask("a.example:7000", Arc::new(Never)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        assert_eq!(error.reason, Reason::Unreachable, "{error}");
        assert!(error.detail.starts_with("Unavailable"), "{error}");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = ask(&address, Arc::new(TcpDial::within(Duration::from_secs(3)))).await;
        assert_eq!(error.reason, Reason::Unreachable, "{error}");
        assert!(error.detail.starts_with("Unavailable"), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_closes_at_once_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        // Whether the connection is seen to close before or after the request is on it is a matter of moments.
        for _ in 0..50 {
            let error = ask(&address, Arc::new(TcpDial::within(Duration::from_secs(3)))).await;
            assert_eq!(error.reason, Reason::Unreachable, "{error}");
        }
    }
}
