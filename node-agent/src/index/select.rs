//! Which rows of one state match, in which order.
//!
//! An exact clientid or username leaves a few ranges of a list over. Any other filter is a [`Scan`]; then a list that is
//! in the wanted order is walked through and what matches is picked, or, if few rows match, these are sorted.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::v1::Filter;
use rollcall_proto::{Matcher, SortField};

use super::columns::Columns;
use super::lists::listed;
use super::ordered::Ordered;
use super::scan::{Matches, Scan};
use super::sorts::{sort_by_clientid, sort_by_field};
use super::view::Arranged;
use super::{Index, STOP_INTERVAL, Stopped};

/// So many rows are scanned or walked through in the time that one row takes to be looked at alone, or to be sorted
/// among some thousand.
const WALKED_PER_ROW: usize = 256;

/// Where one in so many rows matches, sorting all of them, and keeping that, is worth its time.
const SORT_ALL: usize = 4;

/// The rows at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) columns: Columns,
    pub(super) by_clientid: Ordered,
    pub(super) by_username: Ordered,
    /// By the field that is asked for, if there is such a list.
    pub(super) by_field: Option<Ordered>,
    /// Bytes that changes had left to views.
    pub(super) left: u64,
}

/// What an exact clientid or username leaves over: ranges of a list, in its order.
pub(super) struct Candidates<'a> {
    list: &'a Ordered,
    ranges: Vec<Range<usize>>,
    /// The order they stand in.
    sorted_by: SortField,
}

impl Candidates<'_> {
    pub(super) fn len(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    fn slots(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().flat_map(|range| self.list.pieces(range.clone())).flatten().copied()
    }
}

impl Snapshot {
    pub(super) fn len(&self) -> usize {
        self.by_clientid.len()
    }

    /// `None` without a condition on exact clientids or usernames.
    pub(super) fn candidates(&self, matcher: &Matcher) -> Option<Candidates<'_>> {
        let filter = matcher.filter();
        let distinct = |texts: &'_ [String]| texts.iter().cloned().collect::<BTreeSet<String>>();
        if !filter.clientid.is_empty() {
            let (list, id) = (&self.by_clientid, |slot| self.columns.row(slot).clientid());
            let range_of = |wanted: String| {
                list.partition_point(|slot| id(slot) < wanted.as_str())
                    ..list.partition_point(|slot| id(slot) <= wanted.as_str())
            };
            let ranges = distinct(&filter.clientid).into_iter().map(range_of).collect();
            return Some(Candidates { list, ranges, sorted_by: SortField::Clientid });
        }
        if !filter.username.is_empty() {
            let (list, name) = (&self.by_username, |slot| self.columns.row(slot).username());
            let range_of = |wanted: String| {
                list.partition_point(|slot| name(slot).is_some_and(|name| name < wanted.as_str()))
                    ..list.partition_point(|slot| name(slot).is_some_and(|name| name <= wanted.as_str()))
            };
            let ranges = distinct(&filter.username).into_iter().map(range_of).collect();
            return Some(Candidates { list, ranges, sorted_by: SortField::Username });
        }
        None
    }

    /// The candidates that match, in their order.
    pub(super) fn named(
        &self,
        candidates: &Candidates<'_>,
        matcher: &Matcher,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>, Stopped> {
        let by_name = candidates.sorted_by == SortField::Username;
        let filter = matcher.filter().clone();
        let rest = match by_name {
            true => Filter { username: Vec::new(), ..filter },
            false => Filter { clientid: Vec::new(), ..filter },
        };
        if rest == Filter::default() {
            return Ok(candidates.slots().collect());
        }
        // Of usernames there can be as many as there are rows. A scan does not look at exact clientids, but with
        // these the candidates are not those of a username.
        if by_name && !self.are_few(candidates.len()) {
            let matches = Scan::new(matcher, &self.columns).run(&self.columns, stop)?;
            return Ok(candidates.slots().filter(|&slot| matches.contains(slot)).collect());
        }
        let mut slots = Vec::new();
        for (number, slot) in candidates.slots().enumerate() {
            if number % STOP_INTERVAL == STOP_INTERVAL - 1 && stop() {
                return Err(Stopped);
            }
            if matcher.matches(&self.columns.row(slot).as_client_ref("")) {
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    /// Whether so few rows are sooner taken one by one than by going through all.
    fn are_few(&self, rows: usize) -> bool {
        rows <= self.len() / WALKED_PER_ROW
    }

    /// Few rows, in the ascending order by a field.
    fn sorted(&self, mut slots: Vec<u32>, field: SortField) -> Vec<u32> {
        sort_by_clientid(&self.columns, &mut slots);
        if listed(field) != SortField::Clientid {
            sort_by_field(&self.columns, &mut slots, field);
        }
        slots
    }
}

/// The rows of a list that match, in its order.
fn picked(list: &Ordered, matches: &Matches) -> Vec<u32> {
    // Every row is written and only what matches is kept, which is no branch to guess.
    let mut picked = vec![0; matches.count + 1];
    let mut count = 0;
    for &slot in list.pieces(0..list.len()).flatten() {
        picked[count] = slot;
        count += usize::from(matches.contains(slot));
    }
    picked.truncate(count);
    picked
}

impl Index {
    /// All rows, in the ascending order by a field.
    pub(super) fn all(&self, snapshot: &Snapshot, field: SortField) -> Arranged {
        Arranged::Listed(snapshot.by_field.clone().unwrap_or_else(|| {
            let list = self.sort_all(snapshot, field);
            // Changes may have come before it was kept, or it may not have been kept.
            self.write().rows.leave(list.bytes());
            list
        }))
    }

    /// The rows that match, in the ascending order by a field.
    pub(super) fn matching(
        &self,
        snapshot: &Snapshot,
        matcher: &Matcher,
        field: SortField,
        stop: &dyn Fn() -> bool,
    ) -> Result<Arranged, Stopped> {
        let columns = &snapshot.columns;
        let slots = if let Some(candidates) = snapshot.candidates(matcher) {
            let slots = snapshot.named(&candidates, matcher, stop)?;
            if candidates.sorted_by == listed(field) {
                slots
            } else if snapshot.are_few(slots.len()) {
                snapshot.sorted(slots, field)
            } else {
                self.arranged(snapshot, &Matches::of(&slots, columns), field)
            }
        } else {
            let matches = Scan::new(matcher, columns).run(columns, stop)?;
            if snapshot.are_few(matches.count) {
                snapshot.sorted(matches.slots(), field)
            } else {
                self.arranged(snapshot, &matches, field)
            }
        };
        Ok(Arranged::Picked(Arc::new(slots)))
    }

    /// Many rows, in the ascending order by a field.
    fn arranged(&self, snapshot: &Snapshot, matches: &Matches, field: SortField) -> Vec<u32> {
        if let Some(list) = &snapshot.by_field {
            return picked(list, matches);
        }
        if matches.count >= snapshot.len() / SORT_ALL {
            return picked(&self.sort_all(snapshot, field), matches);
        }
        let mut slots = picked(&snapshot.by_clientid, matches);
        sort_by_field(&snapshot.columns, &mut slots, field);
        slots
    }
}
