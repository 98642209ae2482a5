//! Rows as JSON.
//!
//! A page is mostly rows and a row mostly keys that are known before it is: each is copied in one piece with its
//! punctuation, and only the texts are looked at for what must be escaped. Through serde a row cost some four times as
//! much, because it escapes the keys too and takes them and each comma for themselves. Tests hold the two side by side,
//! byte for byte.

use std::io::Write as _;
use std::net::IpAddr;

use rollcall_proto::v1::ConnState;

use super::{Row, UNDEFINED};
use crate::http::time::Millis;

/// About how many bytes a row with all keys takes.
pub(crate) const ROW_BYTES: usize = 768;

/// A key as it stands behind another entry.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// Writes a client's object.
pub(crate) fn write(row: &Row<'_>, out: &mut Vec<u8>) {
    let (client, figures) = (row.row.client, row.row.statistics);
    let state = client.conn_state;
    let begin = out.len();
    let mut to = Entries { row, at: 0, out };
    to.text(key!("node"), client.node);
    to.text(key!("clientid"), client.clientid);
    to.text(key!("username"), client.username.unwrap_or(UNDEFINED));
    to.maybe(key!("proto_name"), client.proto_name, text);
    to.maybe(key!("proto_ver"), client.proto_ver, number);
    to.maybe(key!("ip_address"), client.ip_address, address);
    to.maybe(key!("port"), client.port, number);
    to.maybe(key!("is_bridge"), client.is_bridge, flag);
    to.maybe(key!("zone"), client.zone, text);
    to.text(key!("mountpoint"), client.mountpoint.unwrap_or(UNDEFINED));
    to.maybe(key!("keepalive"), client.keepalive, number);
    to.maybe(key!("clean_start"), client.clean_start, flag);
    to.maybe(key!("expiry_interval"), client.expiry_interval, number);
    to.maybe(key!("connected"), Some(state == ConnState::Connected), flag);
    to.maybe(key!("connected_at"), client.connected_at_ms, time);
    if state == ConnState::Disconnected {
        to.maybe(key!("disconnected_at"), client.disconnected_at_ms, time);
    } else {
        to.skip();
    }
    to.maybe(key!("created_at"), client.created_at_ms, time);
    to.figure(key!("subscriptions_cnt"), figures.subscriptions_cnt);
    to.figure(key!("max_subscriptions"), figures.max_subscriptions);
    to.figure(key!("inflight"), figures.inflight);
    to.figure(key!("max_inflight"), figures.max_inflight);
    to.figure(key!("mqueue_len"), figures.mqueue_len);
    to.figure(key!("max_mqueue"), figures.max_mqueue);
    to.figure(key!("mqueue_dropped"), figures.mqueue_dropped);
    to.figure(key!("awaiting_rel"), figures.awaiting_rel);
    to.figure(key!("max_awaiting_rel"), figures.max_awaiting_rel);
    to.figure(key!("recv_oct"), figures.recv_oct);
    to.figure(key!("recv_cnt"), figures.recv_cnt);
    to.figure(key!("recv_pkt"), figures.recv_pkt);
    to.figure(key!("recv_msg"), figures.recv_msg);
    to.figure(key!("send_oct"), figures.send_oct);
    to.figure(key!("send_cnt"), figures.send_cnt);
    to.figure(key!("send_pkt"), figures.send_pkt);
    to.figure(key!("send_msg"), figures.send_msg);
    to.figure(key!("mailbox_len"), figures.mailbox_len);
    to.figure(key!("heap_size"), figures.heap_size);
    to.figure(key!("reductions"), figures.reductions);
    // The first entry's comma opens the object.
    match out.get_mut(begin) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// The entries of one object, those that were asked for.
struct Entries<'a, 'b> {
    row: &'a Row<'b>,
    /// The index of the next key.
    at: usize,
    out: &'a mut Vec<u8>,
}

// Inlined for each key, whose length is then known where it is copied.
impl Entries<'_, '_> {
    #[inline(always)]
    fn maybe<T>(&mut self, key: &str, value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>)) {
        if self.row.fields.has(self.at) {
            self.out.extend_from_slice(key.as_bytes());
            match value {
                Some(value) => write(value, self.out),
                None => self.out.extend_from_slice(b"null"),
            }
        }
        self.at += 1;
    }

    #[inline(always)]
    fn text(&mut self, key: &str, value: &str) {
        self.maybe(key, Some(value), text);
    }

    #[inline(always)]
    fn figure(&mut self, key: &str, value: Option<u64>) {
        self.maybe(key, value, |value, out| match value {
            digit @ 0..10 => out.push(b'0' + digit as u8),
            value => number(value, out),
        });
    }

    fn skip(&mut self) {
        self.at += 1;
    }
}

fn number(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn flag(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn time(millis: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    Millis(millis).write(out);
    out.push(b'"');
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    out.push(b'"');
    match address {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(octet, out);
            }
        }
        IpAddr::V6(v6) => {
            // Writing to memory cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
    out.push(b'"');
}

/// Whether a byte cannot stand for itself in a JSON string.
fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn text(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    // Without a way out of the loop it is done many bytes at a time.
    if value.bytes().fold(false, |found, byte| found | is_special(byte)) {
        escaped(value, out);
    } else {
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'"');
}

#[cold]
fn escaped(value: &str, out: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte if is_special(byte) => {
                // Writing to memory cannot fail.
                let _ = write!(out, "\\u{byte:04x}");
            }
            byte => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::ClientRef;
    use rollcall_proto::v1::Statistics;

    use super::*;
    use crate::http::row::{Fields, KEYS};
    use crate::page::rows::RowRef;

    fn both(row: &Row<'_>) -> (String, String) {
        let mut written = b"before".to_vec();
        write(row, &mut written);
        let written = String::from_utf8(written.split_off(6)).unwrap();
        (written, serde_json::to_string(row).unwrap())
    }

    #[test]
    fn every_character_that_must_be_escaped_is() {
        let all: String =
            (0..=0x100_u32).filter_map(char::from_u32).chain("\u{2028}\u{10ffff}".chars()).collect();
        let client = ClientRef { clientid: &all, ..ClientRef::default() };
        let row = Row { row: RowRef { client, statistics: &Statistics::default() }, fields: Fields::ALL };
        let (written, expected) = both(&row);
        assert_eq!(written, expected);
    }

    #[test]
    fn no_field_is_an_empty_object() {
        // A row may lack the one key that was asked for.
        let fields = Fields::parse("disconnected_at").unwrap();
        let row =
            Row { row: RowRef { client: ClientRef::default(), statistics: &Statistics::default() }, fields };
        assert_eq!(both(&row), ("{}".into(), "{}".into()));
    }

    proptest! {
        #[test]
        fn a_row_is_what_serde_makes_of_it(
            texts in proptest::collection::vec(".{0,12}|[\\x00-\\x30\"\\\\]{0,6}", 3),
            maybe in proptest::collection::vec(proptest::option::of("[a-z/\"\\\\\\x00-\\x1f]{0,20}"), 4),
            ip_address in proptest::option::of(any::<IpAddr>()),
            numbers in proptest::collection::vec(proptest::option::of(any::<u32>()), 4),
            flags in proptest::collection::vec(proptest::option::of(any::<bool>()), 2),
            state in 0..4_i32,
            times in proptest::collection::vec(proptest::option::of(any::<i64>()), 3),
            figures in proptest::collection::vec(proptest::option::of(prop_oneof![0..200_u64, any::<u64>()]), 20),
            wanted in proptest::option::of(proptest::collection::vec(0..KEYS.len(), 1..9)),
        ) {
            let client = ClientRef {
                node: &texts[0],
                clientid: &texts[1],
                username: maybe[0].as_deref(),
                zone: maybe[1].as_deref(),
                proto_name: maybe[2].as_deref(),
                mountpoint: maybe[3].as_deref(),
                ip_address,
                proto_ver: numbers[0],
                port: numbers[1],
                keepalive: numbers[2],
                expiry_interval: numbers[3],
                is_bridge: flags[0],
                clean_start: flags[1],
                conn_state: ConnState::try_from(state).unwrap(),
                connected_at_ms: times[0],
                disconnected_at_ms: times[1],
                created_at_ms: times[2],
                session: 1,
                statistics: None,
            };
            let statistics = Statistics {
                subscriptions_cnt: figures[0],
                max_subscriptions: figures[1],
                inflight: figures[2],
                max_inflight: figures[3],
                mqueue_len: figures[4],
                max_mqueue: figures[5],
                mqueue_dropped: figures[6],
                awaiting_rel: figures[7],
                max_awaiting_rel: figures[8],
                recv_oct: figures[9],
                recv_cnt: figures[10],
                recv_pkt: figures[11],
                recv_msg: figures[12],
                send_oct: figures[13],
                send_cnt: figures[14],
                send_pkt: figures[15],
                send_msg: figures[16],
                mailbox_len: figures[17],
                heap_size: figures[18],
                reductions: figures[19],
            };
            let names: Option<Vec<&str>> = wanted.map(|keys| keys.into_iter().map(|key| KEYS[key]).collect());
            let fields = names.map_or(Fields::ALL, |names| Fields::parse(&names.join(",")).unwrap());
            let (written, expected) = both(&Row { row: RowRef { client, statistics: &statistics }, fields });
            prop_assert_eq!(written, expected);
        }
    }
}
