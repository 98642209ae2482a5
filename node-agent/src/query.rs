//! What a request may ask of the index, and the snapshots that let several requests ask one state of it.
//!
//! A survey fixes a [`Listing`] under a random number; surveys and lists that name it read that one, so their ranks
//! agree. A snapshot goes with the list that says that it is the last question about it, or [`KEPT`] after its last use. As
//! many are kept as there may be calls at once, and [`LEAST_SNAPSHOTS`] at least, so that requests under way do not push
//! out each other's; and [`MOST_BYTES`] of what they hold for themselves: rows picked for them, of which those used longest ago go first, and what the index has
//! changed since they were taken, of which those taken first go first. The last one stays, however large: it is what the
//! answer that has just been given refers to, it goes with its time, and more than its picks and the index as it was it
//! cannot hold. A snapshot belongs to the filter and the order it was taken for: with others it is refused, because its
//! ranks would mean something else.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rollcall_proto::filter::InvalidFilter;
use rollcall_proto::order::InvalidKey;
use rollcall_proto::v1::{
    Client, CountRequest, ExportRequest, Filter, GroupBy, ListRequest, SurveyRequest, SurveyResponse,
};
use rollcall_proto::{
    MAX_FENCES, MAX_GROUPS, MAX_GROUPS_BYTES, MAX_RANKED, MAX_WINDOW, Matcher, Order, SortField, v1,
};
use thiserror::Error;

use crate::index::{self, Index, Stopped, Uncounted, View};
use crate::listing::Listing;

/// How long a snapshot outlives its last use.
const KEPT: Duration = Duration::from_secs(10);
/// How many snapshots are kept, however few calls there may be at once: between two of its calls a request has none.
const LEAST_SNAPSHOTS: usize = 64;
/// How many bytes snapshots may hold beyond what they share with the index: 64 million rows picked by filters, or some
/// 100,000 changes.
const MOST_BYTES: u64 = 256 << 20;

/// Why a request is not answered.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// The filter is not of this contract.
    #[error("filter: {0}")]
    Filter(#[from] InvalidFilter),
    /// The order is not of this contract.
    #[error("order: {0}")]
    Order(InvalidKey),
    /// The key to begin behind cannot stand in the order.
    #[error("after: {0}")]
    After(InvalidKey),
    /// More rows than a list may have.
    #[error("limit {0}, expected at most {MAX_WINDOW}")]
    Limit(u32),
    /// Ranks that no client has in an order by a live figure.
    #[error("ranks up to {last} by {}, expected at most {MAX_RANKED}: no client behind has a rank", field.name())]
    Unranked {
        /// The field of the order.
        field: SortField,
        /// The rank behind the last.
        last: u64,
    },
    /// An order by a live figure where a place in it would have to last.
    #[error("{what} by {}, expected an order by an identity field", field.name())]
    Live {
        /// What was asked for.
        what: &'static str,
        /// The field of the order.
        field: SortField,
    },
    /// No fences, or more than a survey may have.
    #[error("fences {0}, expected 1 to {MAX_FENCES}")]
    Fences(u32),
    /// Nothing to group by.
    #[error("group_by {0} is not known")]
    GroupBy(i32),
    /// More groups than a count may have.
    #[error("too many groups, expected at most {MAX_GROUPS} and {MAX_GROUPS_BYTES} bytes of them")]
    TooManyGroups,
    /// A range that ends before it starts.
    #[error("ranks {start} to {end}, expected an end that is not before the start")]
    Range {
        /// First rank.
        start: u64,
        /// The rank behind the last.
        end: u64,
    },
    /// The snapshot was taken for another filter or order.
    #[error("snapshot {0} was taken under another filter or order")]
    OtherSnapshot(u64),
    /// There is no such snapshot, or no longer.
    #[error("snapshot {0} is gone")]
    SnapshotGone(u64),
    /// Nobody waits for the answer any more.
    #[error("the answer is no longer wanted")]
    Stopped,
}

impl From<Stopped> for QueryError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Uncounted> for QueryError {
    fn from(uncounted: Uncounted) -> Self {
        match uncounted {
            Uncounted::Stopped => Self::Stopped,
            Uncounted::TooManyGroups => Self::TooManyGroups,
        }
    }
}

/// A checked question to one state of the index.
#[derive(Clone, Debug)]
pub struct Selection {
    matcher: Matcher,
    order: Order,
    /// 0: the state at present.
    snapshot: u64,
    /// Where to begin; checked against the order.
    after: Option<v1::Key>,
    /// Whether this is the last question about the snapshot.
    releases: bool,
}

impl Selection {
    fn new(
        filter: Option<Filter>,
        order: Option<v1::Order>,
        snapshot: u64,
        after: Option<v1::Key>,
    ) -> Result<Self, QueryError> {
        let matcher = Matcher::new(filter.unwrap_or_default())?;
        let order = Order::try_from(order.unwrap_or_default()).map_err(QueryError::Order)?;
        if let Some(key) = &after {
            if order.field.is_live() {
                return Err(QueryError::Live { what: "a list from a key on", field: order.field });
            }
            order.key_from_wire(key).map_err(QueryError::After)?;
        }
        Ok(Self { matcher, order, snapshot, after, releases: false })
    }

    /// The rank of the first client to look at.
    #[must_use]
    pub fn first(&self, listing: &Listing) -> u64 {
        let key = self.after.as_ref().and_then(|key| self.order.key_from_wire(key).ok());
        key.map_or(0, |key| listing.rank_after(&key))
    }

    /// The live figure that the clients are sorted by, if they are by one.
    #[must_use]
    pub fn live_field(&self) -> Option<SortField> {
        Some(self.order.field).filter(|field| field.is_live())
    }

    /// The order to rank all matching clients in by a live figure, unless a snapshot has ranked them.
    #[must_use]
    pub fn ranking(&self) -> Option<Order> {
        (self.order.field.is_live() && self.snapshot == 0).then_some(self.order)
    }

    /// The same clients in default order, as they are at present.
    #[must_use]
    pub fn unranked(&self) -> Self {
        let (matcher, order) = (self.matcher.clone(), Order::default());
        Self { matcher, order, snapshot: 0, after: None, releases: false }
    }
}

/// A checked survey request.
#[derive(Clone, Debug)]
pub struct Survey {
    /// What it asks for.
    pub selection: Selection,
    ranks: Range<u64>,
    fences: u32,
    /// Whether the clients it looks at are to be kept, if they are those at present.
    keeps: bool,
}

impl TryFrom<SurveyRequest> for Survey {
    type Error = QueryError;

    fn try_from(request: SurveyRequest) -> Result<Self, QueryError> {
        let SurveyRequest { filter, order, snapshot, start, end, fences, after, without_snapshot } = request;
        if fences == 0 || fences > MAX_FENCES {
            return Err(QueryError::Fences(fences));
        }
        if start > end {
            return Err(QueryError::Range { start, end });
        }
        let selection = Selection::new(filter, order, snapshot, after)?;
        Ok(Self { selection, ranks: start..end, fences, keeps: !without_snapshot })
    }
}

/// A checked list request.
#[derive(Clone, Debug)]
pub struct List {
    /// What it asks for.
    pub selection: Selection,
    /// Which of the clients to look at to send.
    ranks: Range<u64>,
    /// Whether those ranks are counted from the end.
    from_end: bool,
    /// Whether to leave the live figures out.
    pub without_statistics: bool,
    /// Whether it is a whole export, which may last for long, and not a page.
    pub is_export: bool,
}

impl List {
    /// The ranks to send of a list whose first client to look at has the rank `first`.
    #[must_use]
    pub fn ranks(&self, first: u64, count: u64) -> Range<u64> {
        let Range { start, end } = self.ranks;
        if self.from_end {
            count.saturating_sub(end).max(first)..count.saturating_sub(start).max(first)
        } else {
            first.saturating_add(start).min(count)..first.saturating_add(end).min(count)
        }
    }
}

impl TryFrom<ListRequest> for List {
    type Error = QueryError;

    fn try_from(request: ListRequest) -> Result<Self, QueryError> {
        let ListRequest {
            filter,
            order,
            snapshot,
            offset,
            limit,
            without_statistics,
            after,
            from_end,
            release_snapshot,
        } = request;
        if limit > MAX_WINDOW {
            return Err(QueryError::Limit(limit));
        }
        let ranks = offset..offset.saturating_add(limit.into());
        let selection =
            Selection { releases: release_snapshot, ..Selection::new(filter, order, snapshot, after)? };
        let field = selection.order.field;
        if field.is_live() && ranks.end > MAX_RANKED.into() {
            return Err(QueryError::Unranked { field, last: ranks.end });
        }
        if field.is_live() && from_end {
            return Err(QueryError::Live { what: "a list from the end", field });
        }
        Ok(Self { selection, ranks, from_end, without_statistics, is_export: false })
    }
}

/// A checked count request.
#[derive(Clone, Debug)]
pub struct Count {
    matcher: Matcher,
    group_by: GroupBy,
}

impl TryFrom<CountRequest> for Count {
    type Error = QueryError;

    fn try_from(request: CountRequest) -> Result<Self, QueryError> {
        let CountRequest { filter, group_by } = request;
        let group_by = GroupBy::try_from(group_by).map_err(|_| QueryError::GroupBy(group_by))?;
        Ok(Self { matcher: Matcher::new(filter.unwrap_or_default())?, group_by })
    }
}

/// An export is the list of all clients, as they are at present.
impl TryFrom<ExportRequest> for List {
    type Error = QueryError;

    fn try_from(request: ExportRequest) -> Result<Self, QueryError> {
        let ExportRequest { filter, order, without_statistics } = request;
        let selection = Selection::new(filter, order, 0, None)?;
        if selection.order.field.is_live() {
            return Err(QueryError::Live { what: "an export", field: selection.order.field });
        }
        let ranks = 0..u64::MAX;
        Ok(Self { selection, ranks, from_end: false, without_statistics, is_export: true })
    }
}

/// The index and its snapshots.
#[derive(Debug)]
pub struct Queries {
    index: Arc<Index>,
    /// [`MOST_BYTES`]
    most_bytes: u64,
    most_snapshots: usize,
    snapshots: Mutex<HashMap<u64, Snapshot>>,
}

#[derive(Debug)]
struct Snapshot {
    filter: Filter,
    order: Order,
    listing: Listing,
    used: Instant,
}

impl Queries {
    /// Questions to this index, of so many calls at once at the most.
    #[must_use]
    pub fn new(index: Arc<Index>, most_calls: u32) -> Self {
        let most_snapshots = LEAST_SNAPSHOTS.max(most_calls as usize);
        Self { index, most_bytes: MOST_BYTES, most_snapshots, snapshots: Mutex::default() }
    }

    /// How many rows [`Queries::listing`] would look at, about: tells long work from short.
    #[must_use]
    pub fn rows_to_visit(&self, selection: &Selection) -> usize {
        if selection.snapshot == 0 {
            self.index.rows_to_visit(&selection.matcher, selection.order)
        } else {
            0
        }
    }

    /// The clients that a question is about: its snapshot's, or those at present. The last question about a snapshot takes it
    /// along.
    ///
    /// # Errors
    /// `SnapshotGone`, `OtherSnapshot`, `Stopped`; `Live` if they have to be ranked first
    /// ([`Selection::ranking`]).
    pub fn listing(
        &self,
        selection: &Selection,
        now: Instant,
        stop: &dyn Fn() -> bool,
    ) -> Result<Listing, QueryError> {
        if selection.snapshot == 0 {
            return self.view(selection, stop).map(Listing::Indexed);
        }
        let mut snapshots = self.lock();
        let expired = expire(&mut snapshots, now);
        let found = match snapshots.get_mut(&selection.snapshot) {
            None => Err(QueryError::SnapshotGone(selection.snapshot)),
            Some(snapshot)
                if (&snapshot.filter, snapshot.order) != (selection.matcher.filter(), selection.order) =>
            {
                Err(QueryError::OtherSnapshot(selection.snapshot))
            }
            Some(snapshot) => {
                snapshot.used = now;
                Ok(snapshot.listing.clone())
            }
        };
        if selection.releases && found.is_ok() {
            snapshots.remove(&selection.snapshot);
        }
        drop(snapshots);
        drop(expired);
        found
    }

    /// The clients at present that a question is about, in an order the index knows.
    ///
    /// # Errors
    /// `Stopped`; `Live` for another order.
    pub fn view(&self, selection: &Selection, stop: &dyn Fn() -> bool) -> Result<View, QueryError> {
        let Selection { matcher, order, .. } = selection;
        if order.field.is_live() {
            return Err(QueryError::Live { what: "a view", field: order.field });
        }
        Ok(self.index.view(matcher, *order, stop)?)
    }

    /// Answers a survey over what [`Queries::listing`] gave for it; the identity is left out.
    pub fn survey(&self, survey: &Survey, listing: Listing, now: Instant) -> SurveyResponse {
        let first = survey.selection.first(&listing);
        let fences = listing.fences(survey.ranks.start.max(first)..survey.ranks.end, survey.fences);
        let count = listing.count();
        let snapshot = match survey.selection.snapshot {
            0 if survey.keeps => self.keep(&survey.selection, listing, now),
            known => known,
        };
        SurveyResponse { identity: None, snapshot, count, fences, first }
    }

    /// How many rows [`Queries::count`] would look at, about: tells long work from short.
    #[must_use]
    pub fn rows_to_count(&self, count: &Count) -> usize {
        self.index.rows_to_count(&count.matcher, count.group_by)
    }

    /// Answers a count from the index as it is now.
    ///
    /// # Errors
    /// `TooManyGroups`, `Stopped`.
    pub fn count(&self, count: &Count, stop: &dyn Fn() -> bool) -> Result<index::Count, QueryError> {
        Ok(self.index.count(&count.matcher, count.group_by, stop)?)
    }

    /// Every session under a client id, in default order.
    #[must_use]
    pub fn get(&self, clientid: &str) -> Vec<Client> {
        self.index.get(clientid)
    }

    /// How many rows [`Queries::session`] would look at.
    #[must_use]
    pub fn rows_to_find_session(&self) -> usize {
        usize::try_from(self.index.counts().clients).unwrap_or(usize::MAX)
    }

    /// The session of a number, if it is there.
    #[must_use]
    pub fn session(&self, number: u64) -> Vec<Client> {
        self.index.session(number)
    }

    /// Drops the snapshots and the kept sorts whose time is over, and the snapshots that changes have made too large.
    pub fn expire(&self, now: Instant) {
        let mut snapshots = self.lock();
        let mut too_large = expire(&mut snapshots, now);
        while snapshots.len() > 1
            && let Some(snapshot) = self.too_large(&snapshots, 0)
        {
            too_large.extend(snapshots.remove(&snapshot));
        }
        drop(snapshots);
        drop(too_large);
        self.index.expire(now);
    }

    /// The snapshot to drop next, if they hold too many bytes with so many more.
    fn too_large(&self, snapshots: &HashMap<u64, Snapshot>, more: u64) -> Option<u64> {
        let picked = snapshots.values().map(|snapshot| snapshot.listing.bytes() as u64).sum::<u64>() + more;
        if picked > self.most_bytes {
            return used_longest_ago(snapshots);
        }
        let (&first, taken) = snapshots.iter().min_by_key(|(_, snapshot)| snapshot.listing.left())?;
        let changed = self.index.left().saturating_sub(taken.listing.left());
        (picked + changed > self.most_bytes).then_some(first)
    }

    fn keep(&self, selection: &Selection, listing: Listing, now: Instant) -> u64 {
        let mut snapshots = self.lock();
        let mut dropped = expire(&mut snapshots, now);
        while let Some(next) = match snapshots.len() {
            kept if kept >= self.most_snapshots => used_longest_ago(&snapshots),
            _ => self.too_large(&snapshots, listing.bytes() as u64),
        } {
            dropped.extend(snapshots.remove(&next));
        }
        let mut id = rand::random();
        while id == 0 || snapshots.contains_key(&id) {
            id = rand::random();
        }
        let filter = selection.matcher.filter().clone();
        snapshots.insert(id, Snapshot { filter, order: selection.order, listing, used: now });
        drop(snapshots);
        drop(dropped);
        id
    }

    /// How many snapshots are kept.
    #[must_use]
    pub fn snapshots(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Snapshot>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn used_longest_ago(snapshots: &HashMap<u64, Snapshot>) -> Option<u64> {
    snapshots.iter().min_by_key(|(_, snapshot)| snapshot.used).map(|(&id, _)| id)
}

/// Takes out those that nobody has used for long. Whoever calls drops them when the lock is given back, which waits for
/// nobody then.
fn expire(snapshots: &mut HashMap<u64, Snapshot>, now: Instant) -> Vec<Snapshot> {
    let expired = snapshots.extract_if(|_, snapshot| now.saturating_duration_since(snapshot.used) > KEPT);
    expired.map(|(_, snapshot)| snapshot).collect()
}

#[cfg(test)]
mod tests {
    use rollcall_proto::SortField;

    use super::*;

    fn queries(clients: u64) -> Queries {
        let index = Index::new("a@127.0.0.1");
        let client = |n| Client { clientid: format!("{n:04}"), session: n, ..Client::default() };
        index.resync((0..clients).map(client).collect());
        Queries::new(Arc::new(index), 1)
    }

    fn everything(snapshot: u64) -> SurveyRequest {
        SurveyRequest { snapshot, end: u64::MAX, fences: 4, ..SurveyRequest::default() }
    }

    fn survey(queries: &Queries, request: SurveyRequest, now: Instant) -> Result<SurveyResponse, QueryError> {
        let survey = Survey::try_from(request)?;
        let listing = queries.listing(&survey.selection, now, &|| false)?;
        Ok(queries.survey(&survey, listing, now))
    }

    #[test]
    fn what_the_contract_does_not_allow_is_refused_with_value_and_expectation() {
        let list = |request: ListRequest| List::try_from(request).unwrap_err().to_string();
        let survey = |request: SurveyRequest| Survey::try_from(request).unwrap_err().to_string();
        assert_eq!(
            list(ListRequest { limit: 20_001, ..ListRequest::default() }),
            "limit 20001, expected at most 20000"
        );
        assert_eq!(survey(SurveyRequest::default()), "fences 0, expected 1 to 256");
        assert_eq!(survey(SurveyRequest { fences: 257, ..everything(0) }), "fences 257, expected 1 to 256");
        assert_eq!(
            survey(SurveyRequest { start: 2, end: 1, ..everything(0) }),
            "ranks 2 to 1, expected an end that is not before the start"
        );
        let order = Some(v1::Order { field: 99, descending: false });
        assert_eq!(
            list(ListRequest { order, ..ListRequest::default() }),
            "order: sort field 99 is not known"
        );
        let count = |request: CountRequest| Count::try_from(request).unwrap_err().to_string();
        assert_eq!(count(CountRequest { filter: None, group_by: 8 }), "group_by 8 is not known");
        let filter = Some(Filter { ip_address: vec![vec![1, 2]], ..Filter::default() });
        assert_eq!(
            count(CountRequest { filter: filter.clone(), group_by: 0 }),
            "filter: ip_address of 2 bytes, expected 4 or 16"
        );
        assert_eq!(
            list(ListRequest { filter, ..ListRequest::default() }),
            "filter: ip_address of 2 bytes, expected 4 or 16"
        );
    }

    #[test]
    fn a_snapshot_stays_as_it_was_and_goes_some_time_after_its_last_use() {
        let queries = queries(10);
        let start = Instant::now();
        let first = survey(&queries, everything(0), start).unwrap();
        assert_eq!((first.count, first.fences.len()), (10, 4));
        queries.index.ended("0000", 0);
        let again = survey(&queries, everything(first.snapshot), start + Duration::from_secs(9)).unwrap();
        assert_eq!(again, first);
        let later = start + Duration::from_secs(18);
        assert_eq!(survey(&queries, everything(first.snapshot), later).unwrap(), first);
        assert_eq!(survey(&queries, everything(0), later).unwrap().count, 9);
        let gone = survey(&queries, everything(first.snapshot), later + Duration::from_secs(11));
        assert_eq!(gone.unwrap_err(), QueryError::SnapshotGone(first.snapshot));
        queries.expire(later + Duration::from_secs(30));
        assert!(queries.lock().is_empty());
    }

    #[test]
    fn a_snapshot_is_bound_to_its_filter_and_order() {
        let queries = queries(10);
        let now = Instant::now();
        let id = survey(&queries, everything(0), now).unwrap().snapshot;
        let by_port = Some(v1::Order { field: SortField::Port.into(), descending: false });
        let other = survey(&queries, SurveyRequest { order: by_port, ..everything(id) }, now);
        assert_eq!(other.unwrap_err(), QueryError::OtherSnapshot(id));
        // The default order said in another way is the same order.
        let default = Some(v1::Order { field: SortField::Clientid.into(), descending: false });
        assert!(survey(&queries, SurveyRequest { order: default, ..everything(id) }, now).is_ok());
    }

    #[test]
    fn the_snapshots_used_longest_ago_make_room() {
        let queries = queries(10);
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_millis(n);
        let ids: Vec<u64> = (0..LEAST_SNAPSHOTS as u64)
            .map(|n| survey(&queries, everything(0), at(n)).unwrap().snapshot)
            .collect();
        survey(&queries, everything(ids[0]), at(100)).unwrap();
        survey(&queries, everything(0), at(101)).unwrap();
        assert!(survey(&queries, everything(ids[0]), at(102)).is_ok());
        assert_eq!(
            survey(&queries, everything(ids[1]), at(102)).unwrap_err(),
            QueryError::SnapshotGone(ids[1])
        );
        assert_eq!(queries.snapshots(), LEAST_SNAPSHOTS);
    }

    #[test]
    fn as_many_snapshots_are_kept_as_there_may_be_calls() {
        let queries = Queries::new(queries(10).index, 256);
        let now = Instant::now();
        let ids: Vec<u64> =
            (0..256).map(|_| survey(&queries, everything(0), now).unwrap().snapshot).collect();
        let gone = ids.iter().filter(|&&id| survey(&queries, everything(id), now).is_err()).count();
        assert_eq!(gone, 0, "of 256 requests at once");
        survey(&queries, everything(0), now).unwrap();
        assert_eq!(queries.snapshots(), 256);
    }

    #[test]
    fn the_last_question_about_a_snapshot_takes_it_along() {
        let queries = queries(10);
        let now = Instant::now();
        let [kept, released] = [0, 0].map(|_| survey(&queries, everything(0), now).unwrap().snapshot);
        queries.index.ended("0000", 0);
        let list = |snapshot, order, release_snapshot| {
            let request =
                ListRequest { snapshot, order, limit: 5, release_snapshot, ..ListRequest::default() };
            let list = List::try_from(request).unwrap();
            queries.listing(&list.selection, now, &|| false).map(|listing| listing.count())
        };
        assert_eq!(list(released, None, false), Ok(10));
        // What is refused releases nothing.
        let by_port = Some(v1::Order { field: SortField::Port.into(), descending: false });
        assert_eq!(list(released, by_port, true), Err(QueryError::OtherSnapshot(released)));
        assert_eq!((list(released, None, true), queries.snapshots()), (Ok(10), 1));
        assert_eq!(list(released, None, true), Err(QueryError::SnapshotGone(released)));
        assert_eq!((list(0, None, true), list(kept, None, false)), (Ok(9), Ok(10)));
    }

    /// A survey under this filter while the clients change: 60 of 5,000 connect anew.
    fn survey_beside_changes(queries: &Queries, filter: Filter, round: u32, now: Instant) -> u64 {
        let request = SurveyRequest { filter: Some(filter), ..everything(0) };
        let snapshot = survey(queries, request, now).unwrap().snapshot;
        for number in 0..60 {
            let number = u64::from(round) * 77 % 83 + number * 83;
            let clientid = format!("{number:04}");
            queries.index.present(Client {
                clientid,
                session: number,
                port: Some(round),
                ..Client::default()
            });
        }
        snapshot
    }

    #[test]
    fn what_changes_leave_to_snapshots_is_bounded() {
        let mut queries = queries(5_000);
        queries.most_bytes = 1 << 20;
        let start = Instant::now();
        let mut first = None;
        let ids: Vec<u64> = (0..LEAST_SNAPSHOTS as u32)
            .map(|round| {
                // The first one stays in use, which does not help it: it holds most.
                let now = start + Duration::from_millis(round.into());
                if let Some(first) = first.filter(|id| queries.lock().contains_key(id)) {
                    assert!(survey(&queries, everything(first), now).is_ok());
                }
                let taken = survey_beside_changes(&queries, Filter::default(), round, now);
                first.get_or_insert(taken);
                taken
            })
            .collect();
        let kept = |queries: &Queries| -> Vec<bool> {
            let snapshots = queries.lock();
            ids.iter().map(|id| snapshots.contains_key(id)).collect()
        };
        let few = kept(&queries);
        let first = few.iter().position(|&is_kept| is_kept).unwrap();
        assert!((2..60).contains(&first) && few[first..].iter().all(|&is_kept| is_kept), "{few:?}");
        // The clock does it too, and leaves the last one.
        for round in 0..100 {
            queries.index.resync(
                (0..5_000)
                    .map(|number| Client {
                        clientid: format!("{number:04}"),
                        session: number,
                        port: Some(round),
                        ..Client::default()
                    })
                    .collect(),
            );
        }
        queries.expire(start + Duration::from_millis(70));
        let last = kept(&queries);
        assert_eq!(last.iter().filter(|&&is_kept| is_kept).count(), 1);
        assert!(last[LEAST_SNAPSHOTS - 1]);
        queries.expire(start + Duration::from_secs(30));
        assert!(queries.lock().is_empty());
    }

    #[test]
    fn rows_picked_for_snapshots_are_bounded_but_for_the_last_one() {
        let mut queries = queries(5_000);
        queries.most_bytes = 50_000;
        let start = Instant::now();
        let at = |n| start + Duration::from_millis(n);
        let half = Filter { like_clientid: vec!["1".into()], ..Filter::default() };
        let survey_half = |n| {
            let request = SurveyRequest { filter: Some(half.clone()), ..everything(0) };
            survey(&queries, request, at(n)).unwrap().snapshot
        };
        let ids: Vec<u64> = (0..6).map(survey_half).collect();
        let kept = || ids.iter().filter(|&id| queries.lock().contains_key(id)).count();
        let bytes = queries.lock().values().map(|snapshot| snapshot.listing.bytes()).max().unwrap();
        assert_eq!(kept(), 50_000 / bytes, "{bytes} bytes each");
        assert!(queries.lock().contains_key(&ids[5]) && !queries.lock().contains_key(&ids[0]));

        let larger = Queries { most_bytes: 1_000, ..Queries::new(Arc::clone(&queries.index), 1) };
        let all = SurveyRequest {
            filter: Some(Filter {
                like_clientid: vec![String::new()],
                gte_created_at_ms: None,
                ..half.clone()
            }),
            ..everything(0)
        };
        let id = survey(&larger, all.clone(), at(0)).unwrap().snapshot;
        larger.expire(at(1));
        assert!(larger.lock().contains_key(&id), "what an answer refers to stays");
        survey(&larger, all, at(2)).unwrap();
        assert!(!larger.lock().contains_key(&id) && larger.lock().len() == 1);
    }

    #[test]
    fn get_finds_every_session_of_an_id_and_nothing_else() {
        let queries = queries(3);
        queries.index.present(Client { clientid: "0001".into(), session: 99, ..Client::default() });
        let sessions: Vec<u64> = queries.get("0001").iter().map(|client| client.session).collect();
        assert_eq!(sessions, [1, 99]);
        assert!(queries.get("001").is_empty());
    }
}
