//! The view of a client that filters and orders read.

use std::net::IpAddr;

use crate::address;
use crate::v1::{Client, ConnState, Statistics};

/// A client, borrowed from whatever stores it: a wire message here, an index's compact row there.
/// `None` means that the broker cannot tell. The fields are those of the wire message `Client`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRef<'a> {
    /// Name of the owning node.
    pub node: &'a str,
    /// MQTT client identifier.
    pub clientid: &'a str,
    /// Names the session among all its node's agent has seen.
    pub session: u64,
    /// User name of CONNECT, `None` if there was none.
    pub username: Option<&'a str>,
    /// Listener zone.
    pub zone: Option<&'a str>,
    /// Protocol name of CONNECT.
    pub proto_name: Option<&'a str>,
    /// Protocol level of CONNECT without the bridge bit.
    pub proto_ver: Option<u32>,
    /// Peer address, canonical: never IPv4-mapped IPv6.
    pub ip_address: Option<IpAddr>,
    /// Peer port.
    pub port: Option<u32>,
    /// Whether the client announced itself as a bridge.
    pub is_bridge: Option<bool>,
    /// Prefix before the client's topics.
    pub mountpoint: Option<&'a str>,
    /// Keep-alive interval, seconds.
    pub keepalive: Option<u32>,
    /// Clean Start, Clean Session.
    pub clean_start: Option<bool>,
    /// Session expiry, seconds.
    pub expiry_interval: Option<u32>,
    /// Whether the session has a connection now.
    pub conn_state: ConnState,
    /// Start of the present or last connection, milliseconds since 1970.
    pub connected_at_ms: Option<i64>,
    /// End of the last connection, milliseconds since 1970; `None` while connected.
    pub disconnected_at_ms: Option<i64>,
    /// Start of the session, milliseconds since 1970.
    pub created_at_ms: Option<i64>,
    /// Live figures, where they are at hand: indexes have none.
    pub statistics: Option<&'a Statistics>,
}

impl Client {
    /// The view of this message that filters and orders read. An unknown connection state reads as
    /// unspecified and an address of wrong length as absent.
    #[must_use]
    pub fn as_client_ref(&self) -> ClientRef<'_> {
        ClientRef {
            node: &self.node,
            clientid: &self.clientid,
            session: self.session,
            username: self.username.as_deref(),
            zone: self.zone.as_deref(),
            proto_name: self.proto_name.as_deref(),
            proto_ver: self.proto_ver,
            ip_address: address::from_wire(&self.ip_address),
            port: self.port,
            is_bridge: self.is_bridge,
            mountpoint: self.mountpoint.as_deref(),
            keepalive: self.keepalive,
            clean_start: self.clean_start,
            expiry_interval: self.expiry_interval,
            conn_state: self.conn_state(),
            connected_at_ms: self.connected_at_ms,
            disconnected_at_ms: self.disconnected_at_ms,
            created_at_ms: self.created_at_ms,
            statistics: self.statistics.as_ref(),
        }
    }
}

/// The wire message of a view.
impl From<ClientRef<'_>> for Client {
    fn from(view: ClientRef<'_>) -> Self {
        Self {
            node: view.node.to_owned(),
            clientid: view.clientid.to_owned(),
            session: view.session,
            username: view.username.map(str::to_owned),
            zone: view.zone.map(str::to_owned),
            proto_name: view.proto_name.map(str::to_owned),
            proto_ver: view.proto_ver,
            ip_address: view.ip_address.map(address::to_wire).unwrap_or_default(),
            port: view.port,
            is_bridge: view.is_bridge,
            mountpoint: view.mountpoint.map(str::to_owned),
            keepalive: view.keepalive,
            clean_start: view.clean_start,
            expiry_interval: view.expiry_interval,
            conn_state: view.conn_state.into(),
            connected_at_ms: view.connected_at_ms,
            disconnected_at_ms: view.disconnected_at_ms,
            created_at_ms: view.created_at_ms,
            statistics: view.statistics.copied(),
        }
    }
}
