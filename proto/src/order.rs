//! The one total order of clients.
//!
//! Every list is ordered by (sorted field, clientid, node, session). That is total over a cluster: a node never
//! has two sessions with one number, so no two clients compare equal, and a page boundary never falls between
//! equals. `descending` turns round the sorted field alone; clients without a value come last in both directions,
//! because "who has none" is rarely what a sort is asked for, and ties ascend in both, so that a page is the same
//! whichever way one came to it. Text compares byte for byte (no locale: agents and gateways on different
//! machines must agree), numbers by value, IPv4 before IPv6 and each by value, `false` before `true`.

use std::cmp::Ordering;
use std::net::IpAddr;

use thiserror::Error;

pub use crate::v1::SortField;
use crate::{ClientRef, address, v1};

/// A field and a direction: what `_sort` and `_order` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// The sorted field; `Unspecified` reads as `Clientid`.
    pub field: SortField,
    /// Turn the sorted field round.
    pub descending: bool,
}

/// A client's place in an order: what the comparison reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRef<'a> {
    /// The sorted field; `None` where the client lacks it, and where the order is by clientid or node, which
    /// are compared from their own fields.
    pub value: Option<ValueRef<'a>>,
    /// MQTT client identifier.
    pub clientid: &'a str,
    /// Name of the owning node.
    pub node: &'a str,
    /// Session number.
    pub session: u64,
}

/// The value of a sorted field. One field always gives one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueRef<'a> {
    /// Numbers, times, and flags as 0 and 1.
    Number(i64),
    /// Text, compared byte for byte.
    Text(&'a str),
    /// IPv4 before IPv6.
    Address(IpAddr),
}

/// A key that cannot stand in the order it came with.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// The order names no field of this contract.
    #[error("sort field {0} is not known")]
    UnknownField(i32),
    /// The value is of another kind than the order's field.
    #[error("the key's value is not of the kind that sorts by {0}")]
    WrongKind(&'static str),
    /// The address is neither 4 nor 16 bytes long.
    #[error("an address of {0} bytes, expected 4 or 16")]
    AddressLength(usize),
    /// Keys say whose they are.
    #[error("the key names no node")]
    NoNode,
}

impl Default for Order {
    fn default() -> Self {
        Self { field: SortField::Clientid, descending: false }
    }
}

impl Order {
    /// The key of a client in this order.
    #[must_use]
    pub fn key<'a>(self, client: &ClientRef<'a>) -> KeyRef<'a> {
        KeyRef {
            value: self.value(client),
            clientid: client.clientid,
            node: client.node,
            session: client.session,
        }
    }

    fn value<'a>(self, client: &ClientRef<'a>) -> Option<ValueRef<'a>> {
        use ValueRef::{Address, Number, Text};
        match self.field {
            SortField::Unspecified | SortField::Clientid | SortField::Node => None,
            SortField::Username => client.username.map(Text),
            SortField::Zone => client.zone.map(Text),
            SortField::ProtoName => client.proto_name.map(Text),
            SortField::Mountpoint => client.mountpoint.map(Text),
            SortField::IpAddress => client.ip_address.map(Address),
            SortField::ProtoVer => client.proto_ver.map(|n| Number(n.into())),
            SortField::Port => client.port.map(|n| Number(n.into())),
            SortField::Keepalive => client.keepalive.map(|n| Number(n.into())),
            SortField::ExpiryInterval => client.expiry_interval.map(|n| Number(n.into())),
            SortField::IsBridge => client.is_bridge.map(|flag| Number(flag.into())),
            SortField::CleanStart => client.clean_start.map(|flag| Number(flag.into())),
            SortField::Connected => Some(Number((client.conn_state == v1::ConnState::Connected).into())),
            SortField::ConnectedAt => client.connected_at_ms.map(Number),
            SortField::DisconnectedAt => client.disconnected_at_ms.map(Number),
            SortField::CreatedAt => client.created_at_ms.map(Number),
            live => client.statistics.and_then(|figures| live.figure(figures)).map(number_of_figure),
        }
    }

    /// The comparator. Both keys must be of this order.
    #[must_use]
    pub fn compare(self, a: &KeyRef<'_>, b: &KeyRef<'_>) -> Ordering {
        let field = match self.field {
            SortField::Unspecified | SortField::Clientid => self.directed(a.clientid.cmp(b.clientid)),
            SortField::Node => self.directed(a.node.cmp(b.node)),
            _ => match (a.value, b.value) {
                (Some(a), Some(b)) => self.directed(a.cmp(&b)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            },
        };
        field
            .then_with(|| a.clientid.cmp(b.clientid))
            .then_with(|| a.node.cmp(b.node))
            .then_with(|| a.session.cmp(&b.session))
    }

    fn directed(self, ordering: Ordering) -> Ordering {
        if self.descending { ordering.reverse() } else { ordering }
    }

    /// Reads a key from the wire.
    ///
    /// # Errors
    /// [`InvalidKey`] if the value is not of the kind this order sorts by, or no node is named.
    pub fn key_from_wire(self, key: &v1::Key) -> Result<KeyRef<'_>, InvalidKey> {
        use v1::key::Value;
        if key.node.is_empty() {
            return Err(InvalidKey::NoNode);
        }
        let value = match &key.value {
            None => None,
            Some(Value::Text(text)) => Some(ValueRef::Text(text)),
            Some(Value::Number(number)) => Some(ValueRef::Number(*number)),
            Some(Value::Address(bytes)) => Some(ValueRef::Address(
                address::from_wire(bytes).ok_or(InvalidKey::AddressLength(bytes.len()))?,
            )),
        };
        let right_kind = match value {
            None => self.field != SortField::Connected,
            Some(ValueRef::Text(_)) => matches!(
                self.field,
                SortField::Username | SortField::Zone | SortField::ProtoName | SortField::Mountpoint
            ),
            Some(ValueRef::Address(_)) => self.field == SortField::IpAddress,
            Some(ValueRef::Number(_)) => {
                self.field.is_live()
                    || matches!(
                        self.field,
                        SortField::ProtoVer
                            | SortField::Port
                            | SortField::Keepalive
                            | SortField::ExpiryInterval
                            | SortField::IsBridge
                            | SortField::CleanStart
                            | SortField::Connected
                            | SortField::ConnectedAt
                            | SortField::DisconnectedAt
                            | SortField::CreatedAt
                    )
            }
        };
        if !right_kind {
            return Err(InvalidKey::WrongKind(self.field.name()));
        }
        Ok(KeyRef { value, clientid: &key.clientid, node: &key.node, session: key.session })
    }
}

impl From<Order> for v1::Order {
    fn from(order: Order) -> Self {
        Self { field: order.field.into(), descending: order.descending }
    }
}

impl TryFrom<v1::Order> for Order {
    type Error = InvalidKey;

    fn try_from(order: v1::Order) -> Result<Self, InvalidKey> {
        let field = match SortField::try_from(order.field) {
            Ok(SortField::Unspecified) => SortField::Clientid,
            Ok(field) => field,
            Err(_) => return Err(InvalidKey::UnknownField(order.field)),
        };
        Ok(Self { field, descending: order.descending })
    }
}

impl From<KeyRef<'_>> for v1::Key {
    fn from(key: KeyRef<'_>) -> Self {
        use v1::key::Value;
        Self {
            value: key.value.map(|value| match value {
                ValueRef::Number(number) => Value::Number(number),
                ValueRef::Text(text) => Value::Text(text.to_owned()),
                ValueRef::Address(ip) => Value::Address(address::to_wire(ip)),
            }),
            clientid: key.clientid.to_owned(),
            node: key.node.to_owned(),
            session: key.session,
        }
    }
}

/// A figure as keys carry it. Beyond 63 bits, which none reaches, all are one.
#[must_use]
pub fn number_of_figure(figure: u64) -> ValueRef<'static> {
    ValueRef::Number(i64::try_from(figure).unwrap_or(i64::MAX))
}

impl SortField {
    /// The identity fields a list can be sorted by, in the order they are documented.
    pub const IDENTITY: [Self; 17] = [
        Self::Clientid,
        Self::Username,
        Self::Node,
        Self::Zone,
        Self::ProtoName,
        Self::ProtoVer,
        Self::IpAddress,
        Self::Port,
        Self::IsBridge,
        Self::Mountpoint,
        Self::Keepalive,
        Self::CleanStart,
        Self::ExpiryInterval,
        Self::Connected,
        Self::ConnectedAt,
        Self::DisconnectedAt,
        Self::CreatedAt,
    ];

    /// The field's name in rows and in `_sort`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified | Self::Clientid => "clientid",
            Self::Username => "username",
            Self::Node => "node",
            Self::Zone => "zone",
            Self::ProtoName => "proto_name",
            Self::ProtoVer => "proto_ver",
            Self::IpAddress => "ip_address",
            Self::Port => "port",
            Self::IsBridge => "is_bridge",
            Self::Mountpoint => "mountpoint",
            Self::Keepalive => "keepalive",
            Self::CleanStart => "clean_start",
            Self::ExpiryInterval => "expiry_interval",
            Self::Connected => "connected",
            Self::ConnectedAt => "connected_at",
            Self::DisconnectedAt => "disconnected_at",
            Self::CreatedAt => "created_at",
            live => live.live_name().unwrap_or_default(),
        }
    }

    /// The field of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::IDENTITY.into_iter().chain(Self::LIVE).find(|field| field.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1::{Client, ConnState, Statistics};

    fn fields() -> Vec<SortField> {
        SortField::IDENTITY.into_iter().chain(SortField::LIVE).collect()
    }

    /// Few values a field, so that ties are common at every level of the order.
    fn client() -> impl Strategy<Value = Client> {
        let text = || proptest::option::of("[ab]{0,2}");
        let identity = ("[ab]{1,2}", "[xy]", 0..3_u64, text(), text(), text(), text());
        let numbers = (
            proptest::option::of(0..3_u32),
            proptest::option::of(0..3_u32),
            proptest::option::of(any::<bool>()),
            1..4_i32,
            proptest::option::of(-1..2_i64),
        );
        let addresses =
            prop_oneof![Just(vec![]), Just(vec![10, 0, 0, 1]), Just(vec![9, 0, 0, 1]), Just(vec![0; 16])];
        (identity, numbers, addresses).prop_map(|(identity, numbers, ip_address)| {
            let (clientid, node, session, username, zone, proto_name, mountpoint) = identity;
            let (small, other, flag, conn_state, time) = numbers;
            Client {
                node,
                clientid,
                session,
                username,
                zone,
                proto_name,
                mountpoint,
                ip_address,
                proto_ver: small,
                port: other,
                keepalive: small,
                expiry_interval: other,
                is_bridge: flag,
                clean_start: flag,
                conn_state,
                connected_at_ms: time,
                disconnected_at_ms: time,
                created_at_ms: time,
                statistics: small.map(|small| Statistics {
                    recv_oct: other.map(u64::from),
                    mqueue_len: Some(if small == 2 { u64::MAX } else { small.into() }),
                    ..Statistics::default()
                }),
            }
        })
    }

    fn order() -> impl Strategy<Value = Order> {
        (proptest::sample::select(fields()), any::<bool>())
            .prop_map(|(field, descending)| Order { field, descending })
    }

    proptest! {
        #[test]
        fn the_order_is_total(order in order(), a in client(), b in client(), c in client()) {
            let (ra, rb, rc) = (a.as_client_ref(), b.as_client_ref(), c.as_client_ref());
            let (ka, kb, kc) = (order.key(&ra), order.key(&rb), order.key(&rc));
            prop_assert_eq!(order.compare(&ka, &kb), order.compare(&kb, &ka).reverse());
            if order.compare(&ka, &kb).is_le() && order.compare(&kb, &kc).is_le() {
                prop_assert!(order.compare(&ka, &kc).is_le());
            }
            let same_session = (&a.clientid, &a.node, a.session) == (&b.clientid, &b.node, b.session);
            if order.compare(&ka, &kb).is_eq() {
                prop_assert!(same_session, "two clients of different identity compare equal");
            }
        }

        #[test]
        fn absent_is_last_and_ties_ascend_in_both_directions(field in proptest::sample::select(fields()), a in client(), b in client()) {
            let (up, down) = (Order { field, descending: false }, Order { field, descending: true });
            let (ra, rb) = (a.as_client_ref(), b.as_client_ref());
            let (ka, kb) = (up.key(&ra), up.key(&rb));
            let (ascending, descending) = (up.compare(&ka, &kb), down.compare(&ka, &kb));
            let own_field = matches!(field, SortField::Clientid | SortField::Node);
            if !own_field && (ka.value == kb.value || ka.value.is_none() || kb.value.is_none()) {
                prop_assert_eq!(ascending, descending);
            } else if !own_field {
                prop_assert_eq!(ascending, descending.reverse());
            }
        }

        #[test]
        fn keys_survive_the_wire(order in order(), a in client()) {
            let view = a.as_client_ref();
            let key = order.key(&view);
            let wire = v1::Key::from(key);
            prop_assert_eq!(order.key_from_wire(&wire), Ok(key));
            prop_assert_eq!(Order::try_from(v1::Order::from(order)), Ok(order));
        }
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        use v1::key::Value;
        let key = |value| v1::Key { value, clientid: "c".into(), node: "n".into(), session: 1 };
        let by = |field| Order { field, descending: false };
        assert_eq!(
            by(SortField::Port).key_from_wire(&key(Some(Value::Text("x".into())))),
            Err(InvalidKey::WrongKind("port"))
        );
        assert_eq!(
            by(SortField::IpAddress).key_from_wire(&key(Some(Value::Address(vec![1])))),
            Err(InvalidKey::AddressLength(1))
        );
        assert_eq!(
            by(SortField::Connected).key_from_wire(&key(None)),
            Err(InvalidKey::WrongKind("connected"))
        );
        let nameless = v1::Key { node: String::new(), ..key(None) };
        assert_eq!(Order::default().key_from_wire(&nameless), Err(InvalidKey::NoNode));
        assert_eq!(
            Order::try_from(v1::Order { field: 99, descending: false }),
            Err(InvalidKey::UnknownField(99))
        );
    }

    #[test]
    fn names_and_fields_are_one_to_one() {
        for field in fields() {
            assert_eq!(SortField::from_name(field.name()), Some(field));
        }
        assert_eq!(SortField::from_name("session"), None);
    }

    #[test]
    fn addresses_sort_by_value_and_ipv4_comes_first() {
        let order = Order { field: SortField::IpAddress, descending: false };
        let mut rows: Vec<Client> = ["::2", "10.0.0.2", "9.255.0.1", "::1", "10.0.0.10"]
            .iter()
            .map(|text| Client {
                node: "n".into(),
                clientid: (*text).into(),
                ip_address: address::to_wire(text.parse().unwrap()),
                conn_state: ConnState::Connected.into(),
                ..Client::default()
            })
            .collect();
        rows.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
        let sorted: Vec<&str> = rows.iter().map(|row| row.clientid.as_str()).collect();
        assert_eq!(sorted, ["9.255.0.1", "10.0.0.2", "10.0.0.10", "::1", "::2"]);
    }
}
