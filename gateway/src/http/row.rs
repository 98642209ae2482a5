//! One client as a JSON object: exactly the 37 keys of the Clients API, in one order.
//!
//! [`json`] writes them; this says what stands under which key, for CSV and for the tests of that. A figure that the broker cannot tell is `null`, never an invented 0. `username` and
//! `mountpoint` are the text "undefined" where there is none, as EMQX writes it; `disconnected_at` is there only
//! while the client is disconnected.

use std::net::IpAddr;

use rollcall_proto::v1::{Client, ConnState, Statistics};

use super::time::Millis;
use crate::page::rows::RowRef;

pub(super) mod json;

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

/// Where the statistics begin in [`KEYS`].
const STATISTICS_FROM: usize = 17;

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

    /// All but the live figures.
    pub(super) fn identity() -> Self {
        Self((1 << STATISTICS_FROM) - 1)
    }

    /// The keys, in the order of [`KEYS`].
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        KEYS.into_iter().enumerate().filter(move |(at, _)| self.has(*at)).map(|(_, key)| key)
    }

    /// Whether one of them is a live figure.
    pub(super) fn have_statistics(self) -> bool {
        self.names().any(|key| KEYS[STATISTICS_FROM..].contains(&key))
    }

    /// About how many bytes of JSON a row with them takes.
    pub(super) fn row_bytes(self) -> usize {
        json::ROW_BYTES * self.0.count_ones() as usize / KEYS.len()
    }

    fn has(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }
}

/// A client, to be written as a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) row: RowRef<'a>,
    pub(crate) fields: Fields,
}

impl<'a> Row<'a> {
    /// The row of a message.
    pub(crate) fn of(client: &'a Client, fields: Fields) -> Self {
        static UNKNOWN: Statistics = Statistics {
            subscriptions_cnt: None,
            max_subscriptions: None,
            inflight: None,
            max_inflight: None,
            mqueue_len: None,
            max_mqueue: None,
            mqueue_dropped: None,
            awaiting_rel: None,
            max_awaiting_rel: None,
            recv_oct: None,
            recv_cnt: None,
            recv_pkt: None,
            recv_msg: None,
            send_oct: None,
            send_cnt: None,
            send_pkt: None,
            send_msg: None,
            mailbox_len: None,
            heap_size: None,
            reductions: None,
        };
        let statistics = client.statistics.as_ref().unwrap_or(&UNKNOWN);
        Self { row: RowRef { client: client.as_client_ref(), statistics }, fields }
    }
}

/// What stands under a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// Not even the key.
    Absent,
    /// The broker cannot tell.
    Null,
    Text(&'a str),
    Number(u64),
    Flag(bool),
    Address(IpAddr),
    Time(Millis),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<IpAddr> for Value<'_> {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl From<Millis> for Value<'_> {
    fn from(time: Millis) -> Self {
        Self::Time(time)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Row<'_> {
    /// Gives each key that was asked for and what stands under it, in the order of [`KEYS`].
    pub(super) fn each<E>(
        &self,
        mut take: impl FnMut(&'static str, Value<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let RowRef { client, statistics: figures } = self.row;
        let state = client.conn_state;
        let mut at = 0;
        let mut put = |key: &'static str, value: Value<'_>| {
            debug_assert_eq!(KEYS[at], key);
            let is_wanted = self.fields.has(at);
            at += 1;
            if is_wanted { take(key, value) } else { Ok(()) }
        };
        put("node", client.node.into())?;
        put("clientid", client.clientid.into())?;
        put("username", client.username.unwrap_or(UNDEFINED).into())?;
        put("proto_name", client.proto_name.into())?;
        put("proto_ver", client.proto_ver.into())?;
        put("ip_address", client.ip_address.into())?;
        put("port", client.port.into())?;
        put("is_bridge", client.is_bridge.into())?;
        put("zone", client.zone.into())?;
        put("mountpoint", client.mountpoint.unwrap_or(UNDEFINED).into())?;
        put("keepalive", client.keepalive.into())?;
        put("clean_start", client.clean_start.into())?;
        put("expiry_interval", client.expiry_interval.into())?;
        put("connected", (state == ConnState::Connected).into())?;
        put("connected_at", client.connected_at_ms.map(Millis).into())?;
        put(
            "disconnected_at",
            if state == ConnState::Disconnected {
                client.disconnected_at_ms.map(Millis).into()
            } else {
                Value::Absent
            },
        )?;
        put("created_at", client.created_at_ms.map(Millis).into())?;
        put("subscriptions_cnt", figures.subscriptions_cnt.into())?;
        put("max_subscriptions", figures.max_subscriptions.into())?;
        put("inflight", figures.inflight.into())?;
        put("max_inflight", figures.max_inflight.into())?;
        put("mqueue_len", figures.mqueue_len.into())?;
        put("max_mqueue", figures.max_mqueue.into())?;
        put("mqueue_dropped", figures.mqueue_dropped.into())?;
        put("awaiting_rel", figures.awaiting_rel.into())?;
        put("max_awaiting_rel", figures.max_awaiting_rel.into())?;
        put("recv_oct", figures.recv_oct.into())?;
        put("recv_cnt", figures.recv_cnt.into())?;
        put("recv_pkt", figures.recv_pkt.into())?;
        put("recv_msg", figures.recv_msg.into())?;
        put("send_oct", figures.send_oct.into())?;
        put("send_cnt", figures.send_cnt.into())?;
        put("send_pkt", figures.send_pkt.into())?;
        put("send_msg", figures.send_msg.into())?;
        put("mailbox_len", figures.mailbox_len.into())?;
        put("heap_size", figures.heap_size.into())?;
        put("reductions", figures.reductions.into())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::ser::SerializeMap;
    use serde::{Serialize, Serializer};

    use super::*;

    /// What [`json`] must write, by way of serde.
    impl Serialize for Value<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Absent | Self::Null => serializer.serialize_none(),
                Self::Text(text) => serializer.serialize_str(text),
                Self::Number(number) => serializer.serialize_u64(*number),
                Self::Flag(flag) => serializer.serialize_bool(*flag),
                Self::Address(address) => address.serialize(serializer),
                Self::Time(time) => time.serialize(serializer),
            }
        }
    }

    impl Serialize for Row<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            self.each(|key, value| match value {
                Value::Absent => Ok(()),
                value => map.serialize_entry(key, &value),
            })?;
            map.end()
        }
    }

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
        serde_json::to_string_pretty(&Row::of(client, fields)).unwrap()
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
        let row = serde_json::to_string(&Row::of(&whole(), fields)).unwrap();
        assert_eq!(
            row,
            r#"{"clientid":"sp ace/\"ü\"","disconnected_at":"2021-03-18 02:15:58","recv_oct":10}"#
        );
        assert_eq!(Fields::parse(&KEYS.join(",")), Ok(Fields::ALL));
    }

    #[test]
    fn figures_are_wanted_where_one_of_them_is() {
        for (names, expected) in
            [("clientid,created_at", false), ("subscriptions_cnt", true), ("node,reductions", true)]
        {
            assert_eq!(Fields::parse(names).unwrap().have_statistics(), expected, "{names}");
        }
        assert_eq!(Fields::ALL.names().collect::<Vec<_>>(), KEYS);
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
