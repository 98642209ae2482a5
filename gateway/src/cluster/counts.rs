//! How many of the cluster's clients match, in all and in groups.
//!
//! One wave: every node sends its total and all of its groups, and what they say of one value is added up. So
//! counts are exact over the nodes that answered, and so is which groups are the largest.
//!
//! Memory: while nodes answer a request holds at most [`MOST_BYTES`] of groups, whatever the number of nodes, and a
//! table of at most as much again while it adds them up. A count that needs more, or of which one node says that it
//! has too many groups, is refused as a whole: a part of the groups would be wrong numbers.

use std::sync::atomic::{AtomicUsize, Ordering};

use std::collections::HashMap;

use rollcall_proto::v1::{self, group};
use tokio::time::Instant;

use super::call::{self, CallError};
use super::fanout;
use super::node::Node;
use super::{Cluster, ClusterError, CountAnswer, CountQuery, Scope};
use crate::page::groups::{Group, GroupBy, InvalidGroups, Tally, Value, own_groups};
use crate::page::kinds::{self, Kind, own_kinds};

/// The most that one request holds of groups: those of one node at its limit and as much again, or some 600,000 of
/// ordinary length.
const MOST_BYTES: usize = 64 << 20;

/// What a group costs beside its text.
const GROUP_BYTES: usize = 96;

/// The most kinds of clients of one node that are told apart in metrics.
const MOST_KINDS: usize = 100;

/// One node's answer, its groups as they came or checked.
struct Counted<'a, G> {
    name: String,
    count: u64,
    groups: Vec<G>,
    held: Held<'a>,
}

pub(super) async fn count(
    cluster: &Cluster,
    query: &CountQuery,
    deadline: Instant,
) -> Result<CountAnswer, ClusterError> {
    let nodes = cluster.in_scope(&query.scope, deadline).await?;
    let until = cluster.reserve(deadline);
    let group_by = query.group_by.map_or(v1::GroupBy::Unspecified, GroupBy::on_node);
    let message = v1::CountRequest { filter: Some(query.filter.clone()), group_by: group_by.into() };
    let memory = Memory { left: AtomicUsize::new(MOST_BYTES) };
    let (answers, failures) = fanout::ask_all(&nodes, until, |node| {
        let (message, memory) = (&message, &memory);
        async move {
            call::read_by(until, cluster.retry_budget(), || async {
                let counted = receive(&node, &query.scope, message.clone(), memory.hold(), until).await?;
                let Counted { name, count, groups, held } = counted;
                let groups = own_groups(group_by, count, groups).map_err(|error| protocol(&error))?;
                Ok((name.clone(), Counted { name, count, groups, held }))
            })
            .await
        }
    })
    .await;
    if failures.iter().any(|(_, error)| error.failed_precondition) {
        return Err(ClusterError::TooManyGroups);
    }
    let completeness = fanout::completeness(nodes.len(), fanout::failed_nodes(&failures));
    if answers.is_empty() {
        return Err(ClusterError::NobodyAnswered { failed: completeness.failed });
    }
    let count = answers.iter().map(|answer| answer.body.count).fold(0, u64::saturating_add);
    let mut tally = Tally::default();
    for answer in answers {
        let Counted { name, count, groups, held } = answer.body;
        if query.group_by == Some(GroupBy::Node) && count > 0 {
            tally.add([Group { value: Some(Value::Text(name)), count }]);
        }
        tally.add(groups);
        drop(held);
        // Others get their turn: many groups take milliseconds.
        tokio::task::yield_now().await;
    }
    let top = query.group_by.map(|_| tally.top(query.top));
    Ok(CountAnswer { count, top, completeness })
}

/// How many clients of which kind the nodes have that answer, by address. The largest kinds of each, at most
/// [`MOST_KINDS`], and the others together.
pub(super) async fn kinds(cluster: &Cluster, deadline: Instant) -> HashMap<String, Vec<(Kind, u64)>> {
    let until = cluster.reserve(deadline);
    let message = v1::CountRequest { filter: None, group_by: v1::GroupBy::Kind.into() };
    let memory = Memory { left: AtomicUsize::new(MOST_BYTES) };
    let (answers, _) = fanout::ask_all(&cluster.inner.nodes, until, |node| {
        let (message, memory) = (&message, &memory);
        async move {
            call::read_by(until, cluster.retry_budget(), || async {
                let counted = receive(&node, &Scope::All, message.clone(), memory.hold(), until).await?;
                let kinds = own_kinds(counted.count, counted.groups).map_err(|error| protocol(&error))?;
                Ok((counted.name, kinds::largest(kinds, MOST_KINDS)))
            })
            .await
        }
    })
    .await;
    answers.into_iter().map(|answer| (answer.node.address.clone(), answer.body)).collect()
}

fn protocol(error: &InvalidGroups) -> CallError {
    CallError::protocol(error.to_string())
}

/// Receives one node's count to its end, as long as there is memory for it.
async fn receive<'a>(
    node: &Node,
    scope: &Scope,
    message: v1::CountRequest,
    mut held: Held<'a>,
    until: Instant,
) -> Result<Counted<'a, v1::Group>, CallError> {
    let mut chunks = node.client().count(call::request(message, until)).await?.into_inner();
    let head = chunks.message().await?.ok_or_else(|| CallError::protocol("a count without a first chunk"))?;
    let name = node.identified(head.identity, scope)?.name;
    let mut groups = head.groups;
    held.take(&groups)?;
    while let Some(chunk) = chunks.message().await? {
        held.take(&chunk.groups)?;
        groups.extend(chunk.groups);
    }
    Ok(Counted { name, count: head.count, groups, held })
}

/// What a request may still hold.
struct Memory {
    left: AtomicUsize,
}

/// What one call holds of it; given back when dropped, as by a call that failed midway.
struct Held<'a> {
    memory: &'a Memory,
    bytes: usize,
}

impl Memory {
    fn hold(&self) -> Held<'_> {
        Held { memory: self, bytes: 0 }
    }
}

impl Held<'_> {
    fn take(&mut self, groups: &[v1::Group]) -> Result<(), CallError> {
        let bytes = groups.iter().map(cost).sum();
        let take = |left: usize| left.checked_sub(bytes);
        let taken = self.memory.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map_err(|_| {
            CallError::failed_precondition("the nodes have more groups than a request may hold")
        })?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.memory.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

fn cost(group: &v1::Group) -> usize {
    let text = match &group.value {
        Some(group::Value::Text(text)) => text.len(),
        Some(group::Value::Kind(kind)) => {
            [&kind.zone, &kind.proto_name].into_iter().flatten().map(String::len).sum()
        }
        _ => 0,
    };
    GROUP_BYTES + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_call_held_is_given_back() {
        let memory = Memory { left: AtomicUsize::new(2 * GROUP_BYTES + 10) };
        let group = |text: &str| v1::Group { value: Some(group::Value::Text(text.into())), count: 1 };
        let mut first = memory.hold();
        assert!(first.take(&[group("12345")]).is_ok());
        let mut second = memory.hold();
        assert!(second.take(&[group("123456")]).unwrap_err().failed_precondition);
        assert!(second.take(&[group("12345")]).is_ok());
        assert!(first.take(&[v1::Group::default()]).is_err());
        drop(first);
        assert!(second.take(&[group("12345")]).is_ok());
    }
}
