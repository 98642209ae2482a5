//! The configuration file as written, and where in it something is wrong.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::args::EXPECTED_ADDRESS;
use super::{BrokerKind, ConfigError, LogFormat, Tls};
#[cfg(feature = "embedded")]
use crate::broker::embedded::EmbeddedSettings;
#[cfg(feature = "nats")]
use crate::broker::nats::NatsSettings;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::RabbitmqSettings;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileConfig {
    pub(super) node_name: Option<String>,
    #[serde(deserialize_with = "socket_address")]
    pub(super) listen: Option<SocketAddr>,
    #[serde(deserialize_with = "socket_address")]
    pub(super) metrics_listen: Option<SocketAddr>,
    pub(super) broker: Option<BrokerKind>,
    pub(super) insecure: Option<bool>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) drain_timeout_secs: Option<u64>,
    pub(super) max_calls: Option<NonZeroU32>,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) max_wrong_tokens: Option<u32>,
    pub(super) tls: Option<Tls>,
    pub(super) log: LogTable,
    pub(super) file: FileTable,
    pub(super) synthetic: SyntheticTable,
    #[cfg(feature = "embedded")]
    pub(super) embedded: EmbeddedSettings,
    /// A file may hold settings for a build that has the embedded broker.
    #[cfg(not(feature = "embedded"))]
    pub(super) embedded: Option<de::IgnoredAny>,
    #[cfg(feature = "nats")]
    pub(super) nats: NatsSettings,
    /// As `embedded`.
    #[cfg(not(feature = "nats"))]
    pub(super) nats: Option<de::IgnoredAny>,
    #[cfg(feature = "rabbitmq")]
    pub(super) rabbitmq: RabbitmqSettings,
    /// As `embedded`.
    #[cfg(not(feature = "rabbitmq"))]
    pub(super) rabbitmq: Option<de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogTable {
    pub(super) format: Option<LogFormat>,
    pub(super) filter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileTable {
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SyntheticTable {
    pub(super) clients: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) churn: Option<u32>,
}

impl FileConfig {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
        Self::parse(&text, path)
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let (line, column) = place(text, span.start);
            // What stands under a known key is shown. What is no TOML may be anything, such as a password under a key that
            // there is none of.
            let is_toml = toml::from_str::<toml::Table>(text).is_ok();
            let reason =
                if is_toml { explain(text, span, error.message()) } else { error.message().to_owned() };
            ConfigError::File { path: path.to_owned(), line, column, reason }
        })
    }
}

/// Line and column, both from 1, of a byte of the text.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The parser's message behind the key and value it is about, where it is about one.
fn explain(text: &str, span: Range<usize>, message: &str) -> String {
    let line_start =
        text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let before = text.get(line_start..span.start).unwrap_or_default();
    let value = text.get(span).unwrap_or_default();
    match before.split_once('=') {
        Some((key, rest)) if rest.trim().is_empty() && !value.contains('\n') => {
            format!("{} = {value}: {message}", key.trim())
        }
        _ => message.to_owned(),
    }
}

fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| de::Error::custom(EXPECTED_ADDRESS))
}
