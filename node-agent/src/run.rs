//! The server from start to drain.
//!
//! [`start_broker`] makes the broker of a configuration, [`run`] serves it until told to stop. Health says serving
//! once the broker's clients are known, because calls are refused before. A drain goes in steps: health says not
//! serving, Describe says draining, new calls are refused as draining, calls in flight finish for as long as the
//! configuration allows, then connections are closed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use rollcall_proto::FILE_DESCRIPTOR_SET;
use rollcall_trust::token::Tokens;
use rollcall_trust::{Live, TrustError};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{debug, info, warn};

#[cfg(feature = "embedded")]
use crate::broker::embedded::{EmbeddedBroker, StartError};
use crate::broker::file::{FileBroker, FileError};
#[cfg(feature = "nats")]
use crate::broker::nats::{self, NatsBroker};
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::{self, RabbitmqBroker};
use crate::broker::synthetic::SyntheticBroker;
use crate::broker::{Broker, BrokerError};
use crate::config::{BrokerConfig, Config};
use crate::doorstep;
use crate::incoming::{self, Connection};
use crate::metrics;
use crate::service::{Agent, NodeService, RawLists};
use crate::tls;
use crate::token::TokenCheck;

/// How long a start waits for the broker's clients before it serves without them.
const FIRST_RESYNC: Duration = Duration::from_secs(30);
/// How often expired snapshots are dropped.
const TICK: Duration = Duration::from_secs(1);
/// How often a silent connection is asked whether it is still there, and how long it may take to say so. Without
/// that a connection lost in a partition stays open for many minutes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));
/// Streams that one connection may have open beside twice the calls that are let in.
const SPARE_STREAMS: u32 = 64;
/// How long connections may take to close after the last call.
const CLOSING: Duration = Duration::from_secs(1);
/// The name health checks ask for, beside the empty one.
const SERVICE: &str = "rollcall.v1.Node";

/// Why an agent does not start, or stopped by itself.
#[derive(Debug, Error)]
pub enum RunError {
    /// The file broker's table cannot be served.
    #[error(transparent)]
    File(#[from] FileError),
    /// The embedded broker cannot start.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Embedded(#[from] StartError),
    /// NATS cannot be asked with these settings.
    #[cfg(feature = "nats")]
    #[error(transparent)]
    Nats(#[from] nats::StartError),
    /// RabbitMQ cannot be asked with these settings.
    #[cfg(feature = "rabbitmq")]
    #[error(transparent)]
    Rabbitmq(#[from] rabbitmq::StartError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// Certificate, key, authorities or tokens cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The server failed.
    #[error("the server failed: {0}")]
    Serve(String),
    /// The broker is gone for good, so that the clients shown would no longer be true.
    #[error("lost the broker: {0}")]
    BrokerGone(#[source] BrokerError),
}

/// A broker made from a configuration.
pub struct StartedBroker {
    broker: Arc<dyn Broker>,
    #[cfg(feature = "embedded")]
    embedded: Option<Arc<EmbeddedBroker>>,
}

impl StartedBroker {
    /// The broker, to be served.
    #[must_use]
    pub fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.broker)
    }

    /// Stops a broker that runs in this process, once it is no longer served. Nothing happens to any other.
    pub async fn shutdown(&self) {
        #[cfg(feature = "embedded")]
        if let Some(embedded) = &self.embedded {
            embedded.shutdown().await;
        }
        #[cfg(not(feature = "embedded"))]
        std::future::ready(()).await;
    }

    fn of(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            #[cfg(feature = "embedded")]
            embedded: None,
        }
    }
}

/// Makes the broker of a configuration.
///
/// # Errors
/// Its file, address or certificate cannot be used.
pub async fn start_broker(config: &Config) -> Result<StartedBroker, RunError> {
    match &config.broker {
        #[cfg(feature = "embedded")]
        BrokerConfig::Embedded(settings) => {
            let embedded = Arc::new(EmbeddedBroker::start(settings.clone()).await?);
            Ok(StartedBroker { broker: Arc::clone(&embedded) as _, embedded: Some(embedded) })
        }
        BrokerConfig::File { path } => {
            let (path, node) = (path.clone(), config.node_name.clone());
            #[expect(clippy::disallowed_methods, reason = "at start, before any request")]
            let opened = tokio::task::spawn_blocking(move || FileBroker::open(&path, &node)).await;
            let broker = opened.map_err(|error| RunError::Serve(error.to_string()))??;
            Ok(StartedBroker::of(Arc::new(broker)))
        }
        #[cfg(feature = "nats")]
        BrokerConfig::Nats(settings) => Ok(StartedBroker::of(Arc::new(NatsBroker::open(settings).await?))),
        #[cfg(feature = "rabbitmq")]
        BrokerConfig::Rabbitmq(settings) => Ok(StartedBroker::of(Arc::new(RabbitmqBroker::start(settings)?))),
        BrokerConfig::Synthetic { clients, seed, churn } => {
            let broker = SyntheticBroker::new(*clients, *seed, &config.node_name).with_churn(*churn);
            Ok(StartedBroker::of(Arc::new(broker)))
        }
        BrokerConfig::Host => Err(RunError::Serve("a plugin's broker is there already".to_owned())),
    }
}

/// Reads every file that a start with this configuration reads, and listens nowhere.
///
/// # Errors
/// A file that cannot be read or used.
pub fn check_files(config: &Config) -> Result<(), RunError> {
    config.tls.as_ref().map(tls::load).transpose()?;
    config.token_file.as_deref().map(load_tokens).transpose()?;
    match &config.broker {
        #[cfg(feature = "embedded")]
        BrokerConfig::Embedded(settings) => EmbeddedBroker::check_files(settings)?,
        BrokerConfig::File { path } => drop(FileBroker::open(path, &config.node_name)?),
        #[cfg(feature = "nats")]
        BrokerConfig::Nats(settings) => NatsBroker::check_files(settings)?,
        #[cfg(feature = "rabbitmq")]
        BrokerConfig::Rabbitmq(settings) => RabbitmqBroker::check_files(settings)?,
        BrokerConfig::Synthetic { .. } | BrokerConfig::Host => {}
    }
    Ok(())
}

/// Where an agent listens.
#[derive(Debug)]
pub struct Listeners {
    gateways: TcpListener,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Where gateways connect.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.gateways.local_addr()
    }

    /// Where metrics are scraped, if anywhere.
    ///
    /// # Errors
    /// The system does not say.
    pub fn metrics_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr).transpose()
    }
}

impl From<TcpListener> for Listeners {
    /// For gateways alone.
    fn from(gateways: TcpListener) -> Self {
        Self { gateways, metrics: None }
    }
}

/// Binds the configured addresses.
///
/// # Errors
/// [`RunError::Listen`].
pub async fn bind(config: &Config) -> Result<Listeners, RunError> {
    let gateways = bind_to(config.listen).await?;
    let metrics = match config.metrics_listen {
        Some(address) => Some(bind_to(address).await?),
        None => None,
    };
    Ok(Listeners { gateways, metrics })
}

async fn bind_to(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|error| RunError::Listen { address, reason: error.to_string() })
}

/// Serves a broker until `shutdown` completes, then drains. The listeners' addresses count, not the configured ones.
///
/// # Errors
/// TLS files that cannot be used, a failed server, or a broker that is gone for good.
pub async fn run(
    config: Config,
    listeners: impl Into<Listeners>,
    broker: Arc<dyn Broker>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    run_with_ready(config, listeners, broker, || {}, shutdown).await
}

/// As [`run`]; `ready` is called once calls are answered from the broker's clients. That is after the first
/// resync. If it is known that the broker cannot be asked at present, or after 30 s, `ready` is called too, but
/// calls are refused until the broker's clients are known.
///
/// # Errors
/// As [`run`].
pub async fn run_with_ready(
    config: Config,
    listeners: impl Into<Listeners>,
    broker: Arc<dyn Broker>,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let Listeners { gateways, metrics } = listeners.into();
    serve(config, incoming::accepted(gateways), metrics, broker, ready, shutdown).await
}

/// As [`run_with_ready`], on connections that come in some other way than on a TCP listener, and without metrics.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: Config,
    incoming: impl Stream<Item = Connection> + Send,
    broker: Arc<dyn Broker>,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    serve(config, incoming, None, broker, ready, shutdown).await
}

async fn serve(
    config: Config,
    incoming: impl Stream<Item = Connection> + Send,
    metrics: Option<TcpListener>,
    broker: Arc<dyn Broker>,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let tls = config.tls.as_ref().map(tls::load).transpose()?.map(Arc::new);
    let tokens = config.token_file.as_deref().map(load_tokens).transpose()?.map(Arc::new);
    let agent = Arc::new(Agent::new(&config.node_name, broker, config.max_calls.get()));
    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::NotServing).await;
    let node_service = RawLists::new(NodeService::new(Arc::clone(&agent)));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| RunError::Serve(format!("reflection: {error}")))?;
    // Health and reflection tell nobody anything of a client, so they ask for no token.
    let check = TokenCheck::new(tokens.clone(), config.max_wrong_tokens, Arc::clone(&agent.figures));
    let node_service = InterceptedService::new(node_service, check);
    let mut server = Server::builder()
        // tonic sets no bound by itself. Calls up to it are refused in words, as overloaded.
        .max_concurrent_streams(config.max_calls.get().saturating_mul(2).saturating_add(SPARE_STREAMS))
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    let most = usize::try_from(config.max_connections.get()).unwrap_or(usize::MAX);
    let incoming = doorstep::greeted(incoming, tls.clone(), most);
    let (close, closing) = oneshot::channel::<()>();
    let serve = server
        .add_service(node_service)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming.map(Ok::<_, Infallible>), async {
            // Dropped without a word, it means the same.
            let _ = closing.await;
        });

    let announce = async {
        if timeout(FIRST_RESYNC, agent.follower.heard()).await.is_err() {
            let seconds = FIRST_RESYNC.as_secs();
            warn!(seconds, "the broker's clients are not known yet, calls are refused until they are");
        }
        let say_serving = async {
            agent.follower.known().await;
            set_health(&health, ServingStatus::Serving).await;
            info!(node = config.node_name, clients = agent.index.counts().clients, "serving");
        };
        if agent.follower.is_known() {
            say_serving.await;
            ready();
        } else {
            ready();
            say_serving.await;
        }
    };
    let mut is_announced = false;
    let mut tick = interval(TICK);
    let follow = agent.follower.follow(agent.broker.as_ref());
    let (keep_tls, keep_tokens) = (keep(tls.as_deref()), keep(tokens.as_deref()));
    // Also while draining.
    let show_metrics = show_metrics(metrics, &agent);
    tokio::pin!(serve, follow, announce, shutdown, keep_tls, keep_tokens, show_metrics);
    let lost = loop {
        tokio::select! {
            served = &mut serve => return Err(RunError::Serve(describe_end(served))),
            error = &mut follow => break Some(error),
            () = &mut shutdown => break None,
            () = &mut announce, if !is_announced => is_announced = true,
            () = &mut keep_tls => {}
            () = &mut keep_tokens => {}
            () = &mut show_metrics => {}
            _ = tick.tick() => agent.queries.expire(Instant::now()),
        }
    };

    set_health(&health, ServingStatus::NotServing).await;
    agent.calls.drain();
    info!(calls = agent.calls.in_flight(), "draining");
    // The broker is followed on meanwhile, so that calls in flight see its changes.
    let keep_following = async {
        if lost.is_none() {
            follow.await;
        }
        std::future::pending::<()>().await;
    };
    let finish = async {
        if timeout(config.drain_timeout, agent.calls.idle()).await.is_err() {
            warn!(calls = agent.calls.in_flight(), "calls did not finish in time and are cut off");
            agent.calls.cut_off();
        }
        drop(close);
        sleep(CLOSING).await;
        debug!("connections still open are cut off");
    };
    tokio::select! {
        () = finish => {}
        () = keep_following => {}
        () = &mut show_metrics => {}
        _ = &mut serve => debug!("all connections closed"),
    }
    info!("stopped");
    lost.map_or(Ok(()), |error| Err(RunError::BrokerGone(error)))
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in ["", SERVICE] {
        health.set_service_status(service, status).await;
    }
}

fn describe_end(served: Result<(), tonic::transport::Error>) -> String {
    match served {
        Ok(()) => "it stopped by itself".to_owned(),
        Err(error) => error_chain(&error),
    }
}

fn load_tokens(path: &Path) -> Result<Live<Tokens>, TrustError> {
    Tokens::load("the tokens of gateways", path.to_owned())
}

/// Answers scrapes, if anywhere, without end.
async fn show_metrics(listener: Option<TcpListener>, agent: &Arc<Agent>) {
    if let Some(listener) = listener {
        futures::join!(metrics::listener::serve(listener, agent), metrics::measure_index(agent));
    }
    std::future::pending::<()>().await;
}

/// Follows a value's files, if there are any, without end.
async fn keep<T>(live: Option<&Live<T>>) {
    match live {
        Some(live) => live.follow().await,
        None => std::future::pending().await,
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
