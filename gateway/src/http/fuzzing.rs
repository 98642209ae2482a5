//! What the fuzz targets of `tests/fuzz` reach that nobody else may: a build has this module only with `--cfg fuzzing`.
//! Clippy sees it always.

use std::path::Path;

use rollcall_proto::v1::{Filter, Key};

use super::bulk::body::{self, Which};
use super::limits::KickLimits;
use super::query::{self, BadParameter, Format, Given};
use super::row::Fields;
use crate::cluster::{CountQuery, ExportQuery, ListQuery, Scope};
use crate::config::{self, ConfigError, Layer};

/// What a query string was read as.
#[derive(Clone, Debug, PartialEq)]
pub struct Read<Q> {
    /// For the cluster.
    pub query: Q,
    /// The keys of rows, in order; none for a count.
    pub fields: Vec<&'static str>,
    /// Whether an answer that lacks nodes is welcome, if anything was said about it or there is a default.
    pub partial: Option<bool>,
    /// How an export is written; empty for anything else.
    pub format: &'static str,
}

/// Why a query string was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the client.
    pub message: String,
    /// The parameter at fault, if it is one: as it came where it is unknown or cannot be decoded.
    pub parameter: Option<String>,
    /// Whether this parameter would be refused alone, whatever stands beside it.
    pub by_itself: bool,
}

impl From<BadParameter> for Refused {
    fn from(bad: BadParameter) -> Self {
        let message = bad.to_string();
        let (parameter, by_itself) = match bad {
            BadParameter::Unknown { name, .. } | BadParameter::Encoding { name, .. } => (Some(name), true),
            // Whether a cursor fits depends on the list it came with.
            BadParameter::Value { name, .. } => (Some(name.to_owned()), name != "_cursor"),
            BadParameter::Twice { name } => (Some(name.to_owned()), false),
            BadParameter::TopWithoutGroups => (Some("_top".to_owned()), true),
            BadParameter::PageAndCursor | BadParameter::CursorOfFigure { .. } => {
                (Some("_cursor".to_owned()), false)
            }
            BadParameter::Unranked { .. } => (Some("_page".to_owned()), false),
            BadParameter::TooMany { .. } => (None, false),
        };
        Self { message, parameter, by_itself }
    }
}

fn names(fields: Fields) -> Vec<&'static str> {
    fields.names().collect()
}

/// Reads the query string of a list.
///
/// # Errors
/// [`Refused`].
pub fn list(text: &str) -> Result<Read<ListQuery>, Refused> {
    let request = query::list(text, Given::default())?;
    let (fields, partial) = (names(request.fields), Some(request.partial));
    Ok(Read { query: request.query, fields, partial, format: "" })
}

/// Reads the query string of an export.
///
/// # Errors
/// [`Refused`].
pub fn export(text: &str) -> Result<Read<ExportQuery>, Refused> {
    let request = query::export(text)?;
    let format = match request.format {
        Format::Ndjson => "ndjson",
        Format::Csv => "csv",
    };
    Ok(Read { query: request.query, fields: names(request.fields), partial: request.partial, format })
}

/// Reads the query string of a count.
///
/// # Errors
/// [`Refused`].
pub fn count(text: &str) -> Result<Read<CountQuery>, Refused> {
    let request = query::count(text)?;
    Ok(Read { query: request.query, fields: Vec::new(), partial: Some(request.partial), format: "" })
}

/// The text of `_cursor` that goes on behind a key of this list; `None` if it cannot be walked.
#[must_use]
pub fn cursor_behind(query: &ListQuery, key: &Key) -> Option<String> {
    query::cursor_behind(query, Some(key))
}

/// What the body of a bulk kick was read as.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadKicks {
    /// Whom to kick by id; empty if not so.
    pub clientids: Vec<String>,
    /// Whom to kick by filter, and whether it is fine to leave out those of silent nodes.
    pub matching: Option<(Filter, bool)>,
    /// On which nodes.
    pub scope: Scope,
    /// Only say who would be kicked.
    pub dry_run: bool,
    /// How many at the most.
    pub most: usize,
    /// Kicks a second.
    pub rate: u32,
}

/// The limits by which [`kicks`] reads.
pub const KICK_LIMITS: KickLimits = KickLimits {
    at_once: 1,
    most: 10_000,
    default_most: 1000,
    most_rate: 500,
    default_rate: 100,
    body_bytes: 1 << 20,
};

/// Reads the body of a bulk kick, at the beginning of 2026.
///
/// # Errors
/// The message for the client.
pub fn kicks(bytes: &[u8]) -> Result<ReadKicks, String> {
    let request = body::json(bytes).and_then(|json| body::request(&json, &KICK_LIMITS, 1_767_225_600_000));
    let request = request.map_err(|error| error.to_string())?;
    let (clientids, matching) = match request.which {
        Which::Ids(ids) => (ids, None),
        Which::Matching { filter, partial, .. } => (Vec::new(), Some((*filter, partial))),
    };
    let body::BulkRequest { scope, dry_run, most, rate, .. } = request;
    Ok(ReadKicks { clientids, matching, scope, dry_run, most, rate })
}

/// Reads a configuration file of this content.
///
/// # Errors
/// [`ConfigError::File`].
pub fn configuration(text: &str) -> Result<Layer, ConfigError> {
    config::parse_file(Path::new("gateway.toml"), text)
}
