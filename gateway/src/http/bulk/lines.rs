//! The JSON of a bulk kick's answer: the lines of its stream, and what a dry run says.

use serde::Serialize;
use thiserror::Error;

use crate::audit::{Outcome, Totals};
use crate::http::envelope::{Answer, Nodes, bound};
use crate::page::completeness::Completeness;

/// What became of one client, or of one session.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ClientLine<'a> {
    pub(super) clientid: &'a str,
    /// The node that had the session, of a kick by filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<&'a str>,
    /// `None` was not begun.
    #[serde(serialize_with = "outcome_or_left")]
    pub(super) outcome: Option<Outcome>,
    pub(super) kicked_on: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<&'a str>,
}

fn outcome_or_left<S: serde::Serializer>(
    outcome: &Option<Outcome>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match outcome {
        Some(outcome) => outcome.serialize(serializer),
        None => serializer.serialize_str("left"),
    }
}

/// How far it has come.
#[derive(Debug, Serialize)]
pub(super) struct ProgressLine {
    pub(super) progress: Progress,
}

/// Clients told so far, of how many, and how many of them were kicked.
#[derive(Debug, Serialize)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) of: u64,
    pub(super) kicked: u64,
}

/// The last line.
#[derive(Serialize)]
pub(super) struct LastLine<'a> {
    meta: LastMeta<'a>,
}

#[derive(Serialize)]
struct LastMeta<'a> {
    complete: bool,
    count: u64,
    outcomes: Totals,
    /// Why not all was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<Stop>,
    nodes: Nodes<'a>,
}

/// Why a bulk kick ended before its end.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stop {
    /// Nobody takes the answer any more.
    #[error("nobody takes the answer any more")]
    ClientGone,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Draining,
    /// A kick could not be put on record.
    #[error("a kick could not be put on record")]
    Unrecorded,
}

impl<'a> LastLine<'a> {
    pub(super) fn new(
        count: u64,
        outcomes: Totals,
        stopped: Option<Stop>,
        completeness: &'a Completeness,
    ) -> Self {
        let complete = is_complete(&outcomes, completeness);
        Self { meta: LastMeta { complete, count, outcomes, stopped, nodes: Nodes::whole(completeness) } }
    }
}

/// Whether it is known of each client meant what became of it, and no kick has failed.
pub(super) fn is_complete(outcomes: &Totals, completeness: &Completeness) -> bool {
    let Totals { failed, unknown, left, .. } = *outcomes;
    completeness.is_whole() && failed == 0 && unknown == 0 && left == 0
}

/// Who would be kicked.
pub(super) fn dry_run<'a>(
    count: u64,
    (most, within_max): (usize, bool),
    by_node: &'a [(String, u64)],
    completeness: &'a Completeness,
    sample: impl Iterator<Item = (&'a str, &'a str)>,
) -> impl Serialize {
    let by_node = by_node.iter().map(|(node, count)| NodeCount { node, count: *count }).collect();
    let nodes = Nodes::whole(completeness);
    let count_is = bound(completeness);
    let meta = DryRunMeta { dry_run: true, count, count_is, max: most, within_max, by_node, nodes };
    Answer::new(meta, sample.map(|(node, clientid)| Sampled { node, clientid }).collect::<Vec<_>>())
}

#[derive(Serialize)]
struct DryRunMeta<'a> {
    dry_run: bool,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    count_is: Option<&'static str>,
    max: usize,
    /// Whether `max` allows it.
    within_max: bool,
    by_node: Vec<NodeCount<'a>>,
    nodes: Nodes<'a>,
}

#[derive(Serialize)]
struct NodeCount<'a> {
    node: &'a str,
    count: u64,
}

#[derive(Serialize)]
struct Sampled<'a> {
    node: &'a str,
    clientid: &'a str,
}
