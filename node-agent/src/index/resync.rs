//! Taking in all clients at once.
//!
//! Unless nothing has changed, rows and lists are built anew, beside those at present, and put in their place. That
//! also packs the columns: slots are in the order of clientids, and none is free.
//!
//! The clients come as millions of small strings. Columns built while these are given back would lie above them in the
//! heap, and the room of the strings, twice that of the columns, would stay the process's for good. So the clients are
//! first written one behind the other into one block, which the system takes back as a whole, and read again when their
//! strings are gone: a second of work for a million clients, against half of the agent's memory. It helps as far as the allocator
//! has the strings in the part of the heap that this thread uses.

use prost::Message as _;
use prost::encoding::encoded_len_varint;
use rollcall_proto::SortField;
use rollcall_proto::v1::Client;

use super::sorts::sort_by_text;
use super::state::Rows;
use super::text::stored;
use super::{Index, as_row};

/// A block so large that the usual allocator, given it back, returns what is free at the heap's end to the system;
/// small ones it keeps. It is not so large that it would be outside the heap.
const LARGE_BLOCK: usize = 96 << 10;

impl Index {
    /// These are all clients there are. Of two with one clientid and session the later counts.
    ///
    /// Calls of `present` and `resync` come from one stream and do not overlap; `ended` may come at any time.
    pub fn resync(&self, mut clients: Vec<Client>) {
        let (known, kept, ended_before) = {
            let state = self.read();
            let known = state.rows.snapshot(SortField::Clientid);
            clients.retain(|client| !state.tombstones.contains(client.session));
            (known, state.rows.lists.kept(), state.tombstones.added())
        };
        let order = in_default_order(&clients);
        let is_known = |(&number, slot): (&u32, u32)| {
            as_row(&clients[number as usize]) == known.columns.row(slot).as_client_ref("")
        };
        let is_news = order.len() != known.len() || !order.iter().zip(known.by_clientid.iter()).all(is_known);
        let rows = is_news.then(|| {
            let packed = pack(clients, &order);
            drop(order);
            drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
            Rows::of(unpack(&packed), &kept)
        });

        let mut state = self.write();
        // What the new state replaces is dropped when the lock is given back: of a million rows that takes
        // milliseconds.
        let replaced = rows.map(|rows| std::mem::replace(&mut state.rows, rows));
        if ended_before != state.tombstones.added() {
            for (clientid, session) in state.rows.sessions_where(|session| state.tombstones.contains(session))
            {
                state.rows.drop_session(&clientid, session);
            }
        }
        drop(state);
        drop((replaced, known));
    }
}

/// The numbers of clients in default order. Of those with one clientid and session only the last is among them.
fn in_default_order(clients: &[Client]) -> Vec<u32> {
    let of = |number: u32| {
        let client = &clients[number as usize];
        (stored(&client.clientid), client.session)
    };
    let mut numbers: Vec<u32> = (0..u32::try_from(clients.len()).unwrap_or(u32::MAX)).collect();
    sort_by_text(&mut numbers, |number| of(number).0, |a, b| of(a).1.cmp(&of(b).1).then(b.cmp(&a)));
    numbers.dedup_by(|later, first| of(*later) == of(*first));
    numbers
}

/// The clients of these numbers, one behind the other as on the wire. Each is let go of as soon as it is written.
fn pack(mut clients: Vec<Client>, numbers: &[u32]) -> Vec<u8> {
    let size = |client: &Client| {
        let length = client.encoded_len();
        length + encoded_len_varint(length as u64)
    };
    let mut packed = Vec::with_capacity(clients.iter().map(size).sum());
    for &number in numbers {
        let client = std::mem::take(&mut clients[number as usize]);
        let client = Client { node: String::new(), statistics: None, ..client };
        // It fails only where there is no room, and a Vec makes room.
        let _ = client.encode_length_delimited(&mut packed);
    }
    packed
}

fn unpack(mut packed: &[u8]) -> impl Iterator<Item = Client> + '_ {
    std::iter::from_fn(move || {
        if packed.is_empty() {
            return None;
        }
        // What was packed here can be read again.
        Client::decode_length_delimited(&mut packed).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::client;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(80))]
        #[test]
        fn clients_are_packed_in_order_and_the_later_of_two_counts(clients in proptest::collection::vec(client(), 0..60)) {
            let mut expected: Vec<Client> = Vec::new();
            for client in &clients {
                expected.retain(|known| (&known.clientid, known.session) != (&client.clientid, client.session));
                expected.push(client.clone());
            }
            expected.sort_by(|a, b| (&a.clientid, a.session).cmp(&(&b.clientid, b.session)));
            let order = in_default_order(&clients);
            prop_assert_eq!(unpack(&pack(clients, &order)).collect::<Vec<_>>(), expected);
        }
    }
}
