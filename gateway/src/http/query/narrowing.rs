//! Which clients a request is about: the parameters that lists and counts have in common, and the filter of a bulk kick,
//! which has the same names and values.

use std::net::IpAddr;

use rollcall_proto::address;
use rollcall_proto::v1::{ConnState, Filter};

use super::{
    BadParameter, FILTERS, Given, LIST, MOST_PARAMETERS, Parameter, bad_value, flag, integer, set, unknown,
};
use crate::cluster::Scope;

/// What was read so far.
#[derive(Default)]
pub(super) struct Narrowing {
    filter: Filter,
    nodes: Vec<String>,
    partial: Option<bool>,
}

/// Which clients, on which nodes.
pub(super) struct Narrowed {
    pub(super) filter: Filter,
    pub(super) scope: Scope,
    /// Whether an answer that lacks nodes is welcome; `None` if nothing was said.
    pub(super) partial: Option<bool>,
}

impl Narrowing {
    /// Takes in a filter, `_node` or `_partial`, and gives back any other parameter.
    pub(super) fn take(&mut self, parameter: Parameter) -> Result<Option<Parameter>, BadParameter> {
        let Parameter { name, value } = parameter;
        let filter = &mut self.filter;
        let bad = |expected: &str| bad_value(name, &value, expected);
        let seconds =
            || Ok(integer(&value).ok_or_else(|| bad("an integer, seconds since 1970"))?.saturating_mul(1000));
        match name {
            "clientid" => filter.clientid.push(value),
            "username" => filter.username.push(value),
            "zone" => filter.zone.push(value),
            "proto_name" => filter.proto_name.push(value),
            "proto_ver" => filter.proto_ver.push(integer(&value).ok_or_else(|| bad("an integer"))?),
            "ip_address" => {
                let ip: IpAddr = value.parse().map_err(|_| bad("an IPv4 or IPv6 address"))?;
                filter.ip_address.push(address::to_wire(ip));
            }
            "conn_state" => {
                let state = match value.as_str() {
                    "connected" => ConnState::Connected,
                    "idle" => ConnState::Idle,
                    "disconnected" => ConnState::Disconnected,
                    _ => return Err(bad("connected, idle or disconnected")),
                };
                filter.conn_state.push(state.into());
            }
            "clean_start" => filter.clean_start.push(flag(&value).ok_or_else(|| bad("true or false"))?),
            "_like_clientid" => filter.like_clientid.push(value),
            "_like_username" => filter.like_username.push(value),
            "_gte_created_at" => at_least(&mut filter.gte_created_at_ms, seconds()?),
            "_lte_created_at" => at_most(&mut filter.lte_created_at_ms, seconds()?),
            "_gte_connected_at" => at_least(&mut filter.gte_connected_at_ms, seconds()?),
            "_lte_connected_at" => at_most(&mut filter.lte_connected_at_ms, seconds()?),
            "_partial" => set(&mut self.partial, name, flag(&value).ok_or_else(|| bad("true or false"))?)?,
            "_node" if value.is_empty() => return Err(bad("the name of a node")),
            "_node" => self.nodes.push(value),
            _ => return Ok(Some(Parameter { name, value })),
        }
        Ok(None)
    }

    /// All of it, with what the path says.
    pub(super) fn given(self, given: Given<'_>) -> Narrowed {
        let Self { mut filter, mut nodes, partial } = self;
        nodes.extend(given.node.map(str::to_owned));
        if let Some(username) = given.username {
            narrow_username(&mut filter, username);
        }
        let scope = if nodes.is_empty() { Scope::All } else { Scope::Only(nodes) };
        Narrowed { filter, scope, partial }
    }
}

/// The filter of this name, among those that a list takes.
pub(in crate::http) fn filter_name(name: &str) -> Result<&'static str, BadParameter> {
    let filters = &LIST[..FILTERS];
    let known = filters.iter().copied().find(|known| *known == name);
    known.ok_or_else(|| unknown(name.to_owned(), filters))
}

/// Reads filters, by names of [`filter_name`] and with the values that they have in a query string.
pub(in crate::http) fn filter(
    filters: impl ExactSizeIterator<Item = (&'static str, String)>,
) -> Result<Filter, BadParameter> {
    if filters.len() > MOST_PARAMETERS {
        return Err(BadParameter::TooMany { count: filters.len() });
    }
    let mut narrowing = Narrowing::default();
    for (name, value) in filters {
        narrowing.take(Parameter { name, value })?;
    }
    Ok(narrowing.filter)
}

/// Lets only this user name through, of those the filter lets through.
fn narrow_username(filter: &mut Filter, username: &str) {
    let excluded = !filter.username.is_empty() && !filter.username.iter().any(|wanted| wanted == username);
    filter.username = vec![username.to_owned()];
    if excluded {
        // Nothing can match, and an empty list of names would match everything: the nodes are asked for what no
        // client is, so that the empty answer still says which of them it rests on.
        filter.gte_created_at_ms = Some(i64::MAX);
        filter.lte_created_at_ms = Some(i64::MIN);
    }
}

/// Of several lower bounds the highest counts.
fn at_least(bound: &mut Option<i64>, value: i64) {
    *bound = Some(bound.map_or(value, |bound| bound.max(value)));
}

/// Of several upper bounds the lowest counts.
fn at_most(bound: &mut Option<i64>, value: i64) {
    *bound = Some(bound.map_or(value, |bound| bound.min(value)));
}
