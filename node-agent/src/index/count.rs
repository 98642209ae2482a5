//! How many clients match, in all and in groups.
//!
//! One pass over the rows that a filter leaves to look at, without a copy of any: groups are counted under values
//! borrowed from the rows. At most [`MAX_GROUPS`] groups, whose encodings have at most [`MAX_GROUPS_BYTES`]
//! together, so a count holds some 60 MiB at worst: the groups, and the table they were counted in. With more the
//! count is given up at the first group too many: a part of the groups would add up to wrong sums elsewhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rollcall_proto::group::GroupValue;
use rollcall_proto::v1::{Group, GroupBy};
use rollcall_proto::{MAX_GROUPS, MAX_GROUPS_BYTES, Matcher, Order};

use super::row::Row;
use super::{Index, Stopped, candidates, rows_of};

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
        let lists = self.read().lists.clone();
        if group_by == GroupBy::Unspecified && matcher.is_unconditional() {
            return Ok(Count { count: lists.by_clientid.len() as u64, groups: Vec::new() });
        }
        let mut count = 0;
        let mut groups = Groups::new(MAX_GROUPS, MAX_GROUPS_BYTES);
        let rows: Box<dyn Iterator<Item = &Arc<Row>>> = match candidates(&lists, matcher) {
            Some((list, ranges, _)) => Box::new(rows_of(list, ranges)),
            None => Box::new(lists.by_clientid.iter_from(0)),
        };
        self.each_match(rows, matcher, stop, |row| {
            count += 1;
            match group_by {
                GroupBy::Unspecified => Ok(()),
                _ => groups.add(GroupValue::of(group_by, &row.as_client_ref(&self.node))),
            }
        })?;
        Ok(Count { count, groups: groups.into_wire() })
    }

    /// How many rows [`Index::count`] would look at, about: tells long work from short.
    #[must_use]
    pub fn rows_to_count(&self, matcher: &Matcher, group_by: GroupBy) -> usize {
        if group_by != GroupBy::Unspecified && matcher.is_unconditional() {
            return self.read().lists.by_clientid.len();
        }
        // Rows are counted as they would be picked in default order.
        self.rows_to_visit(matcher, Order::default())
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

    fn add(&mut self, value: Option<GroupValue<'a>>) -> Result<(), Uncounted> {
        let known = self.counts.len();
        match self.counts.entry(value) {
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(new) => {
                self.bytes += most_encoded(value);
                if known == self.most_groups || self.bytes > self.most_bytes {
                    return Err(Uncounted::TooManyGroups);
                }
                new.insert(1);
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_too_many_is_told_and_a_known_one_is_not_counted_as_one() {
        let mut groups = Groups::new(2, 1 << 20);
        for value in [None, Some(GroupValue::Number(1)), None, Some(GroupValue::Number(1))] {
            assert_eq!(groups.add(value), Ok(()));
        }
        assert_eq!(groups.add(Some(GroupValue::Number(2))), Err(Uncounted::TooManyGroups));
        let mut wide = Groups::new(100, 1_000);
        let (first, second) = ("x".repeat(600), "y".repeat(600));
        assert_eq!(wide.add(Some(GroupValue::Text(&first))), Ok(()));
        assert_eq!(wide.add(Some(GroupValue::Text(&first))), Ok(()));
        assert_eq!(wide.add(Some(GroupValue::Text(&second))), Err(Uncounted::TooManyGroups));
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
            Some(GroupValue::ConnState(rollcall_proto::v1::ConnState::Disconnected)),
        ] {
            // A group in a message is preceded by a tag and a length of at most 4 bytes.
            let encoded = Group::of(value, u64::MAX).encoded_len() + 4;
            assert!(encoded <= most_encoded(value), "{encoded} of {}", most_encoded(value));
        }
    }
}
