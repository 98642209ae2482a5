//! The settings: one TOML file, overridden by environment variables, overridden by flags.
//!
//! Everything is read and checked once, at start. What is wrong is refused with its place (file, line and column, or
//! flag), its value and what was expected; unknown keys are refused too. `agent.example.toml` shows every key of the
//! file with its default.

pub mod args;
mod file;
mod show;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use thiserror::Error;

use self::args::Args;
use self::file::FileConfig;
#[cfg(feature = "embedded")]
use crate::broker::embedded::{Authentication, EmbeddedSettings, ListenerSettings};
#[cfg(feature = "nats")]
use crate::broker::nats::NatsSettings;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::RabbitmqSettings;
use crate::broker::synthetic::{MAX_CHURN, MAX_CLIENTS};

/// Where agents listen unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18830);

/// The longest name of a node, bytes.
pub const MAX_NODE_NAME: usize = 128;

/// Everything an agent needs to know at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, unique in the cluster: 1 to [`MAX_NODE_NAME`] bytes without slashes and control characters.
    pub node_name: String,
    /// Where gateways connect.
    pub listen: SocketAddr,
    /// Where Prometheus scrapes the agent's metrics, by plain HTTP; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Whose clients to report.
    pub broker: BrokerConfig,
    /// How to speak TLS to gateways; `None` speaks plain HTTP/2.
    pub tls: Option<Tls>,
    /// A file of tokens, of which gateways must show one.
    pub token_file: Option<PathBuf>,
    /// Whether plain HTTP/2, or TLS with anybody, is allowed on an address other than loopback.
    pub insecure: bool,
    /// How long calls in flight may take to finish after the signal to stop.
    pub drain_timeout: Duration,
    /// Calls in flight at the most.
    pub max_calls: NonZeroU32,
    /// Connections at the most, of one address half of them.
    pub max_connections: NonZeroU32,
    /// Wrong tokens an address may show at once, beyond one a second; 0: any number.
    pub max_wrong_tokens: u32,
    /// How to log.
    pub log: Log,
}

/// Which broker, and its settings.
#[derive(Clone, Debug)]
pub enum BrokerConfig {
    /// An MQTT broker in the agent's own process.
    #[cfg(feature = "embedded")]
    Embedded(EmbeddedSettings),
    /// A fixed table.
    File {
        /// NDJSON, see [`crate::broker::file`].
        path: PathBuf,
    },
    /// A NATS server beside the agent.
    #[cfg(feature = "nats")]
    Nats(NatsSettings),
    /// A RabbitMQ node beside the agent.
    #[cfg(feature = "rabbitmq")]
    Rabbitmq(RabbitmqSettings),
    /// Made-up clients.
    Synthetic {
        /// How many.
        clients: u64,
        /// Which ones.
        seed: u64,
        /// Reconnects a second.
        churn: u32,
    },
    /// The one that has loaded the agent as its plugin. [`crate::run::run`] is given it, no other can be made of it.
    Host,
}

/// The name of a broker in file and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// An MQTT broker in the agent's own process
    Embedded,
    /// A fixed table of clients from an NDJSON file, for tests and demos
    File,
    /// A NATS server, by its monitoring endpoint and logins
    Nats,
    /// A RabbitMQ node, by its management API
    Rabbitmq,
    /// Made-up clients, for tests and load
    Synthetic,
}

/// Certificate and key towards gateways: paths of PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The agent's certificate chain, its own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of gateways' certificates; with it, a gateway must show one.
    pub client_ca: Option<PathBuf>,
    /// Names of which a gateway's certificate must carry one; empty: any will do. Needs `client_ca`.
    #[serde(default)]
    pub client_names: Vec<String>,
}

/// How to log, to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// In the syntax of tracing's `EnvFilter`.
    pub filter: String,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event
    #[default]
    Text,
    /// One JSON object an event
    Json,
}

/// Settings that cannot be used; for the operator.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file has an unknown key or a value of the wrong kind.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// Key, value and what was expected.
        reason: String,
    },
    /// Values that do not go together, or one is missing.
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// The defaults, for this node and broker.
    #[must_use]
    pub fn new(node_name: impl Into<String>, broker: BrokerConfig) -> Self {
        Self {
            node_name: node_name.into(),
            listen: DEFAULT_LISTEN,
            metrics_listen: None,
            broker,
            tls: None,
            token_file: None,
            insecure: false,
            drain_timeout: Duration::from_secs(10),
            max_calls: NonZeroU32::MIN.saturating_add(255),
            max_connections: NonZeroU32::MIN.saturating_add(511),
            max_wrong_tokens: 20,
            log: Log { format: LogFormat::Text, filter: "info".to_owned() },
        }
    }

    /// Reads the file the flags name, if any, and puts environment and flags over it.
    ///
    /// # Errors
    /// Whatever cannot be used, see [`ConfigError`].
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let file = match &args.config {
            None => FileConfig::default(),
            Some(path) => FileConfig::read(path)?,
        };
        Self::merge(args, file)
    }

    /// As [`Config::load`], for an agent that its broker has loaded as a plugin: there is no other broker to choose.
    ///
    /// # Errors
    /// As [`Config::load`]; also for settings that choose a broker, or are another's.
    pub fn load_for_plugin(args: &Args) -> Result<Self, ConfigError> {
        let file = match &args.config {
            None => FileConfig::default(),
            Some(path) => FileConfig::read(path)?,
        };
        Self::merge_with(args, file, |args, file, _| {
            let given =
                brokers_of(args).into_iter().find(|(_, is_given, _)| *is_given).map(|(flag, ..)| flag);
            let is_chosen = args.broker.is_some() || file.broker.is_some();
            match given.or(is_chosen.then_some("--broker")) {
                None => Ok(BrokerConfig::Host),
                Some(flag) => Err(ConfigError::Invalid(format!(
                    "{} is given, but the broker is the one that has loaded the agent",
                    args::with_variable(flag)
                ))),
            }
        })
    }

    fn merge(args: &Args, file: FileConfig) -> Result<Self, ConfigError> {
        Self::merge_with(args, file, broker)
    }

    fn merge_with(
        args: &Args,
        file: FileConfig,
        broker: impl FnOnce(&Args, &FileConfig, &str) -> Result<BrokerConfig, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let listen = args.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN);
        let node_name = args
            .node_name
            .clone()
            .or_else(|| file.node_name.clone())
            .unwrap_or_else(|| default_node_name(listen));
        let broker = broker(args, &file, &node_name)?;
        let tls = merge_tls(args, file.tls)?;
        let defaults = Self::new(node_name, broker);
        let config = Self {
            listen,
            metrics_listen: args.metrics_listen.or(file.metrics_listen),
            tls,
            token_file: args.token_file.clone().or(file.token_file),
            insecure: args.insecure.or(file.insecure).unwrap_or(defaults.insecure),
            drain_timeout: args
                .drain_timeout
                .or(file.drain_timeout_secs.map(Duration::from_secs))
                .unwrap_or(defaults.drain_timeout),
            max_calls: args.max_calls.or(file.max_calls).unwrap_or(defaults.max_calls),
            max_connections: args
                .max_connections
                .or(file.max_connections)
                .unwrap_or(defaults.max_connections),
            max_wrong_tokens: args
                .max_wrong_tokens
                .or(file.max_wrong_tokens)
                .unwrap_or(defaults.max_wrong_tokens),
            log: Log {
                format: args.log_format.or(file.log.format).unwrap_or(defaults.log.format),
                filter: args.log_filter.clone().or(file.log.filter).unwrap_or(defaults.log.filter.clone()),
            },
            ..defaults
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |message: String| Err(ConfigError::Invalid(message));
        let name = &self.node_name;
        let is_usable = |character: char| !character.is_control() && character != '/';
        if name.is_empty() || name.len() > MAX_NODE_NAME || !name.chars().all(is_usable) {
            return invalid(format!(
                "node_name is {name:?}, expected a name such as a@127.0.0.1: 1 to {MAX_NODE_NAME} bytes without \
                 slashes and control characters"
            ));
        }
        if let BrokerConfig::Synthetic { clients, churn, .. } = self.broker {
            if clients > u64::from(MAX_CLIENTS) {
                return invalid(format!("clients is {clients}, expected at most {MAX_CLIENTS}"));
            }
            if churn > MAX_CHURN {
                return invalid(format!("churn is {churn}, expected at most {MAX_CHURN}"));
            }
        }
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !self.insecure {
            return invalid(format!(
                "listen is {}, which others can reach, but TLS is not set up: give --tls-cert and --tls-key, or \
                 --insecure if the network is trusted, or listen on a loopback address",
                self.listen
            ));
        }
        if let Some(tls) = &self.tls {
            if let Some(name) =
                tls.client_names.iter().find(|name| ServerName::try_from(name.as_str()).is_err())
            {
                return invalid(format!(
                    "client_names has {name:?}, expected a name or address such as gateway.example.org or 10.0.0.9"
                ));
            }
            if tls.client_ca.is_none() && !tls.client_names.is_empty() {
                return invalid(
                    "client_names without client_ca: without it, gateways show no name".to_owned(),
                );
            }
            let has_doors = tls.client_ca.is_some() || self.token_file.is_some();
            if !self.listen.ip().is_loopback() && !has_doors && !self.insecure {
                return invalid(format!(
                    "listen is {}, which others can reach, and anybody may list and kick clients: give \
                     --tls-client-ca, --token-file or both, or --insecure if the network is trusted",
                    self.listen
                ));
            }
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            let filter = &self.log.filter;
            return invalid(format!(
                "log filter is {filter:?}, expected a filter such as info,rollcall=debug: {error}"
            ));
        }
        #[cfg(feature = "embedded")]
        if let BrokerConfig::Embedded(settings) = &self.broker
            && let Err(message) = settings.check()
        {
            return invalid(format!("[embedded] {message}"));
        }
        #[cfg(feature = "nats")]
        if let BrokerConfig::Nats(settings) = &self.broker
            && let Err(message) = settings.check()
        {
            return invalid(format!("[nats] {message}"));
        }
        #[cfg(feature = "rabbitmq")]
        if let BrokerConfig::Rabbitmq(settings) = &self.broker
            && let Err(message) = settings.check()
        {
            return invalid(format!("[rabbitmq] {message}"));
        }
        Ok(())
    }
}

/// After the address gateways know the node by, if that is one address.
fn default_node_name(listen: SocketAddr) -> String {
    let address = if listen.ip().is_unspecified() { DEFAULT_LISTEN.ip() } else { listen.ip() };
    format!("rollcall@{address}")
}

/// The flags that are of one broker: whether they are given, and of which.
fn brokers_of(args: &Args) -> [(&'static str, bool, BrokerKind); 12] {
    [
        ("--file", args.file.is_some(), BrokerKind::File),
        ("--clients", args.clients.is_some(), BrokerKind::Synthetic),
        ("--seed", args.seed.is_some(), BrokerKind::Synthetic),
        ("--churn", args.churn.is_some(), BrokerKind::Synthetic),
        ("--mqtt-listen", !args.mqtt_listen.is_empty(), BrokerKind::Embedded),
        ("--password-file", args.password_file.is_some(), BrokerKind::Embedded),
        ("--nats-url", args.nats_url.is_some(), BrokerKind::Nats),
        ("--nats-client-address", args.nats_client_address.is_some(), BrokerKind::Nats),
        ("--rabbitmq-url", args.rabbitmq_url.is_some(), BrokerKind::Rabbitmq),
        ("--rabbitmq-username", args.rabbitmq_username.is_some(), BrokerKind::Rabbitmq),
        ("--rabbitmq-password-file", args.rabbitmq_password_file.is_some(), BrokerKind::Rabbitmq),
        ("--rabbitmq-node", args.rabbitmq_node.is_some(), BrokerKind::Rabbitmq),
    ]
}

fn broker(args: &Args, file: &FileConfig, node_name: &str) -> Result<BrokerConfig, ConfigError> {
    let kind = args.broker.or(file.broker).unwrap_or(BrokerKind::Embedded);
    for (flag, given, needs) in brokers_of(args) {
        if given && kind != needs {
            let flag = args::with_variable(flag);
            return Err(ConfigError::Invalid(format!(
                "{flag} is given, but the broker is {kind}, expected {needs}"
            )));
        }
    }
    match kind {
        BrokerKind::Embedded => embedded(args, file, node_name),
        BrokerKind::File => {
            let path = args.file.clone().or_else(|| file.file.path.clone());
            let missing = "the broker is file, but there is no path: give --file PATH or [file] path";
            let path = path.ok_or_else(|| ConfigError::Invalid(missing.to_owned()))?;
            Ok(BrokerConfig::File { path })
        }
        BrokerKind::Nats => nats(args, file),
        BrokerKind::Rabbitmq => rabbitmq(args, file),
        BrokerKind::Synthetic => Ok(BrokerConfig::Synthetic {
            clients: args.clients.or(file.synthetic.clients).unwrap_or(1_000),
            seed: args.seed.or(file.synthetic.seed).unwrap_or(0),
            churn: args.churn.or(file.synthetic.churn).unwrap_or(0),
        }),
    }
}

#[cfg(feature = "embedded")]
fn embedded(args: &Args, file: &FileConfig, node_name: &str) -> Result<BrokerConfig, ConfigError> {
    let mut settings = EmbeddedSettings { node_name: node_name.to_owned(), ..file.embedded.clone() };
    if !args.mqtt_listen.is_empty() {
        let listener = |&address| ListenerSettings { address, ..ListenerSettings::default() };
        settings.listeners = args.mqtt_listen.iter().map(listener).collect();
    }
    if let Some(path) = &args.password_file {
        settings.authentication = Authentication::PasswordFile(path.clone());
    }
    Ok(BrokerConfig::Embedded(settings))
}

#[cfg(not(feature = "embedded"))]
fn embedded(_: &Args, _: &FileConfig, _: &str) -> Result<BrokerConfig, ConfigError> {
    Err(left_out(BrokerKind::Embedded))
}

#[cfg(feature = "nats")]
fn nats(args: &Args, file: &FileConfig) -> Result<BrokerConfig, ConfigError> {
    let mut settings = file.nats.clone();
    if let Some(url) = &args.nats_url {
        settings.url.clone_from(url);
    }
    if let Some(address) = &args.nats_client_address {
        settings.client_address.clone_from(address);
    }
    Ok(BrokerConfig::Nats(settings))
}

#[cfg(not(feature = "nats"))]
fn nats(_: &Args, _: &FileConfig) -> Result<BrokerConfig, ConfigError> {
    Err(left_out(BrokerKind::Nats))
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(args: &Args, file: &FileConfig) -> Result<BrokerConfig, ConfigError> {
    let mut settings = file.rabbitmq.clone();
    if let Some(url) = &args.rabbitmq_url {
        settings.url.clone_from(url);
    }
    if let Some(username) = &args.rabbitmq_username {
        settings.username.clone_from(username);
    }
    settings.password_file = args.rabbitmq_password_file.clone().or(settings.password_file);
    settings.node = args.rabbitmq_node.clone().or(settings.node);
    Ok(BrokerConfig::Rabbitmq(settings))
}

#[cfg(not(feature = "rabbitmq"))]
fn rabbitmq(_: &Args, _: &FileConfig) -> Result<BrokerConfig, ConfigError> {
    Err(left_out(BrokerKind::Rabbitmq))
}

#[cfg(not(all(feature = "embedded", feature = "nats", feature = "rabbitmq")))]
fn left_out(kind: BrokerKind) -> ConfigError {
    ConfigError::Invalid(format!(
        "the broker is {kind}, which this build of the agent leaves out: give --broker file or synthetic"
    ))
}

fn merge_tls(args: &Args, file: Option<Tls>) -> Result<Option<Tls>, ConfigError> {
    let (cert, key, client_ca, client_names) = match file {
        Some(Tls { cert, key, client_ca, client_names }) => (Some(cert), Some(key), client_ca, client_names),
        None => (None, None, None, Vec::new()),
    };
    let client_ca = args.tls_client_ca.clone().or(client_ca);
    let client_names =
        if args.tls_client_name.is_empty() { client_names } else { args.tls_client_name.clone() };
    match (args.tls_cert.clone().or(cert), args.tls_key.clone().or(key)) {
        (Some(cert), Some(key)) => Ok(Some(Tls { cert, key, client_ca, client_names })),
        (None, None) if client_ca.is_none() && client_names.is_empty() => Ok(None),
        (cert, _) => {
            let missing = if cert.is_some() { "--tls-key" } else { "--tls-cert" };
            Err(ConfigError::Invalid(format!("TLS is set up in part: {missing} is missing")))
        }
    }
}

#[cfg(test)]
mod tests;
