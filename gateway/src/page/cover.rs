//! Whether rows that came of the nodes are the page that was asked for.
//!
//! Of every node come the rows of consecutive ranks, and how many it has before and behind them. A row's rank in the merged
//! list is known exactly where it comes behind the first row of every node that has more before, and before the last of
//! every node that has more behind: all that did not come is then on one known side of it. So it does not matter why these
//! rows were asked for; a page is what [`page`] says it is, or must be asked for once more.

use std::ops::Range;

use super::rows::At;

/// What came of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many rows it has from where the list begins up to the first that came.
    pub before: u64,
    /// How many rows came.
    pub rows: usize,
    /// How many it has behind them.
    pub behind: u64,
}

impl Piece {
    fn is_all(&self) -> bool {
        self.before == 0 && self.behind == 0
    }
}

/// How many rows there are from where the list begins.
#[must_use]
pub fn total(pieces: &[Piece]) -> u64 {
    let of = |piece: &Piece| [piece.before, piece.rows as u64, piece.behind];
    pieces.iter().flat_map(of).fold(0, u64::saturating_add)
}

/// Which of the rows that came, in order as `merged` has them, are those of the ranks `offset .. offset + limit` of the
/// merged list; `None` if that cannot be told from them.
#[must_use]
pub fn page(offset: u64, limit: u32, merged: &[At], pieces: &[Piece]) -> Option<Range<usize>> {
    let end = offset.saturating_add(limit.into()).min(total(pieces));
    if offset >= end {
        return Some(0..0);
    }
    if pieces.iter().any(|piece| piece.rows == 0 && !piece.is_all()) {
        return None;
    }
    // The first place among the merged rows whose rank is known, and the last.
    let (mut first, mut last) = (0, merged.len().checked_sub(1)?);
    for (place, at) in merged.iter().enumerate() {
        let piece = &pieces[at.node as usize];
        if at.row == 0 && piece.before > 0 {
            first = place;
        }
        if at.row as usize + 1 == piece.rows && piece.behind > 0 {
            last = last.min(place);
        }
    }
    let before = pieces.iter().map(|piece| piece.before).fold(0, u64::saturating_add);
    let place = |rank: u64| usize::try_from(rank.checked_sub(before)?).ok();
    let (start, end) = (place(offset)?, place(end)?);
    (first <= start && end <= last + 1).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(node: u32, row: u32) -> At {
        At { node, row }
    }

    #[test]
    fn rows_between_what_is_missing_have_known_ranks() {
        // Ten rows of node 0, of which came 3 to 5, before ten of node 1, of which came the first two.
        let pieces = [Piece { before: 3, rows: 3, behind: 4 }, Piece { before: 0, rows: 2, behind: 8 }];
        let merged = [at(0, 0), at(0, 1), at(0, 2), at(1, 0), at(1, 1)];
        assert_eq!(total(&pieces), 20);
        assert_eq!(page(3, 3, &merged, &pieces), Some(0..3));
        assert_eq!(page(5, 1, &merged, &pieces), Some(2..3));
        // One of node 0 may come before the next row.
        assert_eq!(page(5, 2, &merged, &pieces), None);
        assert_eq!(page(2, 2, &merged, &pieces), None);
        assert_eq!(page(20, 9, &merged, &pieces), Some(0..0));
        assert_eq!(page(7, 0, &merged, &pieces), Some(0..0));
        assert_eq!(page(7, 1, &[], &[]), Some(0..0));
        // Of a node of which nothing came nothing is known.
        let nothing = [pieces[0], Piece { before: 2, rows: 0, behind: 0 }];
        assert_eq!(page(5, 1, &merged[..3], &nothing), None);
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_the_page_is_that_of_the_one_list(
            list in proptest::collection::vec(0..4_usize, 0..120),
            asked in proptest::collection::vec((0..40_usize, 0..60_usize, any::<bool>()), 4),
            offset in 0..130_usize, limit in 0..40_usize,
        ) {
            let mut ranks = [0; 4];
            let all: Vec<(usize, usize)> = list.iter().map(|&node| {
                ranks[node] += 1;
                (node, ranks[node] - 1)
            }).collect();
            let windows: Vec<Range<usize>> = asked.iter().zip(ranks).map(|(&(skip, take, from_end), count)| {
                let (skip, take) = (skip.min(count), take.min(count - skip.min(count)));
                if from_end { count - skip - take..count - skip } else { skip..skip + take }
            }).collect();
            let pieces: Vec<Piece> = windows.iter().zip(ranks).map(|(window, count)| Piece {
                before: window.start as u64, rows: window.len(), behind: (count - window.end) as u64,
            }).collect();
            let came: Vec<(usize, usize)> =
                all.iter().filter(|(node, rank)| windows[*node].contains(rank)).copied().collect();
            let merged: Vec<At> = came.iter()
                .map(|&(node, rank)| at(node as u32, (rank - windows[node].start) as u32)).collect();
            let model: Vec<_> = all.iter().skip(offset).take(limit).copied().collect();
            let said = page(offset as u64, limit as u32, &merged, &pieces);
            if let Some(said) = said {
                prop_assert_eq!(&came[said], &model);
            }
            // Where all came it is always told.
            let whole: Vec<Piece> = ranks.iter().map(|&rows| Piece { before: 0, rows, behind: 0 }).collect();
            let merged: Vec<At> = all.iter().map(|&(node, rank)| at(node as u32, rank as u32)).collect();
            let said = page(offset as u64, limit as u32, &merged, &whole);
            prop_assert_eq!(&all[said.unwrap()], &model);
        }

        /// Where nothing of the page or beside it is missing, it is told.
        #[test]
        fn a_page_with_a_neighbour_of_each_node_on_either_side_is_told(
            list in proptest::collection::vec(0..3_usize, 1..120),
            offset in 0..120_usize, limit in 1..40_usize,
        ) {
            let mut ranks = [0; 3];
            let all: Vec<(usize, usize)> = list.iter().map(|&node| {
                ranks[node] += 1;
                (node, ranks[node] - 1)
            }).collect();
            let end = (offset + limit).min(all.len());
            prop_assume!(offset < end);
            let before = |node, place: usize| all[..place].iter().filter(|(other, _)| *other == node).count();
            let windows: Vec<Range<usize>> = (0..3).map(|node| {
                before(node, offset).saturating_sub(1)..(before(node, end) + 1).min(ranks[node])
            }).collect();
            let pieces: Vec<Piece> = windows.iter().zip(ranks).map(|(window, count)| Piece {
                before: window.start as u64, rows: window.len(), behind: (count - window.end) as u64,
            }).collect();
            let came: Vec<(usize, usize)> =
                all.iter().filter(|(node, rank)| windows[*node].contains(rank)).copied().collect();
            let merged: Vec<At> = came.iter()
                .map(|&(node, rank)| at(node as u32, (rank - windows[node].start) as u32)).collect();
            let said = page(offset as u64, limit as u32, &merged, &pieces);
            prop_assert_eq!(said.map(|said| &came[said]), Some(&all[offset..end]));
        }
    }
}
