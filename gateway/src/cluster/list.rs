//! One page of the cluster's clients.
//!
//! The plan: if the page is near the list's beginning, or there is only one node, one wave brings the rows: of each node
//! its share of the page and some slack ([`share`](crate::page::share)), and once more those of which that was too little. Otherwise a
//! [`Selection`] narrows down which ranks of which node make up the page, wave by wave on one snapshot of each node, and
//! the last wave fetches those.
//!
//! A page that begins behind a cursor goes the same ways: agents count from the cursor's key.
//!
//! Memory: a request holds at most `3 * limit + 100 * nodes` rows in all by the first way (a node alone: the page),
//! whatever the nodes have by now: where a second answer would pass that the second way is taken; and
//! `limit + 1,000 + 100 * nodes` in all by the second; so of one node never more than [`MAX_WINDOW`] rows, and at
//! most 256 keys besides.
//!
//! Failures: a node that fails in any wave is named in the answer and the selection starts again without it,
//! since ranges narrowed with its keys are void. So that one silent node cannot use up the time of the
//! others, a wave of a selection gets only a share of what is left. If a snapshot has gone the selection starts
//! again once; if that happens again it reads live data, and the answer says that it is not consistent.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::wire::ListHead;
use rollcall_proto::{MAX_WINDOW, v1};
use tokio::time::Instant;

use self::beginning::{beginning_page, one_wave};
use super::call::{self, CallError};
use super::fanout::{self, Answer};
use super::node::Node;
use super::{Cluster, ClusterError, ListAnswer, ListQuery, Start, raw};
use crate::page::completeness::FailedNode;
use crate::page::cursor::Position;
use crate::page::merge;
use crate::page::rows::{NodeRows, PageRows};
use crate::page::select::{Selection, Step, Surveyed};

mod beginning;

/// Selections on snapshots before the answer comes from live data.
const SNAPSHOT_TRIES: u32 = 2;

/// The snapshot number that stands for the live index, and in a survey for a new snapshot.
const LIVE: u64 = 0;

type Failures = Vec<(Arc<Node>, CallError)>;

/// One node's answer to a list call.
struct Rows {
    count: u64,
    /// The rank of the first row from where the list begins.
    first: u64,
    rows: NodeRows,
}

/// A page over the nodes that answered.
struct Page {
    rows: PageRows,
    count: u64,
    /// Those of them from where the list begins.
    ahead: u64,
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
    let mut shares_fail = false;
    let task = Task { cluster, query, deadline };
    let place = Place::of(task, &nodes).await?;
    loop {
        let attempt = match one_wave(query, place.offset, &nodes).filter(|_| !shares_fail) {
            Some(windows) => match beginning_page(task, &place, windows, &nodes).await {
                Ok(Some(page)) => Ok(page),
                Ok(None) => {
                    shares_fail = true;
                    continue;
                }
                Err(restart) => Err(restart),
            },
            None => {
                tries += 1;
                let live = tries > SNAPSHOT_TRIES;
                Box::pin(selected_page(task, &place, &nodes, live)).await
            }
        };
        let failures = match attempt {
            Ok(page) if page.failures.len() < nodes.len() => {
                failed.extend(fanout::failed_nodes(&page.failures));
                let completeness = fanout::completeness(total, failed);
                let Page { rows, count, ahead, consistent, .. } = page;
                let shown = place.offset.saturating_add(rows.len() as u64);
                let last = rows.last().filter(|_| shown < ahead);
                let next = last.map(|row| query.order.key(&row.client).into());
                return Ok(ListAnswer { rows, count, next, consistent, completeness });
            }
            Ok(page) => page.failures,
            Err(Restart::SnapshotGone) => continue,
            Err(Restart::Without(failures)) => {
                tries = tries.saturating_sub(1); // not the snapshots' fault
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

/// What every step of one request reads.
#[derive(Clone, Copy)]
struct Task<'a> {
    cluster: &'a Cluster,
    query: &'a ListQuery,
    deadline: Instant,
}

/// Where the page begins: behind a key, or at the list's beginning, and then so many rows on.
struct Place {
    after: Option<v1::Key>,
    offset: u64,
}

impl Place {
    async fn of(task: Task<'_>, nodes: &[Arc<Node>]) -> Result<Self, ClusterError> {
        match &task.query.start {
            Start::Page(page) => {
                let offset = page.saturating_sub(1).saturating_mul(task.query.limit.into());
                Ok(Self { after: None, offset })
            }
            Start::Cursor(Position::After(key)) => Ok(Self { after: Some(key.clone()), offset: 0 }),
            Start::Cursor(Position::Cut(beginning)) => {
                let key = whole_key(task, nodes, beginning).await?;
                Ok(Self { after: Some(key), offset: 0 })
            }
        }
    }
}

/// Looks up the key of which a cursor holds the beginning, among the clients of its node that share it.
async fn whole_key(
    task: Task<'_>,
    nodes: &[Arc<Node>],
    beginning: &v1::Key,
) -> Result<v1::Key, ClusterError> {
    let owner: Vec<_> =
        nodes.iter().filter(|node| node.name().as_ref() == Some(&beginning.node)).cloned().collect();
    let after = v1::Key { session: 0, ..beginning.clone() };
    let asked = owner.iter().map(|node| (Arc::clone(node), LIVE, 0..MAX_WINDOW.into())).collect();
    let until = task.cluster.share(task.deadline, 1, 2);
    let (answers, failures) = fetch(task, Some(&after), asked, false, until).await;
    if !failures.is_empty() {
        return Err(ClusterError::NobodyAnswered { failed: fanout::failed_nodes(&failures) });
    }
    let nodes = row_lists(answers);
    let row = nodes.iter().flat_map(NodeRows::iter).find(|row| row.client.session == beginning.session);
    row.map(|row| task.query.order.key(&row.client).into()).ok_or(ClusterError::CursorLost)
}

async fn selected_page(
    task: Task<'_>,
    place: &Place,
    nodes: &[Arc<Node>],
    live: bool,
) -> Result<Page, Restart> {
    let query = task.query;
    let mut snapshots = vec![LIVE; nodes.len()];
    let mut selection = Selection::new(query.order, place.offset, query.limit, nodes.len());
    if live {
        selection = selection.over_changing_nodes();
    }
    loop {
        match selection.step() {
            Step::Survey(ranges) => {
                let wave = survey(task, place, nodes, &snapshots, &selection, ranges).await?;
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
                let until = task.cluster.share(task.deadline, 3, 4);
                let (answers, failures) = fetch(task, None, asked, true, until).await;
                refuse(failures, live)?;
                let window = |ranks: u64| usize::try_from(ranks).unwrap_or(usize::MAX);
                let rows = merge::merge(query.order, row_lists(answers), window(skip), window(take));
                let (count, ahead) = (selection.total(), selection.total_ahead());
                return Ok(Page { rows, count, ahead, consistent: !live, failures: Vec::new() });
            }
        }
    }
}

/// One wave of surveys. Nodes with nothing left to narrow are not asked.
async fn survey(
    Task { cluster, query, deadline }: Task<'_>,
    place: &Place,
    nodes: &[Arc<Node>],
    snapshots: &[u64],
    selection: &Selection,
    ranges: Vec<Range<u64>>,
) -> Result<Vec<Option<v1::SurveyResponse>>, Restart> {
    let until = cluster.share(deadline, 1, 2);
    let asked: Vec<usize> = (0..nodes.len()).filter(|&index| !ranges[index].is_empty()).collect();
    let targets: Vec<_> = asked.iter().map(|&index| Arc::clone(&nodes[index])).collect();
    let (answers, failures) = fanout::ask_all(&targets, until, |node| {
        let index = nodes.iter().position(|other| Arc::ptr_eq(other, &node)).unwrap_or_default();
        let message = v1::SurveyRequest {
            filter: Some(query.filter.clone()),
            order: Some(query.order.into()),
            snapshot: snapshots[index],
            start: ranges[index].start,
            end: ranges[index].end,
            fences: selection.fences(),
            // From the second wave on the ranges are behind the key already.
            after: place.after.clone().filter(|_| selection.waves() == 0),
        };
        async move {
            call::read_by(until, cluster.retry_budget(), || async {
                let request = call::request(message.clone(), until);
                let mut answer = node.client().survey(request).await?.into_inner();
                let name = node.identified(answer.identity.take(), &query.scope)?.name;
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
    Surveyed { count: answer.count, first: answer.first, fences }
}

/// A selection goes on only while every node answers.
fn refuse(failures: Failures, live: bool) -> Result<(), Restart> {
    let (gone, failed): (Failures, Failures) =
        failures.into_iter().partition(|(_, error)| error.failed_precondition && !live);
    if !failed.is_empty() {
        return Err(Restart::Without(failed));
    }
    if gone.is_empty() { Ok(()) } else { Err(Restart::SnapshotGone) }
}

/// Asks nodes for the rows of their windows.
async fn fetch(
    Task { cluster, query, .. }: Task<'_>,
    after: Option<&v1::Key>,
    asked: Vec<(Arc<Node>, u64, Range<u64>)>,
    with_statistics: bool,
    until: Instant,
) -> (Vec<Answer<Rows>>, Failures) {
    let nodes: Vec<_> = asked.iter().map(|(node, _, _)| Arc::clone(node)).collect();
    fanout::ask_all(&nodes, until, |node| {
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
            without_statistics: !with_statistics,
            after: after.cloned(),
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
    let mut chunks = raw::list(node.channel(), call::request(message, until)).await?;
    let mut rows = NodeRows::default();
    let mut read =
        |chunk: &[u8]| rows.read(chunk, limit).map_err(|error| CallError::protocol(error.to_string()));
    let head = chunks.message().await?.ok_or_else(|| CallError::protocol("a list without a first chunk"))?;
    let ListHead { identity, count, first } = read(&head)?;
    let name = node.identified(identity, &query.scope)?.name;
    while let Some(chunk) = chunks.message().await? {
        read(&chunk)?;
    }
    rows.belong_to(&name, query.order).map_err(|error| CallError::protocol(error.to_string()))?;
    if first > count {
        return Err(CallError::protocol("a list that begins behind its end"));
    }
    Ok((name, Rows { count, first, rows }))
}

fn row_lists(answers: Vec<Answer<Rows>>) -> Vec<NodeRows> {
    answers.into_iter().map(|answer| answer.body.rows).collect()
}
