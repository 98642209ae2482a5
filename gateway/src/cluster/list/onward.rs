//! A page of a walk: the rows from its beginning or a cursor on, by keys and without snapshots
//! ([`onward`](crate::page::onward)).

use std::sync::Arc;

use rollcall_proto::{MAX_WINDOW, v1};
use tokio::time::Instant;

use super::{Asked, LIVE, Page, Place, Restart, Rows, Task, fetch, selected};
use crate::cluster::fanout::Answer;
use crate::cluster::node::Node;
use crate::page::onward::{self, Came, Step};
use crate::page::rows::NodeRows;
use crate::page::select::Selection;
use crate::page::{merge, plan};

/// What has come of one node.
struct Read {
    node: Arc<Node>,
    name: String,
    incarnation: u64,
    count: u64,
    /// The rank behind the last row, as it was when that came.
    end: u64,
    came: Came,
    /// Behind this its next rows stand; `None` before the first of the list.
    last: Option<v1::Key>,
}

/// All that has come.
struct Reading {
    nodes: Vec<Read>,
    /// The rows of one answer each.
    parts: Vec<NodeRows>,
    /// Of which node, by index, each of them is.
    of: Vec<usize>,
    /// No node was seen to change between two of its answers.
    is_of_one_state: bool,
}

/// The page. `in_vain` rows have been shipped for it already.
pub(super) async fn page(
    task: Task<'_>,
    place: &Place,
    nodes: &[Arc<Node>],
    in_vain: u64,
) -> Result<Page, Restart> {
    let query = task.query;
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let answers = begin(task, place, nodes, in_vain).await?;
    let mut reading = Reading::of(task, place, answers);
    loop {
        let merged = merge::in_order(query.order, reading.parts.iter());
        let came: Vec<Came> = reading.nodes.iter().map(|node| node.came).collect();
        match onward::step(limit, onward::nodes_of(&merged, &reading.of), &came) {
            Step::Page(length) => {
                let Reading { nodes, parts, is_of_one_state, .. } = reading;
                let counts: Vec<_> = nodes.iter().map(|read| (Arc::clone(&read.node), read.count)).collect();
                task.note(place, &counts, Vec::new);
                let count = counts.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
                let has_more = merged.len() > length || nodes.iter().any(|read| read.came.behind > 0);
                let rows = merge::window(parts, merged, 0, length);
                return Ok(Page { rows, count, has_more, consistent: is_of_one_state, failures: Vec::new() });
            }
            Step::Ask(more) => {
                let asked = more.iter().map(|&(at, rows)| {
                    let Read { node, last, .. } = &reading.nodes[at];
                    Asked { after: last.clone(), ..Asked::of(node, LIVE, 0..rows) }
                });
                let until = task.cluster.share(task.deadline, 1, 2);
                for answer in answered(task, asked.collect(), until).await? {
                    reading.go_on(task, answer)?;
                }
            }
        }
    }
}

/// Of each node as many rows as the page has of it, for all that is known, and one more, which shows where the page ends. Ranks
/// are asked for to know how many that is, and mean nothing any more when the rows come.
async fn begin(
    task: Task<'_>,
    place: &Place,
    nodes: &[Arc<Node>],
    in_vain: u64,
) -> Result<Vec<Answer<Rows>>, Restart> {
    let query = task.query;
    let left = plan::most_rows(query.limit, nodes.len()).saturating_sub(in_vain + nodes.len() as u64);
    let mut selection =
        Selection::new(query.order, 0, query.limit, nodes.len()).within(left).over_changing_nodes();
    let windows = selected::narrow(task, place, nodes, &mut selection).await?.windows;
    let asked = nodes.iter().zip(windows).map(|(node, ranks)| {
        let rows = (ranks.end - ranks.start + 1).min(MAX_WINDOW.into());
        Asked { after: place.after.clone(), ..Asked::of(node, LIVE, 0..rows) }
    });
    answered(task, asked.collect(), task.cluster.share(task.deadline, 3, 4)).await
}

/// What the nodes answer, if all of them do.
async fn answered(task: Task<'_>, asked: Vec<Asked>, until: Instant) -> Result<Vec<Answer<Rows>>, Restart> {
    let (answers, failures) = fetch(task, asked, until).await;
    if failures.is_empty() { Ok(answers) } else { Err(Restart::Without(failures)) }
}

impl Reading {
    fn of(task: Task<'_>, place: &Place, answers: Vec<Answer<Rows>>) -> Self {
        let mut reading = Self { nodes: vec![], parts: vec![], of: vec![], is_of_one_state: true };
        for Answer { node, body } in answers {
            let (name, incarnation) = (body.rows.node().to_owned(), body.incarnation);
            let (end, last) = (body.first, place.after.clone());
            let came = Came::default();
            let read = Read { node, name, incarnation, count: body.count, end, came, last };
            reading.nodes.push(read);
            reading.take(task, reading.nodes.len() - 1, body);
        }
        reading
    }

    /// Takes in what stands behind the last row of a node.
    fn go_on(&mut self, task: Task<'_>, Answer { node, body }: Answer<Rows>) -> Result<(), Restart> {
        let Some(at) = self.nodes.iter().position(|read| Arc::ptr_eq(&read.node, &node)) else {
            return Ok(());
        };
        let read = &self.nodes[at];
        if (body.rows.node(), body.incarnation) != (read.name.as_str(), read.incarnation) {
            // Its sessions have other numbers, so a client may come again behind itself.
            return Err(Restart::Anew);
        }
        self.is_of_one_state &= (body.first, body.count) == (read.end, read.count);
        self.take(task, at, body);
        Ok(())
    }

    fn take(&mut self, task: Task<'_>, at: usize, body: Rows) {
        let Rows { count, start, rows, .. } = body;
        let read = &mut self.nodes[at];
        read.count = count;
        read.end = start.saturating_add(rows.len() as u64);
        read.came.rows += rows.len();
        read.came.behind = count.saturating_sub(read.end);
        if let Some(last) = rows.last() {
            read.last = Some(task.query.order.key(&last.client).into());
        }
        self.parts.push(rows);
        self.of.push(at);
    }
}
