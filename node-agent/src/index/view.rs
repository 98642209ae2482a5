//! The clients that match, in order, as they were at one moment.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::order::ValueRef;
use rollcall_proto::v1::{Client, Fence, Key};
use rollcall_proto::{ClientRef, KeyRef, Order, SortField};

use super::columns::{Columns, compare_values};
use super::ordered::Ordered;

/// An immutable answer to a filter and an order: ranks, keys and rows of one moment, whatever the index does
/// meanwhile. Cheap to clone. Columns that the index has changed since live as long as the view.
#[derive(Clone, Debug)]
pub struct View {
    node: Arc<str>,
    order: Order,
    columns: Columns,
    rows: Arranged,
    /// Arranged that have a value to sort by; the others stand behind them in both directions.
    valued: usize,
    /// Bytes that changes had left to views when it was taken.
    left: u64,
}

/// Arranged in ascending order of some field. A descending view reads the same rows from the other end.
#[derive(Clone, Debug)]
pub(super) enum Arranged {
    /// Shared with the index.
    Listed(Ordered),
    /// Selected or sorted for this view.
    Picked(Arc<Vec<u32>>),
}

impl Arranged {
    fn len(&self) -> usize {
        match self {
            Self::Listed(list) => list.len(),
            Self::Picked(slots) => slots.len(),
        }
    }

    fn get(&self, position: usize) -> Option<u32> {
        match self {
            Self::Listed(list) => list.get(position),
            Self::Picked(slots) => slots.get(position).copied(),
        }
    }

    fn partition_point(&self, predicate: impl Fn(u32) -> bool) -> usize {
        match self {
            Self::Listed(list) => list.partition_point(predicate),
            Self::Picked(slots) => slots.partition_point(|&slot| predicate(slot)),
        }
    }

    /// The slots of a range of positions, in pieces.
    fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u32]> {
        let (listed, picked) = match self {
            Self::Listed(list) => (Some(list.pieces(range)), None),
            Self::Picked(slots) => (None, slots.get(range)),
        };
        listed.into_iter().flatten().chain(picked)
    }
}

impl View {
    pub(super) fn new(node: Arc<str>, order: Order, columns: Columns, rows: Arranged, left: u64) -> Self {
        let mut view = Self { node, order, columns, valued: rows.len(), rows, left };
        if order.descending {
            view.valued = view.rows.partition_point(|slot| view.value(slot).is_some());
        }
        view
    }

    /// How many clients match.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Bytes this view holds beyond what it shares with the index at the moment it is taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.rows {
            Arranged::Listed(_) => 0,
            Arranged::Picked(slots) => slots.capacity() * size_of::<u32>(),
        }
    }

    /// What [`Index::left`](super::Index::left) was when it was taken.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Shows every piece of memory that the view shares or holds, but rows picked for it.
    #[cfg(test)]
    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        self.columns.each_piece(visit);
        if let Arranged::Listed(list) = &self.rows {
            list.each_piece(visit);
        }
    }

    /// The key of the client at a rank, `None` past the last.
    #[must_use]
    pub fn key_at(&self, rank: u64) -> Option<Key> {
        let rank = usize::try_from(rank).ok().filter(|&rank| rank < self.rows.len())?;
        self.slot_at(rank).map(|slot| Key::from(self.key(slot)))
    }

    /// How many matching clients come before the key, whether or not one has it.
    #[must_use]
    pub fn rank_of(&self, key: &KeyRef<'_>) -> u64 {
        self.rank(key, Ordering::is_lt)
    }

    /// How many matching clients come before or at the key, whether or not one has it.
    #[must_use]
    pub fn rank_after(&self, key: &KeyRef<'_>) -> u64 {
        self.rank(key, Ordering::is_le)
    }

    /// How many clients compare with the key as `counts` says, which holds for those before it and not for those behind.
    fn rank(&self, key: &KeyRef<'_>, counts: fn(Ordering) -> bool) -> u64 {
        let holds = |slot: u32| counts(self.order.compare(&self.key(slot), key));
        let value = match self.order.field {
            SortField::Clientid => Some(ValueRef::Text(key.clientid)),
            _ => key.value,
        };
        if !self.order.descending || value.is_none() {
            // In the order of the rows, or among those that stand behind all values in either direction.
            return self.rows.partition_point(holds) as u64;
        }
        let compare = |slot: u32| compare_values(self.value(slot), value);
        let less = self.rows.partition_point(|slot| compare(slot).is_lt());
        let not_greater = self.rows.partition_point(|slot| compare(slot).is_le());
        let equals = self.rows.partition_point(|slot| match compare(slot) {
            Ordering::Less => true,
            Ordering::Equal => holds(slot),
            Ordering::Greater => false,
        });
        // Of the rows with a value those of a greater one come first.
        (self.valued - not_greater + equals - less) as u64
    }

    /// At most `most` evenly spaced keys of a range of ranks, the first at its start; an end past the last rank
    /// means the last rank.
    #[must_use]
    pub fn fences(&self, range: Range<u64>, most: u32) -> Vec<Fence> {
        evenly_spaced(range.start..range.end.min(self.count()), most)
            .filter_map(|rank| Some(Fence { rank, key: Some(self.key_at(rank)?) }))
            .collect()
    }

    /// The clients of a range of ranks, in order; ranks past the last give none.
    pub fn clients(&self, range: Range<u64>) -> impl Iterator<Item = Client> {
        self.refs(range).map(|row| Client::from(ClientRef { node: "", ..row }))
    }

    /// As [`View::clients`], read where they stand.
    pub fn refs(&self, range: Range<u64>) -> impl Iterator<Item = ClientRef<'_>> {
        self.slots(range).map(|slot| self.columns.row(slot).as_client_ref(&self.node))
    }

    /// The clientids and session numbers of a range of ranks, in order, without a look at anything else.
    pub fn sessions(&self, range: Range<u64>) -> impl Iterator<Item = (&str, u64)> {
        self.slots(range).map(|slot| {
            let row = self.columns.row(slot);
            (row.clientid(), row.session())
        })
    }

    pub(super) fn slots(&self, range: Range<u64>) -> impl Iterator<Item = u32> {
        let clamp = |rank: u64| usize::try_from(rank).unwrap_or(usize::MAX).min(self.rows.len());
        let (mut rank, end) = (clamp(range.start), clamp(range.end));
        let runs = std::iter::from_fn(move || {
            (rank < end).then(|| {
                let mut run = self.run_at(rank);
                run.end = run.end.min(run.start + (end - rank));
                rank += run.len();
                run
            })
        });
        runs.flat_map(|run| self.rows.pieces(run)).flatten().copied()
    }

    fn slot_at(&self, rank: usize) -> Option<u32> {
        (rank < self.rows.len()).then(|| self.rows.get(self.run_at(rank).start))?
    }

    /// Where the row of a rank stands in `rows`, and how far the rows of the next ranks follow it there. `rank` is
    /// below the count.
    fn run_at(&self, rank: usize) -> Range<usize> {
        if !self.order.descending || rank >= self.valued {
            return rank..self.rows.len();
        }
        // Values descend, rows of one value ascend: find the run of equals that holds the mirrored position.
        let mirrored = self.valued - 1 - rank;
        let Some(slot) = self.rows.get(mirrored) else { return rank..rank + 1 };
        let value = self.value(slot);
        let compare = |other: u32| compare_values(self.value(other), value);
        let has_equal = |position: usize| self.rows.get(position).is_some_and(|slot| compare(slot).is_eq());
        let first = match mirrored.checked_sub(1) {
            Some(before) if has_equal(before) => self.rows.partition_point(|other| compare(other).is_lt()),
            _ => mirrored,
        };
        let end = if has_equal(mirrored + 1) {
            self.rows.partition_point(|other| compare(other).is_le())
        } else {
            mirrored + 1
        };
        first + (rank - (self.valued - end))..end
    }

    fn key(&self, slot: u32) -> KeyRef<'_> {
        let row = self.columns.row(slot);
        KeyRef {
            value: row.value(self.order.field),
            clientid: row.clientid(),
            node: &self.node,
            session: row.session(),
        }
    }

    /// What the order turns round: rows that have it in common stand in default order. All rows are of one node, so
    /// there is nothing to turn round in an order by node.
    fn value(&self, slot: u32) -> Option<ValueRef<'_>> {
        let row = self.columns.row(slot);
        match self.order.field {
            SortField::Clientid => Some(ValueRef::Text(row.clientid())),
            field => row.value(field),
        }
    }
}

/// At most `most` evenly spaced ranks of a range, the first at its start. Ranks are below 2^32.
pub(crate) fn evenly_spaced(range: Range<u64>, most: u32) -> impl Iterator<Item = u64> {
    let length = range.end.saturating_sub(range.start);
    let ranks = u64::from(most).min(length);
    (0..ranks).map(move |n| range.start + n * length / ranks)
}
