//! A page whose rows are asked for at once: near the list's beginning or its end, or behind a mark, of each node its share
//! and more of those of which that was too little; not far from either end, of each node the ranks around its share of those
//! before.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::{SortField, v1};

use super::{Asked, Failures, LIVE, Page, Place, Restart, Rows, Task, expected, fetch, row_lists};
use crate::cluster::call::CallError;
use crate::cluster::fanout::Answer;
use crate::cluster::node::Node;
use crate::page::cover::{self, Piece};
use crate::page::hints::{self, Mark};
use crate::page::merge;
use crate::page::plan::{self, Ask};
use crate::page::rows::At;
use crate::page::share::{self, Came};

/// Where to look for the page.
#[derive(Debug)]
pub(super) struct Way {
    pub ask: Ask,
    /// What is asked for begins behind this.
    pub mark: Option<Mark>,
}

impl Way {
    /// Whether it rests on shares telling about where the page is.
    pub(super) fn is_guess(&self) -> bool {
        matches!(self.ask, Ask::Amid(_))
    }

    fn after<'a>(&'a self, place: &'a Place) -> Option<&'a v1::Key> {
        self.mark.as_ref().map(|mark| &mark.key).or(place.after.as_ref())
    }
}

/// What to ask the nodes for, if that is cheaper than a selection.
pub(super) fn plan(task: Task<'_>, place: &Place, nodes: &[Arc<Node>]) -> Option<Way> {
    let query = task.query;
    let field = query.order.field;
    // In the order by node a page may be of any one node; in one by a live figure too, and asking a node again makes it
    // read all its clients' figures again.
    if nodes.len() > 1 && (field == SortField::Node || field.is_live()) {
        let end = if query.limit == 0 { 0 } else { place.offset.saturating_add(query.limit.into()) };
        let windows = vec![end; nodes.len()];
        let is_cheap = plan::is_cheap(query.limit, nodes.len(), &windows);
        return is_cheap.then_some(Way { ask: Ask::First(windows), mark: None });
    }
    let (expected, total) = expected(task, place, nodes);
    let ask = plan::plan(place.offset, query.limit, &expected, total, task.may_guess);
    if nodes.len() > 1
        && let Some(of) = place.list.filter(|_| place.offset > 0)
        && let Some(mark) = task.cluster.hints().mark(of, place.offset)
    {
        let end = (place.offset - mark.rank).saturating_add(query.limit.into());
        let windows = share::windows(end, &expected);
        let behind = Ask::First(windows.clone());
        if plan::is_cheap(query.limit, nodes.len(), &windows)
            && ask.as_ref().is_none_or(|ask| behind.cost() < ask.cost())
        {
            return Some(Way { ask: behind, mark: Some(mark) });
        }
    }
    ask.map(|ask| Way { ask, mark: None })
}

/// What came of looking in one place.
pub(super) enum Found {
    /// The page.
    Page(Page),
    /// So many rows, of which the page is not made, nor can it be had by asking some nodes for more.
    Other(u64),
}

/// The page out of the rows asked for, if it is among them.
pub(super) async fn page(
    task: Task<'_>,
    place: &Place,
    way: &Way,
    nodes: &[Arc<Node>],
) -> Result<Found, Restart> {
    let query = task.query;
    let until = if query.limit == 0 || nodes.len() == 1 {
        task.cluster.reserve(task.deadline)
    } else if matches!(way.ask, Ask::First(_)) && way.mark.is_none() {
        task.cluster.share(task.deadline, 3, 4)
    } else {
        task.cluster.share(task.deadline, 1, 2)
    };
    let asked = (0..nodes.len()).map(|at| asked(&nodes[at], way, place, at)).collect();
    let (mut answers, failures) = fetch(task, asked, until).await;
    let mut came = Merged::of(task, way, &answers);
    let mut shipped = came.order.len() as u64;
    let mut page = came.page(task, place);
    if page.is_none() && (failures.is_empty() || matches!(way.ask, Ask::First(_))) {
        let short = came.shortfalls(task, place, way, nodes.len());
        if !short.is_empty() {
            if let Err(more) = ask_again(task, place, &mut answers, way, &short).await {
                return Err(Restart::Without(failures.into_iter().chain(more).collect()));
            }
            came = Merged::of(task, way, &answers);
            shipped += short.iter().map(|(_, window)| *window).sum::<u64>();
            page = came.page(task, place);
        }
    }
    let Some(page) = page else {
        // They would not answer the next time either.
        return if failures.is_empty() { Ok(Found::Other(shipped)) } else { Err(Restart::Without(failures)) };
    };
    let counts: Vec<_> = answers.iter().map(|answer| (Arc::clone(&answer.node), answer.body.count)).collect();
    let count = counts.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
    let ahead = cover::total(&came.pieces).saturating_add(came.skipped);
    let rows = row_lists(answers);
    if failures.is_empty() {
        // Today the mark is at this rank.
        let mark = way.mark.as_ref().map(|mark| Mark { rank: came.skipped, key: mark.key.clone() });
        let marks = || hints::marks(query.order, &rows, &came.order, &page, place.offset, mark);
        task.note(place, &counts, marks);
    }
    let rows = merge::window(rows, came.order, page.start, page.len());
    let has_more = place.has_more(rows.len(), ahead);
    Ok(Found::Page(Page { rows, count, has_more, consistent: true, failures }))
}

/// What to ask one node for.
fn asked(node: &Arc<Node>, way: &Way, place: &Place, at: usize) -> Asked {
    let (ranks, from_end) = match &way.ask {
        Ask::First(rows) => (0..rows[at], false),
        Ask::Last(rows) => (0..rows[at], true),
        Ask::Amid(ranks) => (ranks[at].clone(), false),
    };
    Asked { from_end, after: way.after(place).cloned(), ..Asked::of(node, LIVE, ranks) }
}

/// All rows that came.
struct Merged {
    order: Vec<At>,
    pieces: Vec<Piece>,
    /// How many come before or at the mark; the pieces are of what is behind it.
    skipped: u64,
}

impl Merged {
    fn of(task: Task<'_>, way: &Way, answers: &[Answer<Rows>]) -> Self {
        let order = merge::in_order(task.query.order, answers.iter().map(|answer| &answer.body.rows));
        let piece = |answer: &Answer<Rows>| {
            let Rows { count, first, start, ref rows, .. } = answer.body;
            let end = start.saturating_add(rows.len() as u64);
            let (before, behind) = (start.saturating_sub(first), count.saturating_sub(end));
            Piece { before, rows: rows.len(), behind }
        };
        let first = answers.iter().map(|answer| answer.body.first).fold(0, u64::saturating_add);
        let skipped = if way.mark.is_some() { first } else { 0 };
        Self { order, pieces: answers.iter().map(piece).collect(), skipped }
    }

    /// Which of the rows are the page; `None` if that cannot be told from them.
    fn page(&self, task: Task<'_>, place: &Place) -> Option<Range<usize>> {
        cover::page(self.offset(place)?, task.query.limit, &self.order, &self.pieces)
    }

    /// Where the page begins behind the mark; `None` if the mark is behind its beginning.
    fn offset(&self, place: &Place) -> Option<u64> {
        place.offset.checked_sub(self.skipped)
    }

    /// Of which nodes too little came, and how many rows of each are enough; none if a selection is cheaper.
    fn shortfalls(&self, task: Task<'_>, place: &Place, way: &Way, nodes: usize) -> Vec<(usize, u64)> {
        let limit = task.query.limit;
        let rows = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let came = |beside: fn(&Piece) -> u64| {
            let of = |piece: &Piece| Came {
                rows: piece.rows,
                in_all: beside(piece).saturating_add(piece.rows as u64),
            };
            self.pieces.iter().map(of).collect::<Vec<_>>()
        };
        let Some(offset) = self.offset(place) else { return Vec::new() };
        let short = match way.ask {
            Ask::First(_) => {
                let end = rows(offset.saturating_add(limit.into()));
                share::shortfalls(end, &self.order, &came(|piece| piece.behind))
            }
            // An agent that cannot count from the end has sent its first rows.
            Ask::Last(_) if self.pieces.iter().all(|piece| piece.behind == 0) => {
                let end = rows(cover::total(&self.pieces).saturating_sub(offset));
                share::shortfalls_at_end(end, &self.order, &came(|piece| piece.before))
            }
            Ask::Last(_) | Ask::Amid(_) => Vec::new(),
        };
        let windows: Vec<u64> = short.iter().map(|(_, window)| *window).collect();
        let most = plan::most_rows(limit, nodes);
        let in_all = windows.iter().copied().fold(self.order.len() as u64, u64::saturating_add);
        if in_all > most || !plan::is_cheap(limit, nodes, &windows) { Vec::new() } else { short }
    }
}

/// Asks nodes once more for larger windows; what they answer takes the place of what came first, so that of each node
/// all is of one moment.
async fn ask_again(
    task: Task<'_>,
    place: &Place,
    answers: &mut [Answer<Rows>],
    way: &Way,
    short: &[(usize, u64)],
) -> Result<(), Failures> {
    let from_end = matches!(way.ask, Ask::Last(_));
    let asked = short.iter().map(|(at, window)| {
        let asked = Asked::of(&answers[*at].node, LIVE, 0..*window);
        Asked { from_end, after: way.after(place).cloned(), ..asked }
    });
    let until = task.cluster.share(task.deadline, 1, 2);
    let (again, mut failures) = fetch(task, asked.collect(), until).await;
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
