//! The query string of an export.

use super::{Asked, BadParameter, Given, LIST, read};
use crate::cluster::ExportQuery;
use crate::http::row::Fields;

/// Parameters of a list that say which page of it.
const PAGE: [&str; 3] = ["_page", "_cursor", "_limit"];

/// What an export is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct ExportRequest {
    /// For the cluster.
    pub(in crate::http) query: ExportQuery,
    /// Which keys of the rows to write.
    pub(in crate::http) fields: Fields,
    /// How to write them.
    pub(in crate::http) format: Format,
    /// Whether an export that lacks nodes is welcome; `None` if nothing was said.
    pub(in crate::http) partial: Option<bool>,
}

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::http) enum Format {
    /// A JSON object a line.
    #[default]
    Ndjson,
    /// As in RFC 4180.
    Csv,
}

/// Parameters that an export takes.
pub(in crate::http) fn export_names() -> impl Iterator<Item = &'static str> {
    LIST.into_iter().filter(|name| !PAGE.contains(name)).chain(["_format"])
}

/// Reads the query string of an export.
pub(in crate::http) fn export(query: &str) -> Result<ExportRequest, BadParameter> {
    let known: Vec<&'static str> = export_names().collect();
    let Asked { filter, order, scope, partial, once } = read(query, &known, Given::default())?;
    let fields = once.fields.unwrap_or(Fields::ALL);
    Ok(ExportRequest {
        query: ExportQuery { filter, order, scope, with_statistics: fields.have_statistics() },
        fields,
        format: once.format.unwrap_or_default(),
        partial,
    })
}
