//! Ending a client's connection and session wherever they are.
//!
//! A kick first locates the client's sessions, then asks their owners, and only them, to end exactly the sessions
//! found: by node, incarnation and session number. A client that came back with a new session in between is therefore
//! not hit by a late kick meant for the old one; it is looked for once more, since what the caller wants is that the
//! client is gone. A kick is never repeated on the same session: whether the first try arrived cannot be known.

use std::sync::Arc;

use rollcall_proto::v1::{self, kick_response::Outcome};
use tokio::time::Instant;

use super::call::{self, CallError};
use super::fanout;
use super::get::locate;
use super::node::Node;
use super::{Cluster, ClusterError, KickAnswer, Scope, is_refusal};
use crate::page::completeness::FailedNode;

/// Times a client that moved between being found and being kicked is looked for.
const ROUNDS: u32 = 2;

/// A node, and which incarnation of it, that has sessions.
#[derive(Debug)]
pub(super) struct Owner {
    pub node: Arc<Node>,
    pub identity: v1::Identity,
}

/// A session, and who has it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub owner: Arc<Owner>,
    pub session: u64,
}

pub(super) async fn kick(
    cluster: &Cluster,
    clientid: &str,
    scope: &Scope,
    deadline: Instant,
) -> Result<KickAnswer, ClusterError> {
    let nodes = cluster.in_scope(scope, deadline).await?;
    let message = v1::GetRequest {
        clientid: clientid.to_owned(),
        without_statistics: true,
        ..v1::GetRequest::default()
    };
    let mut kicked_on: Vec<String> = Vec::new();
    let mut completeness = None;
    let mut still_there = false;
    for _ in 0..ROUNDS {
        let until = cluster.share(deadline, 1, 2);
        let (answers, asked) = match locate(cluster, &message, scope, &nodes, until).await {
            Ok(located) => located,
            // What was done in the first round is done; whether the client is elsewhere nobody says any more.
            Err(ClusterError::NobodyAnswered { failed }) if !kicked_on.is_empty() => {
                completeness = Some(fanout::completeness(nodes.len(), failed));
                still_there = false;
                break;
            }
            Err(error) => return Err(error),
        };
        let found: Vec<Found> = answers
            .into_iter()
            .flat_map(|answer| {
                let owner = Arc::new(Owner { node: answer.node, identity: answer.body.identity });
                let sessions: Vec<u64> = answer.body.rows.iter().map(|row| row.client.session).collect();
                sessions.into_iter().map(move |session| Found { owner: Arc::clone(&owner), session })
            })
            .collect();
        let until = cluster.reserve(deadline);
        let kicks = found.iter().map(|found| end_session(found, clientid, until));
        let outcomes = futures::future::join_all(kicks).await;
        still_there = false;
        let mut asked = asked;
        let mut failed: Option<FailedNode> = None;
        for (found, outcome) in found.iter().zip(outcomes) {
            match outcome {
                Ok((Outcome::Kicked, _)) => kicked_on.push(found.owner.identity.name.clone()),
                Ok(_) => still_there = true,
                // Of several that did not confirm, one that may have done it all the same is told of.
                Err(owner) => {
                    asked.lacks(owner.clone());
                    let is_known = failed.as_ref().is_some_and(|known| !is_refusal(known.reason));
                    failed = failed.filter(|_| is_known).or(Some(owner));
                }
            }
        }
        kicked_on.sort();
        kicked_on.dedup();
        if let Some(owner) = failed {
            let (clientid, failed) = (clientid.to_owned(), asked.failed);
            return Err(ClusterError::OwnerFailed { clientid, owner, kicked_on, failed });
        }
        completeness = Some(asked);
        if !still_there {
            break;
        }
    }
    let completeness = completeness.unwrap_or_default();
    let clientid = clientid.to_owned();
    if still_there {
        Err(ClusterError::Moved { clientid, kicked_on, failed: completeness.failed })
    } else if !kicked_on.is_empty() {
        Ok(KickAnswer { kicked_on, completeness })
    } else if completeness.is_whole() {
        Err(ClusterError::NotFound { clientid })
    } else {
        Err(ClusterError::NotFoundIncomplete { clientid, failed: completeness.failed })
    }
}

/// Asks a session's owner, once, to end it. The owner's incarnation comes with its answer.
pub(super) async fn end_session(
    found: &Found,
    clientid: &str,
    until: Instant,
) -> Result<(Outcome, u64), FailedNode> {
    let Owner { node, identity } = &*found.owner;
    let message = v1::KickRequest {
        clientid: clientid.to_owned(),
        session: Some(found.session),
        incarnation: Some(identity.incarnation),
    };
    let begun = Instant::now();
    let outcome = call::by(until, async {
        let answer = node.client().kick(call::request(message, until)).await?.into_inner();
        let outcome = answer.outcome();
        let now = node.identified(answer.identity, &Scope::Only(vec![identity.name.clone()]))?;
        match outcome {
            Outcome::Unspecified => Err(CallError::protocol("a kick without an outcome")),
            known => Ok((known, now.incarnation)),
        }
    })
    .await;
    node.figures().called(&outcome, begun.elapsed());
    node.note(&outcome);
    outcome.map_err(|error| {
        tracing::warn!(node = %identity.name, %clientid, %error, "kick not confirmed");
        FailedNode { node: identity.name.clone(), ..node.failed(error.reason) }
    })
}
