//! A kick, on record before it is carried out and when it has ended.

use axum::response::Response;
use http::request::Parts;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::clients::{noted, scope};
use super::envelope;
use super::error::ApiError;
use super::query;
use super::record::{Ending, KICK, Pending};
use super::route::Route;
use crate::audit::{Audit, Outcome};
use crate::cluster::{Cluster, ClusterError, KickAnswer};
use crate::keys::{Key, Role};
use crate::page::completeness::{Completeness, in_words};

/// The kick a request asks for, as far as its path could be read.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// Of one client.
    One { node: Option<String>, clientid: Option<String> },
    /// Of many, by the body.
    Bulk,
}

impl Asked {
    /// `None` if a request asks for anything else.
    pub(super) fn of(method: &Method, route: &Result<Route, ApiError>) -> Option<Self> {
        match route {
            Ok(Route::Kicks) => Some(Self::Bulk),
            Ok(Route::Client { node, clientid }) if method == Method::DELETE => {
                Some(Self::One { node: node.clone(), clientid: Some(clientid.clone()) })
            }
            Err(ApiError::BadPath { .. }) if method == Method::DELETE => {
                Some(Self::One { node: None, clientid: None })
            }
            _ => None,
        }
    }
}

/// Puts a kick on record that was refused before it was looked at any closer, and waits for that until the deadline at most.
/// Others were left out before it.
pub(super) async fn refused(
    audit: &Audit,
    parts: &Parts,
    key: Option<&Key>,
    asked: Asked,
    error: &ApiError,
    left_out: u64,
    deadline: Instant,
) {
    let pending = match asked {
        Asked::One { node, clientid } => Pending::of(audit, parts, key, KICK).about(clientid, node),
        Asked::Bulk => Pending::of(audit, parts, key, BULK),
    };
    let mut ending = without_success(error);
    if let Some(message) = ending.message.as_mut().filter(|_| left_out > 0) {
        message.push_str(&format!("; {left_out} more before it are not on record"));
    }
    pending.end_by(deadline, ending).await;
}

/// Ends connection and session.
pub(super) async fn kick(
    cluster: &Cluster,
    audit: &Audit,
    parts: &Parts,
    key: &Key,
    node: Option<String>,
    clientid: &str,
    deadline: Instant,
) -> Result<Response, ApiError> {
    let pending = Pending::of(audit, parts, Some(key), KICK);
    let mut pending = pending.about(Some(clientid.to_owned()), node.clone());
    let checked = if key.role == Role::Operator {
        query::none(parts.uri.query().unwrap_or_default()).map_err(ApiError::from)
    } else {
        Err(ApiError::Forbidden { key: key.id.to_string() })
    };
    if let Err(error) = checked {
        pending.end_by(deadline, without_success(&error)).await;
        return Err(error);
    }
    if let Err(error) = pending.begin_by(deadline, None).await {
        tracing::error!(%error, %clientid, "a kick cannot be put on record, so it is not carried out");
        return Err(ApiError::Unrecorded);
    }
    let answer = cluster.kick(clientid, &scope(node), deadline).await.map_err(ApiError::from);
    pending.end_by(deadline, answer.as_ref().map_or_else(without_success, success)).await;
    let answer = answer?;
    Ok(noted(envelope::json(StatusCode::OK, &envelope::kick(&answer, clientid)), &answer.completeness))
}

/// What a bulk kick is called on record.
pub(super) const BULK: &str = "bulk_kick";

fn success(answer: &KickAnswer) -> Ending {
    Ending {
        status: Some(StatusCode::OK.as_u16()),
        kicked_on: answer.kicked_on.clone(),
        message: elsewhere(&answer.completeness),
        ..Ending::new(Outcome::Kicked)
    }
}

/// What is to be said of a client that was kicked while some nodes did not answer.
pub(super) fn elsewhere(completeness: &Completeness) -> Option<String> {
    let failed = &completeness.failed;
    let message = || format!("it may be elsewhere too, as some nodes did not answer: {}", in_words(failed));
    (!failed.is_empty()).then(message)
}

/// The end of a kick that has no better answer than this.
pub(super) fn without_success(error: &ApiError) -> Ending {
    let kicked_on = match error {
        ApiError::Cluster(
            ClusterError::OwnerFailed { kicked_on, .. } | ClusterError::Moved { kicked_on, .. },
        ) => kicked_on.clone(),
        _ => Vec::new(),
    };
    Ending {
        status: Some(error.verdict().0.as_u16()),
        kicked_on,
        message: Some(error.to_string()),
        ..Ending::new(outcome_of(error))
    }
}

fn outcome_of(error: &ApiError) -> Outcome {
    match error {
        ApiError::Cluster(ClusterError::NotFound { .. }) => Outcome::NotFound,
        // Which sessions were ended is known. It may have others by now.
        ApiError::Cluster(ClusterError::Moved { .. }) => Outcome::Moved,
        ApiError::Cluster(error) if error.may_have_kicked() => Outcome::Unknown,
        ApiError::Deadline { kick: true } => Outcome::Unknown,
        ApiError::Cluster(_) | ApiError::Internal { .. } | ApiError::Deadline { kick: false } => {
            Outcome::Failed
        }
        ApiError::PartialKick(_) => Outcome::Failed,
        _ => Outcome::Refused,
    }
}
