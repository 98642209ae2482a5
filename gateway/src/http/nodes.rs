//! The nodes as last seen. Nobody is asked: an operator wants this answer most when nodes are silent.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::Response;
use http::StatusCode;
use rollcall_proto::Protocol;
use serde::Serialize;

use super::envelope::{self, Answer};
use super::error::ApiError;
use super::time::Millis;
use crate::cluster::{Cluster, ClusterError, NodeView};

/// Every expected node.
pub(super) fn list(cluster: &Cluster) -> Response {
    let views = cluster.nodes();
    let rows: Vec<NodeRow<'_>> = views.iter().map(NodeRow::new).collect();
    envelope::json(StatusCode::OK, &Answer::new(NodesMeta::of(&rows), rows))
}

/// One node, by its name, or by its address while it has told none, or none that is its own.
pub(super) fn one(cluster: &Cluster, node: &str) -> Result<Response, ApiError> {
    let views = cluster.nodes();
    let view = find(&views, node)?;
    Ok(envelope::json(StatusCode::OK, &Answer::new(NodesMeta::of(&[NodeRow::new(view)]), NodeRow::new(view))))
}

fn find<'a>(views: &'a [NodeView], node: &str) -> Result<&'a NodeView, ClusterError> {
    if let Some(view) = views.iter().find(|view| view.label() == node) {
        return Ok(view);
    }
    let name_of_it = node.to_owned();
    let silent = views.iter().filter(|view| view.name.is_none());
    let silent: Vec<String> = silent.map(|view| view.address.clone()).collect();
    if !silent.is_empty() {
        return Err(ClusterError::NodeNotYetKnown { name: name_of_it, silent });
    }
    let mut known: Vec<String> = views.iter().map(|view| view.label().to_owned()).collect();
    known.sort();
    Err(ClusterError::UnknownNode { name: name_of_it, known })
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
    conflict: usize,
    incompatible: usize,
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
                "conflict" => states.conflict += 1,
                "incompatible" => states.incompatible += 1,
                _ => states.unknown += 1,
            }
        }
        // Whose name is another node's has clients that no answer shows.
        let shown = || rows.iter().filter(|row| row.state != "conflict");
        Self {
            count: rows.len(),
            states,
            connected: shown().filter_map(|row| row.connected).fold(0, u64::saturating_add),
            clients: shown().filter_map(|row| row.clients).fold(0, u64::saturating_add),
        }
    }
}

/// One node. What its agent has not told yet is null.
#[derive(Serialize)]
struct NodeRow<'a> {
    node: Option<&'a str>,
    address: &'a str,
    state: &'static str,
    since: Millis,
    changes: u64,
    failures: u32,
    circuit: &'static str,
    broker: Option<&'a str>,
    broker_version: Option<&'a str>,
    agent_version: Option<&'a str>,
    protocol: Option<u32>,
    /// Text, because JavaScript's numbers cannot hold it.
    incarnation: Option<String>,
    capabilities: &'a [String],
    connected: Option<u64>,
    clients: Option<u64>,
    calls: usize,
    agent_calls: Option<u32>,
    agent_scans: Option<u32>,
    started_at: Option<Millis>,
    restarts: u64,
    previous_node: Option<&'a str>,
    renamed_at: Option<Millis>,
    resynced_at: Option<Millis>,
    last_seen: Option<Millis>,
    last_error: Option<&'a str>,
    last_error_at: Option<Millis>,
    broker_error: Option<&'a str>,
    mqtt_addresses: &'a [String],
}

impl<'a> NodeRow<'a> {
    fn new(view: &'a NodeView) -> Self {
        let told = view.description.as_ref();
        let last_error = view.last_error.as_ref();
        let previous = view.previous.as_ref();
        Self {
            node: view.name.as_deref(),
            address: &view.address,
            state: view.state.as_str(),
            since: millis(view.since),
            changes: view.changes,
            failures: view.failures,
            circuit: if view.circuit.is_some() { "open" } else { "closed" },
            broker: told.map(|told| told.broker_kind.as_str()),
            broker_version: told.map(|told| told.broker_version.as_str()),
            agent_version: told.map(|told| told.agent_version.as_str()),
            protocol: told.map(|told| Protocol::of(told).version),
            incarnation: told.and_then(|told| told.identity.as_ref()).map(|it| it.incarnation.to_string()),
            capabilities: told.map_or(&[], |told| &told.capabilities),
            connected: told.map(|told| told.connected),
            clients: told.map(|told| told.clients),
            calls: view.calls,
            agent_calls: told.map(|told| told.calls_in_flight),
            agent_scans: told.map(|told| told.scans_running),
            started_at: told.map(|told| Millis(told.started_at_ms)),
            restarts: view.restarts,
            previous_node: previous.map(|previous| previous.from.as_str()),
            renamed_at: previous.map(|previous| millis(previous.at)),
            resynced_at: told.and_then(|told| told.resynced_at_ms).map(Millis),
            last_seen: view.last_seen.map(millis),
            last_error: last_error.map(|error| error.text.as_str()),
            last_error_at: last_error.map(|error| millis(error.at)),
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

    use rollcall_proto::Reason;
    use rollcall_proto::v1::{DescribeResponse, Identity};

    use super::*;
    use crate::cluster::{LastError, NodeState, Renamed};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_616_033_700 + seconds)
    }

    fn silent() -> NodeView {
        NodeView {
            address: "127.0.0.1:7002".into(),
            name: None,
            description: None,
            state: NodeState::Unavailable,
            since: at(50),
            changes: 1,
            failures: 7,
            circuit: Some(Reason::Unreachable),
            calls: 0,
            last_seen: None,
            last_error: Some(LastError { text: "unreachable: connection refused".into(), at: at(61) }),
            previous: Some(Renamed { from: "moved@h".into(), at: at(58) }),
            restarts: 0,
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
            protocol: 1,
            min_protocol: 1,
            calls_in_flight: 2,
            scans_running: 1,
        };
        NodeView {
            address: "127.0.0.1:7001".into(),
            name: Some("a@h".into()),
            description: Some(description),
            state: NodeState::Connected,
            since: at(59),
            changes: 2,
            failures: 0,
            circuit: None,
            calls: 1,
            last_seen: Some(at(62)),
            last_error: Some(LastError { text: "timeout: no answer within the deadline".into(), at: at(57) }),
            previous: None,
            restarts: 1,
        }
    }

    fn in_conflict() -> NodeView {
        let text = "protocol: the agent at 127.0.0.1:7001 claims the same name".into();
        NodeView {
            address: "127.0.0.1:7003".into(),
            state: NodeState::Conflict,
            last_error: Some(LastError { text, at: at(60) }),
            ..told()
        }
    }

    #[test]
    fn nodes_as_json() {
        let views = [told(), silent(), in_conflict()];
        let rows: Vec<NodeRow<'_>> = views.iter().map(NodeRow::new).collect();
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&Answer::new(NodesMeta::of(&rows), rows)).unwrap()
        );
    }

    #[test]
    fn a_node_is_absent_only_if_every_name_is_known() {
        let views = [told(), silent()];
        assert_eq!(find(&views, "a@h").unwrap().address, "127.0.0.1:7001");
        let both = [told(), in_conflict()];
        assert_eq!(find(&both, "a@h").unwrap().address, "127.0.0.1:7001");
        assert_eq!(find(&both, "127.0.0.1:7003").unwrap().state, NodeState::Conflict);
        assert_eq!(find(&views, "127.0.0.1:7002").unwrap().address, "127.0.0.1:7002");
        assert!(matches!(find(&views, "b@h"), Err(ClusterError::NodeNotYetKnown { .. })));
        assert!(matches!(find(&views[..1], "b@h"), Err(ClusterError::UnknownNode { .. })));
        assert!(find(&views, "127.0.0.1:7001").is_err());
    }
}
