//! A page near the list's beginning: of each node its share, and more of those of which that was too little.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::{MAX_WINDOW, SortField};

use super::{Failures, LIVE, Page, Place, Restart, Rows, Task, fetch, row_lists};
use crate::cluster::ListQuery;
use crate::cluster::call::CallError;
use crate::cluster::fanout::Answer;
use crate::cluster::node::Node;
use crate::page::merge;
use crate::page::rows::NodeRows;
use crate::page::share::{self, Came};

/// Rows of each node beside the pages that shipping without a selection may bring.
const ROWS_A_NODE: u64 = 100;

/// Up to this many rows beside the page it is cheaper to ship them than to ask for their ranks first; a small page may
/// bring its own size.
const MOST_DETOUR: u64 = 1_000;

/// The windows to ask the nodes for, if that is cheaper than a selection.
pub(super) fn one_wave(query: &ListQuery, offset: u64, nodes: &[Arc<Node>]) -> Option<Vec<Range<u64>>> {
    let limit = u64::from(query.limit);
    if limit == 0 {
        return Some(vec![0..0; nodes.len()]);
    }
    let end = offset.saturating_add(limit);
    if nodes.len() == 1 {
        return Some(vec![offset..end; 1]);
    }
    let windows = match query.order.field {
        // There the page may be of any one node.
        SortField::Node => vec![end; nodes.len()],
        // There it may be too, and asking a node again makes it read all its clients' figures again.
        live if live.is_live() => vec![end; nodes.len()],
        _ => share::windows(end, &nodes.iter().map(|node| node.expected()).collect::<Vec<_>>()),
    };
    is_cheap(query.limit, nodes.len(), windows.iter().copied())
        .then(|| windows.into_iter().map(|end| 0..end).collect())
}

/// Whether to ship the rows of these windows costs less than to find out first which of them make up the page.
fn is_cheap(limit: u32, nodes: usize, windows: impl Iterator<Item = u64> + Clone) -> bool {
    let limit = u64::from(limit);
    let most = limit + limit.min(MOST_DETOUR) + ROWS_A_NODE * nodes as u64;
    windows.clone().fold(0, u64::saturating_add) <= most
        && windows.clone().all(|window| window <= MAX_WINDOW.into())
}

/// The page out of the beginnings of the nodes' lists, or `None` if a selection is needed: a node changed so that even
/// its second answer was too short, or that answer would be too large.
pub(super) async fn beginning_page(
    task: Task<'_>,
    place: &Place,
    windows: Vec<Range<u64>>,
    nodes: &[Arc<Node>],
) -> Result<Option<Page>, Restart> {
    let limit = task.query.limit;
    let wanted = usize::try_from(place.offset.saturating_add(limit.into())).unwrap_or(usize::MAX);
    // A window starts late only where one node was asked, and counting asks for no rows.
    let start = windows.first().map_or(0, |window| window.start);
    let is_last = start > 0 || limit == 0 || nodes.len() == 1;
    let until =
        if is_last { task.cluster.reserve(task.deadline) } else { task.cluster.share(task.deadline, 3, 4) };
    let asked = nodes.iter().cloned().zip(windows).map(|(node, window)| (node, LIVE, window)).collect();
    let (mut answers, failures) = fetch(task, place.after.as_ref(), asked, true, until).await;
    let mut merged = merge::in_order(task.query.order, rows_of(&answers));
    if !is_last {
        let short = share::shortfalls(wanted, &merged, &came(&answers));
        if !short.is_empty() {
            let windows = short.iter().map(|(_, window)| *window);
            let most = ROWS_A_NODE * nodes.len() as u64 + 3 * u64::from(limit);
            let in_all = windows.clone().fold(merged.len() as u64, u64::saturating_add);
            if in_all > most || !is_cheap(limit, nodes.len(), windows) {
                return Ok(None);
            }
            if let Err(more) = ask_again(task, place, &mut answers, &short).await {
                return Err(Restart::Without(failures.into_iter().chain(more).collect()));
            }
            merged = merge::in_order(task.query.order, rows_of(&answers));
            if !share::shortfalls(wanted, &merged, &came(&answers)).is_empty() {
                return Ok(None);
            }
        }
    }
    let count = answers.iter().map(|answer| answer.body.count).fold(0, u64::saturating_add);
    let behind = answers.iter().map(|answer| answer.body.first).fold(0, u64::saturating_add);
    let skip = usize::try_from(place.offset.saturating_sub(start)).unwrap_or(usize::MAX);
    let rows = merge::window(row_lists(answers), merged, skip, limit as usize);
    Ok(Some(Page { rows, count, ahead: count.saturating_sub(behind), consistent: true, failures }))
}

/// Asks nodes once more for larger windows; what they answer takes the place of what came first, so that of each node
/// all is of one moment.
async fn ask_again(
    task: Task<'_>,
    place: &Place,
    answers: &mut [Answer<Rows>],
    short: &[(usize, u64)],
) -> Result<(), Failures> {
    let asked = short.iter().map(|(at, window)| (Arc::clone(&answers[*at].node), LIVE, 0..*window)).collect();
    let until = task.cluster.share(task.deadline, 1, 2);
    let (again, mut failures) = fetch(task, place.after.as_ref(), asked, true, until).await;
    for answer in again {
        let Some(first) = answers.iter_mut().find(|first| Arc::ptr_eq(&first.node, &answer.node)) else {
            continue;
        };
        if first.body.rows.node() == answer.body.rows.node() {
            *first = answer;
        } else {
            // Under its new name it may be one of the others, whose rows are here already.
            let error = CallError::protocol("the node changed its name between two answers");
            failures.push((answer.node, error));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn came(answers: &[Answer<Rows>]) -> Vec<Came> {
    let of =
        |Rows { count, first, rows }: &Rows| Came { rows: rows.len(), ahead: count.saturating_sub(*first) };
    answers.iter().map(|answer| of(&answer.body)).collect()
}

fn rows_of(answers: &[Answer<Rows>]) -> impl Iterator<Item = &NodeRows> + Clone {
    answers.iter().map(|answer| &answer.body.rows)
}
