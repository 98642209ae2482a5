//! A page that a [`Selection`] finds, wave by wave on one snapshot of each node.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use rollcall_proto::{SortField, v1};

use super::{Asked, Failures, LIVE, Page, Place, Restart, Task, expected, fetch, row_lists};
use crate::cluster::ListQuery;
use crate::cluster::call::{self, CallError};
use crate::cluster::fanout;
use crate::cluster::node::Node;
use crate::page::select::{Selection, Step, Surveyed};
use crate::page::{hints, merge, plan};

/// Deviations from its share that fences are put around. More than where rows are asked for: fences are cheap, and a
/// wrong guess costs a wave.
const DEVIATIONS: f64 = 4.0;

/// Pages of an order that do without a guess after one that was wrong.
const REST: u8 = 15;

/// In which orders guesses of a page's place have been wrong lately: where order and node go together they always are.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Guesses {
    /// How many pages to do without, by the number of the field; with a filter apart, which may be about one node.
    rests: [[AtomicU8; 2]; 32],
}

impl Guesses {
    /// `None` for orders in which there is no guess: by a live figure, whose numbers are larger, and by node.
    fn rest(&self, query: &ListQuery) -> Option<&AtomicU8> {
        if query.order.field == SortField::Node {
            return None;
        }
        let is_filtered = usize::from(query.filter != v1::Filter::default());
        self.rests.get(query.order.field as usize).map(|rests| &rests[is_filtered])
    }

    pub(super) fn may_guess(&self, query: &ListQuery) -> bool {
        self.rest(query)
            .is_some_and(|rest| rest.fetch_update(Relaxed, Relaxed, |rests| rests.checked_sub(1)).is_err())
    }

    pub(super) fn note(&self, query: &ListQuery, was_right: bool) {
        if let Some(rest) = self.rest(query).filter(|_| !was_right) {
            rest.store(REST, Relaxed);
        }
    }
}

/// The page. `in_vain` rows have been shipped for it already.
pub(super) async fn page(
    task: Task<'_>,
    place: &Place,
    nodes: &[Arc<Node>],
    in_vain: u64,
    live: bool,
) -> Result<Page, Restart> {
    let query = task.query;
    let mut selection = Selection::new(query.order, place.offset, query.limit, nodes.len())
        .within(plan::most_rows(query.limit, nodes.len()).saturating_sub(in_vain));
    if live {
        selection = selection.over_changing_nodes();
    }
    if task.may_guess {
        let (expected, total) = expected(task, place, nodes);
        selection = selection.near(plan::around(place.offset, query.limit, &expected, total, DEVIATIONS));
    }
    let Selected { snapshots, windows, skip, take } = narrow(task, place, nodes, &mut selection).await?;
    let asked = nodes.iter().zip(snapshots).zip(windows);
    let asked = asked.filter(|(_, ranks)| !ranks.is_empty());
    let asked = asked.map(|((node, snapshot), ranks)| Asked::of(node, snapshot, ranks));
    let until = task.cluster.share(task.deadline, 3, 4);
    let (answers, failures) = fetch(task, asked.collect(), until).await;
    let shipped = answers.iter().map(|answer| answer.body.rows.len() as u64).sum();
    refuse(failures, live, shipped)?;
    let rows = row_lists(answers);
    let merged = merge::in_order(query.order, rows.iter());
    let place_of = |ranks: u64| usize::try_from(ranks).unwrap_or(usize::MAX).min(merged.len());
    let shown = place_of(skip)..place_of(skip.saturating_add(take));
    if !live {
        let counts: Vec<_> = nodes.iter().cloned().zip(selection.counts()).collect();
        let marks = || hints::marks(query.order, &rows, &merged, &shown, place.offset, None);
        task.note(place, &counts, marks);
    }
    let rows = merge::window(rows, merged, shown.start, shown.len());
    let (count, ahead) = (selection.total(), selection.total_ahead());
    // Of nodes that change, who fills the page need not be the last.
    let may_have_more = live && take > 0 && rows.len() as u64 == take;
    let has_more = place.has_more(rows.len(), ahead) || may_have_more;
    Ok(Page { rows, count, has_more, consistent: !live, failures: Vec::new() })
}

/// What a selection comes to.
pub(super) struct Selected {
    /// Of each node, what its ranks refer to.
    pub snapshots: Vec<u64>,
    /// Of each node, the ranks to fetch.
    pub windows: Vec<Range<u64>>,
    skip: u64,
    take: u64,
}

/// Narrows a selection wave by wave until its rows can be fetched.
pub(super) async fn narrow(
    task: Task<'_>,
    place: &Place,
    nodes: &[Arc<Node>],
    selection: &mut Selection,
) -> Result<Selected, Restart> {
    let query = task.query;
    let mut snapshots = vec![LIVE; nodes.len()];
    loop {
        match selection.step() {
            Step::Survey(ranges) => {
                let wave = survey(task, place, nodes, &snapshots, selection, ranges).await?;
                if !selection.is_over_changing_nodes() {
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
                if task.may_guess && selection.waves() == 1 {
                    task.cluster.guesses().note(query, matches!(selection.step(), Step::Fetch { .. }));
                }
            }
            Step::Fetch { windows, skip, take } => return Ok(Selected { snapshots, windows, skip, take }),
        }
    }
}

/// One wave of surveys. Nodes with nothing left to narrow are not asked.
async fn survey(
    Task { cluster, query, deadline, .. }: Task<'_>,
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
            without_snapshot: selection.is_over_changing_nodes(),
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
    refuse(failures, selection.is_over_changing_nodes(), 0)?;
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

/// A selection goes on only while every node answers. Those that did have shipped so many rows.
fn refuse(failures: Failures, live: bool, shipped: u64) -> Result<(), Restart> {
    let (gone, failed): (Failures, Failures) =
        failures.into_iter().partition(|(_, error)| error.failed_precondition && !live);
    if !failed.is_empty() {
        return Err(Restart::Without(failed));
    }
    if gone.is_empty() { Ok(()) } else { Err(Restart::SnapshotGone { shipped }) }
}
