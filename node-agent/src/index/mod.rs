//! The clients of this node, ordered and searchable.
//!
//! [`Index`] follows the broker; [`View`] is what it says of one filter and one order at one moment. Promised:
//! - counts, ranks and keys are exact;
//! - an unfiltered list by clientid or username, either way round, costs no walk over the rows, an exact clientid
//!   or username a search; any other filter is one scan, any other sort one sort, which is kept until the index
//!   changes;
//! - a session that has ended never comes back by late news;
//! - readers hold the lock for the copy of two pointers, however long they then read;
//! - about 215 bytes a client with a clientid and a username of up to 24 bytes.
//!
//! No clock, no runtime, no wire but the message types. Decided against: an index per filterable field. It would
//! cost every client memory and every change time for filters that a scan answers in tens of milliseconds at a
//! million clients.

mod count;
#[cfg(test)]
mod measure;
mod ordered;
mod row;
#[cfg(test)]
mod tests;
mod tombstones;
mod view;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rollcall_proto::v1::Client;
use rollcall_proto::{Matcher, Order, SortField};

use ordered::Ordered;
use row::{Origins, Row};
use tombstones::Tombstones;
use view::{Rows, sort_by_field};

pub use count::{Count, Uncounted};
pub use view::View;
pub(crate) use view::evenly_spaced;

/// How many sorted permutations are kept, 8 bytes a client each.
const KEPT_SORTS: usize = 4;

/// Rows between two looks at whether an answer is still wanted.
const STOP_INTERVAL: usize = 4096;

/// All clients of one node.
#[derive(Debug)]
pub struct Index {
    node: Arc<str>,
    state: RwLock<State>,
    origins: Mutex<Origins>,
    /// Sorts of all rows by fields that are not listed, of the state's present version. Locked after `state`.
    sorts: Mutex<Vec<(SortField, Sorted)>>,
}

/// Sorts that a change has voided.
type Stale = Vec<(SortField, Sorted)>;

/// Rows in some order, shared by the index and its views.
type Sorted = Arc<Vec<Arc<Row>>>;

#[derive(Debug)]
struct State {
    lists: Lists,
    connected: usize,
    tombstones: Tombstones,
    /// Counts changes.
    version: u64,
}

/// Every row, in two orders.
#[derive(Clone, Debug)]
struct Lists {
    by_clientid: Ordered,
    by_username: Ordered,
}

/// How many clients there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions with a connection.
    pub connected: u64,
    /// All sessions.
    pub clients: u64,
}

/// The answer was no longer wanted, so it was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Index {
    /// An empty index of the node of this name, which stands in its keys.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let lists = Lists { by_clientid: Ordered::new(by_clientid), by_username: Ordered::new(by_username) };
        Self {
            node: node.into(),
            state: RwLock::new(State { lists, connected: 0, tombstones: Tombstones::default(), version: 0 }),
            origins: Mutex::default(),
            sorts: Mutex::default(),
        }
    }

    /// The client has this state now. Ignored if its session has ended.
    pub fn present(&self, client: Client) {
        let row = Arc::new(Row::new(client, &mut lock(&self.origins)));
        let mut state = self.write();
        if state.tombstones.contains(row.session) {
            return;
        }
        let was = state.lists.by_clientid.insert(Arc::clone(&row));
        if was.as_ref() == Some(&row) {
            return;
        }
        state.connected += usize::from(row.is_connected());
        if let Some(was) = was {
            state.connected -= usize::from(was.is_connected());
            if was.username != row.username {
                state.lists.by_username.remove(&was);
            }
        }
        state.lists.by_username.insert(row);
        let stale = self.changed(&mut state);
        drop(state);
        drop(stale);
    }

    /// The session is over, whatever is still heard of it. Returns whether it was there.
    pub fn ended(&self, clientid: &str, session: u64) -> bool {
        let mut state = self.write();
        state.tombstones.add(session);
        let dropped = self.drop_session(&mut state, clientid, session);
        drop(state);
        dropped.is_some()
    }

    /// These are all clients there are. Of two with one clientid and session the later counts.
    ///
    /// Calls of `present` and `resync` come from one stream and do not overlap; `ended` may come at any time.
    pub fn resync(&self, clients: Vec<Client>) {
        let (known, ended_before) = {
            let state = self.read();
            (state.lists.by_clientid.clone(), state.tombstones.added())
        };
        let rows = self.sorted_rows(clients, &known);
        let unchanged = rows.len() == known.len()
            && rows.iter().zip(known.iter_from(0)).all(|(row, known)| Arc::ptr_eq(row, known));
        let lists = if unchanged { None } else { Some(Lists::from_sorted(rows)) };

        let connected = lists.as_ref().map(Lists::connected);
        // What the new state replaces is dropped when the lock is given back.
        let (mut stale, mut replaced) = (Vec::new(), None);
        let mut state = self.write();
        if let (Some(lists), Some(connected)) = (lists, connected) {
            state.connected = connected;
            replaced = Some(std::mem::replace(&mut state.lists, lists));
            stale.push(self.changed(&mut state));
        }
        if ended_before != state.tombstones.added() {
            let gone: Vec<Arc<Row>> = state
                .lists
                .by_clientid
                .iter_from(0)
                .filter(|row| state.tombstones.contains(row.session))
                .cloned()
                .collect();
            for row in gone {
                stale.extend(self.drop_session(&mut state, &row.clientid, row.session));
            }
        }
        drop(state);
        drop((stale, replaced, known));
    }

    /// The rows of a resync in default order, without ended sessions. A row that is as it was is the known one, so
    /// that a resync without news costs no memory.
    fn sorted_rows(&self, clients: Vec<Client>, known: &Ordered) -> Vec<Arc<Row>> {
        let mut rows: Vec<Arc<Row>> = {
            let mut origins = lock(&self.origins);
            clients.into_iter().map(|client| Arc::new(Row::new(client, &mut origins))).collect()
        };
        {
            let state = self.read();
            rows.retain(|row| !state.tombstones.contains(row.session));
        }
        rows.reverse();
        rows.sort_by(|a, b| by_clientid(a, b));
        rows.dedup_by(|later, earlier| by_clientid(later, earlier).is_eq());
        let mut known = known.iter_from(0).peekable();
        for row in &mut rows {
            while known.next_if(|known| by_clientid(known, row).is_lt()).is_some() {}
            if let Some(known) = known.next_if(|known| *known == row) {
                *row = Arc::clone(known);
            }
        }
        rows
    }

    /// How many clients there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.read();
        Counts { connected: state.connected as u64, clients: state.lists.by_clientid.len() as u64 }
    }

    /// The clients that match, in order. `stop` is asked now and then whether the answer is still wanted.
    ///
    /// # Errors
    /// [`Stopped`] if it was not.
    pub fn view(&self, matcher: &Matcher, order: Order, stop: &dyn Fn() -> bool) -> Result<View, Stopped> {
        let (lists, version) = {
            let state = self.read();
            (state.lists.clone(), state.version)
        };
        let field = if order.field == SortField::Unspecified { SortField::Clientid } else { order.field };
        let order = Order { field, ..order };
        let rows = if matcher.is_unconditional() {
            self.all(lists, order.field, version)
        } else {
            self.matching(&lists, matcher, order.field, stop)?
        };
        Ok(View::new(Arc::clone(&self.node), order, rows))
    }

    /// How many rows [`Index::view`] would look at, about: tells long work from short.
    #[must_use]
    pub fn rows_to_visit(&self, matcher: &Matcher, order: Order) -> usize {
        let filter = matcher.filter();
        if !filter.clientid.is_empty() || !filter.username.is_empty() {
            let lists = self.read().lists.clone();
            return candidates(&lists, matcher)
                .map_or(0, |(_, ranges, _)| ranges.iter().map(Range::len).sum());
        }
        let is_listed =
            listed(order.field).is_some() || lock(&self.sorts).iter().any(|(field, _)| *field == order.field);
        if matcher.is_unconditional() && is_listed { 0 } else { self.read().lists.by_clientid.len() }
    }

    fn all(&self, lists: Lists, field: SortField, version: u64) -> Rows {
        match listed(field) {
            Some(SortField::Username) => return Rows::Listed(lists.by_username),
            Some(_) => return Rows::Listed(lists.by_clientid),
            None => {}
        }
        if let Some((_, sorted)) = self
            .read_at(version)
            .and_then(|_| lock(&self.sorts).iter().find(|(kept, _)| *kept == field).cloned())
        {
            return Rows::Picked(sorted);
        }
        let rows: Vec<Arc<Row>> = lists.by_clientid.iter_from(0).cloned().collect();
        let sorted = Arc::new(sort_by_field(&rows, field));
        if let Some(_state) = self.read_at(version) {
            let mut sorts = lock(&self.sorts);
            sorts.retain(|(kept, _)| *kept != field);
            if sorts.len() == KEPT_SORTS {
                sorts.remove(0);
            }
            sorts.push((field, Arc::clone(&sorted)));
        }
        Rows::Picked(sorted)
    }

    fn matching(
        &self,
        lists: &Lists,
        matcher: &Matcher,
        field: SortField,
        stop: &dyn Fn() -> bool,
    ) -> Result<Rows, Stopped> {
        let mut picked = Vec::new();
        let pick = |row: &Arc<Row>| {
            picked.push(Arc::clone(row));
            Ok(())
        };
        let sorted_by = match candidates(lists, matcher) {
            Some((list, ranges, sorted_by)) => {
                self.each_match(rows_of(list, ranges), matcher, stop, pick)?;
                sorted_by
            }
            None if field == SortField::Username => {
                self.each_match(lists.by_username.iter_from(0), matcher, stop, pick)?;
                SortField::Username
            }
            None => {
                self.each_match(lists.by_clientid.iter_from(0), matcher, stop, pick)?;
                SortField::Clientid
            }
        };
        if sorted_by != field && listed(field) != Some(sorted_by) {
            picked.sort_by(|a, b| by_clientid(a, b));
            if listed(field) != Some(SortField::Clientid) {
                picked = sort_by_field(&picked, field);
            }
        }
        picked.shrink_to_fit();
        Ok(Rows::Picked(Arc::new(picked)))
    }

    /// Takes the rows that match, until `take` fails or the answer is no longer wanted.
    fn each_match<'a, E: From<Stopped>>(
        &self,
        rows: impl Iterator<Item = &'a Arc<Row>>,
        matcher: &Matcher,
        stop: &dyn Fn() -> bool,
        mut take: impl FnMut(&'a Arc<Row>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (position, row) in rows.enumerate() {
            if position % STOP_INTERVAL == STOP_INTERVAL - 1 && stop() {
                return Err(Stopped.into());
            }
            if matcher.matches(&row.as_client_ref(&self.node)) {
                take(row)?;
            }
        }
        Ok(())
    }

    /// Drops a session if it is there.
    fn drop_session(&self, state: &mut State, clientid: &str, session: u64) -> Option<Stale> {
        let list = &state.lists.by_clientid;
        let position = list.partition_point(|row| (row.clientid.as_str(), row.session) < (clientid, session));
        let row = list.get(position).filter(|row| row.clientid == clientid && row.session == session)?;
        let row = Arc::clone(row);
        state.lists.by_clientid.remove(&row);
        state.lists.by_username.remove(&row);
        state.connected -= usize::from(row.is_connected());
        Some(self.changed(state))
    }

    /// Notes a change. The sorts it voids are given back, to be dropped when `state` is unlocked: of a million
    /// rows that takes milliseconds.
    #[must_use]
    fn changed(&self, state: &mut State) -> Stale {
        state.version += 1;
        std::mem::take(&mut *lock(&self.sorts))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_at(&self, version: u64) -> Option<RwLockReadGuard<'_, State>> {
        Some(self.read()).filter(|state| state.version == version)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lists {
    fn connected(&self) -> usize {
        self.by_clientid.iter_from(0).filter(|row| row.is_connected()).count()
    }

    fn from_sorted(mut rows: Vec<Arc<Row>>) -> Self {
        let by_clientid = Ordered::from_sorted(by_clientid, &rows);
        rows.sort_by(|a, b| by_username(a, b));
        Self { by_clientid, by_username: Ordered::from_sorted(by_username, &rows) }
    }
}

/// The list and the ranges of it that an exact clientid or username leaves over, in order, and the field they are
/// sorted by; `None` without such a condition.
fn candidates<'a>(
    lists: &'a Lists,
    matcher: &Matcher,
) -> Option<(&'a Ordered, Vec<Range<usize>>, SortField)> {
    let filter = matcher.filter();
    if !filter.clientid.is_empty() {
        let list = &lists.by_clientid;
        let ids: BTreeSet<&str> = filter.clientid.iter().map(String::as_str).collect();
        let range_of = |id: &str| {
            list.partition_point(|row| row.clientid.as_str() < id)
                ..list.partition_point(|row| row.clientid.as_str() <= id)
        };
        return Some((list, ids.into_iter().map(range_of).collect(), SortField::Clientid));
    }
    if !filter.username.is_empty() {
        let list = &lists.by_username;
        let names: BTreeSet<&str> = filter.username.iter().map(String::as_str).collect();
        let range_of = |name: &str| {
            list.partition_point(|row| row.username.as_deref().is_some_and(|own| own < name))
                ..list.partition_point(|row| row.username.as_deref().is_some_and(|own| own <= name))
        };
        return Some((list, names.into_iter().map(range_of).collect(), SortField::Username));
    }
    None
}

/// The rows of ranges of a list.
fn rows_of(list: &Ordered, ranges: Vec<Range<usize>>) -> impl Iterator<Item = &Arc<Row>> {
    ranges.into_iter().flat_map(|range| list.iter_from(range.start).take(range.len()))
}

/// The list that has this order already: all rows are of one node, so that its name decides nothing.
fn listed(field: SortField) -> Option<SortField> {
    match field {
        SortField::Unspecified | SortField::Clientid | SortField::Node => Some(SortField::Clientid),
        SortField::Username => Some(SortField::Username),
        _ => None,
    }
}

/// Default order, among the rows of one node.
fn by_clientid(a: &Row, b: &Row) -> Ordering {
    a.clientid.cmp(&b.clientid).then(a.session.cmp(&b.session))
}

/// Order by username, those without one last, among the rows of one node.
fn by_username(a: &Row, b: &Row) -> Ordering {
    let names = match (&a.username, &b.username) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    names.then_with(|| by_clientid(a, b))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held has already been reported, and no lock here guards anything half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
