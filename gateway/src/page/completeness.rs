//! What an answer lacks: every expected node is either counted as answered or named with the reason it is not.

use rollcall_proto::Reason;

/// Which of the nodes that were asked have answered. `answered + failed.len() == total`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    /// Nodes the request should have reached.
    pub total: usize,
    /// Nodes whose answer is in.
    pub answered: usize,
    /// The others, by name, or by address where no agent there has ever told its name. Sorted by name.
    pub failed: Vec<FailedNode>,
}

/// A node whose answer is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedNode {
    /// The node's name, or its address if it has never told its name.
    pub node: String,
    /// Why it did not answer.
    pub reason: Reason,
}

/// Nodes and reasons in one line, for error messages.
#[must_use]
pub fn in_words(failed: &[FailedNode]) -> String {
    failed.iter().map(|node| format!("{} ({})", node.node, node.reason)).collect::<Vec<_>>().join(", ")
}

impl Completeness {
    /// Whether every node answered.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }
}
