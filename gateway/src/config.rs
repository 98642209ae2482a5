//! What the gateway is told at start: a file, overridden by environment variables, overridden by flags.
//!
//! All three know the same keys: `request_timeout` in the file is `ROLLCALL_GATEWAY_REQUEST_TIMEOUT` in the environment
//! and `--request-timeout` as a flag. Whatever cannot be used is refused here, with where it stands, its value and
//! what was expected, so that nothing later has to deal with it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Args, Command};
use rollcall_trust::{Live, TrustError};
use rustls::ServerConfig;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use self::values::{BasePath, Count};
use crate::cluster::{ClusterSettings, Policy};
use crate::http::limits::{KickLimits, Limits};
use crate::key_file::KeyFile;
use crate::keys::{InvalidKey, Key};
use crate::live_keys::{KeysError, LiveKeys};

mod layer;
mod trust;
pub mod values;

pub use self::layer::Layer;
pub use self::values::{LogFormat, MetricsAccess};

/// What environment variables of the gateway begin with.
const ENV_PREFIX: &str = "ROLLCALL_GATEWAY_";

/// Everything the gateway is told, ready to be used.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The gateway's own certificate; plain HTTP without.
    pub tls: Option<Arc<Live<ServerConfig>>>,
    /// The nodes and how to reach them.
    pub cluster: ClusterSettings,
    /// What the API's paths begin with.
    pub base_path: BasePath,
    /// Who may use it; at first there is at least one key.
    pub keys: Arc<LiveKeys>,
    /// Who may scrape the metrics.
    pub metrics: MetricsAccess,
    /// Where kicks go on record; the log without.
    pub audit_log: Option<PathBuf>,
    /// Whether some keys stood in the open, on the command line or in the environment.
    pub keys_in_the_open: bool,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// What a request may cost.
    pub limits: Limits,
    /// How long the gateway says it is not ready before it stops accepting.
    pub drain_delay: Duration,
    /// How long connections may take to finish after that.
    pub drain_timeout: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which are written, in the syntax of tracing's `EnvFilter`.
    pub log_filter: String,
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read, or its folder not be found.
    #[error("{key} {}: {source}", path.display())]
    Unreadable {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The configuration file has something in it that should not be there.
    #[error("{}:{line}:{column}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// An environment variable has a value that is none.
    #[error("environment variable {name}={value:?}: {message}")]
    Environment {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong.
        message: String,
    },
    /// The values do not fit together, or one is out of its range.
    #[error("{0}")]
    Unfit(String),
    /// A key given as `ID:SECRET:ROLE`; its text is not shown, because of the secret.
    #[error("key number {number}: {source}")]
    Key {
        /// From 1, in the order given.
        number: usize,
        /// What is wrong.
        source: InvalidKey,
    },
    /// A certificate, key or token, the gateway's own or towards agents.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The key file, or its keys and others do not fit together.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

fn unfit(message: impl Into<String>) -> ConfigError {
    ConfigError::Unfit(message.into())
}

impl Config {
    /// Puts flags over the given environment over the file that they name.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(
        flags: Layer,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let told = flags.over(from_environment(environment)?);
        let file = told.config.as_deref().map(from_file).transpose()?;
        Self::new(told.over(file.unwrap_or_default()))
    }

    /// Checks values, fills in what was not told, and reads the files named.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn new(told: Layer) -> Result<Self, ConfigError> {
        let cluster = cluster(&told)?;
        let listen = told.listen.unwrap_or_default().0;
        let tls = match (&told.tls_cert, &told.tls_key) {
            (Some(cert), Some(key)) => Some(Arc::new(trust::https(cert, key)?)),
            (None, None) => None,
            (Some(_), None) => return Err(unfit("tls-cert without tls-key: expected both or none")),
            (None, Some(_)) => return Err(unfit("tls-key without tls-cert: expected both or none")),
        };
        if !listen.ip().is_loopback() && tls.is_none() && told.insecure != Some(true) {
            return Err(unfit(format!(
                "listen {listen} is not a loopback address, and without tls-cert the gateway speaks plain HTTP, which \
                 shows keys and answers to the network; give it a certificate, listen on 127.0.0.1 behind something \
                 that speaks TLS, or say insecure"
            )));
        }
        let keys_in_the_open = told.key.as_ref().is_some_and(|keys| !keys.is_empty());
        let log_filter = told.log_filter.clone().unwrap_or_else(|| "info".to_owned());
        EnvFilter::try_new(&log_filter).map_err(|error| {
            unfit(format!(
                "log-filter {log_filter:?}: {error}, expected a filter such as info or rollcall_gateway=debug"
            ))
        })?;
        let seconds = Duration::from_secs;
        let limits = Limits {
            requests: positive("max-requests", told.max_requests, 512)?,
            heavy_requests: positive("max-heavy-requests", told.max_heavy_requests, 16)?,
            exports: positive("max-exports", told.max_exports, 4)?,
            export_node_timeout: told.export_node_timeout.map_or(seconds(60), |text| text.0),
            export_client_timeout: told.export_client_timeout.map_or(seconds(300), |text| text.0),
            wrong_keys: told.max_wrong_keys.map_or(20, |count| u32::try_from(count.0).unwrap_or(u32::MAX)),
            connections: positive("max-connections", told.max_connections, 4096)?,
            url_bytes: positive("max-url-bytes", told.max_url_bytes, 16 << 10)?,
            head_bytes: positive("max-head-bytes", told.max_head_bytes, 64 << 10)?,
            body_bytes: told.max_body_bytes.map_or(64 << 10, |count| count.0),
            read_timeout: told.read_timeout.map_or(seconds(10), |text| text.0),
            kicks: kick_limits(&told)?,
        };
        if limits.head_bytes > 16 << 20 {
            return Err(unfit(format!("max-head-bytes {}: expected at most 16777216", limits.head_bytes)));
        }
        let config = Self {
            listen,
            tls,
            cluster,
            keys: Arc::new(keys(&told)?),
            metrics: told.metrics.unwrap_or_default(),
            audit_log: audit_log(&told)?,
            base_path: told.base_path.unwrap_or_default(),
            keys_in_the_open,
            request_timeout: told.request_timeout.map_or(seconds(5), |text| text.0),
            limits,
            drain_delay: told.drain_delay.map_or(Duration::ZERO, |text| text.0),
            drain_timeout: told.drain_timeout.map_or(seconds(10), |text| text.0),
            log_format: told.log_format.unwrap_or_default(),
            log_filter,
        };
        for (key, duration) in [
            ("request-timeout", config.request_timeout),
            ("read-timeout", config.limits.read_timeout),
            ("export-node-timeout", config.limits.export_node_timeout),
            ("export-client-timeout", config.limits.export_client_timeout),
            ("probe-interval", config.cluster.probe_interval),
            ("probe-timeout", config.cluster.circuit.probe_timeout),
            ("connect-timeout", config.cluster.connect_timeout),
        ] {
            if duration.is_zero() {
                return Err(unfit(format!("{key} 0s: expected more than nothing")));
            }
        }
        Ok(config)
    }
}

fn positive(key: &str, told: Option<Count>, default: usize) -> Result<usize, ConfigError> {
    match told {
        Some(Count(0)) => Err(unfit(format!("{key} 0: expected at least 1"))),
        told => Ok(told.map_or(default, |count| count.0)),
    }
}

pub(crate) fn kick_limits(told: &Layer) -> Result<KickLimits, ConfigError> {
    let most = positive("bulk-kick-max", told.bulk_kick_max, 10_000)?;
    let default_most = positive("bulk-kick-default-max", told.bulk_kick_default_max, most.min(1000))?;
    let most_rate = positive("bulk-kick-max-rate", told.bulk_kick_max_rate, 1000)?;
    let default_rate = positive("bulk-kick-default-rate", told.bulk_kick_default_rate, most_rate.min(100))?;
    for (key, value, bound, most) in [
        ("bulk-kick-default-max", default_most, "bulk-kick-max", most),
        ("bulk-kick-default-rate", default_rate, "bulk-kick-max-rate", most_rate),
    ] {
        if value > most {
            return Err(unfit(format!("{key} {value}: expected at most {bound}, which is {most}")));
        }
    }
    let rate = |rate| u32::try_from(rate).unwrap_or(u32::MAX);
    Ok(KickLimits {
        at_once: positive("max-bulk-kicks", told.max_bulk_kicks, 2)?,
        most,
        default_most,
        most_rate: rate(most_rate),
        default_rate: rate(default_rate),
        body_bytes: positive("max-bulk-kick-bytes", told.max_bulk_kick_bytes, 1 << 20)?,
    })
}

fn cluster(told: &Layer) -> Result<ClusterSettings, ConfigError> {
    let nodes: Vec<String> = told.node.iter().flatten().map(|node| node.0.clone()).collect();
    if nodes.is_empty() {
        return Err(unfit("no node: expected the address of at least one agent, host:port"));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = nodes.iter().find(|node| !seen.insert(node.to_ascii_lowercase())) {
        return Err(unfit(format!("node {twice:?} is given twice, expected each agent once")));
    }
    let tls = trust::node_tls(told)?;
    let token = trust::node_token(told, &nodes, tls.is_some())?;
    let usual = ClusterSettings::over(nodes);
    Ok(ClusterSettings {
        tls,
        token,
        probe_interval: told.probe_interval.map_or(usual.probe_interval, |text| text.0),
        connect_timeout: told.connect_timeout.map_or(usual.connect_timeout, |text| text.0),
        circuit: Policy {
            probe_timeout: told.probe_timeout.map_or(usual.circuit.probe_timeout, |text| text.0),
            circuit_failures: told
                .circuit_failures
                .map_or(usual.circuit.circuit_failures, |count| u32::try_from(count.0).unwrap_or(u32::MAX)),
        },
        max_node_calls: positive("max-node-calls", told.max_node_calls, usual.max_node_calls)?,
        ..usual
    })
}

fn keys(told: &Layer) -> Result<LiveKeys, ConfigError> {
    let arguments = told.key.iter().flatten().enumerate().map(|(at, argument)| {
        Key::from_argument(argument.as_str()).map_err(|source| ConfigError::Key { number: at + 1, source })
    });
    let keys = LiveKeys::load(told.key_file.as_ref().map(KeyFile::at), arguments.collect::<Result<_, _>>()?)?;
    if keys.current().is_empty() {
        let file = told.key_file.as_deref().unwrap_or(Path::new("keys.toml"));
        return Err(unfit(format!(
            "no key, so nobody could use the API; create one with\n  \
             rollcall-gateway key create --file {0} --id ID --role viewer\n\
             and start with --key-file {0}",
            file.display()
        )));
    }
    Ok(keys)
}

/// Checks that the file can be made or is there; it is opened at start.
fn audit_log(told: &Layer) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = &told.audit_log else { return Ok(None) };
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let unusable = |source| ConfigError::Unreadable { key: "audit-log", path: path.clone(), source };
    if !std::fs::metadata(folder).map_err(unusable)?.is_dir() || path.is_dir() {
        return Err(unfit(format!("audit-log {}: expected a file in a folder that exists", path.display())));
    }
    Ok(Some(path.clone()))
}

fn read(key: &'static str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

/// Reads the configuration file. Paths in it are relative to the working directory, as flags are.
fn from_file(path: &Path) -> Result<Layer, ConfigError> {
    parse_file(path, &read("config", path)?)
}

pub(crate) fn parse_file(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::File {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            // Never the line itself: it may be a key that was put here by mistake.
            message: match error.message() {
                message if message.starts_with("unknown field `key`") => {
                    "keys do not stand in this file, expected key_file and the path of a file of keys"
                        .to_owned()
                }
                message => message.to_owned(),
            },
        }
    })
}

/// Reads environment variables by the parser of the flags. Names that are none of ours are left alone: Kubernetes puts
/// `ROLLCALL_GATEWAY_SERVICE_HOST` and the like beside every pod.
fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Result<Layer, ConfigError> {
    let command = Layer::augment_args(Command::new("environment").no_binary_name(true));
    let flags: Vec<String> =
        command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect();
    let mut layer = Layer::default();
    for (name, value) in variables {
        let Some(flag) =
            name.strip_prefix(ENV_PREFIX).map(|rest| rest.to_ascii_lowercase().replace('_', "-"))
        else {
            continue;
        };
        if !flags.contains(&flag) || name != variable(&flag) {
            continue;
        }
        let parsed = command
            .clone()
            .try_get_matches_from([format!("--{flag}={value}")])
            .and_then(|matches| <Layer as clap::FromArgMatches>::from_arg_matches(&matches));
        layer = parsed
            .map_err(|error| ConfigError::Environment {
                message: reason(&error),
                value: if flag == "key" { "...".to_owned() } else { value },
                name,
            })?
            .over(layer);
    }
    Ok(layer)
}

fn variable(flag: &str) -> String {
    format!("{ENV_PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// What clap found wrong with a value, without its talk of flags.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    match error.get(clap::error::ContextKind::ValidValue) {
        Some(clap::error::ContextValue::Strings(possible)) => format!("expected {}", possible.join(" or ")),
        _ => "it is no value for this".to_owned(),
    }
}

/// A parser for flags out of a type's own.
fn parser<T>() -> ValueParser
where
    T: std::str::FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync,
{
    ValueParser::new(|text: &str| text.parse::<T>())
}

#[cfg(test)]
mod tests;
