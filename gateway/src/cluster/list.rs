//! One page of the cluster's clients.
//!
//! The plan: if the page is near the list's beginning or end, or there is only one node, one wave brings the rows: of each
//! node those that most likely make up the page ([`plan`](crate::page::plan)), and once more those of which that was too little.
//! Otherwise, of a page by number, a [`Selection`](crate::page::select::Selection) narrows down which ranks of which node make
//! up the page, wave by wave on one snapshot of each node, and the last wave fetches those: two waves where the nodes' shares
//! tell about where the page is, three or four where they do not.
//!
//! Where to look is guessed from how many clients each node had some time ago. What comes says how many it has and which ranks
//! these are, at one moment; so a guess that was wrong costs a wave, and never a row of the page.
//!
//! A page that begins with the list or behind a cursor needs no ranks: its rows are asked for behind keys, and once more behind the
//! last of them where they were too few ([`onward`](crate::page::onward)); how many to ask each node for a selection over live
//! data tells, if they are not asked for at once. So a walk never rests on a snapshot, and whatever nodes do meanwhile it
//! skips no client that keeps its place. A key that was too long for the cursor is asked of its node first, which costs a wave
//! and ships one row.
//!
//! Rows: at most `3 * limit + 100 * nodes` are shipped for a request in all, whatever the nodes have by now: where a second
//! answer would pass that the second way is taken, and what came in vain before is taken off from what its fetch may
//! bring, down to the page alone. (Of a page of thousands of rows the fences are too few to find its ends exactly, which
//! may add some hundred rows. Where nodes change between two answers, so that the page is not among twice as many rows
//! as were enough, that page comes on top; and what is dropped because a node failed is not counted.) Of one node never
//! more than [`MAX_WINDOW`](rollcall_proto::MAX_WINDOW) rows are held in memory, and 256 keys besides.
//!
//! Failures: a node that fails in any wave is named in the answer and the page is begun again without it,
//! since ranges narrowed with its keys are void. So that one silent node cannot use up the time of the
//! others, a wave of a selection gets only a share of what is left. If a snapshot has gone the selection starts
//! again once; if that happens again it reads live data, and the answer says that it is not consistent.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::wire::ListHead;
use rollcall_proto::{MAX_RANKED, Order, SortField, v1};
use tokio::time::Instant;

use self::direct::{Found, Way};
use super::call::{self, CallError};
use super::fanout::{self, Answer};
use super::node::Node;
use super::{Cluster, ClusterError, ListAnswer, ListQuery, Lost, Scope, Start, get, raw};
use crate::page::completeness::FailedNode;
use crate::page::cursor::{Fingerprint, HashedKey, Position};
use crate::page::hints::Mark;
use crate::page::rows::{NodeRows, PageRows};
use crate::page::share::Expected;

mod direct;
mod onward;
mod selected;

pub(super) use self::selected::Guesses;

/// Selections on snapshots before the answer comes from live data.
const SNAPSHOT_TRIES: u32 = 2;

/// The snapshot number that stands for the live index, and in a survey for a new snapshot.
const LIVE: u64 = 0;

type Failures = Vec<(Arc<Node>, CallError)>;

/// One node's answer to a list call.
struct Rows {
    count: u64,
    /// The rank at which the list begins.
    first: u64,
    /// The rank of the first row that came.
    start: u64,
    rows: NodeRows,
    /// Of the agent that sent them.
    incarnation: u64,
}

/// What a node is asked for.
struct Asked {
    node: Arc<Node>,
    snapshot: u64,
    /// Counted from behind `after`.
    ranks: Range<u64>,
    /// The ranks are counted from the list's end instead.
    from_end: bool,
    /// All rows stand behind this; `None` for the list's beginning.
    after: Option<v1::Key>,
}

impl Asked {
    /// These ranks of the whole list.
    fn of(node: &Arc<Node>, snapshot: u64, ranks: Range<u64>) -> Self {
        Self { node: Arc::clone(node), snapshot, ranks, from_end: false, after: None }
    }
}

/// A page over the nodes that answered.
struct Page {
    rows: PageRows,
    count: u64,
    /// Whether rows follow.
    has_more: bool,
    consistent: bool,
    /// Nodes that failed without spoiling the others' rows.
    failures: Failures,
}

/// Why a selection has to start again.
enum Restart {
    /// Without these nodes.
    Without(Failures),
    /// With new snapshots.
    SnapshotGone {
        /// Rows that have come all the same.
        shipped: u64,
    },
    /// With nothing that has come: an agent was restarted between two answers.
    Anew,
}

pub(super) async fn list(
    cluster: &Cluster,
    query: &ListQuery,
    deadline: Instant,
) -> Result<ListAnswer, ClusterError> {
    // A count is the same in every order and behind every key, and by some an agent would read or sort much for it.
    let counting;
    let query = if query.limit == 0 {
        counting = ListQuery { order: Order::default(), start: Start::Page(1), ..query.clone() };
        &counting
    } else {
        query
    };
    let mut nodes = cluster.in_scope(&query.scope, deadline).await?;
    let total = nodes.len();
    let mut failed: Vec<FailedNode> = Vec::new();
    let mut tries = 0;
    // Rows that were looked at in vain.
    let mut in_vain = None;
    // Page 1 and what is behind a cursor begin where each node's list does.
    let is_amid = matches!(query.start, Start::Page(page) if page > 1);
    let may_guess = is_amid && cluster.guesses().may_guess(query);
    let mut task = Task { cluster, query, deadline, may_guess };
    let place = Place::of(task).await?;
    loop {
        let attempt = match direct::plan(task, &place, &nodes).filter(|_| in_vain.is_none()) {
            Some(way) => match direct::page(task, &place, &way, &nodes).await {
                Ok(Found::Page(page)) => Ok(page),
                Ok(Found::Other(rows)) => {
                    in_vain = Some(rows);
                    task.was_wrong(&place, &way);
                    continue;
                }
                Err(restart) => Err(restart),
            },
            None if place.is_of_a_walk(query) => {
                Box::pin(onward::page(task, &place, &nodes, in_vain.unwrap_or(0))).await
            }
            None => {
                tries += 1;
                let live = tries > SNAPSHOT_TRIES;
                Box::pin(selected::page(task, &place, &nodes, in_vain.unwrap_or(0), live)).await
            }
        };
        let failures = match attempt {
            Ok(page) if page.failures.len() < nodes.len() => {
                failed.extend(fanout::failed_nodes(&page.failures));
                let completeness = fanout::completeness(total, failed);
                let Page { rows, count, has_more, consistent, .. } = page;
                // Who only counts does not turn pages.
                let has_more = has_more && query.limit > 0;
                let last = rows.last().filter(|_| has_more);
                let next = last.map(|row| query.order.key(&row.client).into());
                return Ok(ListAnswer { rows, count, has_more, next, consistent, completeness });
            }
            Ok(page) => page.failures,
            Err(Restart::SnapshotGone { shipped }) => {
                in_vain = Some(in_vain.unwrap_or(0) + shipped);
                continue;
            }
            Err(Restart::Anew) => continue,
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
    /// Whether the nodes' shares tell about where a page is, for all that is known.
    may_guess: bool,
}

impl Task<'_> {
    /// Notes that the page was not where it was looked for.
    fn was_wrong(&mut self, place: &Place, way: &Way) {
        if way.is_guess() {
            self.cluster.guesses().note(self.query, false);
            self.may_guess = false;
        }
        if let Some((of, mark)) = place.list.zip(way.mark.as_ref()) {
            self.cluster.hints().forget(of, mark);
        }
    }

    /// Notes what a page says of its list.
    fn note(self, place: &Place, counts: &[(Arc<Node>, u64)], marks: impl FnOnce() -> Vec<Mark>) {
        let Some(of) = place.list else { return };
        // Near the beginning every page is found without marks.
        let marks = if place.offset > 0 { marks() } else { Vec::new() };
        let mut hints = self.cluster.hints();
        // How many clients there are in all the nodes say themselves.
        if self.query.filter != v1::Filter::default() {
            counts.iter().for_each(|(node, count)| hints.note_count(of, &node.address, *count));
        }
        if !marks.is_empty() {
            hints.note_marks(of, marks);
        }
    }
}

/// Where the page begins: behind a key, or at the list's beginning, and then so many rows on.
struct Place {
    after: Option<v1::Key>,
    offset: u64,
    /// What hints about the list are found by; `None` where there is no use for them: for the page that most ask for, in an
    /// order by a live figure and in that by node.
    list: Option<Fingerprint>,
}

impl Place {
    async fn of(task: Task<'_>) -> Result<Self, ClusterError> {
        let query = task.query;
        match &query.start {
            Start::Page(page) => {
                let offset = page.saturating_sub(1).saturating_mul(query.limit.into());
                let is_plain = offset == 0 && query.filter == v1::Filter::default();
                let field = query.order.field;
                let is_of_one = field == SortField::Node || field.is_live();
                let has_hints = !is_plain && !is_of_one && query.limit > 0;
                let names = if let Scope::Only(names) = &query.scope { names.as_slice() } else { &[] };
                let list = has_hints.then(|| Fingerprint::of(&query.filter, query.order, names));
                Ok(Self { after: None, offset, list })
            }
            Start::Cursor(Position::After(key)) => Ok(Self::behind(key.clone())),
            Start::Cursor(Position::Hashed(hashed)) => Ok(Self::behind(whole_key(task, hashed).await?)),
        }
    }
}

impl Place {
    fn behind(key: v1::Key) -> Self {
        Self { after: Some(key), offset: 0, list: None }
    }

    /// Whether a walk has such a page: it begins where the list does or behind a key. Figures change too much to go by keys of
    /// them.
    fn is_of_a_walk(&self, query: &ListQuery) -> bool {
        self.offset == 0 && !query.order.field.is_live()
    }

    /// Whether rows follow those of the page, so many, if there are so many from where the list begins.
    fn has_more(&self, shown: usize, ahead: u64) -> bool {
        self.offset.saturating_add(shown as u64) < ahead
    }
}

/// Looks up the key of which a cursor holds the hash, with the one node that can tell it. Where the client stands elsewhere by
/// now its place is not taken for the cursor's: clients between the two would be skipped, or come again.
async fn whole_key(task: Task<'_>, hashed: &HashedKey) -> Result<v1::Key, ClusterError> {
    let Task { cluster, query, deadline, .. } = task;
    let node = || hashed.node.clone();
    let lost = |lost| Err(ClusterError::CursorLost { lost });
    let scope = Scope::Only(vec![node()]);
    let owner = match cluster.in_scope(&scope, deadline).await {
        Ok(owner) => owner,
        Err(ClusterError::UnknownNode { .. }) => return lost(Lost::Node { node: node() }),
        Err(error) => return Err(error),
    };
    let until = cluster.share(deadline, 1, 2);
    let found = get::session(cluster, hashed.session, &scope, &owner, until).await;
    let found = found.map_err(|failed| ClusterError::PlaceUnknown { failed })?;
    let Some(client) = found else { return lost(Lost::Client { node: node() }) };
    let key = query.order.key(&client.as_client_ref()).into();
    match (hashed.is(&key), hashed.is_of_client(&key)) {
        (true, _) => Ok(key),
        (false, true) => lost(Lost::Value { field: query.order.field.name() }),
        // The number is of another incarnation of the agent.
        (false, false) => lost(Lost::Client { node: node() }),
    }
}

/// What is known of the nodes before they are asked, and how many clients match about, where that is known too.
fn expected(task: Task<'_>, place: &Place, nodes: &[Arc<Node>]) -> (Vec<Expected>, Option<u64>) {
    let mut expected: Vec<Expected> = nodes.iter().map(|node| node.expected()).collect();
    let mut is_known = place.after.is_none();
    if task.query.filter != v1::Filter::default() {
        let addresses = nodes.iter().map(|node| node.address.as_str());
        let counts = place.list.and_then(|of| task.cluster.hints().counts(of, addresses));
        // Else the nodes' shares of all clients stand for those of the clients that match.
        is_known = is_known && counts.is_some();
        for (node, count) in expected.iter_mut().zip(counts.into_iter().flatten()) {
            node.count = Some(count);
        }
    }
    let mut counts = expected.iter().filter(|node| node.answers).map(|node| node.count.filter(|_| is_known));
    let total = counts.try_fold(0_u64, |sum, count| Some(sum.saturating_add(count?)));
    (expected, total)
}

/// Asks nodes for rows.
async fn fetch(
    Task { cluster, query, .. }: Task<'_>,
    asked: Vec<Asked>,
    until: Instant,
) -> (Vec<Answer<Rows>>, Failures) {
    let nodes: Vec<_> = asked.iter().map(|asked| Arc::clone(&asked.node)).collect();
    fanout::ask_all(&nodes, until, |node| {
        let of_node = asked.iter().find(|other| Arc::ptr_eq(&other.node, &node));
        let message = of_node.map_or_else(v1::ListRequest::default, |asked| v1::ListRequest {
            filter: Some(query.filter.clone()),
            order: Some(query.order.into()),
            snapshot: asked.snapshot,
            offset: asked.ranks.start,
            limit: u32::try_from(asked.ranks.end - asked.ranks.start).unwrap_or(u32::MAX),
            without_statistics: false,
            after: asked.after.clone(),
            from_end: asked.from_end,
            // Nothing is asked about it after its rows.
            release_snapshot: asked.snapshot != LIVE,
        });
        async move {
            let received = || receive(&node, query, message.clone(), until);
            call::read_by(until, cluster.retry_budget(), received).await
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
    let (offset, limit, from_end) = (message.offset, message.limit, message.from_end);
    let is_of_all = message.filter == Some(v1::Filter::default());
    let after = message.after.clone();
    let mut chunks = raw::list(node.channel(), call::request(message, until)).await?;
    let mut rows = NodeRows::default();
    let mut read = |chunk: &[u8]| {
        let before = rows.len();
        let read = rows.read(chunk, limit as usize);
        node.figures().rows.inc_by((rows.len() - before) as u64);
        read.map_err(|error| CallError::protocol(error.to_string()))
    };
    let head = chunks.message().await?.ok_or_else(|| CallError::protocol("a list without a first chunk"))?;
    let mut head: ListHead = read(&head)?;
    let v1::Identity { name, incarnation } = node.identified(head.identity.take(), &query.scope)?;
    while let Some(chunk) = chunks.message().await? {
        read(&chunk)?;
    }
    rows.belong_to(&name, query.order).map_err(|error| CallError::protocol(error.to_string()))?;
    if let Some(key) = &after {
        let key = query.order.key_from_wire(key).map_err(|error| CallError::protocol(error.to_string()))?;
        if !rows.stand_behind(query.order, &key) {
            return Err(CallError::protocol("a row before the key that the page begins behind"));
        }
    }
    let start = start_of(&head, offset, limit, from_end, query, rows.len() as u64)?;
    if is_of_all {
        node.note_clients(head.count);
    }
    Ok((name, Rows { count: head.count, first: head.first, start, rows, incarnation }))
}

/// The rank of the first row that came, once what came is found to be what a list of that many clients has there.
fn start_of(
    head: &ListHead,
    offset: u64,
    limit: u32,
    from_end: bool,
    query: &ListQuery,
    rows: u64,
) -> Result<u64, CallError> {
    let &ListHead { count, first, start, .. } = head;
    let Some(ahead) = count.checked_sub(first) else {
        return Err(CallError::protocol("a list that begins behind its end"));
    };
    let ranked = if query.order.field.is_live() { count.min(MAX_RANKED.into()) } else { count };
    let left = ranked.saturating_sub(first).saturating_sub(offset);
    if rows != left.min(limit.into()) {
        return Err(CallError::protocol("a list of another number of rows than it has there"));
    }
    let from_beginning = first + offset.min(ahead);
    let expected = if from_end { count - offset.min(ahead) - rows } else { from_beginning };
    match start {
        told if told == expected => Ok(told),
        // An agent that tells no start does not know of the end either.
        0 => Ok(from_beginning),
        _ => Err(CallError::protocol("a list of other ranks than asked for")),
    }
}

fn row_lists(answers: Vec<Answer<Rows>>) -> Vec<NodeRows> {
    answers.into_iter().map(|answer| answer.body.rows).collect()
}
