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
    /// Takes in that a node failed, if it is not known yet.
    pub fn lacks(&mut self, node: FailedNode) {
        if let Err(at) = self.failed.binary_search_by(|failed| failed.node.cmp(&node.node)) {
            self.failed.insert(at, node);
            self.answered = self.total.saturating_sub(self.failed.len());
        }
    }

    /// Whether every node answered.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_fails_once_whatever_the_reasons() {
        let node = |node: &str, reason| FailedNode { node: node.into(), reason };
        let mut completeness = Completeness { total: 3, answered: 3, failed: vec![] };
        completeness.lacks(node("b", Reason::Timeout));
        completeness.lacks(node("a", Reason::Overloaded));
        completeness.lacks(node("b", Reason::Unreachable));
        let failed = vec![node("a", Reason::Overloaded), node("b", Reason::Timeout)];
        assert_eq!(completeness, Completeness { total: 3, answered: 1, failed });
    }
}
