//! The beginning of the merged list without a whole page from every node.
//!
//! Where clients are spread over the nodes without regard to the order, the first `end` clients of the merged list
//! are of each node about in proportion to what it has in all: a node with the share `p` has `end * p` of them, give or
//! take the deviation of that many throws, the root of `end * p * (1 - p)`. So each node is asked for that many, three
//! deviations and one ([`windows`]). The merged rows are the list's beginning as far as they go behind no node's last row
//! that has more to give. Where a node ran out too early, [`shortfalls`] says how many rows of it are enough, whatever
//! they are: with those in place of what came first the beginning is whole. All of it holds for the end as well, read
//! backwards ([`shortfalls_at_end`]).
//!
//! Bounds, asserted in tests: over `k` nodes the windows add up to at most `end + 3 * sqrt(end * k) + 2 * k`, and no window,
//! first or second, is larger than `end`. A second answer leaves no shortfall unless a node changed meanwhile.
//!
//! This is no use where order and node go together, as in the order by node: there a page is of one node.

use super::rows::At;

/// Deviations from its share that a node's window leaves room for. By chance one window in a thousand is too small.
const DEVIATIONS: f64 = 3.0;

/// What is known of a node before it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// How many clients it said it has; `None` before it said so.
    pub count: Option<u64>,
    /// Whether it is expected to answer. The others' rows must do without one that is not.
    pub answers: bool,
}

/// What came of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// How many rows.
    pub rows: usize,
    /// How many it has in all from where the list begins.
    pub in_all: u64,
}

/// Of all clients, the share that each node has about.
#[must_use]
pub fn shares(nodes: &[Expected]) -> Vec<f64> {
    let known: Vec<u64> = nodes.iter().filter_map(|node| node.count).collect();
    // A node that has not said how much it has is taken for one like the others.
    let usual = known.iter().map(|&count| count as f64).sum::<f64>() / known.len().max(1) as f64;
    let weight = |node: &Expected| node.count.map_or(usual, |count| count as f64).max(1.0);
    let total: f64 = nodes.iter().filter(|node| node.answers).map(weight).sum();
    let share = |node: &Expected| if total > 0.0 { (weight(node) / total).min(1.0) } else { 1.0 };
    nodes.iter().map(share).collect()
}

/// How many rows to ask each node for, so that the first `end` of all are most likely among them.
#[must_use]
pub fn windows(end: u64, nodes: &[Expected]) -> Vec<u64> {
    let window = |share: f64| {
        let mean = end as f64 * share;
        let window = mean + DEVIATIONS * (mean * (1.0 - share)).sqrt();
        // One more row shows that the page has ended.
        (window.ceil() as u64).saturating_add(1).min(end)
    };
    shares(nodes).into_iter().map(window).collect()
}

/// The nodes that may have more rows among the first `end` than came of them, and how many rows of each are enough.
/// `merged` are all rows that came, in order.
#[must_use]
pub fn shortfalls(end: usize, merged: &[At], nodes: &[Came]) -> Vec<(usize, u64)> {
    if end == 0 {
        return Vec::new();
    }
    let has_more = |node: &Came| node.in_all > node.rows as u64;
    let mut short: Vec<_> = (0..nodes.len())
        .filter(|&node| nodes[node].rows == 0 && has_more(&nodes[node]))
        .map(|node| (node, end as u64))
        .collect();
    for (before, at) in merged.iter().take(end - 1).enumerate() {
        let (index, row) = (at.node as usize, at.row as usize);
        let node = &nodes[index];
        if row + 1 == node.rows && has_more(node) {
            // What follows of this node has behind these rows at most this room.
            let room = end - (before + 1);
            short.push((index, (node.rows + room) as u64));
        }
    }
    short
}

/// As [`shortfalls`], of the last `end` rows of the list, where of every node its last rows came.
#[must_use]
pub fn shortfalls_at_end(end: usize, merged: &[At], nodes: &[Came]) -> Vec<(usize, u64)> {
    let last_row = |node: u32| nodes[node as usize].rows as u32 - 1;
    let backwards = |at: &At| At { node: at.node, row: last_row(at.node) - at.row };
    shortfalls(end, &merged.iter().rev().map(backwards).collect::<Vec<_>>(), nodes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(counts: &[u64]) -> Vec<Expected> {
        counts.iter().map(|&count| Expected { count: Some(count), answers: true }).collect()
    }

    #[test]
    fn windows_are_shares_with_room_for_chance() {
        assert_eq!(windows(100, &expected(&[5, 5, 5])), [49, 49, 49]);
        assert_eq!(windows(100, &expected(&[1000])), [100]);
        assert_eq!(windows(100, &expected(&[1_000_000, 10])), [100, 2]);
        assert_eq!(windows(0, &expected(&[5, 5])), [0, 0]);
        assert!(windows(100, &[]).is_empty());
        assert_eq!(windows(u64::MAX, &expected(&[7])), [u64::MAX]);
    }

    #[test]
    fn nodes_of_which_nothing_is_known_count_as_the_others_do() {
        let unknown = Expected { count: None, answers: true };
        let known = Expected { count: Some(700), answers: true };
        assert_eq!(windows(100, &[unknown, unknown, unknown]), [49, 49, 49]);
        assert_eq!(windows(100, &[unknown, known, known]), [49, 49, 49]);
        // Those that do not answer leave their share to the others.
        let away = Expected { answers: false, ..known };
        assert_eq!(windows(100, &[away, known, known]), [66, 66, 66]);
        assert_eq!(windows(100, &[away, away]), [100, 100]);
    }

    /// The cluster as one list: of each row its node. Rows of a node are numbered as they stand.
    fn places(list: &[usize], nodes: usize) -> Vec<At> {
        let mut next = vec![0; nodes];
        let mut place = |&node: &usize| {
            next[node] += 1;
            At { node: node as u32, row: next[node] - 1 }
        };
        list.iter().map(&mut place).collect()
    }

    /// The rows that come of the nodes by these windows, merged, and what came of each.
    fn ask(all: &[At], windows: &[u64]) -> (Vec<At>, Vec<Came>) {
        let merged: Vec<At> =
            all.iter().filter(|at| u64::from(at.row) < windows[at.node as usize]).copied().collect();
        let of = |rows: &[At], node| rows.iter().filter(|at| at.node as usize == node).count();
        let came = (0..windows.len())
            .map(|node| Came { rows: of(&merged, node), in_all: of(all, node) as u64 })
            .collect();
        (merged, came)
    }

    /// As `ask`, for the last rows of the nodes; and the last `end` of what came, numbered as in the list.
    fn ask_at_end(all: &[At], windows: &[u64], end: usize) -> (Vec<At>, Vec<Came>, Vec<At>) {
        let count = |node: u32| all.iter().filter(|at| at.node == node).count() as u64;
        let first = |node: u32| count(node).saturating_sub(windows[node as usize]);
        let came: Vec<At> = all.iter().filter(|at| u64::from(at.row) >= first(at.node)).copied().collect();
        let merged = came.iter().map(|at| At { node: at.node, row: at.row - first(at.node) as u32 });
        let of = |node: u32| Came { rows: (count(node) - first(node)) as usize, in_all: count(node) };
        let nodes = (0..windows.len() as u32).map(of).collect();
        let page = came[came.len().saturating_sub(end)..].to_vec();
        (merged.collect(), nodes, page)
    }

    proptest! {
        #[test]
        fn windows_stay_within_the_bound(
            end in 0..20_000_u64, counts in proptest::collection::vec(0..5_000_000_u64, 1..60),
        ) {
            let windows = windows(end, &expected(&counts));
            let k = counts.len() as f64;
            let sum = windows.iter().sum::<u64>() as f64;
            prop_assert!(sum <= end as f64 + 3.0 * (end as f64 * k).sqrt() + 2.0 * k, "{sum} rows");
            prop_assert!(windows.iter().all(|window| *window <= end));
        }

        #[test]
        fn two_waves_bring_the_beginning_of_the_one_list(
            // Skewed, empty and single nodes, each with rows anywhere.
            list in proptest::collection::vec(prop_oneof![3 => 0..1_usize, 1 => 0..6_usize], 0..200),
            known in proptest::collection::vec((proptest::option::of(0..300_u64), any::<bool>()), 6),
            end in 0..120_usize,
        ) {
            let all = places(&list, 6);
            let known: Vec<_> = known.into_iter().map(|(count, answers)| Expected { count, answers }).collect();
            let mut windows = windows(end as u64, &known);
            let (merged, came) = ask(&all, &windows);
            let short = shortfalls(end, &merged, &came);
            if short.is_empty() {
                prop_assert_eq!(&merged[..end.min(merged.len())], &all[..end.min(all.len())]);
            }
            for (node, window) in short {
                prop_assert!(windows[node] < window && window <= end as u64);
                windows[node] = window;
            }
            let (merged, came) = ask(&all, &windows);
            prop_assert!(shortfalls(end, &merged, &came).is_empty());
            prop_assert_eq!(&merged[..end.min(merged.len())], &all[..end.min(all.len())]);
        }

        #[test]
        fn two_waves_bring_the_end_of_the_one_list(
            list in proptest::collection::vec(prop_oneof![3 => 0..1_usize, 1 => 0..6_usize], 0..200),
            windows in proptest::collection::vec(1..40_u64, 6), end in 0..120_usize,
        ) {
            let all = places(&list, 6);
            let mut windows: Vec<u64> = windows.into_iter().map(|window| window.min(end as u64)).collect();
            let expected = &all[all.len().saturating_sub(end)..];
            let (merged, came, page) = ask_at_end(&all, &windows, end);
            let short = shortfalls_at_end(end, &merged, &came);
            if short.is_empty() {
                prop_assert_eq!(&page, expected);
            }
            for (node, window) in short {
                prop_assert!(windows[node] < window && window <= end as u64);
                windows[node] = window;
            }
            let (merged, came, page) = ask_at_end(&all, &windows, end);
            prop_assert!(shortfalls_at_end(end, &merged, &came).is_empty());
            prop_assert_eq!(&page, expected);
        }

        #[test]
        fn a_shortfall_is_named_whenever_the_beginning_is_not_whole(
            list in proptest::collection::vec(0..4_usize, 0..100),
            windows in proptest::collection::vec(0..30_u64, 4), end in 0..60_usize,
        ) {
            let all = places(&list, 4);
            let (merged, came) = ask(&all, &windows);
            let whole = merged[..end.min(merged.len())] == all[..end.min(all.len())];
            prop_assert!(whole || !shortfalls(end, &merged, &came).is_empty());
        }
    }
}
