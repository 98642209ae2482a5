//! What the fuzz targets of `tests/fuzz` reach that nobody else may: a build has this module only with `--cfg fuzzing`.
//! Clippy sees it always.

use std::path::Path;

use rollcall_proto::v1::Key;

use super::query::{self, BadParameter, Format, Given};
use super::row::Fields;
use crate::cluster::{CountQuery, ExportQuery, ListQuery};
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

/// Reads a configuration file of this content.
///
/// # Errors
/// [`ConfigError::File`].
pub fn configuration(text: &str) -> Result<Layer, ConfigError> {
    config::parse_file(Path::new("gateway.toml"), text)
}
