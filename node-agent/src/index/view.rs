//! The clients that match, in order, as they were at one moment.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::v1::{Client, Fence, Key};
use rollcall_proto::{KeyRef, Order, SortField};

use super::ordered::Ordered;
use super::row::Row;

/// An immutable answer to a filter and an order: ranks, keys and rows of one moment, whatever the index does
/// meanwhile. Cheap to clone. Rows that the index has changed or dropped since live as long as the view.
#[derive(Clone, Debug)]
pub struct View {
    node: Arc<str>,
    order: Order,
    rows: Rows,
    /// Rows that have a value to sort by; the others stand behind them in both directions.
    valued: usize,
}

/// Rows in ascending order of some field. A descending view reads the same rows from the other end.
#[derive(Clone, Debug)]
pub(super) enum Rows {
    /// Shared with the index.
    Listed(Ordered),
    /// Selected or sorted for this view.
    Picked(super::Sorted),
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Listed(list) => list.len(),
            Self::Picked(rows) => rows.len(),
        }
    }

    fn get(&self, position: usize) -> Option<&Arc<Row>> {
        match self {
            Self::Listed(list) => list.get(position),
            Self::Picked(rows) => rows.get(position),
        }
    }

    fn partition_point(&self, predicate: impl Fn(&Row) -> bool) -> usize {
        match self {
            Self::Listed(list) => list.partition_point(predicate),
            Self::Picked(rows) => rows.partition_point(|row| predicate(row)),
        }
    }

    fn range(&self, range: Range<usize>) -> Box<dyn Iterator<Item = &Arc<Row>> + '_> {
        match self {
            Self::Listed(list) => Box::new(list.iter_from(range.start).take(range.len())),
            Self::Picked(rows) => Box::new(rows[range].iter()),
        }
    }
}

impl View {
    pub(super) fn new(node: Arc<str>, order: Order, rows: Rows) -> Self {
        let mut view = Self { node, order, valued: rows.len(), rows };
        if order.descending && !matches!(order.field, SortField::Clientid | SortField::Node) {
            view.valued = view.rows.partition_point(|row| view.sort_value(row).value.is_some());
        }
        view
    }

    /// How many clients match.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Bytes this view holds beyond what it shares with the index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.rows {
            Rows::Listed(_) => 0,
            Rows::Picked(rows) => rows.capacity() * size_of::<Arc<Row>>(),
        }
    }

    /// The key of the client at a rank, `None` past the last.
    #[must_use]
    pub fn key_at(&self, rank: u64) -> Option<Key> {
        let rank = usize::try_from(rank).ok().filter(|&rank| rank < self.rows.len())?;
        self.rows.get(self.run_at(rank).start).map(|row| Key::from(self.key(row)))
    }

    /// How many matching clients come before the key, whether or not one has it.
    #[must_use]
    pub fn rank_of(&self, key: &KeyRef<'_>) -> u64 {
        self.ranks_while(|other| self.order.compare(other, key).is_lt())
    }

    /// How many ranks the predicate holds for; it must hold for the leading ones and no other.
    fn ranks_while(&self, predicate: impl Fn(&KeyRef<'_>) -> bool) -> u64 {
        let holds =
            |rank: usize| self.rows.get(self.run_at(rank).start).is_some_and(|row| predicate(&self.key(row)));
        let (mut low, mut high) = (0, self.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low as u64
    }

    /// How many matching clients come before or at the key, whether or not one has it.
    #[must_use]
    pub fn rank_after(&self, key: &KeyRef<'_>) -> u64 {
        self.ranks_while(|other| self.order.compare(other, key).is_le())
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
        let clamp = |rank: u64| usize::try_from(rank).unwrap_or(usize::MAX).min(self.rows.len());
        let (mut rank, end) = (clamp(range.start), clamp(range.end));
        std::iter::from_fn(move || {
            (rank < end).then(|| {
                let mut run = self.run_at(rank);
                run.end = run.end.min(run.start + (end - rank));
                rank += run.len();
                self.rows.range(run)
            })
        })
        .flatten()
        .map(|row| row.to_client())
    }

    /// Where the row of a rank stands in `rows`, and how far the rows of the next ranks follow it there. `rank` is
    /// below the count.
    fn run_at(&self, rank: usize) -> Range<usize> {
        if !self.order.descending || rank >= self.valued {
            return rank..self.rows.len();
        }
        // Values descend, rows of one value ascend: find the run of equals that holds the mirrored position.
        let mirrored = self.valued - 1 - rank;
        let Some(row) = self.rows.get(mirrored) else { return rank..rank };
        let value = self.sort_value(row);
        let ascending = Order { descending: false, ..self.order };
        let compare = |other: &Row| ascending.compare(&self.sort_value(other), &value);
        let has_equal = |position: usize| self.rows.get(position).is_some_and(|row| compare(row).is_eq());
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

    fn key<'a>(&'a self, row: &'a Row) -> KeyRef<'a> {
        self.order.key(&row.as_client_ref(&self.node))
    }

    fn sort_value<'a>(&'a self, row: &'a Row) -> KeyRef<'a> {
        sort_value(self.order, row)
    }
}

/// At most `most` evenly spaced ranks of a range, the first at its start. Ranks are below 2^32.
pub(crate) fn evenly_spaced(range: Range<u64>, most: u32) -> impl Iterator<Item = u64> {
    let length = range.end.saturating_sub(range.start);
    let ranks = u64::from(most).min(length);
    (0..ranks).map(move |n| range.start + n * length / ranks)
}

/// A row's key without what breaks ties, so that clients of one sort value compare equal.
pub(super) fn sort_value(order: Order, row: &Row) -> KeyRef<'_> {
    let key = order.key(&row.as_client_ref(""));
    let clientid = if order.field == SortField::Clientid { key.clientid } else { "" };
    KeyRef { clientid, session: 0, ..key }
}

/// Sorts rows that stand in default order by another field, ascending.
pub(super) fn sort_by_field(rows: &[Arc<Row>], field: SortField) -> Vec<Arc<Row>> {
    let order = Order { field, descending: false };
    // Values are read once; ties go by position, which is what clientid and session would decide.
    let mut keys: Vec<_> =
        rows.iter().enumerate().map(|(position, row)| (sort_value(order, row).value, position)).collect();
    let key =
        |&(value, position): &(_, usize)| KeyRef { value, clientid: "", node: "", session: position as u64 };
    keys.sort_unstable_by(|a, b| order.compare(&key(a), &key(b)));
    keys.into_iter().map(|(_, position)| Arc::clone(&rows[position])).collect()
}
