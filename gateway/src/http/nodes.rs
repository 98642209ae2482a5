//! The nodes as last seen. Nobody is asked: an operator wants this answer most when nodes are silent.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use super::envelope::{self, Answer};
use super::error::ApiError;
use super::time::Millis;
use crate::cluster::{Cluster, ClusterError, NodeState, NodeView};

/// Every expected node.
pub(super) fn list(cluster: &Cluster) -> Response {
    let views = cluster.nodes();
    let rows: Vec<NodeRow<'_>> = views.iter().map(NodeRow::new).collect();
    envelope::json(StatusCode::OK, &Answer::new(NodesMeta::of(&rows), rows))
}

/// One node, by its name, or by its address while it has not told its name.
pub(super) fn one(cluster: &Cluster, node: &str) -> Result<Response, ApiError> {
    let views = cluster.nodes();
    let view = find(&views, node)?;
    Ok(envelope::json(StatusCode::OK, &Answer::new(NodesMeta::of(&[NodeRow::new(view)]), NodeRow::new(view))))
}

fn find<'a>(views: &'a [NodeView], node: &str) -> Result<&'a NodeView, ClusterError> {
    let called = |view: &&NodeView| name(view).unwrap_or(&view.address) == node;
    if let Some(view) = views.iter().find(called) {
        return Ok(view);
    }
    let name_of_it = node.to_owned();
    let silent: Vec<String> =
        views.iter().filter(|view| name(view).is_none()).map(|view| view.address.clone()).collect();
    if !silent.is_empty() {
        return Err(ClusterError::NodeNotYetKnown { name: name_of_it, silent });
    }
    let mut known: Vec<String> = views.iter().filter_map(name).map(str::to_owned).collect();
    known.sort();
    Err(ClusterError::UnknownNode { name: name_of_it, known })
}

fn name(view: &NodeView) -> Option<&str> {
    Some(view.description.as_ref()?.identity.as_ref()?.name.as_str())
}

/// How many nodes there are in which state, and the clients they told of last.
#[derive(Serialize)]
struct NodesMeta {
    count: usize,
    states: States,
    connected: u64,
    clients: u64,
}

#[derive(Default, Serialize)]
struct States {
    connected: usize,
    draining: usize,
    unavailable: usize,
    unknown: usize,
}

impl NodesMeta {
    fn of(rows: &[NodeRow<'_>]) -> Self {
        let mut states = States::default();
        for row in rows {
            match row.state {
                "connected" => states.connected += 1,
                "draining" => states.draining += 1,
                "unavailable" => states.unavailable += 1,
                _ => states.unknown += 1,
            }
        }
        Self {
            count: rows.len(),
            states,
            connected: rows.iter().filter_map(|row| row.connected).fold(0, u64::saturating_add),
            clients: rows.iter().filter_map(|row| row.clients).fold(0, u64::saturating_add),
        }
    }
}

/// One node. What its agent has not told yet is null.
#[derive(Serialize)]
struct NodeRow<'a> {
    node: Option<&'a str>,
    address: &'a str,
    state: &'static str,
    broker: Option<&'a str>,
    broker_version: Option<&'a str>,
    agent_version: Option<&'a str>,
    /// Text, because JavaScript's numbers cannot hold it.
    incarnation: Option<String>,
    capabilities: &'a [String],
    connected: Option<u64>,
    clients: Option<u64>,
    started_at: Option<Millis>,
    resynced_at: Option<Millis>,
    last_seen: Option<Millis>,
    last_error: Option<&'a str>,
    broker_error: Option<&'a str>,
    mqtt_addresses: &'a [String],
}

impl<'a> NodeRow<'a> {
    fn new(view: &'a NodeView) -> Self {
        let told = view.description.as_ref();
        let state = match view.state {
            NodeState::Unknown => "unknown",
            NodeState::Connected => "connected",
            NodeState::Draining => "draining",
            NodeState::Unavailable => "unavailable",
        };
        Self {
            node: name(view),
            address: &view.address,
            state,
            broker: told.map(|told| told.broker_kind.as_str()),
            broker_version: told.map(|told| told.broker_version.as_str()),
            agent_version: told.map(|told| told.agent_version.as_str()),
            incarnation: told.and_then(|told| told.identity.as_ref()).map(|it| it.incarnation.to_string()),
            capabilities: told.map_or(&[], |told| &told.capabilities),
            connected: told.map(|told| told.connected),
            clients: told.map(|told| told.clients),
            started_at: told.map(|told| Millis(told.started_at_ms)),
            resynced_at: told.and_then(|told| told.resynced_at_ms).map(Millis),
            last_seen: view.last_seen.map(millis),
            last_error: view.last_error.as_deref(),
            broker_error: told.map(|told| told.broker_error.as_str()).filter(|error| !error.is_empty()),
            mqtt_addresses: told.map_or(&[], |told| &told.mqtt_addresses),
        }
    }
}

fn millis(time: SystemTime) -> Millis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollcall_proto::v1::{DescribeResponse, Identity};

    use super::*;

    fn silent() -> NodeView {
        NodeView {
            address: "127.0.0.1:7002".into(),
            description: None,
            state: NodeState::Unavailable,
            last_seen: None,
            last_error: Some("unreachable: connection refused".into()),
        }
    }

    fn told() -> NodeView {
        let description = DescribeResponse {
            identity: Some(Identity { name: "a@h".into(), incarnation: u64::MAX }),
            broker_kind: "embedded".into(),
            broker_version: "0.24.0".into(),
            agent_version: "0.1.0".into(),
            capabilities: vec!["kick".into()],
            connected: 3,
            clients: 5,
            started_at_ms: 1_616_033_757_000,
            resynced_at_ms: Some(1_616_033_758_000),
            broker_error: String::new(),
            draining: false,
            mqtt_addresses: vec!["127.0.0.1:1883".into()],
        };
        NodeView {
            address: "127.0.0.1:7001".into(),
            description: Some(description),
            state: NodeState::Connected,
            last_seen: Some(UNIX_EPOCH + Duration::from_secs(1_616_033_759)),
            last_error: None,
        }
    }

    #[test]
    fn nodes_as_json() {
        let views = [told(), silent()];
        let rows: Vec<NodeRow<'_>> = views.iter().map(NodeRow::new).collect();
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&Answer::new(NodesMeta::of(&rows), rows)).unwrap()
        );
    }

    #[test]
    fn a_node_is_absent_only_if_every_name_is_known() {
        let views = [told(), silent()];
        assert_eq!(find(&views, "a@h").unwrap().address, "127.0.0.1:7001");
        assert_eq!(find(&views, "127.0.0.1:7002").unwrap().address, "127.0.0.1:7002");
        assert!(matches!(find(&views, "b@h"), Err(ClusterError::NodeNotYetKnown { .. })));
        assert!(matches!(find(&views[..1], "b@h"), Err(ClusterError::UnknownNode { .. })));
        assert!(find(&views, "127.0.0.1:7001").is_err());
    }
}
