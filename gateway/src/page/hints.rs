//! What earlier answers said of lists, to guess by.
//!
//! Of a list with a filter: how many clients of each node match. Of any list: marks, which are keys with the ranks they had in
//! the merged list. A page that is turned to once more, or one page on, begins a few rows behind a mark; of a mark every
//! node tells the exact rank of today, so that its rows and those behind it are a page in one wave, at any depth
//! ([`cover`](super::cover)). Nothing here is believed: a hint decides what is asked for, never what is shown. A gateway that
//! has none, because it was just started or another one gave the earlier answers, takes a wave more.
//!
//! Bounds: [`MOST_LISTS`] lists, of each [`MOST_MARKS`] marks of keys that fit into a cursor, so some 2 MB at the most; what
//! was used longest ago goes first.

use std::collections::VecDeque;
use std::ops::Range;

use prost::Message as _;
use rollcall_proto::{Order, v1};

use super::cursor::{Fingerprint, MAX_LENGTH};
use super::rows::{At, NodeRows};

/// How many lists are remembered.
pub const MOST_LISTS: usize = 64;

/// How many marks of each.
pub const MOST_MARKS: usize = 64;

/// Rows between a mark and the page it is set for: so many clients may come before the mark until it is behind the
/// page's beginning, and of no use for it.
const ROOM: usize = 8;

/// A key, and how many clients came before or at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// That many.
    pub rank: u64,
    /// The key of the last of them.
    pub key: v1::Key,
}

/// Hints about the lists used last.
#[derive(Debug, Default)]
pub struct Hints {
    /// The one used last is the last.
    lists: VecDeque<List>,
}

#[derive(Debug)]
struct List {
    of: Fingerprint,
    /// Clients that match, by the node's address.
    counts: Vec<(String, u64)>,
    /// The one set last is the last.
    marks: VecDeque<Mark>,
}

impl Hints {
    /// How many clients of the nodes at these addresses match; `None` unless that is known of all.
    pub fn counts<'a>(
        &mut self,
        of: Fingerprint,
        addresses: impl Iterator<Item = &'a str>,
    ) -> Option<Vec<u64>> {
        let list = self.known(of)?;
        let count = |address| list.counts.iter().find(|(known, _)| known == address).map(|(_, count)| *count);
        addresses.map(count).collect()
    }

    /// The last mark at or before a rank.
    pub fn mark(&mut self, of: Fingerprint, rank: u64) -> Option<Mark> {
        let marks = self.known(of)?.marks.iter().filter(|mark| mark.rank <= rank);
        marks.max_by_key(|mark| mark.rank).cloned()
    }

    /// Takes back a mark that is not where it was.
    pub fn forget(&mut self, of: Fingerprint, mark: &Mark) {
        if let Some(list) = self.known(of) {
            list.marks.retain(|known| known != mark);
        }
    }

    /// Notes how many clients of a node match.
    pub fn note_count(&mut self, of: Fingerprint, address: &str, count: u64) {
        let counts = &mut self.list(of).counts;
        match counts.iter_mut().find(|(known, _)| known == address) {
            Some((_, known)) => *known = count,
            None => counts.push((address.to_owned(), count)),
        }
    }

    /// Sets marks, in place of those close by.
    pub fn note_marks(&mut self, of: Fingerprint, marks: impl IntoIterator<Item = Mark>) {
        let known = &mut self.list(of).marks;
        for mark in marks {
            known.retain(|other| other.rank.abs_diff(mark.rank) > ROOM as u64 && other.key != mark.key);
            if known.len() == MOST_MARKS {
                known.pop_front();
            }
            known.push_back(mark);
        }
    }

    /// A list that is remembered, which is thereby the one used last.
    fn known(&mut self, of: Fingerprint) -> Option<&mut List> {
        let at = self.lists.iter().rposition(|list| list.of == of)?;
        let list = self.lists.remove(at)?;
        self.lists.push_back(list);
        self.lists.back_mut()
    }

    fn list(&mut self, of: Fingerprint) -> &mut List {
        if self.known(of).is_none() {
            if self.lists.len() == MOST_LISTS {
                self.lists.pop_front();
            }
            self.lists.push_back(List { of, counts: Vec::new(), marks: VecDeque::new() });
        }
        let last = self.lists.len() - 1;
        &mut self.lists[last]
    }
}

/// The marks that an answer sets: for its own page, where it was not found behind one, and for the next page. `page` is
/// which of the merged rows are shown, the first of them at the rank `offset`.
#[must_use]
pub fn marks(
    order: Order,
    nodes: &[NodeRows],
    merged: &[At],
    page: &Range<usize>,
    offset: u64,
    found_by: Option<Mark>,
) -> Vec<Mark> {
    let mark = |boundary: usize| {
        let at = boundary.checked_sub(1)?;
        let at = at - ROOM.min(at);
        let At { node, row } = *merged.get(at)?;
        let key = v1::Key::from(nodes.get(node as usize)?.key(order, row as usize));
        // `offset` is the rank of the row at the page's start.
        let rank = (offset + at as u64 + 1).checked_sub(page.start as u64)?;
        (key.encoded_len() <= MAX_LENGTH).then_some(Mark { rank, key })
    };
    [found_by.or_else(|| mark(page.start)), mark(page.end)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use rollcall_proto::wire::WireRow;

    use super::*;

    fn of(number: u32) -> Fingerprint {
        let filter = v1::Filter { zone: vec![number.to_string()], ..v1::Filter::default() };
        Fingerprint::of(&filter, Order::default(), &[])
    }

    fn mark(rank: u64) -> Mark {
        let key = v1::Key { clientid: format!("c{rank}"), node: "n".into(), ..v1::Key::default() };
        Mark { rank, key }
    }

    #[test]
    fn a_mark_is_found_before_the_page_and_taken_back() {
        let mut hints = Hints::default();
        assert_eq!(hints.mark(of(1), 500), None);
        hints.note_marks(of(1), [mark(100), mark(300), mark(200)]);
        let found = |hints: &mut Hints, rank| hints.mark(of(1), rank).map(|mark| mark.rank);
        assert_eq!(
            [99, 100, 299, 1000].map(|rank| found(&mut hints, rank)),
            [None, Some(100), Some(200), Some(300)]
        );
        assert_eq!(hints.mark(of(2), 500), None);
        hints.forget(of(1), &mark(300));
        assert_eq!(found(&mut hints, 1000), Some(200));
        // A key has one rank, and a rank one key.
        hints.note_marks(of(1), [Mark { rank: 220, ..mark(200) }, Mark { rank: 100, ..mark(90) }]);
        assert_eq!((hints.mark(of(1), 219).unwrap().key, found(&mut hints, 220)), (mark(90).key, Some(220)));
        // Of marks close by the last one set is right.
        hints.note_marks(of(1), [mark(212)]);
        assert_eq!(found(&mut hints, 300), Some(212));
    }

    #[test]
    fn counts_are_told_if_they_are_known_of_all() {
        let mut hints = Hints::default();
        hints.note_count(of(1), "a:1", 7);
        hints.note_count(of(1), "b:1", 8);
        hints.note_count(of(1), "a:1", 9);
        assert_eq!(hints.counts(of(1), ["b:1", "a:1"].into_iter()), Some(vec![8, 9]));
        assert_eq!(hints.counts(of(1), ["b:1", "c:1"].into_iter()), None);
        assert_eq!(hints.counts(of(2), ["a:1"].into_iter()), None);
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let mut hints = Hints::default();
        for list in 0..MOST_LISTS as u32 {
            hints.note_marks(of(list), [mark(1)]);
        }
        assert!(hints.mark(of(0), 1).is_some());
        hints.note_count(of(1000), "a:1", 1);
        assert!(hints.mark(of(0), 1).is_some() && hints.mark(of(1), 1).is_none());
        assert_eq!(hints.lists.len(), MOST_LISTS);
        hints.note_marks(of(5), (2..200).map(|n| mark(n * 100)));
        assert_eq!(hints.mark(of(5), 13_599), None);
        assert_eq!(hints.mark(of(5), 13_600).unwrap().rank, 13_600);
        assert_eq!(hints.list(of(5)).marks.len(), MOST_MARKS);
    }

    #[test]
    fn marks_stand_some_rows_before_the_page_and_before_the_next() {
        let mut rows = NodeRows::default();
        let ids: Vec<String> = (0..40).map(|n| format!("c{n:02}")).collect();
        for clientid in &ids {
            let client = rollcall_proto::ClientRef { clientid, ..rollcall_proto::ClientRef::default() };
            rows.push(&WireRow { client, ..WireRow::default() }).unwrap();
        }
        rows.belong_to("n", Order::default()).unwrap();
        let merged: Vec<At> = (0..40).map(|row| At { node: 0, row }).collect();
        let set = |page: Range<usize>, offset| {
            let marks = marks(Order::default(), std::slice::from_ref(&rows), &merged, &page, offset, None);
            marks.into_iter().map(|mark| (mark.rank, mark.key.clientid)).collect::<Vec<_>>()
        };
        // Row c20 has the rank 1020, so before and at c11 come 1012.
        assert_eq!(set(20..30, 1020), [(1012, "c11".to_owned()), (1022, "c21".to_owned())]);
        assert_eq!(set(3..6, 1003), [(1001, "c00".to_owned()), (1001, "c00".to_owned())]);
        assert_eq!(set(0..4, 0), [(1, "c00".to_owned())]);
        assert_eq!(set(0..0, 0), []);
        let found =
            marks(Order::default(), std::slice::from_ref(&rows), &merged, &(3..30), 20, Some(mark(17)));
        assert_eq!(found.iter().map(|mark| mark.rank).collect::<Vec<_>>(), [17, 39]);
    }
}
