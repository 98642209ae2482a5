//! How many clients match, in all and in groups.
//!
//! How many clients there are of each zone, protocol and connection state is kept true by changes, so a count of all
//! clients by these costs no walk over rows. Any other is one pass over the rows that a filter leaves to look at, without
//! a copy of any: groups are counted under values borrowed from the rows. At most [`MAX_GROUPS`] groups, whose encodings have at most [`MAX_GROUPS_BYTES`]
//! together, so a count holds some 60 MiB at worst: the groups, and the table they were counted in. With more the
//! count is given up at the first group too many: a part of the groups would add up to wrong sums elsewhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rollcall_proto::group::GroupValue;
use rollcall_proto::v1::{ConnState, Group, GroupBy};
use rollcall_proto::{ClientRef, MAX_GROUPS, MAX_GROUPS_BYTES, Matcher, Order, SortField};

use super::columns::{Columns, STATES, place_of_state};
use super::origin::Origins;
use super::scan::Scan;
use super::segment::{Mask, NOBODY, Segment, bits};
use super::{Index, Stopped};

/// How many clients match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    /// In all.
    pub count: u64,
    /// By value, in no order; empty if no groups were asked for.
    pub groups: Vec<Group>,
}

/// Why there is no count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// The answer was no longer wanted.
    Stopped,
    /// More groups than a count may have.
    TooManyGroups,
}

impl From<Stopped> for Uncounted {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl Index {
    /// Counts the clients that match, at one moment. `stop` is asked now and then whether the answer is still
    /// wanted.
    ///
    /// # Errors
    /// [`Uncounted`].
    pub fn count(
        &self,
        matcher: &Matcher,
        group_by: GroupBy,
        stop: &dyn Fn() -> bool,
    ) -> Result<Count, Uncounted> {
        if matcher.is_unconditional() && is_of_kinds(group_by) {
            return self.count_kinds(group_by);
        }
        let snapshot = self.snapshot(SortField::Clientid);
        let columns = &snapshot.columns;
        if group_by == GroupBy::Unspecified && matcher.is_unconditional() {
            return Ok(Count { count: snapshot.len() as u64, groups: Vec::new() });
        }
        let mut tally = Tally::new(group_by, columns);
        if let Some(candidates) = snapshot.candidates(matcher) {
            for slot in snapshot.named(&candidates, matcher, stop)? {
                tally.add_row(&columns.row(slot).as_client_ref(&self.node))?;
            }
        } else {
            Scan::new(matcher, columns)
                .each_segment(columns, stop, |segment, rows| tally.add(segment, rows))?;
        }
        tally.into_count(columns)
    }

    /// How many rows [`Index::count`] would look at, about: tells long work from short.
    #[must_use]
    pub fn rows_to_count(&self, matcher: &Matcher, group_by: GroupBy) -> usize {
        if matcher.is_unconditional() && is_of_kinds(group_by) {
            return self.read().rows.kinds().len();
        }
        if group_by != GroupBy::Unspecified && matcher.is_unconditional() {
            return self.read().rows.len();
        }
        // Rows are counted as they would be picked in default order.
        self.rows_to_visit(matcher, Order::default())
    }

    /// Counts all clients by what is kept of them.
    fn count_kinds(&self, group_by: GroupBy) -> Result<Count, Uncounted> {
        let (origins, kinds) = {
            let rows = &self.read().rows;
            (rows.columns().origins().clone(), rows.kinds().to_vec())
        };
        let mut groups = Groups::new(MAX_GROUPS, MAX_GROUPS_BYTES);
        groups.add_kinds(group_by, &origins, kinds.iter().map(|rows| rows.map(u64::from)))?;
        Ok(Count { count: kinds.iter().flatten().copied().map(u64::from).sum(), groups: groups.into_wire() })
    }
}

/// Whether groups are told by the kinds of clients alone, of which numbers are kept.
fn is_of_kinds(group_by: GroupBy) -> bool {
    use GroupBy::{ConnState, Kind, ProtoName, ProtoVer, Zone};
    matches!(group_by, Zone | ProtoName | ProtoVer | ConnState | Kind)
}

/// A count under way.
struct Tally<'a> {
    group_by: GroupBy,
    count: u64,
    /// Rows by the number of their origin, where groups are by what origins keep, and by connection state, where by that too.
    by_origin: Vec<[u64; STATES.len()]>,
    groups: Groups<'a>,
}

impl<'a> Tally<'a> {
    fn new(group_by: GroupBy, columns: &Columns) -> Self {
        let groups = Groups::new(MAX_GROUPS, MAX_GROUPS_BYTES);
        Self { group_by, count: 0, by_origin: vec![[0; STATES.len()]; columns.origins().len()], groups }
    }

    fn add_row(&mut self, row: &ClientRef<'a>) -> Result<(), Uncounted> {
        self.count += 1;
        match self.group_by {
            GroupBy::Unspecified => Ok(()),
            group_by => self.groups.add(GroupValue::of(group_by, row), 1),
        }
    }

    /// Counts rows of a segment.
    fn add(&mut self, segment: &'a Segment, rows: Mask) -> Result<(), Uncounted> {
        let size = |rows: Mask| u64::from(rows.count_ones());
        self.count += size(rows);
        match self.group_by {
            GroupBy::Unspecified => Ok(()),
            GroupBy::Zone | GroupBy::ProtoName | GroupBy::ProtoVer => {
                for number in bits(rows).filter_map(|at| segment.origins.get(at)) {
                    self.by_origin[number as usize][0] += 1;
                }
                Ok(())
            }
            GroupBy::Kind => {
                for at in bits(rows) {
                    if let Some(number) = segment.origins.get(at) {
                        let state = place_of_state(segment.conn_states.get(at));
                        self.by_origin[number as usize][state] += 1;
                    }
                }
                Ok(())
            }
            GroupBy::ConnState => {
                let mut rest = rows;
                for state in [ConnState::Connected, ConnState::Idle, ConnState::Disconnected] {
                    let rows = rows & segment.conn_states.rows(state);
                    rest &= !rows;
                    self.add_group(&ClientRef { conn_state: state, ..NOBODY }, size(rows))?;
                }
                self.add_group(&NOBODY, size(rest))
            }
            GroupBy::CleanStart => {
                let mut rest = rows;
                for flag in [false, true] {
                    let rows = rows & segment.clean_starts.rows(flag);
                    rest &= !rows;
                    self.add_group(&ClientRef { clean_start: Some(flag), ..NOBODY }, size(rows))?;
                }
                self.add_group(&NOBODY, size(rest))
            }
            GroupBy::Username => bits(rows)
                .try_for_each(|at| self.groups.add(segment.usernames.get(at).map(GroupValue::Text), 1)),
        }
    }

    /// Adds so many rows that are like this one in what is grouped by.
    fn add_group(&mut self, like: &ClientRef<'a>, rows: u64) -> Result<(), Uncounted> {
        match rows {
            0 => Ok(()),
            rows => self.groups.add(GroupValue::of(self.group_by, like), rows),
        }
    }

    fn into_count(mut self, columns: &'a Columns) -> Result<Count, Uncounted> {
        self.groups.add_kinds(self.group_by, columns.origins(), self.by_origin.into_iter())?;
        Ok(Count { count: self.count, groups: self.groups.into_wire() })
    }
}

/// Groups while they are counted.
struct Groups<'a> {
    counts: HashMap<Option<GroupValue<'a>>, u64>,
    bytes: usize,
    most_groups: usize,
    most_bytes: usize,
}

impl<'a> Groups<'a> {
    fn new(most_groups: usize, most_bytes: usize) -> Self {
        Self { counts: HashMap::new(), bytes: 0, most_groups, most_bytes }
    }

    fn add(&mut self, value: Option<GroupValue<'a>>, rows: u64) -> Result<(), Uncounted> {
        let known = self.counts.len();
        match self.counts.entry(value) {
            Entry::Occupied(mut count) => *count.get_mut() += rows,
            Entry::Vacant(new) => {
                self.bytes += most_encoded(value);
                if known == self.most_groups || self.bytes > self.most_bytes {
                    return Err(Uncounted::TooManyGroups);
                }
                new.insert(rows);
            }
        }
        Ok(())
    }

    /// Adds rows of each origin, by its number, and of each connection state, in the order of [`STATES`].
    fn add_kinds(
        &mut self,
        group_by: GroupBy,
        origins: &'a Origins,
        rows: impl Iterator<Item = [u64; STATES.len()]>,
    ) -> Result<(), Uncounted> {
        for (origin, rows) in origins.iter().zip(rows) {
            for (conn_state, rows) in STATES.into_iter().zip(rows).filter(|(_, rows)| *rows > 0) {
                let like = ClientRef { conn_state, ..origin.as_client_ref() };
                self.add(GroupValue::of(group_by, &like), rows)?;
            }
        }
        Ok(())
    }

    fn into_wire(self) -> Vec<Group> {
        self.counts.into_iter().map(|(value, count)| Group::of(value, count)).collect()
    }
}

/// The most bytes a group of this value can have on the wire, whatever its count.
fn most_encoded(value: Option<GroupValue<'_>>) -> usize {
    // 4 bytes of a tag and a length before the group, 11 of the count; a text's own tag and length take at most 4.
    15 + match value {
        None => 0,
        Some(GroupValue::Text(text)) => 4 + text.len(),
        Some(GroupValue::Number(_)) => 6,
        Some(GroupValue::Flag(_) | GroupValue::ConnState(_)) => 2,
        // As the texts above, a number and a state, in a message of their own.
        Some(GroupValue::Kind { zone, proto_name, .. }) => {
            20 + [zone, proto_name].into_iter().flatten().map(str::len).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_too_many_is_told_and_a_known_one_is_not_counted_as_one() {
        let mut groups = Groups::new(2, 1 << 20);
        for value in [None, Some(GroupValue::Number(1)), None, Some(GroupValue::Number(1))] {
            assert_eq!(groups.add(value, 1), Ok(()));
        }
        assert_eq!(groups.add(Some(GroupValue::Number(2)), 1), Err(Uncounted::TooManyGroups));
        let mut wide = Groups::new(100, 1_000);
        let (first, second) = ("x".repeat(600), "y".repeat(600));
        assert_eq!(wide.add(Some(GroupValue::Text(&first)), 1), Ok(()));
        assert_eq!(wide.add(Some(GroupValue::Text(&first)), 1), Ok(()));
        assert_eq!(wide.add(Some(GroupValue::Text(&second)), 1), Err(Uncounted::TooManyGroups));
    }

    #[test]
    fn no_group_is_larger_than_it_is_taken_for() {
        use prost::Message as _;
        let text = "x".repeat(65_535);
        for value in [
            None,
            Some(GroupValue::Text("")),
            Some(GroupValue::Text(&text)),
            Some(GroupValue::Number(u32::MAX)),
            Some(GroupValue::Flag(true)),
            Some(GroupValue::ConnState(ConnState::Disconnected)),
            Some(GroupValue::Kind {
                zone: Some(&text),
                proto_name: Some(&text),
                proto_ver: Some(u32::MAX),
                conn_state: ConnState::Disconnected,
            }),
        ] {
            // A group in a message is preceded by a tag and a length of at most 4 bytes.
            let encoded = Group::of(value, u64::MAX).encoded_len() + 4;
            assert!(encoded <= most_encoded(value), "{encoded} of {}", most_encoded(value));
        }
    }
}
