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

/// A node whose answer is missing. Two are equal if an answer shows them alike.
#[derive(Clone, Debug)]
pub struct FailedNode {
    /// The node's name, or its address if it has never told its name.
    pub node: String,
    /// Why it did not answer.
    pub reason: Reason,
    /// Which of the expected nodes it is. What it is called may change between two calls.
    pub(crate) index: Option<usize>,
}

impl FailedNode {
    /// A node that is known by what it is called alone.
    #[must_use]
    pub fn new(node: impl Into<String>, reason: Reason) -> Self {
        Self { node: node.into(), reason, index: None }
    }

    /// The expected node of this number.
    #[must_use]
    pub(crate) fn at(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.node == other.node || self.index.is_some() && self.index == other.index
    }
}

impl PartialEq for FailedNode {
    fn eq(&self, other: &Self) -> bool {
        (&self.node, self.reason) == (&other.node, other.reason)
    }
}

impl Eq for FailedNode {}

/// Nodes and reasons in one line, for error messages.
#[must_use]
pub fn in_words(failed: &[FailedNode]) -> String {
    failed.iter().map(|node| format!("{} ({})", node.node, node.reason)).collect::<Vec<_>>().join(", ")
}

impl Completeness {
    /// Takes in that a node failed. One that is known keeps its first reason, and is called what it is called by now.
    pub fn lacks(&mut self, node: FailedNode) {
        match self.failed.iter_mut().find(|failed| failed.is_same(&node)) {
            Some(failed) => failed.node = node.node,
            None => self.failed.push(node),
        }
        self.failed.sort_by(|a, b| a.node.cmp(&b.node));
        self.answered = self.total.saturating_sub(self.failed.len());
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
        let node = |node: &str, reason| FailedNode::new(node, reason);
        let mut completeness = Completeness { total: 3, answered: 3, failed: vec![] };
        completeness.lacks(node("b", Reason::Timeout));
        completeness.lacks(node("a", Reason::Overloaded));
        completeness.lacks(node("b", Reason::Unreachable));
        let failed = vec![node("a", Reason::Overloaded), node("b", Reason::Timeout)];
        assert_eq!(completeness, Completeness { total: 3, answered: 1, failed });

        // Between two calls an agent has told its name.
        completeness.lacks(node("h:7000", Reason::Unreachable).at(2));
        completeness.lacks(node("0", Reason::Protocol).at(2));
        let names: Vec<&str> = completeness.failed.iter().map(|failed| failed.node.as_str()).collect();
        assert_eq!((completeness.answered, names), (0, vec!["0", "a", "b"]));
        assert_eq!(completeness.failed[0].reason, Reason::Unreachable);
    }
}
