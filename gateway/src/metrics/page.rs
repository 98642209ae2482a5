//! One scrape's page: the figures of one moment, written family by family.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rollcall_metrics::{Families, Figures, process};

use super::{Metrics, catalog};
use crate::audit::Audit;
use crate::cluster::{NodeFigures, NodeState, NodeView};
use crate::page::kinds::Kind;

/// How many clients of which kind nodes have, by the nodes' addresses; absent are those that did not answer.
pub(crate) type KindsOfNodes = HashMap<String, Vec<(Kind, u64)>>;

/// How long what an agent said of its broker is taken to be so when nothing is heard of the agent any more.
const HEARSAY: Duration = Duration::from_secs(60);

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Page {
    metrics: Arc<Metrics>,
    audit: Audit,
    nodes: Vec<Labelled>,
    kinds: Arc<KindsOfNodes>,
}

/// A node and what its samples are called.
#[derive(Debug)]
struct Labelled {
    label: String,
    view: NodeView,
    figures: Arc<NodeFigures>,
}

impl Page {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        audit: Audit,
        nodes: Vec<(NodeView, Arc<NodeFigures>)>,
        kinds: Arc<KindsOfNodes>,
    ) -> Self {
        let mut taken = HashSet::new();
        let labelled = |(view, figures): (NodeView, _)| {
            let mut label = view.label().to_owned();
            // A node may be called by another's address. Two samples of one name would spoil the whole scrape.
            while !taken.insert(label.clone()) {
                label.push('\'');
            }
            Labelled { label, view, figures }
        };
        Self { metrics, audit, nodes: nodes.into_iter().map(labelled).collect(), kinds }
    }

    fn kinds_of(&self, node: &Labelled) -> Option<&Vec<(Kind, u64)>> {
        self.kinds.get(&node.view.address)
    }

    fn write_clients(&self, families: &mut Families<'_>) -> fmt::Result {
        let answered = self.nodes.iter().filter(|node| self.kinds_of(node).is_some()).count();
        families.one(&catalog::NODES_EXPECTED, self.nodes.len() as f64)?;
        families.one(&catalog::NODES_AVAILABLE, answered as f64)?;
        let all = || self.nodes.iter().filter_map(|node| self.kinds_of(node)).flatten();
        let connected = all().filter(|(kind, _)| kind.conn_state == "connected");
        for (metric, count) in [
            (&catalog::CLUSTER_CLIENTS, all().map(|(_, count)| *count).fold(0, u64::saturating_add)),
            (&catalog::CLUSTER_CONNECTED, connected.map(|(_, count)| *count).fold(0, u64::saturating_add)),
        ] {
            let mut samples = families.begin(metric)?;
            if answered == self.nodes.len() {
                samples.add_whole(&[], count)?;
            }
        }
        let mut clients = families.begin(&catalog::CLIENTS)?;
        for node in &self.nodes {
            for (kind, count) in self.kinds_of(node).into_iter().flatten() {
                let Kind { zone, proto_name, proto_ver, conn_state } = kind;
                clients.add_whole(&[&node.label, zone, proto_name, proto_ver, conn_state], *count)?;
            }
        }
        Ok(())
    }

    fn write_nodes(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut up = families.begin(&catalog::NODE_UP)?;
        for node in &self.nodes {
            up.add_whole(&[&node.label], self.kinds_of(node).is_some().into())?;
        }
        let mut states = families.begin(&catalog::NODE_STATE)?;
        for node in &self.nodes {
            for state in NodeState::ALL {
                states.add_whole(&[&node.label, state.as_str()], (node.view.state == state).into())?;
            }
        }
        let mut info = families.begin(&catalog::NODE)?;
        for Labelled { label, view, .. } in &self.nodes {
            if let Some(told) = &view.description {
                let versions = [&told.broker_kind, &told.broker_version, &told.agent_version];
                // Of any length, as agents please.
                let [kind, broker, agent] = versions.map(|text| &text[..text.floor_char_boundary(128)]);
                info.add(&[label, &view.address, kind, broker, agent], 1.0)?;
            }
        }
        let now = SystemTime::now();
        let broker_up = |view: &NodeView| {
            let age = now.duration_since(view.last_seen?).unwrap_or_default();
            let told = view.description.as_ref().filter(|_| age < HEARSAY)?;
            Some(f64::from(u8::from(told.broker_error.is_empty() && told.resynced_at_ms.is_some())))
        };
        let resynced = |view: &NodeView| Some(view.description.as_ref()?.resynced_at_ms? as f64 / 1000.0);
        self.each(families, &catalog::NODE_BROKER_UP, broker_up)?;
        self.each(families, &catalog::NODE_CIRCUIT, |view| Some(view.circuit.is_some().into()))?;
        self.each(families, &catalog::NODE_LAST_SEEN, |view| view.last_seen.map(seconds))?;
        self.each(families, &catalog::NODE_RESYNCED, resynced)?;
        self.each(families, &catalog::NODE_CHANGES, |view| Some(view.changes as f64))?;
        self.each(families, &catalog::NODE_RESTARTS, |view| Some(view.restarts as f64))?;
        let mut calls = families.begin(&catalog::NODE_CALLS)?;
        for node in &self.nodes {
            for (outcome, count) in node.figures.calls.each() {
                calls.add_whole(&[&node.label, outcome], count)?;
            }
        }
        let mut took = families.begin(&catalog::NODE_CALL_DURATION)?;
        for node in &self.nodes {
            took.add_histogram(&[&node.label], &node.figures.took)?;
        }
        let mut rows = families.begin(&catalog::NODE_ROWS)?;
        for node in &self.nodes {
            rows.add_whole(&[&node.label], node.figures.rows.get())?;
        }
        self.each(families, &catalog::NODE_CALLS_IN_FLIGHT, |view| Some(view.calls as f64))?;
        let mut probes = families.begin(&catalog::NODE_PROBES)?;
        for node in &self.nodes {
            for (outcome, count) in node.figures.probes.each_asked() {
                probes.add_whole(&[&node.label, outcome], count)?;
            }
        }
        Ok(())
    }

    /// A family of one sample a node, where there is something to say.
    fn each(
        &self,
        families: &mut Families<'_>,
        metric: &'static rollcall_metrics::Metric,
        figure: impl Fn(&NodeView) -> Option<f64>,
    ) -> fmt::Result {
        let mut samples = families.begin(metric)?;
        for node in &self.nodes {
            if let Some(figure) = figure(&node.view) {
                samples.add(&[&node.label], figure)?;
            }
        }
        Ok(())
    }

    fn write_requests(&self, families: &mut Families<'_>) -> fmt::Result {
        let Metrics { requests, took, refusals, in_flight, connections } = &*self.metrics;
        requests.write(families)?;
        took.write(families)?;
        families.one(&catalog::HTTP_IN_FLIGHT, in_flight.get() as f64)?;
        refusals.write(families)?;
        families.one(&catalog::HTTP_CONNECTIONS, connections.open.get() as f64)?;
        families.one(&catalog::HTTP_CONNECTIONS_REFUSED, connections.refused.get() as f64)
    }

    fn write_kicks(&self, families: &mut Families<'_>) -> fmt::Result {
        let figures = self.audit.figures();
        figures.kicks.write(families)?;
        figures.bulk_kicks.write(families)?;
        families.one(&catalog::AUDIT_WAITING, self.audit.waiting() as f64)?;
        families.one(&catalog::AUDIT_FAILURES, figures.failures.get() as f64)
    }
}

impl Figures for Page {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        families.begin(&catalog::BUILD)?.add(&[env!("CARGO_PKG_VERSION")], 1.0)?;
        self.write_clients(families)?;
        self.write_nodes(families)?;
        self.write_requests(families)?;
        self.write_kicks(families)?;
        process::write(families)
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
