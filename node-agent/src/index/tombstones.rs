//! The sessions that ended last, so that news from before their end does not bring them back.

use std::collections::{HashSet, VecDeque};

/// How many ended sessions are remembered, some 2 MB. News of a session can be late by what lies in the channel
/// between broker and index and by one full resync; more kicks than this within that time heal at the next
/// `Ended` or resync of the stream.
const REMEMBERED: usize = 1 << 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Tombstones {
    sessions: HashSet<u64>,
    oldest_first: VecDeque<u64>,
    added: u64,
}

impl Tombstones {
    pub(super) fn add(&mut self, session: u64) {
        if !self.sessions.insert(session) {
            return;
        }
        self.added += 1;
        self.oldest_first.push_back(session);
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.sessions.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, session: u64) -> bool {
        self.sessions.contains(&session)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many were ever added: tells whether there are new ones.
    pub(super) fn added(&self) -> u64 {
        self.added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_memory_is_bounded() {
        let mut tombstones = Tombstones::default();
        let many = REMEMBERED as u64 + 10;
        for session in 0..many {
            tombstones.add(session);
            tombstones.add(session);
        }
        assert!(!tombstones.contains(9));
        assert!(tombstones.contains(10) && tombstones.contains(many - 1));
        assert_eq!((tombstones.sessions.len(), tombstones.added()), (REMEMBERED, many));
    }
}
