//! Slots in one order, as a list of short chunks: position of a slot and slot at a position without a walk over
//! all of them, and copies that cost nothing until either side changes.
//!
//! The list knows positions only; what orders the slots, [`super::sorts`] knows. A copy shares everything. A change
//! copies the chunk it falls into (at most [`CHUNK`] slots) and the list of chunks, and only if a copy still holds
//! them. A B-tree of ids (34 bytes a client against 6 here) was decided against for its memory and because its
//! copies are not free.

use std::ops::Range;
use std::sync::Arc;

use super::left::{Left, show};

/// Slots a chunk holds at the most; one that grows past it is cut in two.
const CHUNK: usize = 2048;
/// Slots a chunk gets when a list is built: room for inserts, without a cut soon after.
const FILL: usize = 1536;
/// A chunk that shrinks below this is joined with a neighbour, if both fit.
const SPARSE: usize = 512;
/// Slots a full chunk makes room for.
const GROWTH: usize = 128;

#[derive(Clone, Debug, Default)]
pub(super) struct Ordered {
    spine: Arc<Spine>,
}

#[derive(Clone, Debug, Default)]
struct Spine {
    /// None is empty.
    chunks: Vec<Arc<Vec<u32>>>,
    /// The position of each chunk's first slot.
    starts: Vec<usize>,
    /// Each chunk's last slot: a search looks at many chunks' last slots, and into one chunk.
    lasts: Vec<u32>,
    len: usize,
}

impl Ordered {
    /// Takes slots that are in order already.
    pub(super) fn from_sorted(slots: &[u32]) -> Self {
        let chunks = slots.chunks(FILL).map(|slots| Arc::new(slots.to_vec())).collect();
        let mut spine = Spine { chunks, ..Spine::default() };
        spine.renumber();
        Self { spine: Arc::new(spine) }
    }

    pub(super) fn len(&self) -> usize {
        self.spine.len
    }

    pub(super) fn get(&self, position: usize) -> Option<u32> {
        let (chunk, offset) = self.spine.locate(position)?;
        self.spine.chunks[chunk].get(offset).copied()
    }

    /// How many slots the predicate holds for; it must hold for a leading part of the list and for no slot behind it.
    pub(super) fn partition_point(&self, predicate: impl Fn(u32) -> bool) -> usize {
        let chunk = self.spine.lasts.partition_point(|&last| predicate(last));
        match self.spine.chunks.get(chunk) {
            None => self.spine.len,
            Some(slots) => self.spine.starts[chunk] + slots.partition_point(|&slot| predicate(slot)),
        }
    }

    /// The slots of a range of positions in pieces; positions past the last give none.
    pub(super) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u32]> {
        let end = range.end.min(self.spine.len);
        let (chunk, _) = self.spine.locate(range.start).unwrap_or((self.spine.chunks.len(), 0));
        let chunks = self.spine.chunks[chunk..].iter().zip(&self.spine.starts[chunk..]);
        chunks.take_while(move |(_, first)| **first < end).map(move |(slots, &first)| {
            &slots[range.start.saturating_sub(first)..(end - first).min(slots.len())]
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.pieces(0..self.len()).flatten().copied()
    }

    /// Puts a slot in at a position, at the end if that is past it.
    pub(super) fn insert(&mut self, position: usize, slot: u32, left: &mut Left) {
        left.make_mut(&mut self.spine, Spine::bytes).insert(position, slot, left);
    }

    pub(super) fn remove(&mut self, position: usize, left: &mut Left) -> Option<u32> {
        left.make_mut(&mut self.spine, Spine::bytes).remove(position, left)
    }

    pub(super) fn bytes(&self) -> usize {
        let mut all = 0;
        self.each_piece(&mut |_, bytes| all += bytes);
        all
    }

    /// Shows every piece of memory.
    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        show(&self.spine, self.spine.bytes(), visit);
        for slots in &self.spine.chunks {
            show(slots, chunk_bytes(slots), visit);
        }
    }
}

/// What a chunk takes.
fn chunk_bytes(slots: &Vec<u32>) -> usize {
    size_of_val(slots) + slots.capacity() * size_of::<u32>()
}

impl Spine {
    /// What the spine takes without its chunks.
    fn bytes(&self) -> usize {
        let a_chunk = size_of::<Arc<Vec<u32>>>() + size_of::<usize>() + size_of::<u32>();
        size_of::<Self>() + self.chunks.capacity() * a_chunk
    }

    fn locate(&self, position: usize) -> Option<(usize, usize)> {
        if position >= self.len {
            return None;
        }
        let chunk = self.starts.partition_point(|&start| start <= position) - 1;
        Some((chunk, position - self.starts[chunk]))
    }

    fn renumber(&mut self) {
        self.starts.clear();
        self.lasts.clear();
        self.len = 0;
        for chunk in &self.chunks {
            self.starts.push(self.len);
            self.lasts.extend(chunk.last());
            self.len += chunk.len();
        }
    }

    fn note_last(&mut self, chunk: usize) {
        if let Some(&last) = self.chunks[chunk].last() {
            self.lasts[chunk] = last;
        }
    }

    fn insert(&mut self, position: usize, slot: u32, left: &mut Left) {
        let Some((chunk, offset)) = self.locate(position).or_else(|| {
            let last = self.chunks.len().checked_sub(1)?;
            Some((last, self.chunks[last].len()))
        }) else {
            self.chunks.push(Arc::new(vec![slot]));
            self.renumber();
            return;
        };
        let slots = left.make_mut(&mut self.chunks[chunk], chunk_bytes);
        if slots.len() == slots.capacity() {
            slots.reserve_exact(GROWTH); // doubling would leave a third of the memory unused
        }
        slots.insert(offset, slot);
        if slots.len() > CHUNK {
            let upper = slots.split_off(CHUNK / 2);
            slots.shrink_to_fit();
            self.chunks.insert(chunk + 1, Arc::new(upper));
            self.renumber();
            return;
        }
        self.note_last(chunk);
        self.len += 1;
        for start in &mut self.starts[chunk + 1..] {
            *start += 1;
        }
    }

    fn remove(&mut self, position: usize, left: &mut Left) -> Option<u32> {
        let (chunk, offset) = self.locate(position)?;
        let slots = left.make_mut(&mut self.chunks[chunk], chunk_bytes);
        let removed = slots.remove(offset);
        if slots.is_empty() {
            self.chunks.remove(chunk);
            self.renumber();
        } else if slots.len() < SPARSE && self.join_with_neighbour(chunk, left) {
            self.renumber();
        } else {
            self.note_last(chunk);
            self.len -= 1;
            for start in &mut self.starts[chunk + 1..] {
                *start -= 1;
            }
        }
        Some(removed)
    }

    /// Joins a chunk with the one behind or before it, if they fit into one with room to spare.
    fn join_with_neighbour(&mut self, chunk: usize, left: &mut Left) -> bool {
        let size = |at: usize| self.chunks.get(at).map_or(CHUNK, |slots| slots.len());
        let first = if size(chunk) + size(chunk + 1) <= FILL {
            chunk
        } else if chunk > 0 && size(chunk - 1) + size(chunk) <= FILL {
            chunk - 1
        } else {
            return false;
        };
        let second = self.chunks.remove(first + 1);
        left.let_go(&second, chunk_bytes);
        left.make_mut(&mut self.chunks[first], chunk_bytes).extend_from_slice(&second);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(list: &Ordered, model: &[u32]) {
        assert_eq!(list.iter().collect::<Vec<_>>(), model);
        assert_eq!(list.len(), model.len());
        assert!(list.spine.chunks.iter().all(|slots| !slots.is_empty() && slots.len() <= CHUNK));
        let lasts: Vec<u32> = list.spine.chunks.iter().filter_map(|slots| slots.last().copied()).collect();
        assert_eq!(list.spine.lasts, lasts);
        for position in (0..model.len() + 2).step_by(397) {
            assert_eq!(list.get(position), model.get(position).copied());
            for end in [0, position, position + 1, position + CHUNK, usize::MAX] {
                let slots: Vec<u32> = list.pieces(position..end).flatten().copied().collect();
                assert_eq!(slots, model.get(position..end.min(model.len())).unwrap_or_default());
            }
        }
        for bound in (0..20_000).step_by(1_501) {
            assert_eq!(
                list.partition_point(|slot| slot < bound),
                model.partition_point(|&slot| slot < bound)
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Runs of inserts and removes over a list of several chunks: cuts, joins and empty lists all occur.
        #[test]
        fn a_list_is_a_vec_and_copies_stay_as_they_were(
            initial in 0..9_000_u32,
            runs in proptest::collection::vec((any::<bool>(), 0..18_000_u32, 0..5_000_u32), 0..8),
        ) {
            let mut model: Vec<u32> = (0..initial).map(|n| n * 2).collect();
            let mut list = Ordered::from_sorted(&model);
            let left = &mut Left::default();
            for (inserting, first, length) in runs {
                let (copy, before) = (list.clone(), model.clone());
                for slot in first..first + length {
                    match (model.binary_search(&slot), inserting) {
                        (Err(at), true) => {
                            list.insert(at, slot, left);
                            model.insert(at, slot);
                        }
                        (Ok(at), false) => prop_assert_eq!(list.remove(at, left), Some(model.remove(at))),
                        (Err(_), false) => prop_assert_eq!(list.remove(model.len(), left), None),
                        (Ok(_), true) => {}
                    }
                }
                check(&list, &model);
                check(&copy, &before);
            }
        }
    }
}
