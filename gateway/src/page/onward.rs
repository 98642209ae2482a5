//! Rows from a place on, without snapshots: the next `limit` of the merged list, whatever the nodes do meanwhile.
//!
//! What a node is asked for begins behind a key, never at a rank: first behind where the page begins, then behind its last
//! row that came. A key is as good a place in a list that has changed as in one that has not, so a client that stays where it is
//! comes once, however many answers a page takes and however long ago the page before was; of ranks the same can be said only on a
//! snapshot, and snapshots go. So this is the way of a walk ([`cursor`](super::cursor)); pages by number, which begin at a
//! rank, go by [`select`](super::select).
//!
//! The merged rows are the list's as far as they go behind no node's last row that has more to give. Where that is not the
//! whole page, the nodes in its way are asked for more: together for what the page lacks, but none for more than there is
//! room behind its last row. Nothing that came is asked for again. How much to ask for first is best known before
//! ([`share`](super::share), [`select`](super::select)): what comes of a node in vain is of its last answer alone, but where
//! nodes stand in each other's way one by one it may add up.
//!
//! Bounds, asserted in tests: a wave asks for no more than a page and nine rows a node, and at
//! least one row of a node comes of it, so it ends.

use super::rows::At;

/// Rows beside its part that a node is asked for, so that the next wave is not about a row or two.
const SPARE: u64 = 8;

/// What has come of a node so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// How many rows, all answers together.
    pub rows: usize,
    /// How many it has behind them.
    pub behind: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask these nodes, by index, for so many rows behind those that came.
    Ask(Vec<(usize, u64)>),
    /// The first rows that came are the page, so many.
    Page(usize),
}

/// What to do next for `limit` rows. `merged` says of every row that came, in order, of which node it is.
#[must_use]
pub fn step(limit: usize, merged: impl Iterator<Item = usize>, nodes: &[Came]) -> Step {
    // Up to where the rows are the list's for all that is known of each node: behind its last row, if it has more.
    let mut passed = vec![0; nodes.len()];
    let mut reaches = vec![0; nodes.len()];
    let mut count = 0;
    for node in merged {
        count += 1;
        passed[node] += 1;
        if passed[node] == nodes[node].rows {
            reaches[node] = count;
        }
    }
    let is_short = |node: &usize| nodes[*node].behind > 0 && reaches[*node] < limit;
    let short: Vec<usize> = (0..nodes.len()).filter(is_short).collect();
    let Some(known) = short.iter().map(|&node| reaches[node]).min() else {
        return Step::Page(limit.min(count));
    };
    let part = ((limit - known) as u64).div_ceil(short.len() as u64) + SPARE;
    Step::Ask(short.into_iter().map(|node| (node, part.min((limit - reaches[node]) as u64))).collect())
}

/// Which of several answers' rows, each of one node, come first. `of` names the node of an answer.
pub fn nodes_of<'a>(merged: &'a [At], of: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    merged.iter().map(|at| of[at.node as usize])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The page of a list, of each of whose rows the node is known; the first wave brings `windows`.
    fn page(list: &[usize], limit: usize, windows: &[u64]) -> Vec<usize> {
        let nodes = windows.len();
        let mut counts = vec![0_usize; nodes];
        let mut rank = |&node: &usize| {
            counts[node] += 1;
            counts[node] - 1
        };
        let ranks: Vec<usize> = list.iter().map(&mut rank).collect();
        let mut rows = vec![0; nodes];
        let mut asked: Vec<(usize, u64)> = windows.iter().copied().enumerate().collect();
        loop {
            for (node, window) in asked {
                rows[node] += (window as usize).min(counts[node] - rows[node]);
            }
            let of = |node: usize| Came { rows: rows[node], behind: (counts[node] - rows[node]) as u64 };
            let came: Vec<Came> = (0..nodes).map(of).collect();
            let came_at = || (0..list.len()).filter(|&at| ranks[at] < rows[list[at]]);
            match step(limit, came_at().map(|at| list[at]), &came) {
                Step::Page(length) => return came_at().take(length).collect(),
                Step::Ask(more) => {
                    let most = limit as u64 + (SPARE + 1) * nodes as u64;
                    assert!(more.iter().map(|(_, rows)| rows).sum::<u64>() <= most, "{more:?}");
                    let asks = |&(node, rows): &(usize, u64)| rows > 0 && came[node].behind > 0;
                    assert!(!more.is_empty() && more.iter().all(asks), "{more:?} of {came:?}");
                    asked = more;
                }
            }
        }
    }

    #[test]
    fn rows_behind_which_another_nodes_may_stand_are_not_yet_the_page() {
        let came = |rows, behind| Came { rows, behind };
        let step = |limit, merged: &[usize], nodes: &[Came]| step(limit, merged.iter().copied(), nodes);
        assert_eq!(step(2, &[0, 0, 1], &[came(2, 5), came(1, 5)]), Step::Page(2));
        assert_eq!(step(3, &[0, 0, 1], &[came(2, 5), came(1, 5)]), Step::Ask(vec![(0, 1)]));
        assert_eq!(step(3, &[0, 0, 1], &[came(2, 0), came(1, 5)]), Step::Page(3));
        assert_eq!(step(30, &[0, 0, 1], &[came(2, 5), came(1, 5)]), Step::Ask(vec![(0, 22), (1, 22)]));
        // Of a node of which nothing came any row may be the first.
        assert_eq!(step(1, &[0], &[came(1, 0), came(0, 9)]), Step::Ask(vec![(1, 1)]));
        assert_eq!(step(9, &[0], &[came(1, 0), came(0, 0)]), Step::Page(1));
        assert_eq!(step(9, &[], &[]), Step::Page(0));
    }

    proptest! {
        #[test]
        fn the_page_is_the_one_lists(
            // Runs of rows of one node, and rows of any.
            runs in proptest::collection::vec((0..60_usize, 1..200_usize, any::<bool>()), 0..20),
            windows in proptest::collection::vec(0..300_u64, 1..60), limit in 1..1_500_usize,
        ) {
            let nodes = windows.len();
            let run = |&(first, length, mixed): &(usize, usize, bool)| {
                (0..length).map(move |at| (if mixed { first + at * 7 } else { first }) % nodes)
            };
            let list: Vec<usize> = runs.iter().flat_map(run).collect();
            prop_assert!(page(&list, limit, &windows).into_iter().eq(0..limit.min(list.len())));
        }
    }
}
