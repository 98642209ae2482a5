//! The rows at present and their lists, and how one change keeps them true to each other.

use rollcall_proto::{ClientRef, Order, SortField};

use super::columns::{Columns, Place, Table};
use super::lists::Lists;
use super::ordered::Ordered;
use super::segment::bits;
use super::select::Snapshot;
use super::sorts::position;
use super::tombstones::Tombstones;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) rows: Rows,
    pub(super) tombstones: Tombstones,
}

/// What a resync replaces.
#[derive(Debug, Default)]
pub(super) struct Rows {
    table: Table,
    pub(super) lists: Lists,
    connected: usize,
}

impl Rows {
    /// The rows of clients that are in default order, without equals, with a kept list for each field.
    pub(super) fn of<'a>(clients: impl Iterator<Item = ClientRef<'a>>, kept: &[SortField]) -> Self {
        let mut table = Table::default();
        let by_clientid: Vec<u32> = clients.map(|client| table.add(&client)).collect();
        let lists = Lists::new(table.columns(), &by_clientid, kept);
        let connected = by_clientid.iter().filter(|&&slot| table.columns().row(slot).is_connected()).count();
        Self { table, lists, connected }
    }

    pub(super) fn columns(&self) -> &Columns {
        self.table.columns()
    }

    pub(super) fn len(&self) -> usize {
        self.lists.by_clientid.len()
    }

    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    /// The rows as they are now, with the list by a field if there is one.
    pub(super) fn snapshot(&self, field: SortField) -> Snapshot {
        Snapshot {
            columns: self.table.columns().clone(),
            by_clientid: self.lists.by_clientid.clone(),
            by_username: self.lists.by_username.clone(),
            by_field: self.lists.by(field).cloned(),
        }
    }

    /// The position by clientid that a session has or would have, and its slot if it is there.
    fn find(&self, clientid: &str, session: u64) -> (usize, Option<u32>) {
        let (columns, list) = (self.table.columns(), &self.lists.by_clientid);
        let place = Place { value: None, clientid, session };
        let at = position(list, columns, SortField::Clientid, &place);
        let is_it = |slot: &u32| columns.row(*slot).compare(SortField::Clientid, &place).is_eq();
        (at, list.get(at).filter(is_it))
    }

    /// The client has this state now.
    pub(super) fn put(&mut self, client: &ClientRef<'_>) {
        let (at, known) = self.find(client.clientid, client.session);
        let Some(slot) = known else {
            let slot = self.table.add(client);
            self.lists.by_clientid.insert(at, slot);
            let row = self.table.columns().row(slot);
            self.connected += usize::from(row.is_connected());
            for (field, list) in self.lists.others() {
                list.insert(position(list, self.table.columns(), field, &row.place(field)), slot);
            }
            return;
        };
        let row = self.table.columns().row(slot);
        if row.as_client_ref("") == *client {
            return;
        }
        self.connected -= usize::from(row.is_connected());
        let mut moved = Vec::new();
        for (field, list) in self.lists.others() {
            let value = Order { field, descending: false }.key(client).value;
            if row.value(field) != value {
                take_out(list, self.table.columns(), field, slot);
                moved.push(field);
            }
        }
        self.table.update(slot, client);
        let row = self.table.columns().row(slot);
        self.connected += usize::from(row.is_connected());
        for (field, list) in self.lists.others().filter(|(field, _)| moved.contains(field)) {
            list.insert(position(list, self.table.columns(), field, &row.place(field)), slot);
        }
    }

    /// Drops a session; says whether it was there.
    pub(super) fn drop_session(&mut self, clientid: &str, session: u64) -> bool {
        let (at, Some(slot)) = self.find(clientid, session) else { return false };
        let columns = self.table.columns();
        self.connected -= usize::from(columns.row(slot).is_connected());
        self.lists.by_clientid.remove(at);
        for (field, list) in self.lists.others() {
            take_out(list, columns, field, slot);
        }
        self.table.remove(slot);
        true
    }

    /// The clientids and numbers of the sessions that a test is true of.
    pub(super) fn sessions_where(&self, test: impl Fn(u64) -> bool) -> Vec<(String, u64)> {
        let rows = self.table.columns().segments().flat_map(|segment| {
            let rows = bits(segment.sessions.rows(&test));
            rows.filter_map(|at| Some((segment.clientids.get(at)?.to_owned(), segment.sessions.get(at)?)))
        });
        rows.collect()
    }
}

/// Takes a row that stands in a list out of it.
fn take_out(list: &mut Ordered, columns: &Columns, field: SortField, slot: u32) {
    let removed = list.remove(position(list, columns, field, &columns.row(slot).place(field)));
    debug_assert_eq!(removed, Some(slot));
}
