//! All rows, by slot.
//!
//! A slot is a row's number for as long as it is there; then the next new row may have it. [`Columns`] are what views
//! share: a copy is two pointers, and a change beside it copies the way down to the columns it changes (the root, a
//! page of 64 pointers, the columns of 128 rows), so a copy stays as it was, reused slots and all. [`Table`] adds what
//! only changes need.

use std::cmp::Ordering;
use std::sync::Arc;

use rollcall_proto::order::ValueRef;
use rollcall_proto::v1::ConnState;
use rollcall_proto::{ClientRef, SortField};

use super::left::{Left, show};
use super::origin::{Numbering, Origins};
use super::segment::{SEGMENT, Segment, bits};

/// Segments of a page.
const PAGE: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pages: Arc<Vec<Arc<Page>>>,
    origins: Origins,
    /// The same for all states of the same rows; others once a resync has built them anew.
    born: Arc<()>,
}

type Page = Vec<Arc<Segment>>;

impl Columns {
    /// The row of a slot that is in use.
    pub(super) fn row(&self, slot: u32) -> RowRef<'_> {
        let (segment, at) = place(slot);
        RowRef { segment: &self.pages[segment / PAGE][segment % PAGE], at, origins: &self.origins }
    }

    /// Every segment; the slots of the n-th begin at n times [`SEGMENT`].
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.pages.iter().flat_map(|page| page.iter()).map(AsRef::as_ref)
    }

    /// The slots of the rows whose session's number a test is true of.
    pub(super) fn slots_where(&self, test: impl Fn(u64) -> bool) -> impl Iterator<Item = u32> {
        self.segments().enumerate().flat_map(move |(number, segment)| {
            bits(segment.sessions.rows(&test)).map(move |at| (number * SEGMENT + at) as u32)
        })
    }

    /// Whether these are the same rows at another time, and not such as a resync has built anew.
    pub(super) fn is_state_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.born, &other.born)
    }

    pub(super) fn segment_count(&self) -> usize {
        self.pages.last().map_or(0, |last| (self.pages.len() - 1) * PAGE + last.len())
    }

    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The numbers of the segments that are not shared with other columns, of which these are a later state.
    pub(super) fn changed_since<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let is_shared = |number: usize| match other.pages.get(number) {
            Some(page) => Arc::ptr_eq(page, &self.pages[number]),
            None => false,
        };
        (0..self.pages.len()).filter(move |&number| !is_shared(number)).flat_map(move |number| {
            let (page, other) = (&self.pages[number], other.pages.get(number));
            let is_shared = move |at: usize| {
                other.and_then(|page| page.get(at)).is_some_and(|other| Arc::ptr_eq(other, &page[at]))
            };
            (0..page.len()).filter(move |&at| !is_shared(at)).map(move |at| number * PAGE + at)
        })
    }

    /// The row of a slot, if it is in use.
    pub(super) fn get(&self, slot: u32) -> Option<RowRef<'_>> {
        let (segment, at) = place(slot);
        let segment = self.pages.get(segment / PAGE)?.get(segment % PAGE)?;
        segment.is_live(at).then_some(RowRef { segment, at, origins: &self.origins })
    }

    fn segment_mut(&mut self, number: usize, left: &mut Left) -> &mut Segment {
        let page = &mut left.make_mut(&mut self.pages, vec_bytes)[number / PAGE];
        let segment = &mut left.make_mut(page, vec_bytes)[number % PAGE];
        left.make_mut(segment, size_of_val)
    }

    fn push_segment(&mut self, left: &mut Left) {
        let pages = left.make_mut(&mut self.pages, vec_bytes);
        if pages.last().is_none_or(|page| page.len() == PAGE) {
            pages.push(Arc::default());
        }
        if let Some(page) = pages.last_mut() {
            left.make_mut(page, vec_bytes).push(Arc::default());
        }
    }

    /// Shows every piece of memory but what origins take.
    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        show(&self.pages, vec_bytes(&self.pages), visit);
        for page in self.pages.iter() {
            show(page, vec_bytes(page), visit);
            for segment in page.iter() {
                show(segment, size_of_val(&**segment), visit);
                segment.each_piece(visit);
            }
        }
    }
}

fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    size_of_val(vec) + vec.capacity() * size_of::<T>()
}

/// The segment of a slot and its position there.
fn place(slot: u32) -> (usize, usize) {
    (slot as usize / SEGMENT, slot as usize % SEGMENT)
}

/// The columns and what changes them.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: Columns,
    numbering: Numbering,
    /// Slots that were in use and are not.
    free: Vec<u32>,
    /// Slots that have ever been in use.
    slots: u32,
    /// Rows by the number of their origin and by connection state, in the order of [`STATES`].
    kinds: Vec<[u32; STATES.len()]>,
}

/// Every connection state.
pub(super) const STATES: [ConnState; 4] =
    [ConnState::Connected, ConnState::Idle, ConnState::Disconnected, ConnState::Unspecified];

/// Where a connection state stands among [`STATES`].
pub(super) fn place_of_state(state: ConnState) -> usize {
    STATES.iter().position(|known| *known == state).unwrap_or(STATES.len() - 1)
}

impl Table {
    pub(super) fn columns(&self) -> &Columns {
        &self.columns
    }

    /// How many rows there are of each origin, by its number, in each connection state, in the order of [`STATES`].
    pub(super) fn kinds(&self) -> &[[u32; STATES.len()]] {
        &self.kinds
    }

    /// One row more is of this origin and state.
    fn count_in(&mut self, origin: u32, state: ConnState) {
        let number = origin as usize;
        if self.kinds.len() <= number {
            self.kinds.resize(number + 1, [0; STATES.len()]);
        }
        self.kinds[number][place_of_state(state)] += 1;
    }

    /// A row that there is no more, or that is another by now, was of this origin and state.
    fn count_out(&mut self, origin: u32, state: ConnState) {
        self.kinds[origin as usize][place_of_state(state)] -= 1;
    }

    /// Puts a row in and says where.
    pub(super) fn add(&mut self, client: &ClientRef<'_>, left: &mut Left) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            if (self.slots as usize).is_multiple_of(SEGMENT) {
                self.columns.push_segment(left);
            }
            self.slots += 1;
            self.slots - 1
        });
        let origin = self.numbering.take(&mut self.columns.origins, client);
        self.count_in(origin, client.conn_state);
        let (segment, at) = place(slot);
        self.columns.segment_mut(segment, left).set(at, client, origin, left);
        slot
    }

    /// Gives a row of the same client and session other values.
    pub(super) fn update(&mut self, slot: u32, client: &ClientRef<'_>, left: &mut Left) {
        let row = self.columns.row(slot);
        let (was, state) = (row.origin(), row.conn_state());
        let origin = self.numbering.take(&mut self.columns.origins, client);
        self.numbering.release(&self.columns.origins, was);
        self.count_out(was, state);
        self.count_in(origin, client.conn_state);
        let (segment, at) = place(slot);
        self.columns.segment_mut(segment, left).set(at, client, origin, left);
    }

    pub(super) fn remove(&mut self, slot: u32, left: &mut Left) {
        let row = self.columns.row(slot);
        let (origin, state) = (row.origin(), row.conn_state());
        self.numbering.release(&self.columns.origins, origin);
        self.count_out(origin, state);
        let (segment, at) = place(slot);
        self.columns.segment_mut(segment, left).clear(at, left);
        self.free.push(slot);
    }
}

/// One row, read where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowRef<'a> {
    segment: &'a Segment,
    at: usize,
    origins: &'a Origins,
}

/// All that decides a row's place in an order: the sorted field's value, and what breaks ties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place<'a> {
    pub(super) value: Option<ValueRef<'a>>,
    pub(super) clientid: &'a str,
    pub(super) session: u64,
}

impl<'a> RowRef<'a> {
    pub(super) fn clientid(self) -> &'a str {
        self.segment.clientids.get(self.at).unwrap_or_default()
    }

    pub(super) fn session(self) -> u64 {
        self.segment.sessions.get(self.at).unwrap_or_default()
    }

    pub(super) fn username(self) -> Option<&'a str> {
        self.segment.usernames.get(self.at)
    }

    pub(super) fn conn_state(self) -> ConnState {
        self.segment.conn_states.get(self.at)
    }

    pub(super) fn is_connected(self) -> bool {
        self.conn_state() == ConnState::Connected
    }

    /// The number of its origin.
    pub(super) fn origin(self) -> u32 {
        self.segment.origins.get(self.at).unwrap_or_default()
    }

    /// The value it is sorted by, as `Order::key` has it, read from its column alone.
    pub(super) fn value(self, field: SortField) -> Option<ValueRef<'a>> {
        use ValueRef::{Address, Number, Text};
        let (segment, at) = (self.segment, self.at);
        let origin = || self.origins.get(self.origin()).as_client_ref();
        let number = |value: Option<u32>| value.map(|number| Number(number.into()));
        match field {
            SortField::Unspecified | SortField::Clientid | SortField::Node => None,
            SortField::Username => segment.usernames.get(at).map(Text),
            SortField::Zone => origin().zone.map(Text),
            SortField::ProtoName => origin().proto_name.map(Text),
            SortField::Mountpoint => segment.mountpoints.get(at).map(Text),
            SortField::IpAddress => segment.ip_addresses.get(at).map(Address),
            SortField::ProtoVer => number(origin().proto_ver),
            SortField::Port => number(segment.ports.get(at)),
            SortField::Keepalive => number(segment.keepalives.get(at)),
            SortField::ExpiryInterval => number(segment.expiry_intervals.get(at)),
            SortField::IsBridge => segment.are_bridges.get(at).map(|flag| Number(flag.into())),
            SortField::CleanStart => segment.clean_starts.get(at).map(|flag| Number(flag.into())),
            SortField::Connected => Some(Number(self.is_connected().into())),
            SortField::ConnectedAt => segment.connected_at.get(at).map(Number),
            SortField::DisconnectedAt => segment.disconnected_at.get(at).map(Number),
            SortField::CreatedAt => segment.created_at.get(at).map(Number),
            // Live figures are not of the index.
            _ => None,
        }
    }

    /// Its place in the ascending order by a field.
    pub(super) fn place(self, field: SortField) -> Place<'a> {
        Place { value: self.value(field), clientid: self.clientid(), session: self.session() }
    }

    /// Where it stands in the ascending order by a field, seen from a place.
    pub(super) fn compare(self, field: SortField, place: &Place<'_>) -> Ordering {
        compare_values(self.value(field), place.value)
            .then_with(|| self.clientid().cmp(place.clientid))
            .then_with(|| self.session().cmp(&place.session))
    }

    /// The view that filters and orders read.
    pub(super) fn as_client_ref(self, node: &'a str) -> ClientRef<'a> {
        let (segment, at) = (self.segment, self.at);
        ClientRef {
            node,
            clientid: self.clientid(),
            session: self.session(),
            username: self.username(),
            ip_address: segment.ip_addresses.get(at),
            port: segment.ports.get(at),
            is_bridge: segment.are_bridges.get(at),
            mountpoint: segment.mountpoints.get(at),
            keepalive: segment.keepalives.get(at),
            clean_start: segment.clean_starts.get(at),
            expiry_interval: segment.expiry_intervals.get(at),
            conn_state: segment.conn_states.get(at),
            connected_at_ms: segment.connected_at.get(at),
            disconnected_at_ms: segment.disconnected_at.get(at),
            created_at_ms: segment.created_at.get(at),
            ..self.origins.get(self.origin()).as_client_ref()
        }
    }
}

/// Ascending, absent values last.
pub(super) fn compare_values(a: Option<ValueRef<'_>>, b: Option<ValueRef<'_>>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::Order;
    use rollcall_proto::v1::Client;

    use super::super::tests::client;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_row_gives_back_the_client_it_was_made_of_and_its_values(clients in proptest::collection::vec(client(), 1..200)) {
            let mut table = Table::default();
            let slots: Vec<u32> = clients.iter().map(|client| table.add(&client.as_client_ref(), &mut Left::default())).collect();
            for (client, slot) in clients.iter().zip(slots) {
                let row = table.columns().row(slot);
                prop_assert_eq!(row.as_client_ref(""), client.as_client_ref());
                prop_assert_eq!(&Client::from(row.as_client_ref("")), client);
                for field in SortField::IDENTITY {
                    let order = Order { field, descending: false };
                    prop_assert_eq!(row.value(field), order.key(&client.as_client_ref()).value, "{:?}", field);
                }
            }
        }
    }
}
