//! Groups of several nodes become one count: added up by value, the largest first.
//!
//! Every node sends all of its groups: the largest of the cluster need not be among the largest of any node. A node's
//! groups are checked, not trusted: groups that do not add up to the node's own total would make an answer that
//! contradicts itself. Such a node's answer is a `protocol` failure.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use rollcall_proto::v1::{self, ConnState, group};
use thiserror::Error;

/// What clients can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The owning node.
    Node,
    /// The listener's zone.
    Zone,
    /// The protocol's name.
    ProtoName,
    /// The protocol's level.
    ProtoVer,
    /// The connection's state.
    ConnState,
    /// Clean Start.
    CleanStart,
    /// The user name.
    Username,
}

impl GroupBy {
    /// All of them, in the order they are documented.
    pub const ALL: [Self; 7] = [
        Self::Node,
        Self::Zone,
        Self::ProtoName,
        Self::ProtoVer,
        Self::ConnState,
        Self::CleanStart,
        Self::Username,
    ];

    /// The name of the row's field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Zone => "zone",
            Self::ProtoName => "proto_name",
            Self::ProtoVer => "proto_ver",
            Self::ConnState => "conn_state",
            Self::CleanStart => "clean_start",
            Self::Username => "username",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group_by| group_by.name() == name)
    }

    /// What a node is asked to group by: grouping by node takes no more than each node's total.
    #[must_use]
    pub fn on_node(self) -> v1::GroupBy {
        match self {
            Self::Node => v1::GroupBy::Unspecified,
            Self::Zone => v1::GroupBy::Zone,
            Self::ProtoName => v1::GroupBy::ProtoName,
            Self::ProtoVer => v1::GroupBy::ProtoVer,
            Self::ConnState => v1::GroupBy::ConnState,
            Self::CleanStart => v1::GroupBy::CleanStart,
            Self::Username => v1::GroupBy::Username,
        }
    }
}

/// What the clients of a group have in common. All values of one count are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A name, or a connection state as the API writes it.
    Text(String),
    /// A protocol level.
    Number(u32),
    /// Clean Start.
    Flag(bool),
}

/// Clients of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `None`: those without one.
    pub value: Option<Value>,
    /// How many, from 1.
    pub count: u64,
}

impl Group {
    /// The larger first; of equals those without a value last, the others by value.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        let absence = |group: &Self| group.value.is_none();
        (other.count.cmp(&self.count))
            .then_with(|| absence(self).cmp(&absence(other)))
            .then_with(|| self.value.cmp(&other.value))
    }
}

/// Groups that a node must not send.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidGroups {
    /// A value is of another kind than asked for.
    #[error("group {at} is not of {}", group_by.as_str_name())]
    Kind {
        /// Index of the group.
        at: usize,
        /// What was asked for.
        group_by: v1::GroupBy,
    },
    /// Nobody is in a group.
    #[error("group {at} is empty")]
    Empty {
        /// Index of the group.
        at: usize,
    },
    /// One value stands there twice.
    #[error("group {at} has the value of an earlier one")]
    Twice {
        /// Index of the second.
        at: usize,
    },
    /// The groups do not make up the total.
    #[error("groups of {sum} clients in all, expected {count}")]
    Sum {
        /// The groups' clients.
        sum: u64,
        /// The node's total.
        count: u64,
    },
}

/// Reads and checks the groups of one node, `count` clients in all.
///
/// # Errors
/// [`InvalidGroups`] says what is wrong with the first bad group, or with all of them.
pub fn own_groups(
    group_by: v1::GroupBy,
    count: u64,
    groups: Vec<v1::Group>,
) -> Result<Vec<Group>, InvalidGroups> {
    let read = checked(group_by, count, groups, |of| value(group_by, of))?;
    Ok(read.into_iter().map(|(value, count)| Group { value, count }).collect())
}

/// Checks the groups of one node, whose values `read` reads, or not if they are of another kind.
pub(super) fn checked<V: Hash + Eq>(
    group_by: v1::GroupBy,
    count: u64,
    groups: Vec<v1::Group>,
    read: impl Fn(Option<group::Value>) -> Option<V>,
) -> Result<Vec<(V, u64)>, InvalidGroups> {
    let read = groups.into_iter().enumerate().map(|(at, group)| {
        if group.count == 0 {
            return Err(InvalidGroups::Empty { at });
        }
        let value = read(group.value).ok_or(InvalidGroups::Kind { at, group_by })?;
        Ok((value, group.count))
    });
    let groups = read.collect::<Result<Vec<_>, _>>()?;
    let mut known = HashSet::with_capacity(groups.len());
    if let Some(at) = groups.iter().position(|(value, _)| !known.insert(value)) {
        return Err(InvalidGroups::Twice { at });
    }
    let sum = groups.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let expected = if group_by == v1::GroupBy::Unspecified { 0 } else { count };
    if sum == expected { Ok(groups) } else { Err(InvalidGroups::Sum { sum, count: expected }) }
}

/// A value, if it is of the right kind.
#[expect(clippy::option_option, reason = "an absent value is of every kind")]
fn value(group_by: v1::GroupBy, value: Option<group::Value>) -> Option<Option<Value>> {
    use v1::GroupBy as By;
    let value = match (group_by, value) {
        (By::Unspecified, _) => return None,
        (_, None) => return Some(None),
        (By::Zone | By::ProtoName | By::Username, Some(group::Value::Text(text))) => Value::Text(text),
        (By::ProtoVer, Some(group::Value::Number(number))) => Value::Number(number),
        (By::CleanStart, Some(group::Value::Flag(flag))) => Value::Flag(flag),
        (By::ConnState, Some(group::Value::ConnState(state))) => {
            Value::Text(conn_state(ConnState::try_from(state).ok()?)?.to_owned())
        }
        _ => return None,
    };
    Some(Some(value))
}

pub(super) fn conn_state(state: ConnState) -> Option<&'static str> {
    match state {
        ConnState::Unspecified => None,
        ConnState::Connected => Some("connected"),
        ConnState::Idle => Some("idle"),
        ConnState::Disconnected => Some("disconnected"),
    }
}

/// Groups while they are added up. Holds each value once, whatever the number of nodes.
#[derive(Debug, Default)]
pub struct Tally {
    counts: HashMap<Option<Value>, u64>,
}

impl Tally {
    /// Adds the groups of one node.
    pub fn add(&mut self, groups: impl IntoIterator<Item = Group>) {
        for Group { value, count } in groups {
            match self.counts.entry(value) {
                Entry::Occupied(mut sum) => *sum.get_mut() = sum.get().saturating_add(count),
                Entry::Vacant(new) => drop(new.insert(count)),
            }
        }
    }

    /// The largest, at most `most`.
    #[must_use]
    pub fn top(self, most: usize) -> Top {
        let mut groups: Vec<Group> =
            self.counts.into_iter().map(|(value, count)| Group { value, count }).collect();
        let total = groups.len();
        let mut other = 0;
        if most < total {
            groups.select_nth_unstable_by(most, Group::order);
            other = groups.drain(most..).fold(0_u64, |sum, group| sum.saturating_add(group.count));
            groups.shrink_to_fit();
        }
        groups.sort_unstable_by(Group::order);
        Top { groups, total, other }
    }
}

/// The largest groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// In order: the largest first.
    pub groups: Vec<Group>,
    /// Groups there are, these and the others.
    pub total: usize,
    /// Clients in the others.
    pub other: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::v1::GroupBy as By;

    use super::*;

    fn text(value: &str, count: u64) -> v1::Group {
        v1::Group { value: Some(group::Value::Text(value.into())), count }
    }

    fn absent(count: u64) -> v1::Group {
        v1::Group { value: None, count }
    }

    fn state(state: i32) -> v1::Group {
        v1::Group { value: Some(group::Value::ConnState(state)), count: 1 }
    }

    #[test]
    fn names_are_those_of_fields_and_nodes_are_asked_for_what_they_know() {
        for group_by in GroupBy::ALL {
            assert_eq!(GroupBy::from_name(group_by.name()), Some(group_by));
            let on_node = group_by.on_node().as_str_name().to_ascii_lowercase();
            let expected = if group_by == GroupBy::Node { "unspecified" } else { group_by.name() };
            assert_eq!(on_node, format!("group_by_{expected}"));
        }
        assert_eq!(GroupBy::from_name("Zone"), None);
    }

    #[test]
    fn groups_are_read_by_kind() {
        let number = v1::Group { value: Some(group::Value::Number(5)), count: 2 };
        let flag = v1::Group { value: Some(group::Value::Flag(false)), count: 3 };
        let read = |group_by, count, groups| {
            let groups = own_groups(group_by, count, groups).unwrap();
            groups.into_iter().map(|group| (group.value, group.count)).collect::<Vec<_>>()
        };
        let named = |name: &str| Some(Value::Text(name.into()));
        assert_eq!(read(By::Username, 3, vec![text("", 1), absent(2)]), [(named(""), 1), (None, 2)]);
        assert_eq!(read(By::ProtoVer, 2, vec![number]), [(Some(Value::Number(5)), 2)]);
        assert_eq!(read(By::CleanStart, 3, vec![flag]), [(Some(Value::Flag(false)), 3)]);
        assert_eq!(
            read(By::ConnState, 3, vec![state(1), state(2), state(3)]),
            [(named("connected"), 1), (named("idle"), 1), (named("disconnected"), 1)]
        );
        assert_eq!(read(By::Unspecified, 7, vec![]), []);
        assert_eq!(read(By::Zone, 0, vec![]), []);
    }

    #[test]
    fn what_a_node_must_not_send_is_refused() {
        let refused = |group_by, count, groups| own_groups(group_by, count, groups).unwrap_err();
        let kind = |group_by| InvalidGroups::Kind { at: 0, group_by };
        assert_eq!(refused(By::ProtoVer, 1, vec![text("5", 1)]), kind(By::ProtoVer));
        assert_eq!(refused(By::Zone, 1, vec![state(1)]), kind(By::Zone));
        assert_eq!(refused(By::ConnState, 1, vec![state(0)]), kind(By::ConnState));
        assert_eq!(refused(By::ConnState, 1, vec![state(4)]), kind(By::ConnState));
        assert_eq!(refused(By::Unspecified, 1, vec![absent(1)]), kind(By::Unspecified));
        assert_eq!(refused(By::Zone, 0, vec![absent(0)]), InvalidGroups::Empty { at: 0 });
        let twice = vec![text("a", 1), absent(1), text("a", 1)];
        assert_eq!(refused(By::Zone, 3, twice), InvalidGroups::Twice { at: 2 });
        assert_eq!(refused(By::Zone, 2, vec![absent(1)]), InvalidGroups::Sum { sum: 1, count: 2 });
        assert_eq!(refused(By::Zone, 1, vec![]), InvalidGroups::Sum { sum: 0, count: 1 });
    }

    proptest! {
        /// Against a Vec with one value a client, on whichever node.
        #[test]
        fn the_top_is_that_of_all_clients(
            nodes in proptest::collection::vec(
                proptest::collection::vec(proptest::option::of("[a-d]{0,2}"), 0..40), 0..5),
            most in 1..12_usize,
        ) {
            let count_of = |clients: &[Option<String>], value: &Option<String>| {
                clients.iter().filter(|own| *own == value).count() as u64
            };
            let groups_of = |clients: &[Option<String>]| {
                let mut values = clients.to_vec();
                values.sort();
                values.dedup();
                values.into_iter().map(|value| {
                    let count = count_of(clients, &value);
                    Group { value: value.map(Value::Text), count }
                }).collect::<Vec<_>>()
            };
            let mut tally = Tally::default();
            for clients in &nodes {
                tally.add(groups_of(clients));
            }
            let mut expected = groups_of(&nodes.concat());
            // Absent values sort first above; they come last among equals.
            expected.sort_by_key(|group| (u64::MAX - group.count, group.value.is_none(), group.value.clone()));
            let others = expected.split_off(most.min(expected.len()));
            let top = tally.top(most);
            prop_assert_eq!(top.total, expected.len() + others.len());
            prop_assert_eq!(top.other, others.iter().map(|group| group.count).sum::<u64>());
            prop_assert_eq!(top.groups, expected);
        }
    }
}
