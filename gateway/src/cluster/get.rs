//! Every session under one client id, wherever it is; and one session by its number.

use std::sync::Arc;

use rollcall_proto::wire::WireRow;
use rollcall_proto::{Order, v1};
use tokio::time::Instant;

use super::call::{self, CallError};
use super::fanout::{self, Answer};
use super::node::Node;
use super::{Cluster, ClusterError, GetAnswer, Scope};
use crate::page::completeness::{Completeness, FailedNode};
use crate::page::merge::merge;
use crate::page::rows::NodeRows;

/// What one node has under a client id, and which node, in which incarnation, it was that said so.
#[derive(Debug)]
pub(super) struct Located {
    pub identity: v1::Identity,
    pub rows: NodeRows,
}

pub(super) async fn get(
    cluster: &Cluster,
    clientid: &str,
    scope: &Scope,
    deadline: Instant,
) -> Result<GetAnswer, ClusterError> {
    let nodes = cluster.in_scope(scope, deadline).await?;
    let message = v1::GetRequest { clientid: clientid.to_owned(), ..v1::GetRequest::default() };
    let (answers, completeness) = locate(cluster, &message, scope, &nodes, cluster.reserve(deadline)).await?;
    let rows = answers.into_iter().map(|answer| answer.body.rows).collect();
    let rows = merge(Order::default(), rows, 0, usize::MAX);
    if rows.is_empty() && !completeness.is_whole() {
        let clientid = clientid.to_owned();
        return Err(ClusterError::NotFoundIncomplete { clientid, failed: completeness.failed });
    }
    Ok(GetAnswer { rows, completeness })
}

/// Asks every node for a client; one answer for each node that answered, with no rows where it has none.
pub(super) async fn locate(
    cluster: &Cluster,
    message: &v1::GetRequest,
    scope: &Scope,
    nodes: &[Arc<Node>],
    until: Instant,
) -> Result<(Vec<Answer<Located>>, Completeness), ClusterError> {
    let (answers, failures) = fanout::ask_all(nodes, until, |node| async move {
        call::read_by(until, cluster.retry_budget(), || receive(&node, message, scope, until)).await
    })
    .await;
    let completeness = fanout::completeness(nodes.len(), fanout::failed_nodes(&failures));
    if answers.is_empty() {
        return Err(ClusterError::NobodyAnswered { failed: completeness.failed });
    }
    Ok((answers, completeness))
}

async fn receive(
    node: &Node,
    message: &v1::GetRequest,
    scope: &Scope,
    until: Instant,
) -> Result<(String, Located), CallError> {
    let answer = node.client().get(call::request(message.clone(), until)).await?.into_inner();
    let identity = node.identified(answer.identity, scope)?;
    let mut rows = NodeRows::default();
    for row in &answer.clients {
        if row.clientid != message.clientid {
            return Err(CallError::protocol("a row under another client id than asked for"));
        }
        let row = WireRow { client: row.as_client_ref(), statistics: row.statistics.unwrap_or_default() };
        rows.push(&row).map_err(|error| CallError::protocol(error.to_string()))?;
    }
    rows.belong_to(&identity.name, Order::default())
        .map_err(|error| CallError::protocol(error.to_string()))?;
    Ok((identity.name.clone(), Located { identity, rows }))
}

/// The client of a session of one node, which is among `nodes` alone; `None` if it has no such session.
pub(super) async fn session(
    cluster: &Cluster,
    session: u64,
    scope: &Scope,
    nodes: &[Arc<Node>],
    until: Instant,
) -> Result<Option<v1::Client>, Vec<FailedNode>> {
    let message =
        v1::GetRequest { session: Some(session), without_statistics: true, ..v1::GetRequest::default() };
    let (answers, failures) = fanout::ask_all(nodes, until, |node| {
        let message = &message;
        async move {
            call::read_by(until, cluster.retry_budget(), || async {
                let answer = node.client().get(call::request(message.clone(), until)).await?.into_inner();
                let name = node.identified(answer.identity, scope)?.name;
                if answer.session != Some(session) {
                    return Err(CallError::protocol("the agent does not look clients up by their session"));
                }
                let mut found = answer.clients.into_iter().filter(|client| client.session == session);
                Ok((name.clone(), found.next().map(|client| v1::Client { node: name, ..client })))
            })
            .await
        }
    })
    .await;
    if !failures.is_empty() {
        return Err(fanout::failed_nodes(&failures));
    }
    Ok(answers.into_iter().find_map(|answer| answer.body))
}
