//! `rollcall nodes`

use super::Asking;
use crate::api::encode;
use crate::arguments::Nodes;
use crate::exit::{Exit, Failure};
use crate::output::{Rows, View};

const VIEW: View = View {
    table: &["node", "address", "state", "since", "connected", "clients", "broker", "broker_version"],
    wide: &[
        "node",
        "address",
        "state",
        "since",
        "connected",
        "clients",
        "broker",
        "broker_version",
        "agent_version",
        "circuit",
        "failures",
        "changes",
        "restarts",
        "last_seen",
        "last_error",
    ],
    csv: &[
        "node",
        "address",
        "state",
        "since",
        "changes",
        "failures",
        "circuit",
        "last_seen",
        "last_error",
        "last_error_at",
        "started_at",
        "incarnation",
        "restarts",
        "previous_node",
        "renamed_at",
        "broker",
        "broker_version",
        "agent_version",
        "protocol",
        "capabilities",
        "mqtt_addresses",
        "connected",
        "clients",
        "resynced_at",
        "broker_error",
        "calls",
        "agent_calls",
        "agent_scans",
    ],
};

/// What `GET /nodes` says. It lacks no node, since one that is silent is in it; so its status is 0.
pub(super) async fn run(asking: &Asking, nodes: Nodes) -> Result<Exit, Failure> {
    let path = match &nodes.node {
        Some(node) => format!("/nodes/{}", encode(node)),
        None => "/nodes".to_owned(),
    };
    let answer = asking.api.get(&path, &[]).await?;
    let mut rows = Rows::new(&nodes.output, VIEW.fields(nodes.output.format));
    rows.page(&answer.data)?;
    rows.end(&answer.meta)?;
    Ok(Exit::Whole)
}
