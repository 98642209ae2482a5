//! Which rows to ask each node for, so that one wave most likely brings the page.
//!
//! Where clients are spread over the nodes without regard to the order, the first `offset` clients of the merged list
//! are of each node about in proportion to what it has in all ([`share`]). So a page near the list's beginning
//! is most likely among the first rows of each node, one near its end among the last, and one not far from either among
//! those around each node's share of the ranks before it. The further a page is from both ends, the more rows chance
//! takes: the deviation is the root of the distance. [`plan`] takes the way of the fewest rows, and none if finding out
//! first which rows make up the page costs less.
//!
//! All of this rests on hints: counts that nodes had some time ago. What comes says exactly what it is, and
//! [`cover`](super::cover) whether it is the page. Wrong hints cost a wave.
//!
//! Bounds, asserted in tests: no way asks for more than the page, the lesser of another and 1,000 rows, and 100 rows a node;
//! nor one node for more than [`MAX_WINDOW`].

use std::ops::Range;

use rollcall_proto::MAX_WINDOW;

use super::share::{self, Expected};

/// Rows of each node beside the pages that shipping without a selection may bring.
const ROWS_A_NODE: u64 = 100;

/// Up to this many rows beside the page it is cheaper to ship them than to ask for their ranks first; a small page may
/// bring its own size.
const MOST_DETOUR: u64 = 1_000;

/// Deviations from its share that a node's rows leave room for.
const DEVIATIONS: f64 = 3.0;

/// What to ask the nodes for, one entry a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// So many rows from where the list begins.
    First(Vec<u64>),
    /// So many rows at its end.
    Last(Vec<u64>),
    /// The rows of these ranks, counted from where the list begins.
    Amid(Vec<Range<u64>>),
}

impl Ask {
    /// In rows. What comes of an end can be mended by asking for more, what comes from amid cannot.
    #[must_use]
    pub fn cost(&self) -> u64 {
        let rows = self.rows().iter().sum::<u64>();
        if matches!(self, Self::Amid(_)) { rows + rows / 2 } else { rows }
    }

    fn rows(&self) -> Vec<u64> {
        match self {
            Self::First(rows) | Self::Last(rows) => rows.clone(),
            Self::Amid(ranks) => ranks.iter().map(|ranks| ranks.end - ranks.start).collect(),
        }
    }
}

/// How to ask for `limit` rows from `offset` on. `total` is how many rows there are about, where that is known;
/// `may_guess` whether the nodes' shares tell how much of each comes before a place amid the list.
#[must_use]
pub fn plan(offset: u64, limit: u32, nodes: &[Expected], total: Option<u64>, may_guess: bool) -> Option<Ask> {
    let end = offset.saturating_add(limit.into());
    if limit == 0 {
        return Some(Ask::First(vec![0; nodes.len()]));
    }
    if nodes.len() == 1 {
        return Some(Ask::Amid(vec![offset..end; 1]));
    }
    let first = Ask::First(share::windows(end, nodes));
    // Of a list that is no longer than its first page, its first rows are as few.
    let total = total.filter(|_| offset > 0);
    let last = total.map(|total| Ask::Last(share::windows(total.saturating_sub(offset), nodes)));
    let amid = may_guess.then(|| Ask::Amid(around(offset, limit, nodes, total, DEVIATIONS)));
    let ways = [Some(first), last, amid].into_iter().flatten();
    let cheap = ways.filter(|way| is_cheap(limit, nodes.len(), &way.rows()));
    cheap.min_by_key(Ask::cost)
}

/// Whether to ship so many rows of each node costs less than to find out first which rows make up the page.
#[must_use]
pub fn is_cheap(limit: u32, nodes: usize, rows: &[u64]) -> bool {
    let limit = u64::from(limit);
    let most = limit + limit.min(MOST_DETOUR) + ROWS_A_NODE * nodes as u64;
    rows.iter().copied().fold(0, u64::saturating_add) <= most
        && rows.iter().all(|&rows| rows <= MAX_WINDOW.into())
}

/// How many rows one request may bring in all, whatever the nodes have by now.
#[must_use]
pub fn most_rows(limit: u32, nodes: usize) -> u64 {
    3 * u64::from(limit) + ROWS_A_NODE * nodes as u64
}

/// The ranks of each node among which the page's rows most likely are.
#[must_use]
pub fn around(
    offset: u64,
    limit: u32,
    nodes: &[Expected],
    total: Option<u64>,
    deviations: f64,
) -> Vec<Range<u64>> {
    // Of the ranks behind a place chance knows as little as of those before it.
    let left_of = |rank: u64| match total {
        Some(total) if total > rank => (total - rank) as f64 / total as f64,
        Some(_) => 0.0,
        None => 1.0,
    };
    let end = offset.saturating_add(limit.into());
    let range = |share: f64| {
        let place = |rank: u64| {
            let mean = rank as f64 * share;
            (mean, deviations * (mean * (1.0 - share) * left_of(rank)).sqrt() + 1.0)
        };
        let ((from, below), (to, above)) = (place(offset), place(end));
        let start = (from - below).max(0.0) as u64;
        start..((to + above).ceil() as u64).max(start)
    };
    share::shares(nodes).into_iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(counts: &[u64]) -> Vec<Expected> {
        counts.iter().map(|&count| Expected { count: Some(count), answers: true }).collect()
    }

    #[test]
    fn a_page_is_sought_where_the_fewest_rows_are_needed() {
        let nodes = expected(&[1_000_000; 3]);
        let total = Some(3_000_000);
        assert_eq!(plan(0, 100, &nodes, total, true), Some(Ask::First(vec![49; 3])));
        assert_eq!(plan(2_999_900, 100, &nodes, total, true), Some(Ask::Last(vec![49; 3])));
        assert_eq!(plan(0, 100, &expected(&[5; 3]), Some(15), true), Some(Ask::First(vec![49; 3])));
        // Of the last page's ten rows any node may have nearly all.
        assert_eq!(plan(2_999_990, 100, &nodes, total, true), Some(Ask::Last(vec![9; 3])));
        assert_eq!(plan(100, 100, &nodes, total, true), Some(Ask::First(vec![88; 3])));
        assert_eq!(plan(1_000, 100, &nodes, total, true), Some(Ask::Amid(vec![287..415; 3])));
        assert_eq!(plan(2_998_900, 100, &nodes, total, true), Some(Ask::Amid(vec![999_585..999_713; 3])));
        assert_eq!(plan(1_000_000, 100, &nodes, total, true), None);
        assert_eq!(plan(1_000, 100, &nodes, total, false), None);
        // Without a total there is no end to count from.
        assert_eq!(plan(2_999_900, 100, &nodes, None, true), None);
        assert_eq!(plan(1_000, 100, &nodes, None, true), Some(Ask::Amid(vec![287..415; 3])));
        // Behind the end there is nothing but counts to ask for.
        assert_eq!(plan(3_000_000, 100, &nodes, total, true), Some(Ask::Last(vec![0; 3])));
        assert_eq!(plan(1_000_000, 0, &nodes, total, true), Some(Ask::First(vec![0; 3])));
        assert_eq!(plan(500, 100, &expected(&[7]), None, false), Some(Ask::Amid(vec![500..600; 1])));
    }

    proptest! {
        #[test]
        fn no_way_asks_for_more_than_the_bound(
            offset in prop_oneof![0..5_000_u64, 0..20_000_000_u64, Just(u64::MAX)], limit in 0..=10_000_u32,
            counts in proptest::collection::vec(prop_oneof![0..5_000_000_u64, Just(u64::MAX)], 1..60),
            total in proptest::option::of(0..20_000_000_u64),
        ) {
            let Some(way) = plan(offset, limit, &expected(&counts), total, true) else { return Ok(()) };
            let rows = way.rows();
            prop_assert_eq!(rows.len(), counts.len());
            let (limit, nodes) = (u64::from(limit), counts.len() as u64);
            prop_assert!(rows.iter().sum::<u64>() <= limit + limit.min(1_000) + 100 * nodes);
            prop_assert!(rows.iter().all(|&rows| rows <= MAX_WINDOW.into()));
        }
    }
}
