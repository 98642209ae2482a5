//! Rows in one order, as a list of short chunks: position of a row and row at a position without a walk over
//! all rows, and copies that cost nothing until either side changes.
//!
//! A copy shares everything. A change copies the chunk it falls into (at most [`CHUNK`] pointers) and the list
//! of chunks, and only if a copy still holds them. A B-tree of ids (34 bytes a client against 11 here) was decided
//! against for its memory and because its copies are not free.

use std::cmp::Ordering;
use std::sync::Arc;

use super::row::Row;

/// Rows a chunk holds at the most; one that grows past it is cut in two.
const CHUNK: usize = 512;
/// Rows a chunk gets when a list is built: room for inserts, without a cut soon after.
const FILL: usize = 384;
/// A chunk that shrinks below this is joined with a neighbour, if both fit.
const SPARSE: usize = 128;
/// Rows a full chunk makes room for.
const GROWTH: usize = 64;

/// How two rows of a list compare. Only one and the same row compares equal.
pub(super) type Compare = fn(&Row, &Row) -> Ordering;

#[derive(Clone, Debug)]
pub(super) struct Ordered {
    compare: Compare,
    spine: Arc<Spine>,
}

#[derive(Clone, Debug, Default)]
struct Spine {
    /// None is empty.
    chunks: Vec<Arc<Vec<Arc<Row>>>>,
    /// The position of each chunk's first row.
    starts: Vec<usize>,
    len: usize,
}

impl Ordered {
    pub(super) fn new(compare: Compare) -> Self {
        Self { compare, spine: Arc::default() }
    }

    /// Takes rows that are in order already, without equals.
    pub(super) fn from_sorted(compare: Compare, rows: &[Arc<Row>]) -> Self {
        debug_assert!(rows.is_sorted_by(|a, b| compare(a, b).is_lt()));
        let chunks = rows.chunks(FILL).map(|rows| Arc::new(rows.to_vec())).collect();
        let mut spine = Spine { chunks, starts: Vec::new(), len: 0 };
        spine.renumber();
        Self { compare, spine: Arc::new(spine) }
    }

    pub(super) fn len(&self) -> usize {
        self.spine.len
    }

    pub(super) fn get(&self, position: usize) -> Option<&Arc<Row>> {
        let (chunk, offset) = self.spine.locate(position)?;
        self.spine.chunks[chunk].get(offset)
    }

    /// How many rows the predicate holds for; it must hold for a leading part of the list and for no row behind it.
    pub(super) fn partition_point(&self, predicate: impl Fn(&Row) -> bool) -> usize {
        let chunk = self.spine.chunks.partition_point(|rows| rows.last().is_some_and(|last| predicate(last)));
        match self.spine.chunks.get(chunk) {
            None => self.spine.len,
            Some(rows) => self.spine.starts[chunk] + rows.partition_point(|row| predicate(row)),
        }
    }

    pub(super) fn iter_from(&self, position: usize) -> impl Iterator<Item = &Arc<Row>> {
        let (chunk, offset) = self.spine.locate(position).unwrap_or((self.spine.chunks.len(), 0));
        self.spine.chunks[chunk..].iter().flat_map(|rows| rows.iter()).skip(offset)
    }

    /// Puts a row in, in place of its equal if there is one, which is returned.
    pub(super) fn insert(&mut self, row: Arc<Row>) -> Option<Arc<Row>> {
        let position = self.partition_point(|other| (self.compare)(other, &row).is_lt());
        let is_there = self.get(position).is_some_and(|other| (self.compare)(other, &row).is_eq());
        let spine = Arc::make_mut(&mut self.spine);
        if is_there {
            let (chunk, offset) = spine.locate(position)?;
            let slot = Arc::make_mut(&mut spine.chunks[chunk]).get_mut(offset)?;
            return Some(std::mem::replace(slot, row));
        }
        spine.insert_at(position, row);
        None
    }

    pub(super) fn remove(&mut self, row: &Row) -> Option<Arc<Row>> {
        let position = self.partition_point(|other| (self.compare)(other, row).is_lt());
        if !self.get(position).is_some_and(|other| (self.compare)(other, row).is_eq()) {
            return None;
        }
        Arc::make_mut(&mut self.spine).remove_at(position)
    }
}

impl Spine {
    fn locate(&self, position: usize) -> Option<(usize, usize)> {
        if position >= self.len {
            return None;
        }
        let chunk = self.starts.partition_point(|&start| start <= position) - 1;
        Some((chunk, position - self.starts[chunk]))
    }

    fn renumber(&mut self) {
        self.starts.clear();
        self.len = 0;
        for chunk in &self.chunks {
            self.starts.push(self.len);
            self.len += chunk.len();
        }
    }

    fn insert_at(&mut self, position: usize, row: Arc<Row>) {
        let Some((chunk, offset)) = self.locate(position).or_else(|| {
            let last = self.chunks.len().checked_sub(1)?;
            Some((last, self.chunks[last].len()))
        }) else {
            self.chunks.push(Arc::new(vec![row]));
            self.renumber();
            return;
        };
        let rows = Arc::make_mut(&mut self.chunks[chunk]);
        if rows.len() == rows.capacity() {
            rows.reserve_exact(GROWTH); // doubling would leave a third of the memory unused
        }
        rows.insert(offset, row);
        if rows.len() > CHUNK {
            let upper = rows.split_off(CHUNK / 2);
            rows.shrink_to_fit();
            self.chunks.insert(chunk + 1, Arc::new(upper));
            self.renumber();
            return;
        }
        self.len += 1;
        for start in &mut self.starts[chunk + 1..] {
            *start += 1;
        }
    }

    fn remove_at(&mut self, position: usize) -> Option<Arc<Row>> {
        let (chunk, offset) = self.locate(position)?;
        let rows = Arc::make_mut(&mut self.chunks[chunk]);
        let removed = rows.remove(offset);
        if rows.is_empty() {
            self.chunks.remove(chunk);
            self.renumber();
        } else if rows.len() < SPARSE && self.join_with_neighbour(chunk) {
            self.renumber();
        } else {
            self.len -= 1;
            for start in &mut self.starts[chunk + 1..] {
                *start -= 1;
            }
        }
        Some(removed)
    }

    /// Joins a chunk with the one behind or before it, if they fit into one with room to spare.
    fn join_with_neighbour(&mut self, chunk: usize) -> bool {
        let size = |at: usize| self.chunks.get(at).map_or(CHUNK, |rows| rows.len());
        let left = if size(chunk) + size(chunk + 1) <= FILL {
            chunk
        } else if chunk > 0 && size(chunk - 1) + size(chunk) <= FILL {
            chunk - 1
        } else {
            return false;
        };
        let right = self.chunks.remove(left + 1);
        Arc::make_mut(&mut self.chunks[left]).extend(right.iter().cloned());
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::v1::Client;

    use super::super::row::Origins;
    use super::*;

    fn by_session(a: &Row, b: &Row) -> Ordering {
        a.session.cmp(&b.session)
    }

    fn row(session: u64) -> Arc<Row> {
        Arc::new(Row::new(Client { session, ..Client::default() }, &mut Origins::default()))
    }

    fn sessions(list: &Ordered) -> Vec<u64> {
        list.iter_from(0).map(|row| row.session).collect()
    }

    fn check(list: &Ordered, model: &[u64]) {
        assert_eq!(sessions(list), model);
        assert_eq!(list.len(), model.len());
        assert!(list.spine.chunks.iter().all(|rows| !rows.is_empty() && rows.len() <= CHUNK));
        for position in (0..model.len() + 2).step_by(97) {
            assert_eq!(list.get(position).map(|row| row.session), model.get(position).copied());
            let tail: Vec<u64> = list.iter_from(position).take(3).map(|row| row.session).collect();
            assert_eq!(tail, model[position.min(model.len())..].iter().take(3).copied().collect::<Vec<_>>());
        }
        for bound in (0..6_000).step_by(501) {
            assert_eq!(
                list.partition_point(|row| row.session < bound),
                model.partition_point(|&session| session < bound)
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Runs of inserts and removes over a list of several chunks: cuts, joins and empty lists all occur.
        #[test]
        fn a_list_is_a_sorted_vec_and_copies_stay_as_they_were(
            initial in 0..3_000_u64,
            runs in proptest::collection::vec((any::<bool>(), 0..5_000_u64, 0..1_500_u64), 0..8),
        ) {
            let mut model: Vec<u64> = (0..initial).map(|n| n * 2).collect();
            let mut list =
                Ordered::from_sorted(by_session, &model.iter().map(|&n| row(n)).collect::<Vec<_>>());
            for (inserting, first, length) in runs {
                let (copy, before) = (list.clone(), model.clone());
                for session in first..first + length {
                    let place = model.binary_search(&session);
                    let known = place.is_ok();
                    let was = if inserting { list.insert(row(session)) } else { list.remove(&row(session)) };
                    prop_assert_eq!(was.is_some(), known);
                    match (place, inserting) {
                        (Err(at), true) => model.insert(at, session),
                        (Ok(at), false) => drop(model.remove(at)),
                        _ => {}
                    }
                }
                check(&list, &model);
                prop_assert_eq!(sessions(&copy), before);
            }
        }
    }
}
