//! The clients that a list or a survey is about, in its order, as they were at one moment.

use std::ops::Range;

use rollcall_proto::KeyRef;
use rollcall_proto::v1::{Client, Fence};

use crate::index::View;
use crate::ranked::Ranked;

/// Either order a list can have. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Listing {
    /// By a field the index knows.
    Indexed(View),
    /// By a live figure, read for this listing.
    Ranked(Ranked),
}

impl Listing {
    /// How many clients match.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Indexed(view) => view.count(),
            Self::Ranked(ranked) => ranked.count(),
        }
    }

    /// Bytes this holds beyond what it shares with the index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Indexed(view) => view.bytes(),
            Self::Ranked(ranked) => ranked.bytes(),
        }
    }

    /// At most `most` evenly spaced keys of a range of ranks, the first at its start; an end past the last rank
    /// means behind it.
    #[must_use]
    pub fn fences(&self, range: Range<u64>, most: u32) -> Vec<Fence> {
        match self {
            Self::Indexed(view) => view.fences(range, most),
            Self::Ranked(ranked) => ranked.fences(range, most),
        }
    }

    /// The rank of the first client behind a key. No live figure has keys to begin behind: from 0.
    #[must_use]
    pub fn rank_after(&self, key: &KeyRef<'_>) -> u64 {
        match self {
            Self::Indexed(view) => view.rank_after(key),
            Self::Ranked(_) => 0,
        }
    }

    /// The clients of a range of ranks, in order; ranks past the last give none. Without live figures, but for the
    /// one they are ranked by.
    pub fn clients(&self, range: Range<u64>) -> Box<dyn Iterator<Item = Client> + '_> {
        match self {
            Self::Indexed(view) => Box::new(view.clients(range)),
            Self::Ranked(ranked) => Box::new(ranked.clients(range)),
        }
    }
}
