//! Ending a client's connection and session wherever they are.
//!
//! A kick first locates the client's sessions, then asks their owners, and only them, to end exactly the sessions found.
//! A client that came back with a new session in between is therefore not hit by a late kick meant for
//! the old one; it is looked for once more, since what the caller wants is that the client is gone. A kick is
//! never repeated on the same session: whether the first try arrived cannot be known.

use std::sync::Arc;

use rollcall_proto::v1::{self, kick_response::Outcome};
use tokio::time::Instant;

use super::call::{self, CallError};
use super::get::locate;
use super::node::Node;
use super::{Cluster, ClusterError, KickAnswer, Scope};

/// Times a client that moved between being found and being kicked is looked for.
const ROUNDS: u32 = 2;

pub(super) async fn kick(
    cluster: &Cluster,
    clientid: &str,
    scope: &Scope,
    deadline: Instant,
) -> Result<KickAnswer, ClusterError> {
    let nodes = cluster.in_scope(scope, deadline).await?;
    let mut kicked_on: Vec<String> = Vec::new();
    let mut round = 1;
    let (completeness, still_there) = loop {
        let until = cluster.share(deadline, 1, 2);
        let (answers, completeness) = locate(cluster, clientid, &nodes, false, until).await?;
        let found: Vec<(Arc<Node>, u64)> = answers
            .iter()
            .flat_map(|answer| answer.body.iter().map(|row| (Arc::clone(&answer.node), row.session)))
            .collect();
        let until = cluster.reserve(deadline);
        let kicks = found.iter().map(|(node, session)| end_session(node, clientid, *session, until));
        let mut moved = false;
        for ((node, _), outcome) in found.iter().zip(futures::future::join_all(kicks).await) {
            match outcome {
                Ok((name, Outcome::Kicked)) => kicked_on.push(name),
                Ok(_) => moved = true,
                Err(error) => {
                    tracing::warn!(node = %node.label(), %clientid, %error, "kick not confirmed");
                    return Err(ClusterError::OwnerFailed {
                        clientid: clientid.to_owned(),
                        owner: node.failed(error.reason),
                    });
                }
            }
        }
        if !moved || round == ROUNDS {
            break (completeness, moved);
        }
        round += 1;
    };
    if kicked_on.is_empty() {
        let clientid = clientid.to_owned();
        return Err(if still_there {
            ClusterError::Moved { clientid }
        } else if completeness.is_whole() {
            ClusterError::NotFound { clientid }
        } else {
            ClusterError::NotFoundIncomplete { clientid, failed: completeness.failed }
        });
    }
    kicked_on.sort();
    kicked_on.dedup();
    Ok(KickAnswer { kicked_on, completeness })
}

async fn end_session(
    node: &Node,
    clientid: &str,
    session: u64,
    until: Instant,
) -> Result<(String, Outcome), CallError> {
    let message = v1::KickRequest { clientid: clientid.to_owned(), session: Some(session) };
    let outcome = call::by(until, async {
        let answer = node.client().kick(call::request(message, until)).await?.into_inner();
        let outcome = answer.outcome();
        let name = node.identified(answer.identity)?;
        match outcome {
            Outcome::Unspecified => Err(CallError::protocol("a kick without an outcome")),
            known => Ok((name, known)),
        }
    })
    .await;
    node.note(&outcome);
    outcome
}
