//! One client as a JSON object: exactly the 37 keys of the Clients API, in one order.
//!
//! Rows are written straight from the wire message: a page of 10,000 rows through `serde_json::Value` would cost
//! several times as much. A figure that the broker cannot tell is `null`, never an invented 0. `username` and
//! `mountpoint` are the text "undefined" where there is none, as EMQX writes it; `disconnected_at` is there only
//! while the client is disconnected.

use rollcall_proto::address;
use rollcall_proto::v1::{Client, ConnState, Statistics};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::time::Millis;

/// The keys of a row, in the order they are written: identity, then statistics.
pub(crate) const KEYS: [&str; 37] = [
    "node",
    "clientid",
    "username",
    "proto_name",
    "proto_ver",
    "ip_address",
    "port",
    "is_bridge",
    "zone",
    "mountpoint",
    "keepalive",
    "clean_start",
    "expiry_interval",
    "connected",
    "connected_at",
    "disconnected_at",
    "created_at",
    "subscriptions_cnt",
    "max_subscriptions",
    "inflight",
    "max_inflight",
    "mqueue_len",
    "max_mqueue",
    "mqueue_dropped",
    "awaiting_rel",
    "max_awaiting_rel",
    "recv_oct",
    "recv_cnt",
    "recv_pkt",
    "recv_msg",
    "send_oct",
    "send_cnt",
    "send_pkt",
    "send_msg",
    "mailbox_len",
    "heap_size",
    "reductions",
];

/// What EMQX writes for a user name or mountpoint that is not there.
const UNDEFINED: &str = "undefined";

/// Which of [`KEYS`] a row shows, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields(u64);

impl Fields {
    /// Every key.
    pub(crate) const ALL: Self = Self((1 << KEYS.len()) - 1);

    /// Reads a comma-separated list of keys; one may stand there twice.
    ///
    /// # Errors
    /// Gives back the first name that is no key.
    pub(crate) fn parse(names: &str) -> Result<Self, &str> {
        names.split(',').try_fold(Self(0), |fields, name| {
            let at = KEYS.iter().position(|key| *key == name).ok_or(name)?;
            Ok(Self(fields.0 | 1 << at))
        })
    }

    fn has(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }
}

/// A client, to be written as a row.
pub(crate) struct Row<'a> {
    pub(crate) client: &'a Client,
    pub(crate) fields: Fields,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let client = self.client;
        let state = client.conn_state();
        let unknown = Statistics::default();
        let figures = client.statistics.as_ref().unwrap_or(&unknown);
        let mut row = Writer { map: serializer.serialize_map(None)?, fields: self.fields, at: 0 };
        row.put("node", &client.node)?;
        row.put("clientid", &client.clientid)?;
        row.put("username", client.username.as_deref().unwrap_or(UNDEFINED))?;
        row.put("proto_name", &client.proto_name)?;
        row.put("proto_ver", &client.proto_ver)?;
        row.put("ip_address", &address::from_wire(&client.ip_address))?;
        row.put("port", &client.port)?;
        row.put("is_bridge", &client.is_bridge)?;
        row.put("zone", &client.zone)?;
        row.put("mountpoint", client.mountpoint.as_deref().unwrap_or(UNDEFINED))?;
        row.put("keepalive", &client.keepalive)?;
        row.put("clean_start", &client.clean_start)?;
        row.put("expiry_interval", &client.expiry_interval)?;
        row.put("connected", &(state == ConnState::Connected))?;
        row.put("connected_at", &client.connected_at_ms.map(Millis))?;
        if state == ConnState::Disconnected {
            row.put("disconnected_at", &client.disconnected_at_ms.map(Millis))?;
        } else {
            row.at += 1;
        }
        row.put("created_at", &client.created_at_ms.map(Millis))?;
        row.put("subscriptions_cnt", &figures.subscriptions_cnt)?;
        row.put("max_subscriptions", &figures.max_subscriptions)?;
        row.put("inflight", &figures.inflight)?;
        row.put("max_inflight", &figures.max_inflight)?;
        row.put("mqueue_len", &figures.mqueue_len)?;
        row.put("max_mqueue", &figures.max_mqueue)?;
        row.put("mqueue_dropped", &figures.mqueue_dropped)?;
        row.put("awaiting_rel", &figures.awaiting_rel)?;
        row.put("max_awaiting_rel", &figures.max_awaiting_rel)?;
        row.put("recv_oct", &figures.recv_oct)?;
        row.put("recv_cnt", &figures.recv_cnt)?;
        row.put("recv_pkt", &figures.recv_pkt)?;
        row.put("recv_msg", &figures.recv_msg)?;
        row.put("send_oct", &figures.send_oct)?;
        row.put("send_cnt", &figures.send_cnt)?;
        row.put("send_pkt", &figures.send_pkt)?;
        row.put("send_msg", &figures.send_msg)?;
        row.put("mailbox_len", &figures.mailbox_len)?;
        row.put("heap_size", &figures.heap_size)?;
        row.put("reductions", &figures.reductions)?;
        row.map.end()
    }
}

/// Writes the keys in the order of [`KEYS`] and leaves out those that were not asked for.
struct Writer<M> {
    map: M,
    fields: Fields,
    at: usize,
}

impl<M: SerializeMap> Writer<M> {
    fn put<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        debug_assert_eq!(KEYS[self.at], key);
        if self.fields.has(self.at) {
            self.map.serialize_entry(key, value)?;
        }
        self.at += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn whole() -> Client {
        let figures = |n| Some(n);
        Client {
            node: "a@127.0.0.1".into(),
            clientid: "sp ace/\"ü\"".into(),
            session: 7,
            username: Some("alice".into()),
            zone: Some("external".into()),
            proto_name: Some("MQTT".into()),
            proto_ver: Some(5),
            ip_address: vec![10, 0, 0, 1],
            port: Some(3000),
            is_bridge: Some(false),
            mountpoint: Some("m/".into()),
            keepalive: Some(60),
            clean_start: Some(true),
            expiry_interval: Some(0),
            conn_state: ConnState::Disconnected.into(),
            connected_at_ms: Some(1_616_033_757_999),
            disconnected_at_ms: Some(1_616_033_758_000),
            created_at_ms: Some(-1),
            statistics: Some(Statistics {
                subscriptions_cnt: figures(1),
                max_subscriptions: figures(2),
                inflight: figures(3),
                max_inflight: figures(4),
                mqueue_len: figures(5),
                max_mqueue: figures(6),
                mqueue_dropped: figures(7),
                awaiting_rel: figures(8),
                max_awaiting_rel: figures(9),
                recv_oct: figures(10),
                recv_cnt: figures(11),
                recv_pkt: figures(12),
                recv_msg: figures(13),
                send_oct: figures(14),
                send_cnt: figures(15),
                send_pkt: figures(16),
                send_msg: figures(17),
                mailbox_len: figures(18),
                heap_size: figures(19),
                reductions: figures(u64::MAX),
            }),
        }
    }

    fn written(client: &Client, fields: Fields) -> String {
        serde_json::to_string_pretty(&Row { client, fields }).unwrap()
    }

    #[test]
    fn a_row_with_everything() {
        insta::assert_snapshot!(written(&whole(), Fields::ALL));
    }

    #[test]
    fn a_row_of_which_the_broker_can_tell_nothing() {
        let bare = Client {
            node: "n".into(),
            clientid: "c".into(),
            conn_state: ConnState::Connected.into(),
            ..Client::default()
        };
        insta::assert_snapshot!(written(&bare, Fields::ALL));
    }

    #[test]
    fn a_disconnected_row_has_exactly_the_documented_keys() {
        let row: serde_json::Value = serde_json::from_str(&written(&whole(), Fields::ALL)).unwrap();
        let keys: BTreeSet<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, KEYS.into_iter().collect());
    }

    #[test]
    fn chosen_fields_come_in_the_rows_order() {
        let fields = Fields::parse("recv_oct,clientid,clientid,disconnected_at").unwrap();
        let row = serde_json::to_string(&Row { client: &whole(), fields }).unwrap();
        assert_eq!(
            row,
            r#"{"clientid":"sp ace/\"ü\"","disconnected_at":"2021-03-18 02:15:58","recv_oct":10}"#
        );
        assert_eq!(Fields::parse(&KEYS.join(",")), Ok(Fields::ALL));
    }

    #[test]
    fn a_name_that_is_no_key_is_given_back() {
        for (names, bad) in
            [("", ""), ("clientid,", ""), ("clientid, node", " node"), ("ClientId", "ClientId")]
        {
            assert_eq!(Fields::parse(names), Err(bad), "{names:?}");
        }
    }

    #[test]
    fn disconnected_at_is_there_only_while_disconnected() {
        for state in [ConnState::Connected, ConnState::Idle, ConnState::Unspecified] {
            let client = Client { conn_state: state.into(), ..whole() };
            assert!(!written(&client, Fields::ALL).contains("disconnected_at"), "{state:?}");
        }
        let timeless = Client { disconnected_at_ms: None, ..whole() };
        assert!(written(&timeless, Fields::ALL).contains("\"disconnected_at\": null"));
    }
}
