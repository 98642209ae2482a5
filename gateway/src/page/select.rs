//! Fence-key selection: which ranks of which node make up one page of the merged list, without shipping the rows
//! before it.
//!
//! Every node keeps its matching clients sorted, so a rank of the cluster-wide list is a k-way selection problem.
//! A [`Selection`] holds, for each node, the range of local ranks that may still belong to the page. In each wave
//! every node is asked for up to [`Selection::fences`] evenly spaced keys of its range, with their exact local
//! ranks. Putting all fences in order bounds each fence's rank in the merged list from both sides: of another
//! node's rows, at least those up to its last smaller fence and at most those before its next one come before it.
//! A fence whose upper bound is at or below the page's first rank pushes its node's start up; one whose lower bound
//! is at or past the page's end pulls its node's end down. When what is left is not much more than the page, the
//! ranges are fetched and merged.
//!
//! The first wave need not look at whole lists: where the page most likely is can be guessed from the nodes' shares
//! ([`Selection::near`]), and few fences around that narrow the ranges as far as two waves of many over all. A guess decides
//! only where fences stand, so one that was wrong costs a wave.
//!
//! Bounds, asserted in tests:
//! - the two bounds of a fence differ by at most one fence gap a node, so a wave leaves at most the page plus two
//!   gaps and two rows a node: the ranges shrink by about `fences / 2` a wave, whatever the distribution;
//! - a range no longer than the fences is resolved exactly by its next wave, so a selection always ends: over 3
//!   nodes of 1,000,000 clients in 3 waves, over 200 nodes of 100,000 in 4, the fetch included; near a guess that was
//!   right in 2, near one that was wrong in one more than without;
//! - a fetch asks for at most the page, the lesser of two pages and 1,000 rows, and 100 rows a node; of one node for
//!   at most [`MAX_WINDOW`]; and, where other rows have been shipped already, for as much less as it takes
//!   ([`Selection::within`]), down to the page alone, if [`EXTRA_WAVES`] more waves come to that. They do where a node's
//!   part of the page is no longer than its fences; of a longer one, and of nodes that lie, no number of waves might.
//!
//! Known before as multi-way selection by splitters (Varman et al., "Merging multiple lists on hierarchical-memory
//! multiprocessors", 1991). Decided against: `offset / nodes` from each node and one correction, which is wrong
//! (A = 1..10, B = 101..110, offset 4, limit 2 gives 101, 102 where 5, 6 is right), and shipping `offset + limit`
//! rows from every node, whose cost grows with depth.

use std::ops::Range;

use rollcall_proto::{KeyRef, MAX_FENCES, MAX_RANKED, MAX_WINDOW, Order};
use thiserror::Error;

/// The fewest fences a node is asked for a wave; with few nodes more are asked for, which saves waves.
const MIN_FENCES: u32 = 64;

/// About how many fences a wave brings in all, while that leaves each node between the least and the most.
const FENCES_PER_WAVE: usize = 2048;

/// The fewest fences around a guess.
const MIN_NEAR: u64 = 16;

/// Ranks between two fences around a guess at the most, while [`MAX_FENCES`] suffice: two such gaps of each node fit
/// into what a fetch may bring besides the page.
const NEAR_GAP: u64 = 40;

/// Rows beside the page that a fetch of a large page may bring; a small page may bring twice its own size. Another
/// wave costs more than that many rows.
const MOST_SLACK: u64 = 1000;

/// Waves that a selection spends on asking for fewer rows than it otherwise would.
const EXTRA_WAVES: u32 = 2;

/// No node has more clients. Far below what ranks can hold, so that sums over nodes never overflow.
const MOST_CLIENTS: u64 = 1 << 40;

/// The state of one selection. Nodes are known by their index.
#[derive(Clone, Debug)]
pub struct Selection {
    order: Order,
    offset: u64,
    limit: u64,
    fences: u32,
    waves: u32,
    changing: bool,
    /// How many clients have a rank, of a node and of all: the first of an order by a live figure, else all.
    most_ranked: u64,
    /// How many rows a fetch may bring.
    most_rows: u64,
    /// Waves after which the ranges were short enough to be fetched but for `most_rows`.
    short_waves: u32,
    /// Where the first wave looks, instead of everywhere.
    near: Option<Near>,
    nodes: Vec<NodeRange>,
}

#[derive(Clone, Debug)]
struct Near {
    /// Local ranks by node.
    ranges: Vec<Range<u64>>,
    fences: u32,
}

#[derive(Clone, Debug)]
struct NodeRange {
    /// Matching clients of the node; known after its first survey.
    count: Option<u64>,
    /// The local rank at which the list begins on this node: 0, or behind a cursor.
    first: u64,
    /// Local ranks that may still be in the page.
    active: Range<u64>,
}

/// A node's answer to a survey, as far as the selection reads it.
#[derive(Clone, Debug)]
pub struct Surveyed<'a> {
    /// Matching clients of the node.
    pub count: u64,
    /// The local rank at which the list begins; read in the first wave only.
    pub first: u64,
    /// Keys with their local ranks, ascending.
    pub fences: Vec<(u64, KeyRef<'a>)>,
}

/// What to ask next. One entry a node, by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fences of these ranges of local ranks; nothing need be asked of a node whose range is empty, but in the
    /// first wave every node is asked, for its count.
    Survey(Vec<Range<u64>>),
    /// The rows of these ranges; then merge them, skip `skip`, keep `take`.
    Fetch {
        /// Local ranks by node.
        windows: Vec<Range<u64>>,
        /// Rows of the merged windows before the page.
        skip: u64,
        /// Rows of the page.
        take: u64,
    },
}

/// A survey that no sorted set of clients can give.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what}")]
pub struct Inconsistent {
    /// Index of the node that gave it.
    pub node: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Selection {
    /// A selection of the ranks `offset .. offset + limit`, counted from where the list begins, over that many
    /// nodes.
    #[must_use]
    pub fn new(order: Order, offset: u64, limit: u32, nodes: usize) -> Self {
        let fair_share = u32::try_from(FENCES_PER_WAVE / nodes.max(1)).unwrap_or(MAX_FENCES);
        Self {
            order,
            offset,
            limit: limit.into(),
            fences: fair_share.clamp(MIN_FENCES, MAX_FENCES),
            waves: 0,
            changing: false,
            most_ranked: if order.field.is_live() { MAX_RANKED.into() } else { u64::MAX },
            most_rows: u64::MAX,
            short_waves: 0,
            near: None,
            nodes: vec![NodeRange { count: None, first: 0, active: 0..u64::MAX }; nodes],
        }
    }

    /// The same over nodes that may change between waves: the page is then as near as can be, not exact.
    #[must_use]
    pub fn over_changing_nodes(self) -> Self {
        Self { changing: true, ..self }
    }

    /// The same with a fetch of so many rows at the most, if they are not fewer than the page's and some more waves come
    /// to that.
    #[must_use]
    pub fn within(self, rows: u64) -> Self {
        Self { most_rows: rows, ..self }
    }

    /// The same with a guess of the local ranks among which each node's rows of the page are, one range a node.
    #[must_use]
    pub fn near(self, ranges: Vec<Range<u64>>) -> Self {
        debug_assert_eq!(ranges.len(), self.nodes.len());
        // Every node is asked for its count, so none gets an empty range.
        let never_empty = |near: Range<u64>| {
            let start = near.start.min(MOST_CLIENTS);
            start..near.end.max(start + 1)
        };
        let ranges: Vec<_> = ranges.into_iter().map(never_empty).collect();
        let longest = ranges.iter().map(|range| range.end.saturating_sub(range.start)).max().unwrap_or(0);
        // More fences cost keys, fewer cost rows: a key costs about as much as a row's third, and of a range of n rows m
        // fences leave some 2 n / m.
        let least_cost = (longest.saturating_mul(6) as f64).sqrt() as u64;
        let fences = least_cost.max(longest / NEAR_GAP).clamp(MIN_NEAR, self.fences.into());
        Self { near: Some(Near { ranges, fences: fences as u32 }), ..self }
    }

    /// Whether nodes may change between waves.
    #[must_use]
    pub fn is_over_changing_nodes(&self) -> bool {
        self.changing
    }

    /// Fences to ask each node for in the next wave.
    #[must_use]
    pub fn fences(&self) -> u32 {
        self.guess().map_or(self.fences, |near| near.fences)
    }

    /// Where the next wave looks instead of everywhere.
    fn guess(&self) -> Option<&Near> {
        self.near.as_ref().filter(|_| self.waves == 0)
    }

    /// Surveys taken in so far.
    #[must_use]
    pub fn waves(&self) -> u32 {
        self.waves
    }

    /// Matching clients of each node, by index; 0 before the first survey.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.nodes.iter().map(|node| node.count.unwrap_or(0))
    }

    /// Matching clients of all nodes; 0 before the first survey.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.count).fold(0, u64::saturating_add)
    }

    /// Those of them from where the list begins.
    #[must_use]
    pub fn total_ahead(&self) -> u64 {
        let ahead = |node: &NodeRange| node.count.map(|count| count.saturating_sub(node.first));
        self.nodes.iter().filter_map(ahead).fold(0, u64::saturating_add)
    }

    /// What to ask next.
    #[must_use]
    pub fn step(&self) -> Step {
        let ranges: Vec<_> = self.nodes.iter().map(|node| node.active.clone()).collect();
        if self.nodes.iter().any(|node| node.count.is_none()) {
            return Step::Survey(self.guess().map_or(ranges, |near| near.ranges.clone()));
        }
        let (skip, take) = self.target();
        if take == 0 {
            let windows = self.nodes.iter().map(|_| 0..0).collect();
            return Step::Fetch { windows, skip: 0, take: 0 };
        }
        let most = if self.short_waves > EXTRA_WAVES { u64::MAX } else { self.most_rows.max(take) };
        if self.is_short() && self.active_total() <= most {
            Step::Fetch { windows: ranges, skip, take }
        } else {
            Step::Survey(ranges)
        }
    }

    /// Whether the ranges hold not much more than the page.
    fn is_short(&self) -> bool {
        let slack = (2 * self.limit).min(MOST_SLACK) + 100 * self.nodes.len() as u64;
        let lengths = || self.nodes.iter().map(|node| node.active.end - node.active.start);
        self.active_total() <= self.limit + slack && lengths().all(|length| length <= MAX_WINDOW.into())
    }

    /// Narrows every node's range by one wave of answers, one a node by index; `None` where nothing was asked.
    ///
    /// # Errors
    /// [`Inconsistent`] names a node whose answer cannot be true; the selection must then start again without it.
    pub fn narrow(&mut self, wave: &[Option<Surveyed<'_>>]) -> Result<(), Inconsistent> {
        for (index, answer) in wave.iter().enumerate() {
            let Some(answer) = answer else { continue };
            self.take_count(index, answer)?;
            self.check_fences(index, &answer.fences)?;
        }
        self.waves += 1;
        let none = Vec::new();
        let fences: Vec<&Vec<(u64, KeyRef<'_>)>> =
            wave.iter().map(|answer| answer.as_ref().map_or(&none, |answer| &answer.fences)).collect();
        let (skip, take) = self.target();
        let page_end = skip.saturating_add(take);
        let mut narrowed: Vec<Range<u64>> = self.nodes.iter().map(|node| node.active.clone()).collect();
        for fence in self.bounds(&fences) {
            let range = &mut narrowed[fence.node];
            if fence.at_most <= skip {
                // Rows before the fence come before the page; so does the fence itself if it is strictly before it.
                range.start = range.start.max(fence.rank + u64::from(fence.at_most < skip));
            }
            if fence.at_least >= page_end {
                range.end = range.end.min(fence.rank);
            }
        }
        for (node, range) in self.nodes.iter_mut().zip(narrowed) {
            node.active = range.start..range.end.max(range.start);
        }
        self.short_waves += u32::from(self.is_short());
        Ok(())
    }

    fn take_count(&mut self, index: usize, answer: &Surveyed<'_>) -> Result<(), Inconsistent> {
        let most_ranked = self.most_ranked;
        let node = &mut self.nodes[index];
        let count = answer.count;
        match node.count {
            _ if count > MOST_CLIENTS => {
                Err(Inconsistent { node: index, what: "a count that no node can have" })
            }
            None if answer.first > count => {
                Err(Inconsistent { node: index, what: "a list that begins behind its end" })
            }
            None => {
                node.count = Some(count);
                node.first = answer.first;
                node.active = node.first..count.min(most_ranked);
                Ok(())
            }
            Some(known) if known == count => Ok(()),
            Some(_) if self.changing => {
                node.count = Some(count);
                node.active.end = node.active.end.min(count);
                node.active.start = node.active.start.min(node.active.end);
                Ok(())
            }
            Some(_) => Err(Inconsistent { node: index, what: "the count of one snapshot changed" }),
        }
    }

    /// An answer must look like evenly spaced keys of a sorted range. That is all that `narrow` relies on to make
    /// progress, so a node that lies about its keys can spoil the order of its own rows, but not the end.
    fn check_fences(&self, index: usize, fences: &[(u64, KeyRef<'_>)]) -> Result<(), Inconsistent> {
        let fault = |what| Err(Inconsistent { node: index, what });
        let active = &self.nodes[index].active;
        let asked = match self.guess().map(|near| &near.ranges[index]) {
            Some(near) => near.start.max(active.start)..near.end.min(active.end),
            None => active.clone(),
        };
        let length = asked.end.saturating_sub(asked.start);
        let expected = length.min(self.fences().into());
        if fences.len() as u64 != expected {
            return fault("a survey with another number of fences than its range allows");
        }
        let Some(((first, _), (last, _))) = fences.first().zip(fences.last()) else { return Ok(()) };
        let widest = 2 * length.div_ceil(expected);
        if *first != asked.start || *last >= asked.end || asked.end - last > widest {
            return fault("fences that do not span the range asked for");
        }
        for pair in fences.windows(2) {
            let ((rank, key), (next_rank, next_key)) = (&pair[0], &pair[1]);
            if next_rank <= rank || next_rank - rank > widest {
                return fault("fences that are not evenly spaced");
            }
            if self.order.compare(key, next_key).is_ge() {
                return fault("fences that are not in order");
            }
        }
        Ok(())
    }

    /// Where the page lies in the merged active ranges: ranks to skip, ranks to take.
    fn target(&self) -> (u64, u64) {
        let ranked = self.total_ahead().min(self.most_ranked);
        let take = self.limit.min(ranked.saturating_sub(self.offset));
        let dropped: u64 = self.nodes.iter().map(|node| node.active.start.saturating_sub(node.first)).sum();
        (self.offset.saturating_sub(dropped), take)
    }

    fn active_total(&self) -> u64 {
        self.nodes.iter().map(|node| node.active.end - node.active.start).sum()
    }

    /// Bounds on every fence's rank among the merged active rows.
    fn bounds(&self, fences: &[&Vec<(u64, KeyRef<'_>)>]) -> Vec<Bounds> {
        let mut merged: Vec<(KeyRef<'_>, usize, u64)> = fences
            .iter()
            .enumerate()
            .flat_map(|(node, fences)| fences.iter().map(move |(rank, key)| (*key, node, *rank)))
            .collect();
        merged.sort_by(|a, b| self.order.compare(&a.0, &b.0));

        // Walking up the merged fences, what is known of each node's rows before the present key: at least those
        // up to its last fence passed, at most those before its next fence. Both only grow.
        let mut at_least = vec![0; self.nodes.len()];
        let mut at_most: Vec<u64> = (self.nodes.iter().zip(fences))
            .map(|(NodeRange { active, .. }, fences)| {
                fences.first().map_or(active.end, |(rank, _)| *rank) - active.start
            })
            .collect();
        let mut passed = vec![0; self.nodes.len()];
        let (mut least_sum, mut most_sum) = (0, at_most.iter().sum::<u64>());
        let mut bounds = Vec::with_capacity(merged.len());
        for (_, node, rank) in merged {
            let active = &self.nodes[node].active;
            let own = rank - active.start;
            bounds.push(Bounds {
                node,
                rank,
                at_least: least_sum - at_least[node] + own,
                at_most: most_sum - at_most[node] + own,
            });
            passed[node] += 1;
            let next = fences[node].get(passed[node]).map_or(active.end, |(rank, _)| *rank);
            least_sum += own + 1 - at_least[node];
            most_sum += next - active.start - at_most[node];
            at_least[node] = own + 1;
            at_most[node] = next - active.start;
        }
        bounds
    }
}

/// A fence and between which ranks of the merged active rows it lies, both inclusive.
struct Bounds {
    node: usize,
    rank: u64,
    at_least: u64,
    at_most: u64,
}

#[cfg(test)]
mod tests;
