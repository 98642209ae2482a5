//! Every session under one client id, wherever it is.

use std::sync::Arc;

use rollcall_proto::wire::WireRow;
use rollcall_proto::{Order, v1};
use tokio::time::Instant;

use super::call::{self, CallError};
use super::fanout::{self, Answer};
use super::node::Node;
use super::{Cluster, ClusterError, GetAnswer, Scope};
use crate::page::completeness::Completeness;
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
    let message = v1::GetRequest { clientid: clientid.to_owned(), without_statistics: false };
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
