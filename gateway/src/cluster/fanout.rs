//! One question to many nodes at once.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::call::CallError;
use super::node::Node;
use crate::page::completeness::{Completeness, FailedNode};

/// A node's answer.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub node: Arc<Node>,
    pub body: T,
}

/// Asks every node and waits for all of them; each call ends by its own deadline, and waits for its place no longer than
/// `until`. The calls live in the caller's future, so that dropping a request cancels them.
///
/// A node that is known not to answer, or not to be believed, fails without being asked; see
/// [`Health::barred`](super::health::Health::barred) and [`Roster`](super::roster::Roster).
///
/// Two answers under one name cannot both be right: rows could not be told apart nor kicks be routed. The first in
/// the configuration's order stands, the other is a `protocol` failure.
pub(super) async fn ask_all<T, F>(
    nodes: &[Arc<Node>],
    until: Instant,
    ask: impl Fn(Arc<Node>) -> F,
) -> (Vec<Answer<T>>, Vec<(Arc<Node>, CallError)>)
where
    F: Future<Output = Result<(String, T), CallError>>,
{
    let outcomes = join_all(nodes.iter().map(|node| {
        // The state of a call is some kilobytes, and is moved several times before it is polled.
        let call = Box::pin(ask(Arc::clone(node)));
        async move { (Arc::clone(node), ask_one(node, until, call).await) }
    }))
    .await;
    let mut names = HashSet::new();
    let mut answers = Vec::with_capacity(nodes.len());
    let mut failures = Vec::new();
    for (node, outcome) in outcomes {
        match outcome {
            Ok((name, body)) if names.insert(name.clone()) => answers.push(Answer { node, body }),
            // The roster has learned of it from the answers, and has said so in the log.
            Ok((name, _)) => {
                failures.push((node, CallError::protocol(format!("another agent is {name} too"))));
            }
            Err(error) => failures.push((node, error)),
        }
    }
    (answers, failures)
}

async fn ask_one<T>(
    node: &Node,
    until: Instant,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    if let Some(error) = node.barred() {
        node.figures().calls.skip();
        return Err(error);
    }
    let _place = node.place(until).await.inspect_err(|error| node.figures().calls.note_failure(error))?;
    let begun = Instant::now();
    let outcome = call.await;
    node.note_after(&outcome, begun.elapsed());
    outcome
}

/// What an answer lacks, given the nodes that failed.
pub(super) fn completeness(total: usize, mut failed: Vec<FailedNode>) -> Completeness {
    failed.sort_by(|a, b| a.node.cmp(&b.node));
    Completeness { total, answered: total - failed.len(), failed }
}

/// The nodes of some failures, as an answer names them.
pub(super) fn failed_nodes(failures: &[(Arc<Node>, CallError)]) -> Vec<FailedNode> {
    failures.iter().map(|(node, error)| node.failed(error.reason)).collect()
}
