//! The sessions that match a filter, and the end of exactly one of them.
//!
//! They are read as an export is: out of one state of each node, so that a client that leaves and comes back while they are
//! read is there once, as it was. A session is ended by node, incarnation and number; whoever has another session by then
//! is left alone, since it is not known whether that one matches. A kick is not repeated.

use std::sync::Arc;

use rollcall_proto::Order;
use rollcall_proto::v1::Filter;
use rollcall_proto::v1::kick_response::Outcome;
use tokio::time::Instant;

use super::kick::{Found, end_session};
use super::{Cluster, ClusterError, ExportQuery, Scope, is_refusal};
use crate::page::completeness::{Completeness, FailedNode};

/// Sessions that matched when they were read.
#[derive(Debug)]
pub struct Sessions {
    /// By clientid, node and number.
    pub sessions: Vec<Session>,
    /// Whether more match.
    pub more: bool,
    /// Which nodes answered.
    pub completeness: Completeness,
}

/// A session that was there when it was read.
#[derive(Clone, Debug)]
pub struct Session {
    clientid: String,
    found: Found,
}

/// What became of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was ended.
    Kicked,
    /// It had ended, and its node has no other of the client.
    Gone,
    /// The client has another session on its node.
    Moved,
    /// The node started again since the session was read, so that it cannot be told from others.
    Restarted,
    /// The node refused.
    Refused(FailedNode),
    /// The node did not answer as it should. The session may have been ended.
    Unknown(FailedNode),
}

impl Session {
    /// Whose it is.
    #[must_use]
    pub fn clientid(&self) -> &str {
        &self.clientid
    }

    /// The name of the node that has it.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.found.owner.identity.name
    }

    pub(super) async fn end(&self, until: Instant) -> Ended {
        match end_session(&self.found, &self.clientid, until).await {
            Ok((Outcome::Kicked, _)) => Ended::Kicked,
            Ok((Outcome::NotFound, _)) => Ended::Gone,
            Ok((_, now)) if now != self.found.owner.identity.incarnation => Ended::Restarted,
            Ok(_) => Ended::Moved,
            Err(node) if is_refusal(node.reason) => Ended::Refused(node),
            Err(node) => Ended::Unknown(node),
        }
    }
}

pub(super) async fn sessions(
    cluster: &Cluster,
    filter: &Filter,
    scope: &Scope,
    most: usize,
    deadline: Instant,
) -> Result<Sessions, ClusterError> {
    let query = ExportQuery {
        filter: filter.clone(),
        order: Order::default(),
        scope: scope.clone(),
        with_statistics: false,
    };
    let until = cluster.reserve(deadline);
    let left = until.saturating_duration_since(Instant::now());
    let mut export = cluster.export(&query, until, left).await?.by(until);
    let mut sessions = Vec::new();
    while let Some(row) = export.next().await {
        if sessions.len() == most {
            return Ok(Sessions { sessions, more: true, completeness: export.completeness() });
        }
        // Every row has the name of a node that sends rows.
        let Some(owner) = export.owner(&row.node) else { continue };
        let found = Found { owner: Arc::clone(owner), session: row.session };
        sessions.push(Session { clientid: row.clientid, found });
    }
    let completeness = export.completeness();
    if export.broke_off() {
        return Err(ClusterError::BrokeOff { failed: completeness.failed });
    }
    Ok(Sessions { sessions, more: false, completeness })
}
