//! Which clients a filter lets through.
//!
//! Conditions combine with AND; several exact values of one field mean any of them, several substrings all of
//! them. A client that lacks a field matches no condition on it. The one exception is `like_username`: a missing
//! user name counts as empty text, as in EMQX, so that an empty search box narrows nothing.

use std::net::IpAddr;

use memchr::memmem::Finder;
use thiserror::Error;

use crate::v1::{ConnState, Filter};
use crate::{ClientRef, address};

/// A filter made ready to run over many clients.
#[derive(Clone, Debug)]
pub struct Matcher {
    filter: Filter,
    ip_addresses: Vec<IpAddr>,
    conn_states: Vec<ConnState>,
    like_clientid: Vec<Finder<'static>>,
    like_username: Vec<Finder<'static>>,
}

/// A filter that this contract does not allow.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidFilter {
    /// An address is neither 4 nor 16 bytes long.
    #[error("ip_address of {0} bytes, expected 4 or 16")]
    AddressLength(usize),
    /// A connection state is unspecified or not of this contract.
    #[error("conn_state {0} is not known")]
    ConnState(i32),
}

impl Matcher {
    /// Makes a filter ready.
    ///
    /// # Errors
    /// [`InvalidFilter`] if an address or a connection state is none.
    pub fn new(filter: Filter) -> Result<Self, InvalidFilter> {
        let ip_addresses = filter
            .ip_address
            .iter()
            .map(|bytes| address::from_wire(bytes).ok_or(InvalidFilter::AddressLength(bytes.len())))
            .collect::<Result<_, _>>()?;
        let conn_states = filter
            .conn_state
            .iter()
            .map(|&state| match ConnState::try_from(state) {
                Ok(ConnState::Unspecified) | Err(_) => Err(InvalidFilter::ConnState(state)),
                Ok(known) => Ok(known),
            })
            .collect::<Result<_, _>>()?;
        let finders = |needles: &[String]| {
            needles.iter().map(|needle| Finder::new(needle.as_bytes()).into_owned()).collect()
        };
        let like_clientid = finders(&filter.like_clientid);
        let like_username = finders(&filter.like_username);
        Ok(Self { ip_addresses, conn_states, like_clientid, like_username, filter })
    }

    /// The filter as it came.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The addresses of which a client must have one; none is no condition.
    #[must_use]
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.ip_addresses
    }

    /// The connection states of which a client must have one, never the unspecified; none is no condition.
    #[must_use]
    pub fn conn_states(&self) -> &[ConnState] {
        &self.conn_states
    }

    /// Whether every client matches, because there is no condition.
    #[must_use]
    pub fn is_unconditional(&self) -> bool {
        self.filter == Filter::default()
    }

    /// Whether the client matches.
    #[must_use]
    pub fn matches(&self, client: &ClientRef<'_>) -> bool {
        let filter = &self.filter;
        any_text(&filter.clientid, Some(client.clientid))
            && any_text(&filter.username, client.username)
            && any_text(&filter.zone, client.zone)
            && any_text(&filter.proto_name, client.proto_name)
            && any_of(&filter.proto_ver, client.proto_ver.map(i64::from))
            && any_of(&self.ip_addresses, client.ip_address)
            && any_of(&self.conn_states, Some(client.conn_state))
            && any_of(&filter.clean_start, client.clean_start)
            && within(filter.gte_created_at_ms, filter.lte_created_at_ms, client.created_at_ms)
            && within(filter.gte_connected_at_ms, filter.lte_connected_at_ms, client.connected_at_ms)
            && contains_all(&self.like_clientid, client.clientid)
            && contains_all(&self.like_username, client.username.unwrap_or_default())
    }
}

fn any_text(wanted: &[String], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|text| text == value))
}

fn any_of<T: PartialEq>(wanted: &[T], value: Option<T>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.contains(&value))
}

fn within(from: Option<i64>, to: Option<i64>, value: Option<i64>) -> bool {
    match value {
        None => from.is_none() && to.is_none(),
        Some(value) => from.is_none_or(|from| value >= from) && to.is_none_or(|to| value <= to),
    }
}

fn contains_all(needles: &[Finder<'_>], text: &str) -> bool {
    needles.iter().all(|needle| needle.find(text.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1::Client;

    fn client() -> Client {
        Client {
            node: "a@127.0.0.1".into(),
            clientid: "dev-1.*".into(),
            session: 1,
            username: Some("alice".into()),
            zone: Some("external".into()),
            proto_name: Some("MQTT".into()),
            proto_ver: Some(5),
            ip_address: vec![10, 0, 0, 1],
            clean_start: Some(true),
            conn_state: ConnState::Connected.into(),
            connected_at_ms: Some(2_000),
            created_at_ms: Some(1_000),
            ..Client::default()
        }
    }

    fn lets_through(filter: Filter, client: &Client) -> bool {
        Matcher::new(filter).unwrap().matches(&client.as_client_ref())
    }

    #[test]
    fn each_condition_lets_its_value_through_and_nothing_else() {
        let text = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
        let none = Filter::default;
        let cases = [
            (Filter { clientid: text(&["dev-1.*"]), ..none() }, true),
            (Filter { clientid: text(&["dev-1xx"]), ..none() }, false),
            (Filter { clientid: text(&["x", "dev-1.*"]), ..none() }, true),
            (Filter { username: text(&["alice"]), ..none() }, true),
            (Filter { username: text(&["Alice"]), ..none() }, false),
            (Filter { zone: text(&["external"]), ..none() }, true),
            (Filter { zone: text(&[""]), ..none() }, false),
            (Filter { proto_name: text(&["MQTT"]), ..none() }, true),
            (Filter { proto_name: text(&["mqtt"]), ..none() }, false),
            (Filter { proto_ver: vec![5], ..none() }, true),
            (Filter { proto_ver: vec![-5, 4], ..none() }, false),
            (Filter { ip_address: vec![vec![10, 0, 0, 1]], ..none() }, true),
            (Filter { ip_address: vec![vec![10, 0, 0, 2]], ..none() }, false),
            (Filter { conn_state: vec![ConnState::Connected.into()], ..none() }, true),
            (Filter { conn_state: vec![ConnState::Idle.into()], ..none() }, false),
            (Filter { clean_start: vec![true], ..none() }, true),
            (Filter { clean_start: vec![false], ..none() }, false),
            (Filter { like_clientid: text(&["1.*"]), ..none() }, true),
            (Filter { like_clientid: text(&["DEV"]), ..none() }, false),
            (Filter { like_clientid: text(&["dev", "xx"]), ..none() }, false),
            (Filter { like_clientid: text(&["dev", "*"]), ..none() }, true),
            (Filter { like_clientid: text(&[""]), ..none() }, true),
            (Filter { like_username: text(&["lic"]), ..none() }, true),
            (Filter { like_username: text(&["bob"]), ..none() }, false),
            (Filter { gte_created_at_ms: Some(1_000), lte_created_at_ms: Some(1_000), ..none() }, true),
            (Filter { gte_created_at_ms: Some(1_001), ..none() }, false),
            (Filter { lte_created_at_ms: Some(999), ..none() }, false),
            (Filter { gte_connected_at_ms: Some(2_000), lte_connected_at_ms: Some(2_000), ..none() }, true),
            (Filter { gte_connected_at_ms: Some(2_001), ..none() }, false),
            (Filter { lte_connected_at_ms: Some(1_999), ..none() }, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(lets_through(filter.clone(), &client()), expected, "{filter:?}");
        }
    }

    #[test]
    fn an_absent_field_matches_no_condition_but_an_empty_username_search() {
        let bare = Client { clientid: "c".into(), conn_state: ConnState::Idle.into(), ..Client::default() };
        let none = Filter::default;
        for filter in [
            Filter { username: vec![String::new()], ..none() },
            Filter { zone: vec![String::new()], ..none() },
            Filter { proto_ver: vec![0], ..none() },
            Filter { ip_address: vec![vec![0; 4]], ..none() },
            Filter { clean_start: vec![false], ..none() },
            Filter { gte_created_at_ms: Some(i64::MIN), ..none() },
            Filter { lte_connected_at_ms: Some(i64::MAX), ..none() },
            Filter { like_username: vec!["undefined".into()], ..none() },
        ] {
            assert!(!lets_through(filter.clone(), &bare), "{filter:?}");
        }
        assert!(lets_through(Filter { like_username: vec![String::new()], ..none() }, &bare));
    }

    #[test]
    fn what_the_contract_does_not_allow_is_refused() {
        let filter = Filter { ip_address: vec![vec![1, 2]], ..Filter::default() };
        assert_eq!(Matcher::new(filter).unwrap_err(), InvalidFilter::AddressLength(2));
        for state in [0, 7] {
            let filter = Filter { conn_state: vec![state], ..Filter::default() };
            assert_eq!(Matcher::new(filter).unwrap_err(), InvalidFilter::ConnState(state));
        }
    }

    proptest! {
        /// Two filters put together let through what both let through, but for exact values, which add up.
        #[test]
        fn conditions_of_different_fields_combine_with_and(
            id in "[ab]{1,3}", user in proptest::option::of("[ab]{0,2}"),
            like_id in "[ab]{0,2}", like_user in "[ab]{0,2}",
        ) {
            let row = Client { clientid: id.clone(), username: user.clone(), ..client() };
            let by_id = Filter { like_clientid: vec![like_id.clone()], ..Filter::default() };
            let by_user = Filter { like_username: vec![like_user.clone()], ..Filter::default() };
            let both = Filter { like_clientid: vec![like_id], like_username: vec![like_user], ..Filter::default() };
            prop_assert_eq!(lets_through(both, &row), lets_through(by_id, &row) && lets_through(by_user, &row));
        }
    }
}
