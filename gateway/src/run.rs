//! The gateway from start to end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use futures::Stream;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::audit::Audit;
use crate::byte_stream::{self, BoxedStream};
use crate::cluster::{Cluster, Dial, InvalidNode, TcpDial};
use crate::config::Config;
use crate::http::api::Api;
use crate::http::{self, Drain};
use crate::metrics::Connections;
use crate::serve::serve;

/// Why a gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address or TLS setting that no connection to a node can be made with.
    #[error(transparent)]
    Node(#[from] InvalidNode),
    /// Kicks cannot be put on record.
    #[error("audit-log {}: {source}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Starts a gateway and serves; see [`Gateway`].
///
/// # Errors
/// [`StartError`], before anything is answered.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    Gateway::start(config)?.serve(listener, shutdown).await;
    Ok(())
}

/// A gateway that follows its nodes and is about to serve.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    app: Router,
    drain: Drain,
    audit: Audit,
    connections: Connections,
}

impl Gateway {
    /// Starts following the nodes, which may all be silent. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(config: Config) -> Result<Self, StartError> {
        let dial = TcpDial::within(config.cluster.connect_timeout);
        Self::start_with(config, Arc::new(dial))
    }

    /// As [`Gateway::start`], with another way to the agents than TCP.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start_with(config: Config, dial: Arc<dyn Dial>) -> Result<Self, StartError> {
        let audit = config.audit_log.as_deref().map(|path| {
            Audit::to_file(path).map_err(|source| StartError::Audit { path: path.to_owned(), source })
        });
        let audit = audit.transpose()?.unwrap_or_default();
        let cluster = Cluster::start_with(&config.cluster, dial)?;
        let drain = Drain::default();
        let base_path = config.base_path.as_str().to_owned();
        let keys = Arc::clone(&config.keys);
        let (timeout, limits) = (config.request_timeout, config.limits);
        let api = Api::new(cluster, keys, audit.clone(), base_path, timeout, limits, drain.clone());
        let api = api.with_metrics_for(config.metrics);
        let connections = api.metrics().connections.clone();
        let app = http::router(api, drain.clone());
        Ok(Self { config, app, drain, audit, connections })
    }

    /// Answers requests on `listener` until `shutdown` is ready; then says that it is not ready, waits for the drain
    /// delay, accepts no more, and lets connections finish for as long as the drain timeout.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        self.serve_on(byte_stream::accepted(listener), shutdown).await;
    }

    /// As [`Gateway::serve`], on connections that come in some other way, each with its peer's address.
    pub async fn serve_on(
        self,
        incoming: impl Stream<Item = (BoxedStream, SocketAddr)>,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self { config, app, drain, audit, connections } = self;
        tracing::info!(nodes = config.cluster.nodes.len(), base_path = config.base_path.as_str(), "serving");
        let shutdown = async {
            shutdown.await;
            drain.begin();
            sleep(config.drain_delay).await;
        };
        let tls = config.tls.as_deref();
        let follow_certificate = async {
            match tls {
                Some(tls) => tls.follow().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serve(incoming, tls, app, config.limits, &connections, config.drain_timeout, shutdown) => {}
            () = config.keys.follow() => {}
            () = follow_certificate => {}
        }
        // What was begun for clients that have gone ends by a deadline of its own.
        let last = timeout(config.request_timeout, drain.finished());
        if last.await.is_err() {
            tracing::warn!("kicks were still under way at the end");
        }
        audit.flush().await;
        tracing::info!("stopped");
    }
}
