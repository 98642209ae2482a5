//! One page of the cluster's clients.
//!
//! The plan: if all nodes together have little before the page's end, or there is only one node, one wave brings the
//! rows. Otherwise a [`Selection`] narrows down which ranks of which node make up the page, wave by wave on one
//! snapshot of each node, and the last wave fetches those.
//!
//! Memory: a request holds at most [`ONE_WAVE_ROWS`] rows in all by the first way (a node alone: the page), and
//! `3 * limit + 100 * nodes` in all by the second; so of one node never more than 30,000 rows and 100 for each
//! node, and at most 256 keys besides.
//!
//! Failures: a node that fails in any wave is named in the answer and the selection starts again without it,
//! since ranges narrowed with its keys are void. So that one silent node cannot use up the time of the
//! others, a wave of a selection gets only a share of what is left. If a snapshot has gone the selection starts
//! again once; if that happens again it reads live data, and the answer says that it is not consistent.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::{MAX_LIMIT, v1};
use tokio::time::Instant;

use super::call::{self, CallError};
use super::fanout::{self, Answer};
use super::node::Node;
use super::{Cluster, ClusterError, ListAnswer, ListQuery};
use crate::page::completeness::FailedNode;
use crate::page::merge::{merge, own_rows};
use crate::page::select::{Selection, Step, Surveyed};

/// Up to this many rows in all it is cheaper to ship them than to ask for their ranks first.
const ONE_WAVE_ROWS: u64 = 10_000;

/// Selections on snapshots before the answer comes from live data.
const SNAPSHOT_TRIES: u32 = 2;

/// The snapshot number that stands for the live index, and in a survey for a new snapshot.
const LIVE: u64 = 0;

type Failures = Vec<(Arc<Node>, CallError)>;

/// One node's answer to a list call.
struct Rows {
    count: u64,
    rows: Vec<v1::Client>,
}

/// A page over the nodes that answered.
struct Page {
    rows: Vec<v1::Client>,
    count: u64,
    consistent: bool,
    /// Nodes that failed without spoiling the others' rows.
    failures: Failures,
}

/// Why a selection has to start again.
enum Restart {
    /// Without these nodes.
    Without(Failures),
    /// With new snapshots.
    SnapshotGone,
}

pub(super) async fn list(
    cluster: &Cluster,
    query: &ListQuery,
    deadline: Instant,
) -> Result<ListAnswer, ClusterError> {
    let mut nodes = cluster.in_scope(&query.scope, deadline).await?;
    let total = nodes.len();
    let mut failed: Vec<FailedNode> = Vec::new();
    let mut tries = 0;
    let offset = query.page.saturating_sub(1).saturating_mul(query.limit.into());
    loop {
        let attempt = match one_wave(query, offset, &nodes) {
            Some(window) => Ok(one_wave_page(cluster, query, offset, window, &nodes, deadline).await),
            None => {
                tries += 1;
                let live = tries > SNAPSHOT_TRIES;
                Box::pin(selected_page(cluster, query, offset, &nodes, live, deadline)).await
            }
        };
        let failures = match attempt {
            Ok(page) if page.failures.len() < nodes.len() => {
                failed.extend(fanout::failed_nodes(&page.failures));
                let completeness = fanout::completeness(total, failed);
                let Page { rows, count, consistent, .. } = page;
                return Ok(ListAnswer { rows, count, consistent, completeness });
            }
            Ok(page) => page.failures,
            Err(Restart::SnapshotGone) => continue,
            Err(Restart::Without(failures)) => {
                tries -= 1; // not the snapshots' fault
                failures
            }
        };
        failed.extend(fanout::failed_nodes(&failures));
        nodes.retain(|node| !failures.iter().any(|(failed, _)| Arc::ptr_eq(failed, node)));
        if nodes.is_empty() {
            return Err(ClusterError::NobodyAnswered { failed: fanout::completeness(total, failed).failed });
        }
    }
}

/// The window to ask every node for, if one wave will do.
fn one_wave(query: &ListQuery, offset: u64, nodes: &[Arc<Node>]) -> Option<Range<u64>> {
    if query.limit == 0 {
        return Some(0..0);
    }
    let end = offset.saturating_add(query.limit.into());
    if nodes.len() == 1 {
        return Some(offset..end);
    }
    // Counts of the last probe only steer the plan: a call is limited to the window whatever they say.
    let shipped_by = |node: &Arc<Node>| node.last_count().unwrap_or(u64::MAX).max(1).min(end);
    let shipped = nodes.iter().map(shipped_by).fold(0, u64::saturating_add);
    (shipped <= ONE_WAVE_ROWS && end <= MAX_LIMIT.into()).then_some(0..end)
}

async fn one_wave_page(
    cluster: &Cluster,
    query: &ListQuery,
    offset: u64,
    window: Range<u64>,
    nodes: &[Arc<Node>],
    deadline: Instant,
) -> Page {
    let asked = nodes.iter().map(|node| (Arc::clone(node), LIVE, window.clone())).collect();
    let until = cluster.reserve(deadline);
    let (answers, failures) = fetch(cluster, query, asked, until).await;
    let count = answers.iter().map(|answer| answer.body.count).fold(0, u64::saturating_add);
    // A window starts late only where one node was asked, and counting asks for no rows.
    let skip = usize::try_from(offset.saturating_sub(window.start)).unwrap_or(usize::MAX);
    let rows = merge(query.order, row_lists(answers), skip, query.limit as usize);
    Page { rows, count, consistent: true, failures }
}

async fn selected_page(
    cluster: &Cluster,
    query: &ListQuery,
    offset: u64,
    nodes: &[Arc<Node>],
    live: bool,
    deadline: Instant,
) -> Result<Page, Restart> {
    let mut snapshots = vec![LIVE; nodes.len()];
    let mut selection = Selection::new(query.order, offset, query.limit, nodes.len());
    if live {
        selection = selection.over_changing_nodes();
    }
    loop {
        match selection.step() {
            Step::Survey(ranges) => {
                let wave = survey(cluster, query, nodes, &snapshots, &selection, ranges, deadline).await?;
                if !live {
                    for (snapshot, answer) in snapshots.iter_mut().zip(&wave) {
                        *snapshot = answer.as_ref().map_or(*snapshot, |answer| answer.snapshot);
                    }
                }
                let wave = wave.iter().map(|answer| answer.as_ref().map(|answer| surveyed(query, answer)));
                selection.narrow(&wave.collect::<Vec<_>>()).map_err(|lie| {
                    let node = Arc::clone(&nodes[lie.node]);
                    tracing::error!(node = %node.label(), %lie, "node broke the protocol");
                    Restart::Without(vec![(node, CallError::protocol(lie.what))])
                })?;
            }
            Step::Fetch { windows, skip, take } => {
                let asked = nodes.iter().cloned().zip(snapshots).zip(windows);
                let asked: Vec<_> = asked
                    .map(|((node, snapshot), window)| (node, snapshot, window))
                    .filter(|(_, _, window)| !window.is_empty())
                    .collect();
                let until = cluster.share(deadline, 3, 4);
                let (answers, failures) = fetch(cluster, query, asked, until).await;
                refuse(failures, live)?;
                let window = |ranks: u64| usize::try_from(ranks).unwrap_or(usize::MAX);
                let rows = merge(query.order, row_lists(answers), window(skip), window(take));
                return Ok(Page { rows, count: selection.total(), consistent: !live, failures: Vec::new() });
            }
        }
    }
}

/// One wave of surveys. Nodes with nothing left to narrow are not asked.
async fn survey(
    cluster: &Cluster,
    query: &ListQuery,
    nodes: &[Arc<Node>],
    snapshots: &[u64],
    selection: &Selection,
    ranges: Vec<Range<u64>>,
    deadline: Instant,
) -> Result<Vec<Option<v1::SurveyResponse>>, Restart> {
    let until = cluster.share(deadline, 1, 2);
    let asked: Vec<usize> = (0..nodes.len()).filter(|&index| !ranges[index].is_empty()).collect();
    let targets: Vec<_> = asked.iter().map(|&index| Arc::clone(&nodes[index])).collect();
    let (answers, failures) = fanout::ask_all(&targets, |node| {
        let index = nodes.iter().position(|other| Arc::ptr_eq(other, &node)).unwrap_or_default();
        let message = v1::SurveyRequest {
            filter: Some(query.filter.clone()),
            order: Some(query.order.into()),
            snapshot: snapshots[index],
            start: ranges[index].start,
            end: ranges[index].end,
            fences: selection.fences(),
        };
        async move {
            call::read_by(until, cluster.retry_budget(), || async {
                let request = call::request(message.clone(), until);
                let mut answer = node.client().survey(request).await?.into_inner();
                let name = node.identified(answer.identity.take())?;
                for fence in &answer.fences {
                    let key =
                        fence.key.as_ref().ok_or_else(|| CallError::protocol("a fence without a key"))?;
                    query.order.key_from_wire(key).map_err(|error| CallError::protocol(error.to_string()))?;
                }
                Ok((name, answer))
            })
            .await
        }
    })
    .await;
    refuse(failures, selection.is_over_changing_nodes())?;
    let mut wave = vec![None; nodes.len()];
    for answer in answers {
        if let Some(index) = nodes.iter().position(|node| Arc::ptr_eq(node, &answer.node)) {
            wave[index] = Some(answer.body);
        }
    }
    Ok(wave)
}

/// What the selection reads of an answer whose keys were checked.
fn surveyed<'a>(query: &ListQuery, answer: &'a v1::SurveyResponse) -> Surveyed<'a> {
    let fences = answer
        .fences
        .iter()
        .filter_map(|fence| Some((fence.rank, query.order.key_from_wire(fence.key.as_ref()?).ok()?)))
        .collect();
    Surveyed { count: answer.count, fences }
}

/// A selection goes on only while every node answers.
fn refuse(failures: Failures, live: bool) -> Result<(), Restart> {
    let (gone, failed): (Failures, Failures) =
        failures.into_iter().partition(|(_, error)| error.snapshot_gone && !live);
    if !failed.is_empty() {
        return Err(Restart::Without(failed));
    }
    if gone.is_empty() { Ok(()) } else { Err(Restart::SnapshotGone) }
}

/// Asks nodes for the rows of their windows.
async fn fetch(
    cluster: &Cluster,
    query: &ListQuery,
    asked: Vec<(Arc<Node>, u64, Range<u64>)>,
    until: Instant,
) -> (Vec<Answer<Rows>>, Failures) {
    let nodes: Vec<_> = asked.iter().map(|(node, _, _)| Arc::clone(node)).collect();
    fanout::ask_all(&nodes, |node| {
        let (snapshot, window) = asked
            .iter()
            .find(|(other, _, _)| Arc::ptr_eq(other, &node))
            .map_or((LIVE, 0..0), |(_, snapshot, window)| (*snapshot, window.clone()));
        let message = v1::ListRequest {
            filter: Some(query.filter.clone()),
            order: Some(query.order.into()),
            snapshot,
            offset: window.start,
            limit: u32::try_from(window.end - window.start).unwrap_or(u32::MAX),
            without_statistics: false,
        };
        async move {
            call::read_by(until, cluster.retry_budget(), || receive(&node, query, message.clone(), until))
                .await
        }
    })
    .await
}

/// Receives one node's list to its end, and no more rows than asked for.
async fn receive(
    node: &Node,
    query: &ListQuery,
    message: v1::ListRequest,
    until: Instant,
) -> Result<(String, Rows), CallError> {
    let limit = message.limit as usize;
    let mut chunks = node.client().list(call::request(message, until)).await?.into_inner();
    let head = chunks.message().await?.ok_or_else(|| CallError::protocol("a list without a first chunk"))?;
    let name = node.identified(head.identity)?;
    let (count, mut rows) = (head.count, head.clients);
    while rows.len() <= limit {
        let Some(chunk) = chunks.message().await? else { break };
        rows.extend(chunk.clients);
    }
    if rows.len() > limit {
        return Err(CallError::protocol(format!("more than the {limit} rows asked for")));
    }
    own_rows(query.order, &name, &mut rows).map_err(|error| CallError::protocol(error.to_string()))?;
    Ok((name, Rows { count, rows }))
}

fn row_lists(answers: Vec<Answer<Rows>>) -> Vec<Vec<v1::Client>> {
    answers.into_iter().map(|answer| answer.body.rows).collect()
}
