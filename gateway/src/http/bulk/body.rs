//! The body of a bulk kick.
//!
//! Whatever could make it hit somebody else than was meant is refused: a member that is unknown or given twice, a list
//! without a value, a client id given twice, a filter that excludes nobody and does not say that it means that.

use std::collections::HashSet;

use rollcall_proto::v1::{ConnState, Filter};
use thiserror::Error;

use super::json::Json;
use crate::cluster::Scope;
use crate::http::decode::Shown;
use crate::http::limits::KickLimits;
use crate::http::query::{self, BadParameter};

/// Members a body may have, in the order they are documented.
const MEMBERS: [&str; 8] = ["clientids", "filter", "nodes", "confirm", "partial", "dry_run", "max", "rate"];

/// No session is from before 2000-01-01, as there was no MQTT. Milliseconds since 1970.
const FIRST_SESSION_MS: i64 = 946_684_800_000;

/// Why a body was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadBody {
    /// It cannot be read.
    #[error("the body is no JSON: {0}")]
    NoJson(String),
    /// It is JSON, but not an object.
    #[error("the body is {0}, expected a JSON object")]
    NoObject(String),
    /// A member that means nothing.
    #[error("unknown member {} in the body, expected one of {}", Shown(name), MEMBERS.join(", "))]
    Unknown {
        /// As it came.
        name: String,
    },
    /// A member of the body, or of its filter, that stands there twice.
    #[error("{member} is given twice in the body, expected once")]
    Twice {
        /// Which.
        member: String,
    },
    /// A value that cannot be used.
    #[error("{place} in the body is {value}, expected {expected}")]
    Value {
        /// Which.
        place: String,
        /// As it came.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A filter that a list would refuse, too.
    #[error("filter in the body: {0}")]
    Filter(BadParameter),
    /// Nobody is named.
    #[error("neither clientids nor filter is in the body, expected one of them")]
    Nobody,
    /// Two ways to name clients.
    #[error("clientids and filter are both in the body, expected one of them")]
    Both,
    /// A member that goes with a filter.
    #[error("{member} is in the body beside clientids, expected it only beside a filter")]
    WithoutFilter {
        /// Which.
        member: &'static str,
    },
    /// A filter that lets everybody through, by mistake perhaps.
    #[error(
        "filter in the body excludes no client, expected \"confirm\": \"all\" beside it to kick them all"
    )]
    Unconfirmed,
    /// `nodes` has a name that is none of the cluster's.
    #[error("nodes in the body has {}, expected names of nodes, of {}", Shown(name), known.join(", "))]
    UnknownNode {
        /// As it came.
        name: String,
        /// The nodes there are.
        known: Vec<String>,
    },
}

/// What a bulk kick is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct BulkRequest {
    pub(in crate::http) which: Which,
    /// On which nodes.
    pub(in crate::http) scope: Scope,
    /// Only say who would be kicked.
    pub(in crate::http) dry_run: bool,
    /// Kick nobody if it would be more clients than this.
    pub(in crate::http) most: usize,
    /// Kicks a second.
    pub(in crate::http) rate: u32,
}

/// Whom to kick.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) enum Which {
    /// Each of these, wherever it is. At least one, none twice.
    Ids(Vec<String>),
    /// The sessions that match.
    Matching {
        filter: Box<Filter>,
        /// Whether it is fine to leave out those of nodes that do not answer.
        partial: bool,
        /// Whether all there are may be meant.
        confirmed: bool,
    },
}

/// Reads bytes as JSON.
pub(in crate::http) fn json(bytes: &[u8]) -> Result<Json, BadBody> {
    serde_json::from_slice(bytes).map_err(|error| BadBody::NoJson(error.to_string()))
}

/// Reads a body; `now_ms` is the time, milliseconds since 1970.
pub(in crate::http) fn request(
    body: &Json,
    limits: &KickLimits,
    now_ms: i64,
) -> Result<BulkRequest, BadBody> {
    let Json::Object(members) = body else { return Err(BadBody::NoObject(body.to_string())) };
    let mut read = Members::default();
    for (name, value) in members {
        let Some(name) = MEMBERS.into_iter().find(|member| member == name) else {
            return Err(BadBody::Unknown { name: name.clone() });
        };
        let bad = |expected: &str| bad(name, value, expected);
        match name {
            "clientids" => set(&mut read.clientids, name, clientids(value)?)?,
            "filter" => set(&mut read.filter, name, filter(value)?)?,
            "nodes" => set(&mut read.nodes, name, texts("nodes", value, "the name of a node")?)?,
            "confirm" => {
                let all = matches!(value, Json::Text(text) if text == "all");
                set(&mut read.confirmed, name, all.then_some(()).ok_or_else(|| bad("\"all\""))?)?;
            }
            "partial" => set(&mut read.partial, name, flag(value).ok_or_else(|| bad("true or false"))?)?,
            "dry_run" => set(&mut read.dry_run, name, flag(value).ok_or_else(|| bad("true or false"))?)?,
            "max" => set(&mut read.most, name, number(name, value, limits.most)?)?,
            "rate" => set(&mut read.rate, name, number(name, value, limits.most_rate as usize)?)?,
            // Every one of MEMBERS stands above.
            _ => return Err(BadBody::Unknown { name: name.to_owned() }),
        }
    }
    let Members { clientids, filter, nodes, confirmed, partial, dry_run, most, rate } = read;
    let which = match (clientids, filter) {
        (None, None) => return Err(BadBody::Nobody),
        (Some(_), Some(_)) => return Err(BadBody::Both),
        (Some(_), None) if confirmed.is_some() => return Err(BadBody::WithoutFilter { member: "confirm" }),
        (Some(_), None) if partial.is_some() => return Err(BadBody::WithoutFilter { member: "partial" }),
        (Some(ids), None) => Which::Ids(ids),
        (None, Some(filter)) => {
            // Whoever asks first is told who it would be.
            if confirmed.is_none() && dry_run != Some(true) && excludes_nobody(&filter, now_ms) {
                return Err(BadBody::Unconfirmed);
            }
            Which::Matching {
                filter: Box::new(filter),
                partial: partial.unwrap_or(false),
                confirmed: confirmed.is_some(),
            }
        }
    };
    Ok(BulkRequest {
        which,
        scope: nodes.map_or(Scope::All, Scope::Only),
        dry_run: dry_run.unwrap_or(false),
        most: most.unwrap_or(limits.default_most),
        rate: rate.map_or(limits.default_rate, |rate| u32::try_from(rate).unwrap_or(u32::MAX)),
    })
}

#[derive(Default)]
struct Members {
    clientids: Option<Vec<String>>,
    filter: Option<Filter>,
    nodes: Option<Vec<String>>,
    confirmed: Option<()>,
    partial: Option<bool>,
    dry_run: Option<bool>,
    most: Option<usize>,
    rate: Option<usize>,
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), BadBody> {
    if slot.replace(value).is_some() {
        return Err(BadBody::Twice { member: name.to_owned() });
    }
    Ok(())
}

fn bad(place: &str, value: &Json, expected: &str) -> BadBody {
    BadBody::Value { place: place.to_owned(), value: value.to_string(), expected: expected.to_owned() }
}

fn clientids(value: &Json) -> Result<Vec<String>, BadBody> {
    let ids = texts("clientids", value, "a client id")?;
    let mut seen = HashSet::with_capacity(ids.len());
    match ids.iter().position(|id| !seen.insert(id)) {
        None => Ok(ids),
        Some(at) => Err(BadBody::Value {
            place: format!("clientids[{at}]"),
            value: Shown(&ids[at]).to_string(),
            expected: "each client id once".to_owned(),
        }),
    }
}

/// A list of texts, of at least one and none of which is empty.
fn texts(place: &str, value: &Json, what: &str) -> Result<Vec<String>, BadBody> {
    let items = match value {
        Json::List(items) if !items.is_empty() => items,
        other => return Err(bad(place, other, &format!("a list of strings, each {what}, at least one"))),
    };
    let text = |(at, item): (usize, &Json)| match item {
        Json::Text(text) if !text.is_empty() => Ok(text.clone()),
        other => Err(bad(&format!("{place}[{at}]"), other, &format!("{what}, a string"))),
    };
    items.iter().enumerate().map(text).collect()
}

fn flag(value: &Json) -> Option<bool> {
    match value {
        Json::Flag(flag) => Some(*flag),
        _ => None,
    }
}

fn number(name: &str, value: &Json, most: usize) -> Result<usize, BadBody> {
    let number = match value {
        Json::Number(number) => integer(number).and_then(|number| usize::try_from(number).ok()),
        _ => None,
    };
    let number = number.filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| bad(name, value, &format!("an integer from 1 to {most}")))
}

/// A filter: the names of a list's filters, each with one value or a list of them.
fn filter(value: &Json) -> Result<Filter, BadBody> {
    let mut parameters: Vec<(&'static str, String)> = Vec::new();
    let mut seen = HashSet::new();
    let Json::Object(members) = value else { return Err(bad("filter", value, "an object")) };
    for (name, value) in members {
        let name = query::filter_name(name).map_err(BadBody::Filter)?;
        if !seen.insert(name) {
            return Err(BadBody::Twice { member: format!("filter.{name}") });
        }
        match value {
            Json::List(items) if items.is_empty() => {
                return Err(bad(&format!("filter.{name}"), value, "at least one value"));
            }
            Json::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    parameters.push((name, parameter(name, &format!("filter.{name}[{at}]"), item)?));
                }
            }
            single => parameters.push((name, parameter(name, &format!("filter.{name}"), single)?)),
        }
    }
    query::filter(parameters.into_iter()).map_err(BadBody::Filter)
}

/// A value as a query string would have it, which a string always is; numbers and flags are fine where they are meant.
fn parameter(name: &str, place: &str, value: &Json) -> Result<String, BadBody> {
    let is_flag = name == "clean_start";
    let is_integer = name == "proto_ver" || name.starts_with("_gte_") || name.starts_with("_lte_");
    match value {
        Json::Text(text) => Ok(text.clone()),
        Json::Flag(flag) if is_flag => Ok(flag.to_string()),
        Json::Number(number) if is_integer && let Some(integer) = integer(number) => Ok(integer.to_string()),
        other if is_flag => Err(bad(place, other, "true or false")),
        other if is_integer => Err(bad(place, other, "an integer of at most 64 bits")),
        other => Err(bad(place, other, "a string")),
    }
}

/// A number as an integer, be it written as 7 or as 7.0, which JSON does not tell apart.
fn integer(number: &serde_json::Number) -> Option<i128> {
    /// Below it every integer has a float of its own.
    const FLOATS: f64 = 9_007_199_254_740_992.0;
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() < FLOATS;
    number.as_i128().or_else(|| number.as_f64().filter(whole).map(|float| float as i128))
}

/// Whether no client can fail this filter, as far as that can be told without asking.
fn excludes_nobody(filter: &Filter, now_ms: i64) -> bool {
    let Filter {
        clientid,
        username,
        zone,
        ip_address,
        conn_state,
        clean_start,
        proto_name,
        proto_ver,
        like_clientid,
        like_username,
        gte_created_at_ms,
        lte_created_at_ms,
        gte_connected_at_ms,
        lte_connected_at_ms,
    } = filter;
    let all_of = |wanted: &[ConnState], given: &[i32]| {
        given.is_empty() || wanted.iter().all(|state| given.contains(&i32::from(*state)))
    };
    clientid.is_empty()
        && username.is_empty()
        && zone.is_empty()
        && proto_name.is_empty()
        && proto_ver.is_empty()
        && ip_address.is_empty()
        && all_of(&[ConnState::Connected, ConnState::Idle, ConnState::Disconnected], conn_state)
        && (clean_start.is_empty() || clean_start.contains(&true) && clean_start.contains(&false))
        && like_clientid.iter().chain(like_username).all(String::is_empty)
        && [gte_created_at_ms, gte_connected_at_ms]
            .into_iter()
            .flatten()
            .all(|bound| *bound < FIRST_SESSION_MS)
        && [lte_created_at_ms, lte_connected_at_ms].into_iter().flatten().all(|bound| *bound > now_ms)
}

#[cfg(test)]
mod tests;
