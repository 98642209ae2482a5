//! Why a node's part of an answer is missing: a closed set, so that scripts can tell cases apart.

use std::fmt;

/// The reason given for a node in `meta.nodes.failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No connection could be made, it broke before the answer was whole, or the agent does not know its broker's
    /// clients yet.
    Unreachable,
    /// The node did not answer within the request's deadline.
    Timeout,
    /// The node refused because it is at its limit of work.
    Overloaded,
    /// The node answered something this contract does not allow.
    Protocol,
    /// The node's agent is shutting down and takes no new calls.
    Draining,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Unreachable, Self::Timeout, Self::Overloaded, Self::Protocol, Self::Draining];

    /// The word used in JSON, metadata, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Protocol => "protocol",
            Self::Draining => "draining",
        }
    }

    /// The reason a word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_reasons_are_one_to_one() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::from_word("gone"), None);
    }
}
