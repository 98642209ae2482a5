//! Taking in all clients at once.
//!
//! Unless nothing has changed, rows and lists are built anew, beside those at present, and put in their place. That
//! also packs the columns: slots are in the order of clientids, and none is free.
//!
//! Until all are there they wait in a block ([`Packed`]), some 100 bytes each, which the system takes back as a whole. Messages
//! would take six times as much in millions of small strings, whose room the allocator would keep for good.

use rollcall_proto::SortField;
use rollcall_proto::v1::Client;

use super::sorts::sort_by_text;
use super::state::Rows;
use super::tombstones::Tombstones;
use super::{Index, as_row};
use crate::packed::{Packed, block};

/// All clients there are, as they come in.
#[derive(Debug, Default)]
pub struct Resync {
    clients: Packed,
}

impl Resync {
    /// One more client. Of two with one clientid and session the later counts.
    pub fn add(&mut self, client: &Client) {
        self.clients.push(&as_row(client));
    }

    /// The numbers of the clients in default order, without ended sessions. Of those with one clientid and session only the
    /// last is among them.
    fn in_default_order(&self, ended: &Tombstones) -> Vec<u32> {
        let clients = &self.clients;
        let session = |number: u32| clients.get(number).session;
        let mut numbers = block(clients.len() as usize);
        numbers.extend(0..clients.len());
        if !ended.is_empty() {
            numbers.retain(|&number| !ended.contains(session(number)));
        }
        sort_by_text(
            &mut numbers,
            |number| clients.clientid(number),
            |a, b| session(a).cmp(&session(b)).then(b.cmp(&a)),
        );
        numbers.dedup_by(|later, first| {
            clients.clientid(*later) == clients.clientid(*first) && session(*later) == session(*first)
        });
        numbers
    }
}

impl FromIterator<Client> for Resync {
    fn from_iter<T: IntoIterator<Item = Client>>(clients: T) -> Self {
        let mut resync = Self::default();
        clients.into_iter().for_each(|client| resync.add(&client));
        resync
    }
}

impl Index {
    /// These are all clients there are. Returns whether they are others than were known.
    ///
    /// Calls of `present` and `resync` come from one stream and do not overlap; `ended` may come at any time.
    pub fn resync(&self, resync: Resync) -> bool {
        let (known, kept, ended) = {
            let state = self.read();
            (state.rows.snapshot(SortField::Clientid), state.rows.lists.kept(), state.tombstones.clone())
        };
        let order = resync.in_default_order(&ended);
        let row = |&number: &u32| resync.clients.get(number);
        let is_known = |(number, slot): (&u32, u32)| row(number) == known.columns.row(slot).as_client_ref("");
        let is_news = order.len() != known.len() || !order.iter().zip(known.by_clientid.iter()).all(is_known);
        let rows = is_news.then(|| Rows::of(order.iter().map(row), &kept));
        drop((resync, order));

        let mut state = self.write();
        // What the new state replaces is dropped when the lock is given back: of a million rows that takes
        // milliseconds.
        let replaced = rows.map(|rows| state.rows.replace(rows));
        if ended.added() != state.tombstones.added() {
            for (clientid, session) in state.rows.sessions_where(|session| state.tombstones.contains(session))
            {
                state.rows.drop_session(&clientid, session);
            }
        }
        drop(state);
        if let Some(replaced) = &replaced {
            // Views of them hold all of it. They are counted now, when nobody waits.
            let bytes = replaced.bytes();
            self.write().rows.leave(bytes);
        }
        drop((replaced, known));
        is_news
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::client;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(80))]
        #[test]
        fn clients_are_put_in_order_and_the_later_of_two_counts(clients in proptest::collection::vec(client(), 0..60)) {
            let mut expected: Vec<Client> = Vec::new();
            for client in &clients {
                expected.retain(|known| (&known.clientid, known.session) != (&client.clientid, client.session));
                expected.push(client.clone());
            }
            expected.sort_by(|a, b| (&a.clientid, a.session).cmp(&(&b.clientid, b.session)));
            let resync: Resync = clients.into_iter().collect();
            let order = resync.in_default_order(&Tombstones::default());
            let expected: Vec<_> = expected.iter().map(Client::as_client_ref).collect();
            prop_assert_eq!(order.iter().map(|&number| resync.clients.get(number)).collect::<Vec<_>>(), expected);
        }
    }
}
