//! A kick, on record before it is carried out and when it has ended.

use axum::response::Response;
use http::request::Parts;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::clients::{noted, scope};
use super::envelope;
use super::error::ApiError;
use super::observe::{RemoteAddress, RequestId};
use super::query;
use super::route::Route;
use crate::audit::{Audit, Outcome, Record};
use crate::cluster::{Cluster, ClusterError, KickAnswer};
use crate::keys::{Key, Role};

/// The kick a request asks for, as far as its path could be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    node: Option<String>,
    clientid: Option<String>,
}

impl Asked {
    /// `None` if a request asks for anything else.
    pub(super) fn of(method: &Method, route: &Result<Route, ApiError>) -> Option<Self> {
        if method != Method::DELETE {
            return None;
        }
        match route {
            Ok(Route::Client { node, clientid }) => {
                Some(Self { node: node.clone(), clientid: Some(clientid.clone()) })
            }
            Err(ApiError::BadPath { .. }) => Some(Self::default()),
            _ => None,
        }
    }
}

/// Puts a kick on record that was refused before it was looked at any closer.
pub(super) async fn refused(audit: &Audit, parts: &Parts, key: Option<&Key>, asked: Asked, error: &ApiError) {
    Pending::of(audit, parts, key, asked).end(&Err(error)).await;
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
    let asked = Asked { node: node.clone(), clientid: Some(clientid.to_owned()) };
    let mut pending = Pending::of(audit, parts, Some(key), asked);
    let checked = if key.role == Role::Operator {
        query::none(parts.uri.query().unwrap_or_default()).map_err(ApiError::from)
    } else {
        Err(ApiError::Forbidden { key: key.id.to_string() })
    };
    if let Err(error) = checked {
        pending.end(&Err(&error)).await;
        return Err(error);
    }
    if let Err(error) = pending.begin().await {
        tracing::error!(%error, %clientid, "a kick cannot be put on record, so it is not carried out");
        return Err(ApiError::Unrecorded);
    }
    let answer = cluster.kick(clientid, &scope(node), deadline).await.map_err(ApiError::from);
    pending.end(&answer.as_ref()).await;
    let answer = answer?;
    Ok(noted(envelope::json(StatusCode::OK, &envelope::kick(&answer, clientid)), &answer.completeness))
}

/// A kick that may have no last line yet. Dropped, it gets one that says so.
struct Pending {
    audit: Audit,
    record: Record,
    begun: bool,
}

impl Pending {
    fn of(audit: &Audit, parts: &Parts, key: Option<&Key>, Asked { node, clientid }: Asked) -> Self {
        let record = Record {
            time: String::new(),
            request: parts.extensions.get::<RequestId>().map(|id| id.shown().to_owned()),
            remote: parts.extensions.get::<RemoteAddress>().map(|remote| remote.0),
            key: key.map(|key| key.id.to_string()),
            action: "kick",
            clientid,
            node,
            outcome: Outcome::Asked,
            status: None,
            kicked_on: Vec::new(),
            message: None,
        };
        Self { audit: audit.clone(), record, begun: false }
    }

    async fn begin(&mut self) -> std::io::Result<()> {
        self.record.time = now();
        self.audit.put(&self.record).await?;
        self.begun = true;
        Ok(())
    }

    async fn end(mut self, outcome: &Result<&KickAnswer, &ApiError>) {
        self.begun = false;
        let mut record = Record { time: now(), ..self.record.clone() };
        match outcome {
            Ok(answer) => {
                record.outcome = Outcome::Kicked;
                record.status = Some(StatusCode::OK.as_u16());
                record.kicked_on.clone_from(&answer.kicked_on);
            }
            Err(error) => {
                record.outcome = outcome_of(error);
                record.status = Some(error.verdict().0.as_u16());
                record.message = Some(error.to_string());
                if let ApiError::Cluster(ClusterError::OwnerFailed { kicked_on, .. }) = error {
                    record.kicked_on.clone_from(kicked_on);
                }
            }
        }
        write_last(&self.audit, &record).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.begun {
            let message =
                Some("the deadline passed, or the client went away before the kick had ended".into());
            let record = Record { time: now(), outcome: Outcome::Unknown, message, ..self.record.clone() };
            let audit = self.audit.clone();
            tokio::spawn(async move { write_last(&audit, &record).await });
        }
    }
}

async fn write_last(audit: &Audit, record: &Record) {
    if let Err(error) = audit.put(record).await {
        tracing::error!(%error, ?record, "the outcome of a kick cannot be put on record");
    }
}

fn outcome_of(error: &ApiError) -> Outcome {
    match error {
        ApiError::Cluster(ClusterError::NotFound { .. }) => Outcome::NotFound,
        ApiError::Cluster(ClusterError::OwnerFailed { .. }) | ApiError::Deadline { .. } => Outcome::Unknown,
        ApiError::Cluster(_) | ApiError::Internal { .. } => Outcome::Failed,
        _ => Outcome::Refused,
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
