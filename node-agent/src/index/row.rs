//! One client as the index stores it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use compact_str::CompactString;
use rollcall_proto::v1::{Client, ConnState};
use rollcall_proto::{ClientRef, address};

/// A client's identity. Ids and user names of up to 24 bytes lie in the row itself; what many clients have in
/// common is shared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) clientid: CompactString,
    pub(super) username: Option<CompactString>,
    pub(super) session: u64,
    origin: Arc<Origin>,
    connected_at_ms: Option<i64>,
    disconnected_at_ms: Option<i64>,
    created_at_ms: Option<i64>,
    ip_address: Option<IpAddr>,
    port: Option<u32>,
    keepalive: Option<u32>,
    expiry_interval: Option<u32>,
    is_bridge: Option<bool>,
    clean_start: Option<bool>,
    conn_state: ConnState,
}

/// What clients that came in by one way share.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Origin {
    zone: Option<Box<str>>,
    proto_name: Option<Box<str>>,
    proto_ver: Option<u32>,
    mountpoint: Option<Box<str>>,
}

impl Row {
    pub(super) fn new(client: Client, origins: &mut Origins) -> Self {
        let conn_state = client.conn_state();
        let origin = origins.share(Origin {
            zone: client.zone.map(String::into_boxed_str),
            proto_name: client.proto_name.map(String::into_boxed_str),
            proto_ver: client.proto_ver,
            mountpoint: client.mountpoint.map(String::into_boxed_str),
        });
        Self {
            clientid: CompactString::from(client.clientid),
            username: client.username.map(CompactString::from),
            session: client.session,
            origin,
            connected_at_ms: client.connected_at_ms,
            disconnected_at_ms: client.disconnected_at_ms,
            created_at_ms: client.created_at_ms,
            ip_address: address::from_wire(&client.ip_address),
            port: client.port,
            keepalive: client.keepalive,
            expiry_interval: client.expiry_interval,
            is_bridge: client.is_bridge,
            clean_start: client.clean_start,
            conn_state,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.conn_state == ConnState::Connected
    }

    /// The view that filters and orders read.
    pub(super) fn as_client_ref<'a>(&'a self, node: &'a str) -> ClientRef<'a> {
        ClientRef {
            node,
            clientid: &self.clientid,
            session: self.session,
            username: self.username.as_deref(),
            zone: self.origin.zone.as_deref(),
            proto_name: self.origin.proto_name.as_deref(),
            proto_ver: self.origin.proto_ver,
            ip_address: self.ip_address,
            port: self.port,
            is_bridge: self.is_bridge,
            mountpoint: self.origin.mountpoint.as_deref(),
            keepalive: self.keepalive,
            clean_start: self.clean_start,
            expiry_interval: self.expiry_interval,
            conn_state: self.conn_state,
            connected_at_ms: self.connected_at_ms,
            disconnected_at_ms: self.disconnected_at_ms,
            created_at_ms: self.created_at_ms,
            statistics: None,
        }
    }

    /// The wire message, without node and statistics.
    pub(super) fn to_client(&self) -> Client {
        Client {
            node: String::new(),
            clientid: self.clientid.as_str().to_owned(),
            session: self.session,
            username: self.username.as_deref().map(str::to_owned),
            zone: self.origin.zone.as_deref().map(str::to_owned),
            proto_name: self.origin.proto_name.as_deref().map(str::to_owned),
            proto_ver: self.origin.proto_ver,
            ip_address: self.ip_address.map(address::to_wire).unwrap_or_default(),
            port: self.port,
            is_bridge: self.is_bridge,
            mountpoint: self.origin.mountpoint.as_deref().map(str::to_owned),
            keepalive: self.keepalive,
            clean_start: self.clean_start,
            expiry_interval: self.expiry_interval,
            conn_state: self.conn_state.into(),
            connected_at_ms: self.connected_at_ms,
            disconnected_at_ms: self.disconnected_at_ms,
            created_at_ms: self.created_at_ms,
            statistics: None,
        }
    }
}

/// The origins in use. Those that no row has any more are dropped whenever the table has doubled.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: HashSet<Arc<Origin>>,
    sweep_at: usize,
}

impl Origins {
    fn share(&mut self, origin: Origin) -> Arc<Origin> {
        if let Some(known) = self.known.get(&origin) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|origin| Arc::strong_count(origin) > 1);
            self.sweep_at = (self.known.len() * 2).max(64);
        }
        let origin = Arc::new(origin);
        self.known.insert(Arc::clone(&origin));
        origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_the_client_it_was_made_of() {
        let client = Client {
            clientid: "a-client-id-longer-than-twenty-four-bytes".into(),
            session: 7,
            username: Some("ünïcode".into()),
            zone: Some("external".into()),
            proto_name: Some("MQTT".into()),
            proto_ver: Some(5),
            ip_address: vec![10, 0, 0, 1],
            port: Some(1883),
            is_bridge: Some(false),
            mountpoint: Some("tenant/".into()),
            keepalive: Some(60),
            clean_start: Some(true),
            expiry_interval: Some(u32::MAX),
            conn_state: ConnState::Idle.into(),
            connected_at_ms: Some(-1),
            disconnected_at_ms: None,
            created_at_ms: Some(i64::MAX),
            ..Client::default()
        };
        let row = Row::new(client.clone(), &mut Origins::default());
        assert_eq!(row.to_client(), client);
        assert_eq!(row.as_client_ref(""), client.as_client_ref());
        let bare = Client { clientid: "x".into(), ..Client::default() };
        assert_eq!(Row::new(bare.clone(), &mut Origins::default()).to_client(), bare);
    }

    #[test]
    fn origins_are_shared_and_those_out_of_use_do_not_pile_up() {
        let mut origins = Origins::default();
        let row = |zone: String, origins: &mut Origins| {
            Row::new(Client { zone: Some(zone), ..Client::default() }, origins)
        };
        let (a, b) = (row("z".into(), &mut origins), row("z".into(), &mut origins));
        assert!(Arc::ptr_eq(&a.origin, &b.origin));
        for number in 0..10_000 {
            drop(row(number.to_string(), &mut origins));
        }
        assert!(origins.known.len() <= 65, "{} kept", origins.known.len());
        assert!(Arc::ptr_eq(&a.origin, &row("z".into(), &mut origins).origin));
    }
}
