//! The last of what has happened, numbered, in bounded memory: a follower reads behind the number it has had.
//!
//! Agents keep what happened to their own clients so, gateways what they heard of all nodes. Nobody waits in here: whoever
//! adds drops the oldest, and whoever was too slow is told how many it has lost.

use std::collections::VecDeque;

/// Items numbered from 1, of which the last are kept.
#[derive(Debug)]
pub struct Window<T> {
    /// Each with its bytes.
    items: VecDeque<(T, usize)>,
    bytes: usize,
    last: u64,
    most: usize,
    most_bytes: usize,
}

/// What followed a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since<T> {
    /// In order; the first has the number asked about, and what was lost, and one.
    pub items: Vec<T>,
    /// Items before these that are kept no more.
    pub lost: u64,
}

impl<T> Window<T> {
    /// Keeps so many items, and so many bytes of them unless one alone has more.
    #[must_use]
    pub const fn new(most: usize, most_bytes: usize) -> Self {
        Self { items: VecDeque::new(), bytes: 0, last: 0, most, most_bytes }
    }

    /// The number of the last item; 0 before there is one.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Bytes of the items that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an item of so many bytes, and gives its number.
    pub fn push(&mut self, item: T, bytes: usize) -> u64 {
        self.items.push_back((item, bytes));
        self.bytes += bytes;
        self.last += 1;
        while self.items.len() > self.most || self.bytes > self.most_bytes && self.items.len() > 1 {
            self.bytes -= self.items.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        self.last
    }

    /// What followed a number, at most so many items, and so many bytes of them unless the first alone has more.
    pub fn since(&self, number: u64, most: usize, most_bytes: usize) -> Since<T>
    where
        T: Clone,
    {
        let first = self.last - self.items.len() as u64;
        let skip = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        let (mut items, mut taken) = (Vec::new(), 0);
        for (item, bytes) in self.items.iter().skip(skip).take(most) {
            taken += bytes;
            if taken > most_bytes && !items.is_empty() {
                break;
            }
            items.push(item.clone());
        }
        Since { items, lost: first.saturating_sub(number) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_all_that_was_added(
            sizes in proptest::collection::vec(0..40_usize, 0..60),
            most in 1..20_usize, most_bytes in 0..200_usize, number in 0..70_u64,
            at_once in 1..30_usize, bytes_at_once in 0..200_usize,
        ) {
            let mut window = Window::new(most, most_bytes);
            for (at, bytes) in sizes.iter().enumerate() {
                prop_assert_eq!(window.push(at as u64 + 1, *bytes), at as u64 + 1);
            }
            let added = sizes.len();
            let fits = |kept: usize| kept <= most && (kept <= 1 || sizes[added - kept..].iter().sum::<usize>() <= most_bytes);
            let kept = (0..=added).rev().find(|kept| fits(*kept)).unwrap();
            let first = (added - kept) as u64;
            let since = window.since(number, at_once, bytes_at_once);
            prop_assert_eq!((window.last(), window.bytes()), (added as u64, sizes[added - kept..].iter().sum::<usize>()));
            prop_assert_eq!(since.lost, first.saturating_sub(number));
            let all: Vec<u64> = (number.max(first) + 1..=added as u64).take(at_once).collect();
            let bytes = |count: usize| all[..count].iter().map(|at| sizes[*at as usize - 1]).sum::<usize>();
            let fitting = (0..=all.len()).rev().find(|count| *count <= 1 || bytes(*count) <= bytes_at_once);
            prop_assert_eq!(since.items, &all[..fitting.unwrap().min(all.len())]);
        }
    }
}
