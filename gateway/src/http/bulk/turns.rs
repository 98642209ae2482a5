//! Whose turn it is: kicks go by their order, but a node gets only so many at once, so that a slow one holds up nobody
//! but its own; and none any more once it has failed too often in a row. Knows neither nodes nor time.

use std::collections::VecDeque;

/// Kicks under way at one node; as many fewer as it has failed in a row, so that one that has stopped answering is not
/// given new ones while those before run out of time.
const AT_ONCE: usize = 8;

/// Kicks in a row that a node may fail before it is given up.
pub(super) const FAILURES: usize = 8;

/// The kicks that have not begun, by number from 0.
#[derive(Debug)]
pub(super) struct Turns {
    nodes: Vec<Queue>,
    /// Of each kick, its node.
    node_of: Vec<usize>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<usize>,
    running: usize,
    failures: usize,
}

impl Turns {
    /// As many kicks as there are numbers of nodes, in this order.
    pub(super) fn new(node_of: Vec<usize>) -> Self {
        let nodes = node_of.iter().max().map_or(0, |most| most + 1);
        let mut nodes: Vec<Queue> = (0..nodes).map(|_| Queue::default()).collect();
        for (kick, &node) in node_of.iter().enumerate() {
            nodes[node].waiting.push_back(kick);
        }
        Self { nodes, node_of }
    }

    /// Whether one could begin now.
    pub(super) fn has_next(&self) -> bool {
        self.first().is_some()
    }

    /// Begins the first that may.
    pub(super) fn next(&mut self) -> Option<usize> {
        let (kick, node) = self.first()?;
        let node = &mut self.nodes[node];
        node.waiting.pop_front();
        node.running += 1;
        Some(kick)
    }

    fn first(&self) -> Option<(usize, usize)> {
        let free = self.nodes.iter().enumerate().filter(|(_, node)| node.running + node.failures < AT_ONCE);
        free.filter_map(|(at, node)| Some((*node.waiting.front()?, at))).min()
    }

    /// Takes in that one has ended. Gives back those that are not tried any more because of that.
    pub(super) fn ended(&mut self, kick: usize, node_failed: bool) -> Vec<usize> {
        let node = &mut self.nodes[self.node_of[kick]];
        node.running -= 1;
        node.failures = if node_failed { node.failures + 1 } else { 0 };
        if node.failures < FAILURES { Vec::new() } else { node.waiting.drain(..).collect() }
    }

    /// Those that have not begun, in order.
    pub(super) fn left(&self) -> Vec<usize> {
        let mut left: Vec<usize> = self.nodes.iter().flat_map(|node| node.waiting.iter().copied()).collect();
        left.sort_unstable();
        left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_node_holds_up_only_its_own() {
        let mut turns = Turns::new([vec![0; 20], vec![1, 0, 1]].concat());
        let begun: Vec<usize> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(begun, [0, 1, 2, 3, 4, 5, 6, 7, 20, 22]);
        assert!(!turns.has_next());
        assert!(turns.ended(3, false).is_empty());
        assert_eq!((turns.next(), turns.next()), (Some(8), None));
    }

    #[test]
    fn a_node_that_fails_is_given_up_and_one_that_fails_now_and_then_is_not() {
        let mut turns = Turns::new([vec![0; 30], vec![1; 20]].concat());
        let mut begun: VecDeque<usize> = std::iter::from_fn(|| turns.next()).collect();
        let mut given_up = Vec::new();
        while let Some(kick) = begun.pop_front() {
            given_up.extend(turns.ended(kick, kick < 30 || kick % 2 == 0));
            begun.extend(std::iter::from_fn(|| turns.next()));
        }
        assert_eq!(given_up, (8..30).collect::<Vec<_>>());
        assert!(turns.left().is_empty());
    }

    proptest! {
        #[test]
        fn every_kick_begins_once_or_is_given_up_or_left(
            node_of in proptest::collection::vec(0..5_usize, 0..200),
            steps in proptest::collection::vec((any::<bool>(), any::<proptest::sample::Index>(), any::<bool>()), 0..400),
        ) {
            let mut turns = Turns::new(node_of.clone());
            let mut running: Vec<usize> = Vec::new();
            let mut told: Vec<usize> = Vec::new();
            let mut failures = [0; 5];
            for (begins, which, failed) in steps {
                if begins {
                    prop_assert_eq!(turns.has_next(), turns.left().iter().any(|&kick| {
                        let node = node_of[kick];
                        running.iter().filter(|&&other| node_of[other] == node).count() + failures[node] < AT_ONCE
                    }));
                    running.extend(turns.next());
                } else if !running.is_empty() {
                    let kick = running.swap_remove(which.index(running.len()));
                    let failures = &mut failures[node_of[kick]];
                    *failures = if failed { *failures + 1 } else { 0 };
                    told.push(kick);
                    let given_up = turns.ended(kick, failed);
                    prop_assert!(given_up.is_empty() || *failures == FAILURES);
                    told.extend(given_up);
                }
                for node in 0..5 {
                    prop_assert!(running.iter().filter(|kick| node_of[**kick] == node).count() <= AT_ONCE);
                }
            }
            told.extend(running);
            told.extend(turns.left());
            told.sort_unstable();
            prop_assert_eq!(told, (0..node_of.len()).collect::<Vec<_>>());
        }
    }
}
