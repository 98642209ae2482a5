//! The rows at present and their lists, and how one change keeps them true to each other.

use std::time::Instant;

use rollcall_proto::{ClientRef, Order, SortField};

use super::columns::{Columns, Place, STATES, Table};
use super::left::Left;
use super::lists::Lists;
use super::ordered::Ordered;
use super::select::Snapshot;
use super::sorts::position;
use super::tombstones::Tombstones;
use crate::packed::growing_block;

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
    left: Left,
}

impl Rows {
    /// The rows of clients that are in default order, without equals, with a kept list for each field.
    pub(super) fn of<'a>(clients: impl Iterator<Item = ClientRef<'a>>, kept: &[SortField]) -> Self {
        let (mut table, mut left) = (Table::default(), Left::default());
        let mut by_clientid = growing_block(0);
        by_clientid.extend(clients.map(|client| table.add(&client, &mut left)));
        let lists = Lists::new(table.columns(), &by_clientid, kept);
        let connected = by_clientid.iter().filter(|&&slot| table.columns().row(slot).is_connected()).count();
        Self { table, lists, connected, left }
    }

    pub(super) fn columns(&self) -> &Columns {
        self.table.columns()
    }

    pub(super) fn len(&self) -> usize {
        self.lists.by_clientid.len()
    }

    /// Bytes that changes have left to views so far.
    pub(super) fn left(&self) -> u64 {
        self.left.bytes()
    }

    /// Puts others in the place of these, which are given back.
    pub(super) fn replace(&mut self, others: Self) -> Self {
        let replaced = std::mem::replace(self, others);
        self.left = replaced.left;
        replaced
    }

    /// Keeps a list by another field. Gives back the one that made room for it.
    pub(super) fn keep(&mut self, field: SortField, list: Ordered) -> Option<Ordered> {
        let made_room = self.lists.keep(field, list)?;
        self.left.add(made_room.bytes());
        Some(made_room)
    }

    /// Takes out the kept lists that nobody has used for long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Ordered> {
        let idle = self.lists.expire(now);
        idle.iter().for_each(|list| self.left.add(list.bytes()));
        idle
    }

    /// So many bytes are left to views besides.
    pub(super) fn leave(&mut self, bytes: usize) {
        self.left.add(bytes);
    }

    pub(super) fn bytes(&self) -> usize {
        let mut all = 0;
        self.each_piece(&mut |_, bytes| all += bytes);
        all
    }

    /// Shows every piece of memory but what origins take.
    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        self.table.columns().each_piece(visit);
        self.lists.each_piece(visit);
    }

    /// How many rows there are of each origin, by its number, in each connection state, in the order of
    /// [`STATES`](super::columns::STATES).
    pub(super) fn kinds(&self) -> &[[u32; STATES.len()]] {
        self.table.kinds()
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
            left: self.left.bytes(),
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
            let slot = self.table.add(client, &mut self.left);
            self.lists.by_clientid.insert(at, slot, &mut self.left);
            let row = self.table.columns().row(slot);
            self.connected += usize::from(row.is_connected());
            for (field, list) in self.lists.others() {
                list.insert(
                    position(list, self.table.columns(), field, &row.place(field)),
                    slot,
                    &mut self.left,
                );
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
                take_out(list, self.table.columns(), field, slot, &mut self.left);
                moved.push(field);
            }
        }
        self.table.update(slot, client, &mut self.left);
        let row = self.table.columns().row(slot);
        self.connected += usize::from(row.is_connected());
        for (field, list) in self.lists.others().filter(|(field, _)| moved.contains(field)) {
            list.insert(position(list, self.table.columns(), field, &row.place(field)), slot, &mut self.left);
        }
    }

    /// Drops a session; says whether it was there.
    pub(super) fn drop_session(&mut self, clientid: &str, session: u64) -> bool {
        let (at, Some(slot)) = self.find(clientid, session) else { return false };
        let columns = self.table.columns();
        self.connected -= usize::from(columns.row(slot).is_connected());
        self.lists.by_clientid.remove(at, &mut self.left);
        for (field, list) in self.lists.others() {
            take_out(list, columns, field, slot, &mut self.left);
        }
        self.table.remove(slot, &mut self.left);
        true
    }

    /// The clientids and numbers of the sessions that a test is true of.
    pub(super) fn sessions_where(&self, test: impl Fn(u64) -> bool) -> Vec<(String, u64)> {
        let columns = self.table.columns();
        let rows = columns.slots_where(test).map(|slot| columns.row(slot));
        rows.map(|row| (row.clientid().to_owned(), row.session())).collect()
    }
}

/// Takes a row that stands in a list out of it.
fn take_out(list: &mut Ordered, columns: &Columns, field: SortField, slot: u32, left: &mut Left) {
    let removed = list.remove(position(list, columns, field, &columns.row(slot).place(field)), left);
    debug_assert_eq!(removed, Some(slot));
}
