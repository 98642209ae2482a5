//! The clients that a list or a survey is about, in its order, as they were at one moment.

use std::ops::Range;

use rollcall_proto::v1::Fence;
use rollcall_proto::{ClientRef, KeyRef};

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

    /// When it was taken, as [`View::left`].
    #[must_use]
    pub fn left(&self) -> u64 {
        match self {
            Self::Indexed(view) => view.left(),
            Self::Ranked(ranked) => ranked.left(),
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

    /// The clients of a range of ranks, in order, read where they stand; ranks past the last give none. Without live
    /// figures.
    pub fn refs(&self, range: Range<u64>) -> Box<dyn Iterator<Item = ClientRef<'_>> + '_> {
        match self {
            Self::Indexed(view) => Box::new(view.refs(range)),
            Self::Ranked(ranked) => Box::new(ranked.refs(range)),
        }
    }

    /// What the clients of a range of ranks were ranked by: nothing unless by a live figure.
    pub fn figures(&self, range: Range<u64>) -> impl Iterator<Item = Option<u64>> {
        let ranked = match self {
            Self::Indexed(_) => None,
            Self::Ranked(ranked) => Some(ranked.figures(range)),
        };
        ranked.into_iter().flatten()
    }
}
