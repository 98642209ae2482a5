//! The query string becomes a [`ListQuery`], an [`ExportQuery`](crate::cluster::ExportQuery) or a
//! [`CountQuery`](crate::cluster::CountQuery), and what only concerns the presentation. [`narrowing`] reads what all of them take: filters, nodes and whether a part of them will do.
//!
//! Unknown parameters are refused: a mistyped filter must never widen a result. So is whatever cannot be read;
//! integers out of range are not that, they just lie beyond every value there is.

use rollcall_proto::v1::{Filter, Key};
use rollcall_proto::{MAX_LIMIT, MAX_RANKED, Order, SortField};
use thiserror::Error;

use self::narrowing::{Narrowed, Narrowing};
use super::decode::{self, InvalidEncoding, Shown};
use super::row::{Fields, KEYS};
use crate::cluster::{ListQuery, Scope, Start};
use crate::page::cursor::{self, Fingerprint};

pub(super) use self::count::{COUNT, DEFAULT_TOP, MOST_TOP, count};
pub(super) use self::events::{EventsRequest, events, events_names};
pub(super) use self::export::{ExportRequest, Format, export, export_names};
pub(super) use self::narrowing::{filter, filter_name};

mod count;
mod events;
mod export;
mod narrowing;

/// More parameters than this are refused.
const MOST_PARAMETERS: usize = 256;

/// Parameters that every list takes, in the order they are documented; filters come first.
pub(super) const LIST: [&str; 22] = [
    "clientid",
    "username",
    "zone",
    "proto_name",
    "proto_ver",
    "ip_address",
    "conn_state",
    "clean_start",
    "_like_clientid",
    "_like_username",
    "_gte_created_at",
    "_lte_created_at",
    "_gte_connected_at",
    "_lte_connected_at",
    "_page",
    "_cursor",
    "_limit",
    "_sort",
    "_order",
    "_fields",
    "_partial",
    "_node",
];

/// How many of them are filters, the first.
pub(super) const FILTERS: usize = 14;

/// A query string that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadParameter {
    /// The operation takes no such parameter.
    #[error("unknown parameter {}, expected {expected}", Shown(name))]
    Unknown {
        /// As it came.
        name: String,
        /// What the operation takes.
        expected: String,
    },
    /// A value cannot be read.
    #[error("parameter {name}={}: expected {expected}", Shown(value))]
    Value {
        /// The parameter.
        name: &'static str,
        /// As it came, decoded.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A parameter that can only have one value.
    #[error("parameter {name} is given twice, expected once")]
    Twice {
        /// The parameter.
        name: &'static str,
    },
    /// Two parameters that say where the page begins.
    #[error("_page and _cursor are both given, expected one of them")]
    PageAndCursor,
    /// A walk in an order that does not last from one page to the next.
    #[error(
        "_cursor is given with _sort={field}, a live figure; expected one of them: figures change meanwhile"
    )]
    CursorOfFigure {
        /// The field to sort by.
        field: &'static str,
    },
    /// A page of clients that have no rank.
    #[error(
        "parameter _page={page}: expected a page that ends within the first {MAX_RANKED} clients, as none behind them has a rank by the live figure {field}; _limit is {limit}"
    )]
    Unranked {
        /// The field to sort by.
        field: &'static str,
        /// As it came.
        page: u64,
        /// Rows of a page.
        limit: u32,
    },
    /// A number of groups and nothing to group by.
    #[error("_top is given without _group_by, expected both or neither")]
    TopWithoutGroups,
    /// A name or value cannot be decoded.
    #[error("parameter {}={}: {why}", Shown(name), Shown(value))]
    Encoding {
        /// As it came.
        name: String,
        /// As it came.
        value: String,
        /// What is wrong with it.
        why: InvalidEncoding,
    },
    /// Too many parameters.
    #[error("{count} parameters, expected at most {MOST_PARAMETERS}")]
    TooMany {
        /// How many came.
        count: usize,
    },
}

/// What a list is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ListRequest {
    /// For the cluster.
    pub(super) query: ListQuery,
    /// Which keys of the rows to write.
    pub(super) fields: Fields,
    /// Whether an answer that lacks nodes is welcome.
    pub(super) partial: bool,
}

/// What the path has said already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given<'a> {
    pub(super) node: Option<&'a str>,
    pub(super) username: Option<&'a str>,
}

impl Given<'_> {
    fn takes(&self, name: &str) -> bool {
        name != "_node" || self.node.is_none()
    }
}

/// Reads the query string of a list.
pub(super) fn list(query: &str, given: Given<'_>) -> Result<ListRequest, BadParameter> {
    let known: Vec<&'static str> = LIST.into_iter().filter(|name| given.takes(name)).collect();
    let Asked { filter, order, scope, partial, once } = read(query, &known, given)?;
    let limit = once.limit.unwrap_or(MAX_LIMIT);
    let start = match (once.page, once.cursor) {
        (Some(_), Some(_)) => return Err(BadParameter::PageAndCursor),
        (None, Some(_)) if order.field.is_live() => {
            return Err(BadParameter::CursorOfFigure { field: order.field.name() });
        }
        (Some(page), None)
            if order.field.is_live() && page.saturating_mul(limit.into()) > MAX_RANKED.into() =>
        {
            return Err(BadParameter::Unranked { field: order.field.name(), page, limit });
        }
        (page, None) => Start::Page(page.unwrap_or(1)),
        // A walk begins with the empty cursor, as it ends.
        (None, Some(cursor)) if cursor.is_empty() => Start::Page(1),
        (None, Some(cursor)) => {
            let position = cursor::decode(fingerprint(&filter, order, &scope), order, &cursor);
            Start::Cursor(position.map_err(|error| BadParameter::Value {
                name: "_cursor",
                value: cursor,
                expected: error.expected().to_owned(),
            })?)
        }
    };
    Ok(ListRequest {
        query: ListQuery { filter, order, start, limit, scope },
        fields: once.fields.unwrap_or(Fields::ALL),
        partial: partial.unwrap_or(true),
    })
}

/// What the parameters of a list or an export say.
struct Asked {
    filter: Filter,
    order: Order,
    scope: Scope,
    partial: Option<bool>,
    once: Once,
}

/// Reads parameters of these names.
fn read(query: &str, known: &[&'static str], given: Given<'_>) -> Result<Asked, BadParameter> {
    let mut narrowing = Narrowing::default();
    let mut once = Once::default();
    for parameter in parameters(query, known)? {
        let Some(Parameter { name, value }) = narrowing.take(parameter)? else { continue };
        let bad = |expected: &str| bad_value(name, &value, expected);
        match name {
            "_page" => {
                let page = digits(&value).and_then(|digits| digits.parse().ok()).filter(|page| *page > 0);
                let page = page.ok_or_else(|| bad("an integer from 1 to 18446744073709551615"))?;
                set(&mut once.page, name, page)?;
            }
            "_cursor" => set(&mut once.cursor, name, value)?,
            "_limit" => {
                let limit = integer(&value).and_then(|limit| u64::try_from(limit).ok());
                let limit = limit.ok_or_else(|| bad("an integer from 0; above 10000 is lowered to 10000"))?;
                set(&mut once.limit, name, u32::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT))?;
            }
            "_sort" => {
                // An export, which has no pages, goes on far behind the last rank of a live figure.
                let is_export = !known.contains(&"_page");
                let field = SortField::from_name(&value).filter(|field| !(is_export && field.is_live()));
                set(&mut once.sort, name, field.ok_or_else(|| bad(&sort_fields(is_export)))?)?;
            }
            "_order" => {
                let descending = match value.as_str() {
                    "asc" => false,
                    "desc" => true,
                    _ => return Err(bad("asc or desc")),
                };
                set(&mut once.descending, name, descending)?;
            }
            "_fields" => set(&mut once.fields, name, fields(&value)?)?,
            "_format" => {
                let format = match value.as_str() {
                    "ndjson" => Format::Ndjson,
                    "csv" => Format::Csv,
                    _ => return Err(bad("ndjson or csv")),
                };
                set(&mut once.format, name, format)?;
            }
            // Every known name stands above or was taken.
            _ => return Err(unknown(name.to_owned(), known)),
        }
    }
    let Narrowed { filter, scope, partial } = narrowing.given(given);
    let order = Order {
        field: once.sort.unwrap_or(SortField::Clientid),
        descending: once.descending.unwrap_or_default(),
    };
    Ok(Asked { filter, order, scope, partial, once })
}

/// What binds a cursor to its list.
fn fingerprint(filter: &Filter, order: Order, scope: &Scope) -> Fingerprint {
    let nodes: &[String] = match scope {
        Scope::All => &[],
        Scope::Only(nodes) => nodes,
    };
    Fingerprint::of(filter, order, nodes)
}

/// The cursor behind a page of this list; empty at the list's end, `None` for a list that cannot be walked.
pub(super) fn cursor_behind(query: &ListQuery, next: Option<&Key>) -> Option<String> {
    if query.order.field.is_live() {
        return None;
    }
    let fingerprint = || fingerprint(&query.filter, query.order, &query.scope);
    Some(next.map_or_else(String::new, |key| cursor::encode(fingerprint(), key)))
}

/// Whether there is a page behind one of this list that may be asked for: by a live figure, one that ends within the ranks
/// there are.
pub(super) fn has_next(query: &ListQuery, has_more: bool) -> bool {
    let may_be_asked_for = match query.start {
        Start::Page(page) if query.order.field.is_live() => {
            page.saturating_add(1).saturating_mul(query.limit.into()) <= MAX_RANKED.into()
        }
        _ => true,
    };
    has_more && may_be_asked_for
}

/// A single client, as asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GetRequest {
    /// Which fields its rows have.
    pub(super) fields: Fields,
    /// Whether an answer will do that lacks some nodes.
    pub(super) partial: bool,
}

/// Reads the query string of a single client.
pub(super) fn get(query: &str) -> Result<GetRequest, BadParameter> {
    let (mut chosen, mut partial) = (None, None);
    for Parameter { name, value } in parameters(query, &["_fields", "_partial"])? {
        if name == "_fields" {
            set(&mut chosen, name, fields(&value)?)?;
        } else {
            let bad = || BadParameter::Value { name, value: value.clone(), expected: "true or false".into() };
            set(&mut partial, name, flag(&value).ok_or_else(bad)?)?;
        }
    }
    Ok(GetRequest { fields: chosen.unwrap_or(Fields::ALL), partial: partial.unwrap_or(true) })
}

/// Refuses every parameter.
pub(super) fn none(query: &str) -> Result<(), BadParameter> {
    parameters(query, &[]).map(drop)
}

/// Parameters that can stand there once.
#[derive(Default)]
struct Once {
    page: Option<u64>,
    cursor: Option<String>,
    limit: Option<u32>,
    sort: Option<SortField>,
    descending: Option<bool>,
    fields: Option<Fields>,
    format: Option<Format>,
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), BadParameter> {
    if slot.replace(value).is_some() {
        return Err(BadParameter::Twice { name });
    }
    Ok(())
}

struct Parameter {
    name: &'static str,
    value: String,
}

/// Splits and decodes a query string of known parameters.
fn parameters(query: &str, known: &[&'static str]) -> Result<Vec<Parameter>, BadParameter> {
    let parts = || query.split('&').filter(|part| !part.is_empty());
    let count = parts().count();
    if count > MOST_PARAMETERS {
        return Err(BadParameter::TooMany { count });
    }
    parts()
        .map(|part| {
            let (raw_name, raw_value) = part.split_once('=').unwrap_or((part, ""));
            let decode = |raw| {
                decode::query_part(raw).map_err(|why| BadParameter::Encoding {
                    name: raw_name.to_owned(),
                    value: raw_value.to_owned(),
                    why,
                })
            };
            let name = decode(raw_name)?;
            let Some(name) = known.iter().copied().find(|known| *known == name) else {
                return Err(unknown(name, known));
            };
            Ok(Parameter { name, value: decode(raw_value)? })
        })
        .collect()
}

fn bad_value(name: &'static str, value: &str, expected: &str) -> BadParameter {
    BadParameter::Value { name, value: value.to_owned(), expected: expected.to_owned() }
}

fn unknown(name: String, known: &[&str]) -> BadParameter {
    let expected =
        if known.is_empty() { "no parameters".to_owned() } else { format!("one of {}", known.join(", ")) };
    BadParameter::Unknown { name, expected }
}

fn fields(value: &str) -> Result<Fields, BadParameter> {
    Fields::parse(value).map_err(|bad| BadParameter::Value {
        name: "_fields",
        value: value.to_owned(),
        expected: format!("keys of a row between commas, {} is not one of {}", Shown(bad), KEYS.join(", ")),
    })
}

fn sort_fields(identity_only: bool) -> String {
    let live = SortField::LIVE.into_iter().filter(|_| !identity_only);
    let names: Vec<&str> = SortField::IDENTITY.into_iter().chain(live).map(SortField::name).collect();
    format!("one of {}", names.join(", "))
}

/// An integer of any size; what is beyond 64 bits counts as the nearest that is not.
fn integer(text: &str) -> Option<i64> {
    let beyond = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    digits(text.strip_prefix('-').unwrap_or(text))
        .filter(|_| !text.starts_with("-+"))
        .map(|_| text.parse().unwrap_or(beyond))
}

/// The text without its plus sign, if the rest is decimal digits.
fn digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
