//! Texts of one segment's rows, one behind the other in one string.
//!
//! One pass of a substring search goes over all texts of a segment at once; see [`Search`]. A text is replaced by moving
//! those behind it, some kilobytes, so that there is never a gap. Dictionaries of whole columns were decided against:
//! user names are often one a client, and then a dictionary is one more column.

use std::sync::Arc;

use memchr::memmem::Finder;

use super::left::{Left, show};
use super::segment::{Mask, SEGMENT, bit, bits};

/// A text keeps this many bytes; MQTT allows 65,535, and no message carries a longer one. It bounds what a segment's
/// texts take, so that 32 bits number their bytes.
const LONGEST: usize = 16 << 20;

/// A text gives room back that is larger than this and than itself.
const SLACK: usize = 4096;

/// A column of texts, some of which may be absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    present: Mask,
    /// None if every text is absent.
    arena: Option<Arc<Arena>>,
}

#[derive(Clone, Debug)]
struct Arena {
    /// Where each row's text begins; it ends where the next one begins. An absent text is empty.
    starts: [u32; SEGMENT],
    text: String,
}

/// The text as it is stored: of extreme length, its beginning.
pub(super) fn stored(text: &str) -> &str {
    if text.len() <= LONGEST { text } else { &text[..text.floor_char_boundary(LONGEST)] }
}

impl Texts {
    pub(super) fn get(&self, at: usize) -> Option<&str> {
        if self.present & bit(at) == 0 {
            return None;
        }
        self.arena.as_ref().map(|arena| arena.get(at))
    }

    pub(super) fn set(&mut self, at: usize, text: Option<&str>, left: &mut Left) {
        let text = text.map(stored);
        if self.get(at) == text {
            return;
        }
        match text {
            Some(_) => self.present |= bit(at),
            None => self.present &= !bit(at),
        }
        if self.present == 0 {
            if let Some(arena) = self.arena.take() {
                left.let_go(&arena, Arena::bytes);
            }
            return;
        }
        let arena =
            self.arena.get_or_insert_with(|| Arc::new(Arena { starts: [0; SEGMENT], text: String::new() }));
        left.make_mut(arena, Arena::bytes).replace(at, text.unwrap_or_default());
    }

    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        if let Some(arena) = &self.arena {
            show(arena, arena.bytes(), visit);
        }
    }
}

impl Texts {
    /// Reads where the texts begin, and gives something that depends on it.
    pub(super) fn touch(&self) -> usize {
        self.arena.as_ref().map_or(0, |arena| {
            let text = arena.text.as_bytes();
            text.iter()
                .step_by(64)
                .take(256)
                .fold(arena.starts[0] as usize, |all, &byte| all ^ usize::from(byte))
        })
    }
}

impl Arena {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.capacity()
    }

    fn end(&self, at: usize) -> usize {
        self.starts.get(at + 1).map_or(self.text.len(), |&next| next as usize)
    }

    fn get(&self, at: usize) -> &str {
        &self.text[self.starts[at] as usize..self.end(at)]
    }

    fn replace(&mut self, at: usize, text: &str) {
        let (start, end) = (self.starts[at] as usize, self.end(at));
        let more = text.len().saturating_sub(end - start);
        if self.text.capacity() - self.text.len() < more {
            // Doubling would leave a third of the memory unused.
            self.text.reserve_exact(more.max(self.text.len() / 16 + 64));
        }
        if start == self.text.len() {
            self.text.push_str(text);
        } else {
            self.text.replace_range(start..end, text);
        }
        // Lengths stay below 2^32, and what is below zero in between comes out right.
        let moved = (text.len() as u32).wrapping_sub((end - start) as u32);
        for start in &mut self.starts[at + 1..] {
            *start = start.wrapping_add(moved);
        }
        if self.text.capacity() - self.text.len() > SLACK.max(self.text.len()) {
            self.text.shrink_to_fit();
        }
    }

    /// The row whose text has the byte at this position.
    fn row_at(&self, position: usize) -> usize {
        self.starts.partition_point(|&start| start as usize <= position) - 1
    }
}

/// A search for texts that contain a needle.
///
/// While there are few hits, one pass goes over a segment's texts and then looks which row a hit is in, and that it does
/// not reach into the next one. Where there are many, beginning anew behind every hit is dearer than looking into each
/// text alone: then the rest of the segment is searched like that, and the next one by what this one was like.
#[derive(Clone, Debug)]
pub(super) struct Search {
    needle: Finder<'static>,
    /// Whether the last segment had many hits.
    is_dense: bool,
}

/// Hits of a segment from which on each text is looked into alone.
const MANY: u32 = SEGMENT as u32 / 8;

impl Search {
    pub(super) fn new(needle: &str) -> Self {
        Self { needle: Finder::new(needle.as_bytes()).into_owned(), is_dense: false }
    }

    /// The rows among `wanted` whose text contains the needle; an absent text is an empty one.
    pub(super) fn rows(&mut self, texts: &Texts, wanted: Mask) -> Mask {
        if self.needle.needle().is_empty() {
            return wanted;
        }
        let Some(arena) = &texts.arena else { return 0 };
        let found = if self.is_dense || wanted.count_ones() < MANY {
            self.one_by_one(arena, wanted)
        } else {
            self.in_one_pass(arena, wanted)
        };
        self.is_dense = found.count_ones() >= MANY;
        found & wanted
    }

    fn one_by_one(&self, arena: &Arena, wanted: Mask) -> Mask {
        let hits = bits(wanted).filter(|&at| self.needle.find(arena.get(at).as_bytes()).is_some());
        hits.fold(0, |found, at| found | bit(at))
    }

    fn in_one_pass(&self, arena: &Arena, wanted: Mask) -> Mask {
        let (text, length) = (arena.text.as_bytes(), self.needle.needle().len());
        let (mut found, mut hits, mut from) = (0, 0, 0);
        while let Some(position) = self.needle.find(&text[from..]).map(|offset| from + offset) {
            let at = arena.row_at(position);
            let end = arena.end(at);
            // A hit that reaches into the next text is none, and so is any other that begins behind it in this one.
            if position + length <= end {
                found |= bit(at);
            }
            from = end;
            hits += 1;
            if hits == MANY && at + 1 < SEGMENT {
                let behind = wanted & !(bit(at + 1) - 1);
                return found | self.one_by_one(arena, behind);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few letters, one of them of two bytes, so that needles occur, repeat and straddle.
    fn text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of("[abä]{0,4}")
    }

    proptest! {
        #[test]
        fn texts_are_what_was_set_last_and_a_search_finds_those_that_contain_the_needle(
            changes in proptest::collection::vec((0..SEGMENT, text()), 0..400),
            needle in "[abä]{0,3}",
            wanted in any::<Mask>(),
        ) {
            let (mut texts, mut model) = (Texts::default(), vec![None; SEGMENT]);
            let copy_at = changes.len() / 2;
            let mut copy = (texts.clone(), model.clone());
            for (number, (at, text)) in changes.into_iter().enumerate() {
                if number == copy_at {
                    copy = (texts.clone(), model.clone());
                }
                texts.set(at, text.as_deref(), &mut Left::default());
                model[at] = text;
            }
            for (texts, model) in [copy, (texts, model)] {
                for (at, text) in model.iter().enumerate() {
                    prop_assert_eq!(texts.get(at), text.as_deref());
                }
                let expected = bits(wanted)
                    .filter(|&at| model[at].as_deref().unwrap_or_default().contains(&needle))
                    .fold(0, |found, at| found | bit(at));
                for is_dense in [false, true] {
                    let mut search = Search { is_dense, ..Search::new(&needle) };
                    prop_assert_eq!(search.rows(&texts, wanted), expected);
                }
            }
        }
    }

    #[test]
    fn a_text_of_extreme_length_is_cut_and_its_room_given_back() {
        let (mut texts, left) = (Texts::default(), &mut Left::default());
        let long = "ä".repeat(LONGEST / 2 + 1);
        texts.set(3, Some(&format!("x{long}")), left);
        texts.set(4, Some("y"), left);
        assert_eq!(texts.get(3).map(str::len), Some(LONGEST - 1));
        assert_eq!(texts.get(4), Some("y"));
        texts.set(3, None, left);
        assert_eq!(texts.get(4), Some("y"));
        assert!(texts.arena.is_some_and(|arena| arena.text.capacity() <= SLACK));
    }
}
