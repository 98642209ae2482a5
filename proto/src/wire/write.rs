//! Rows written in one pass, from wherever they stand.
//!
//! A message says how long it is before it comes, so prost counts a row's bytes before it writes them: for the whole
//! list, for the list's row and for the row's figures, three times in all, and it wants a message with strings of its own for
//! each. Here a view is written, and a length put in when what it counts is written. The bytes are those that prost
//! would write; tests hold the two side by side.

use std::net::IpAddr;

use super::ListHead;
use crate::ClientRef;
use crate::v1::Statistics;

/// About how many bytes a row of ordinary length takes.
const ROW_BYTES: usize = 256;

/// Writes a `ListResponse`: the bytes of the message that would have these rows. How many they are about, the iterator says.
pub fn write_list<'a>(head: &ListHead, rows: impl Iterator<Item = ClientRef<'a>>, to: &mut Vec<u8>) {
    let ListHead { identity, count, first, start } = head;
    to.reserve(64 + rows.size_hint().0 * ROW_BYTES);
    if let Some(identity) = identity {
        message::<1>(1, to, |to| {
            text(1, &identity.name, to);
            number(2, identity.incarnation, to);
        });
    }
    number(2, *count, to);
    for row in rows {
        message::<2>(3, to, |to| write_client(&row, to));
    }
    number(4, *first, to);
    number(5, *start, to);
}

/// Writes a `Client`: the bytes of the message that would have its values.
#[inline]
pub fn write_client(client: &ClientRef<'_>, to: &mut Vec<u8>) {
    text(1, client.node, to);
    text(2, client.clientid, to);
    number(3, client.session, to);
    maybe_text(4, client.username, to);
    maybe_text(5, client.zone, to);
    maybe_text(6, client.proto_name, to);
    maybe(7, client.proto_ver.map(u64::from), to);
    match client.ip_address.map(|address| address.to_canonical()) {
        None => {}
        Some(IpAddr::V4(v4)) => bytes(8, &v4.octets(), to),
        Some(IpAddr::V6(v6)) => bytes(8, &v6.octets(), to),
    }
    maybe(9, client.port.map(u64::from), to);
    maybe(10, client.is_bridge.map(u64::from), to);
    maybe_text(11, client.mountpoint, to);
    maybe(12, client.keepalive.map(u64::from), to);
    maybe(13, client.clean_start.map(u64::from), to);
    maybe(14, client.expiry_interval.map(u64::from), to);
    number(15, client.conn_state as u64, to);
    maybe(16, client.connected_at_ms.map(|time| time as u64), to);
    maybe(17, client.disconnected_at_ms.map(|time| time as u64), to);
    maybe(18, client.created_at_ms.map(|time| time as u64), to);
    if let Some(statistics) = client.statistics {
        message::<1>(19, to, |to| write_statistics(statistics, to));
    }
}

fn write_statistics(statistics: &Statistics, to: &mut Vec<u8>) {
    maybe(1, statistics.subscriptions_cnt, to);
    maybe(2, statistics.max_subscriptions, to);
    maybe(3, statistics.inflight, to);
    maybe(4, statistics.max_inflight, to);
    maybe(5, statistics.mqueue_len, to);
    maybe(6, statistics.max_mqueue, to);
    maybe(7, statistics.mqueue_dropped, to);
    maybe(8, statistics.awaiting_rel, to);
    maybe(9, statistics.max_awaiting_rel, to);
    maybe(10, statistics.recv_oct, to);
    maybe(11, statistics.recv_cnt, to);
    maybe(12, statistics.recv_pkt, to);
    maybe(13, statistics.recv_msg, to);
    maybe(14, statistics.send_oct, to);
    maybe(15, statistics.send_cnt, to);
    maybe(16, statistics.send_pkt, to);
    maybe(17, statistics.send_msg, to);
    maybe(18, statistics.mailbox_len, to);
    maybe(19, statistics.heap_size, to);
    maybe(20, statistics.reductions, to);
}

/// What follows a field's number.
const NUMBER: u64 = 0;
const LENGTH: u64 = 2;

#[inline]
fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[inline]
fn maybe(tag: u64, value: Option<u64>, to: &mut Vec<u8>) {
    if let Some(value) = value {
        varint(tag << 3 | NUMBER, to);
        varint(value, to);
    }
}

/// A number that is left out where it is 0.
#[inline]
fn number(tag: u64, value: u64, to: &mut Vec<u8>) {
    maybe(tag, (value != 0).then_some(value), to);
}

#[inline]
fn bytes(tag: u64, value: &[u8], to: &mut Vec<u8>) {
    varint(tag << 3 | LENGTH, to);
    varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

#[inline]
fn maybe_text(tag: u64, value: Option<&str>, to: &mut Vec<u8>) {
    if let Some(value) = value {
        bytes(tag, value.as_bytes(), to);
    }
}

/// A text that is left out where it is empty.
#[inline]
fn text(tag: u64, value: &str, to: &mut Vec<u8>) {
    maybe_text(tag, Some(value).filter(|value| !value.is_empty()), to);
}

/// A message within this one, its length before it. `DIGITS` is how many bytes the length most likely takes; where it takes
/// others, the message is moved.
#[inline]
fn message<const DIGITS: usize>(tag: u64, to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    varint(tag << 3 | LENGTH, to);
    let at = to.len();
    to.extend_from_slice(&[0; DIGITS]);
    write(to);
    let length = to.len() - at - DIGITS;
    if length >> (7 * DIGITS) == 0 && length >> (7 * (DIGITS - 1)) > 0 {
        for (digit, byte) in to[at..at + DIGITS].iter_mut().enumerate() {
            let more = if digit + 1 < DIGITS { 0x80 } else { 0 };
            *byte = (length >> (7 * digit)) as u8 & 0x7f | more;
        }
    } else {
        let mut digits = Vec::new();
        varint(length as u64, &mut digits);
        to.splice(at..at + DIGITS, digits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::v1::{Client, ListResponse};
    use crate::wire::tests::response;
    use crate::wire::{clientid_of, read_client};

    /// The bytes of a response's rows, and the response that says what they say.
    fn written(response: &ListResponse) -> (Vec<u8>, ListResponse) {
        let ListResponse { identity, count, clients, first, start } = response.clone();
        let mut bytes = b"before".to_vec();
        let head = ListHead { identity: identity.clone(), count, first, start };
        write_list(&head, clients.iter().map(Client::as_client_ref), &mut bytes);
        let clients = clients.iter().map(|client| client.as_client_ref().into()).collect();
        (bytes.split_off(6), ListResponse { identity, count, clients, first, start })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_prost_writes(response in response()) {
            let (bytes, response) = written(&response);
            prop_assert_eq!(bytes, response.encode_to_vec());
        }

        #[test]
        fn a_client_that_was_written_is_read(response in response()) {
            for client in &response.clients {
                let view = client.as_client_ref();
                let mut bytes = Vec::new();
                write_client(&view, &mut bytes);
                prop_assert_eq!(&bytes, &Client::from(view).encode_to_vec());
                let read = read_client(&bytes).unwrap();
                prop_assert_eq!(read.client, ClientRef { statistics: None, ..view });
                prop_assert_eq!(read.statistics, client.statistics.unwrap_or_default());
                prop_assert_eq!(clientid_of(&bytes), Ok(view.clientid));
            }
        }
    }

    #[test]
    fn lengths_of_any_size_stand_before_what_they_count() {
        for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 70_000, 2_097_152] {
            let clients = vec![Client { clientid: "x".repeat(length), ..Client::default() }; 2];
            let (bytes, response) = written(&ListResponse { clients, ..ListResponse::default() });
            assert!(bytes == response.encode_to_vec(), "{length}");
        }
    }
}
