//! The clients of this node, ordered and searchable.
//!
//! [`Index`] follows the broker; [`View`] is what it says of one filter and one order at one moment. Promised:
//! - counts, ranks and keys are exact;
//! - an unfiltered list by clientid or username, either way round, costs no walk over the rows, an exact clientid
//!   or username a search;
//! - any other filter is one scan over columns. Of a million clients one core counts those of a connection state in
//!   0.2 ms, of an address, a level or a span of time in 0.6 to 1.6, those with a substring that no or few ids have in 2
//!   to 5 and with one that all have in 12; to pick half of them in order takes 2 ms more;
//! - the first list by another field is one sort, 20 to 110 ms of a core for a million clients, which changes then keep
//!   true: the next one costs nothing, and with a filter no more than a scan;
//! - a change takes some 10 µs at a million clients, and 5 to 7 for each sort that is kept; the first one beside a view
//!   0.1 ms, and 0.3 at four million;
//! - a session that has ended never comes back by late news;
//! - readers hold the lock for the copy of some pointers, however long they then read;
//! - about 105 bytes a client with an id of 20 bytes and a user name of 10, and 5 for each sort that is kept.
//!
//! The figures are those of `measure`, on a busy machine; times are measured there and never asserted, the bytes are
//! asserted too.
//!
//! A row is a slot in columns (`columns`, `segment`, `text`, `origin`). Filters are evaluated column by column
//! (`scan`), orders are lists of slots (`ordered`, `lists`, `sorts`), and `select` puts the two together.
//!
//! No clock, no runtime, no wire but the message types. Decided against: an index per filterable field. It would
//! cost every client memory and every change time for filters that a scan answers in a millisecond at a million
//! clients.

mod columns;
mod count;
mod left;
mod lists;
#[cfg(test)]
mod measure;
mod ordered;
mod origin;
mod resync;
mod scan;
mod segment;
mod select;
mod sorts;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod tombstones;
mod view;

use std::borrow::Borrow;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use rollcall_proto::v1::{Client, Filter};
use rollcall_proto::{ClientRef, Matcher, Order, SortField};

use columns::Columns;
use ordered::Ordered;
use select::Snapshot;
use sorts::{catch_up, sort_by_field};
use state::State;
use text::stored;

pub use count::{Count, Uncounted};
pub use resync::Resync;
pub use view::View;
pub(crate) use view::evenly_spaced;

/// Rows between two looks at whether an answer is still wanted.
const STOP_INTERVAL: usize = 4096;

/// How often a new sort catches up with changes before the lock is taken for the last of them.
const CATCH_UPS: usize = 4;

/// Segments that may have changed for that last time: a millisecond or two of everybody's time.
const LAST_CATCH_UP: usize = 64;

/// All clients of one node.
#[derive(Debug)]
pub struct Index {
    node: Arc<str>,
    state: RwLock<State>,
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
        Self { node: node.into(), state: RwLock::default() }
    }

    /// The client has this state now. Ignored if its session has ended. Returns whether it was taken in.
    pub fn present(&self, client: impl Borrow<Client>) -> bool {
        let client = as_row(client.borrow());
        let mut state = self.write();
        let has_ended = state.tombstones.contains(client.session);
        if !has_ended {
            state.rows.put(&client);
        }
        !has_ended
    }

    /// Every session under a client id, in default order.
    #[must_use]
    pub fn get(&self, clientid: &str) -> Vec<Client> {
        let filter = Filter { clientid: vec![clientid.to_owned()], ..Filter::default() };
        // A filter of a client id alone is of the contract, and nothing stops the search.
        let Ok(matcher) = Matcher::new(filter) else { return Vec::new() };
        match self.view(&matcher, Order::default(), &|| false) {
            Ok(view) => view.clients(0..u64::MAX).collect(),
            Err(Stopped) => Vec::new(),
        }
    }

    /// The session of a number, which is looked for among all: less than a millisecond a million.
    #[must_use]
    pub fn session(&self, number: u64) -> Vec<Client> {
        // Out of the lock, as any search.
        let Snapshot { columns, .. } = self.snapshot(SortField::Clientid);
        let slots = columns.slots_where(|session| session == number);
        slots.map(|slot| Client::from(columns.row(slot).as_client_ref(""))).collect()
    }

    /// The session is over, whatever is still heard of it. Returns whether it was there.
    pub fn ended(&self, clientid: &str, session: u64) -> bool {
        let mut state = self.write();
        state.tombstones.add(session);
        state.rows.drop_session(stored(clientid), session)
    }

    /// How many clients there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let rows = &self.read().rows;
        Counts { connected: rows.connected() as u64, clients: rows.len() as u64 }
    }

    /// Bytes of the index, but those of zones and protocols; adds up every piece of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (columns, lists) = {
            let rows = &self.read().rows;
            (rows.columns().clone(), rows.lists.all())
        };
        let mut bytes = 0;
        let mut add = |_, more| bytes += more;
        columns.each_piece(&mut add);
        lists.iter().for_each(|list| list.each_piece(&mut add));
        bytes
    }

    /// Bytes that changes have left to views so far. All views taken since some moment hold for themselves at most by
    /// how many it has grown since ([`View::left`]), and what was picked for each of them ([`View::bytes`]).
    #[must_use]
    pub fn left(&self) -> u64 {
        self.read().rows.left()
    }

    /// The clients that match, in order. `stop` is asked now and then whether the answer is still wanted.
    ///
    /// # Errors
    /// [`Stopped`] if it was not.
    pub fn view(&self, matcher: &Matcher, order: Order, stop: &dyn Fn() -> bool) -> Result<View, Stopped> {
        let field = if order.field == SortField::Unspecified { SortField::Clientid } else { order.field };
        let order = Order { field, ..order };
        let snapshot = self.snapshot(field);
        let rows = if matcher.is_unconditional() {
            self.all(&snapshot, field)
        } else {
            self.matching(&snapshot, matcher, field, stop)?
        };
        Ok(View::new(Arc::clone(&self.node), order, snapshot.columns, rows, snapshot.left))
    }

    /// How many rows [`Index::view`] would look at, about: tells long work from short.
    #[must_use]
    pub fn rows_to_visit(&self, matcher: &Matcher, order: Order) -> usize {
        let filter = matcher.filter();
        if !filter.clientid.is_empty() || !filter.username.is_empty() {
            let snapshot = self.snapshot(SortField::Clientid);
            return snapshot.candidates(matcher).map_or(0, |candidates| candidates.len());
        }
        let rows = &self.read().rows;
        if matcher.is_unconditional() && rows.lists.has(order.field) { 0 } else { rows.len() }
    }

    /// Drops what nobody has used for some time: kept sorts.
    pub fn expire(&self, now: Instant) {
        if !self.read().rows.lists.kept().is_empty() {
            let idle = self.write().rows.expire(now);
            drop(idle); // not under the lock: that takes a while
        }
    }

    fn snapshot(&self, field: SortField) -> Snapshot {
        self.read().rows.snapshot(field)
    }

    /// Sorts all rows by a field that there is no list of, and keeps the list for whoever asks next.
    fn sort_all(&self, snapshot: &Snapshot, field: SortField) -> Ordered {
        let mut slots: Vec<u32> = snapshot.by_clientid.iter().collect();
        sort_by_field(&snapshot.columns, &mut slots, field);
        let list = Ordered::from_sorted(&slots);
        drop(slots);
        self.keep(field, list.clone(), snapshot.columns.clone());
        list
    }

    /// Keeps a list of one state of the rows, once it has caught up with the present one. It is given up if changes
    /// come faster than that.
    fn keep(&self, field: SortField, mut list: Ordered, mut columns: Columns) {
        for _ in 0..CATCH_UPS {
            let present = self.read().rows.columns().clone();
            if !catch_up(&mut list, field, &columns, &present, present.segment_count()) {
                return;
            }
            columns = present;
        }
        let mut state = self.write();
        if catch_up(&mut list, field, &columns, state.rows.columns(), LAST_CATCH_UP) {
            let made_room = state.rows.keep(field, list);
            drop(state);
            drop(made_room);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic while it was held has already been reported; the next resync puts right what it left half done.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client as a row has it: without the node, which is always this one, and texts of extreme length cut.
fn as_row(client: &Client) -> ClientRef<'_> {
    let client = client.as_client_ref();
    ClientRef {
        node: "",
        clientid: stored(client.clientid),
        username: client.username.map(stored),
        mountpoint: client.mountpoint.map(stored),
        ..client
    }
}
