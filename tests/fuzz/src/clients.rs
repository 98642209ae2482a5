//! Clients: one that has everything, some that have little, and orders by number.

use rollcall_proto::v1::{Client, ConnState, Statistics};
use rollcall_proto::{Order, SortField};

/// The node that the clients of [`some`] are on.
pub const NODE: &str = "a@127.0.0.1";

/// A client whose every identity field is set.
pub fn example() -> Client {
    Client {
        node: NODE.into(),
        clientid: "dev-0007".into(),
        session: 7,
        username: Some("alice".into()),
        zone: Some("edge".into()),
        proto_name: Some("MQTT".into()),
        proto_ver: Some(5),
        ip_address: vec![10, 0, 0, 7],
        port: Some(40_007),
        is_bridge: Some(false),
        mountpoint: Some("m/".into()),
        keepalive: Some(60),
        clean_start: Some(true),
        expiry_interval: Some(7200),
        conn_state: ConnState::Connected.into(),
        connected_at_ms: Some(1_700_000_000_000),
        disconnected_at_ms: None,
        created_at_ms: Some(1_700_000_000_000),
        statistics: None,
    }
}

/// Few values a field, so that filters match some and ties are common, and fields that are missing. Sessions are
/// 1 to 40; two clients have one id.
pub fn some() -> Vec<Client> {
    let text = |n: u64, of: u64, name: &str| (!n.is_multiple_of(of)).then(|| format!("{name}{}", n % of));
    let number = |n: u64, of: u64| u32::try_from(n % of).ok().filter(|number| *number > 0);
    let client = |n: u64| Client {
        node: String::new(),
        clientid: if n == 40 { "dev-0007".into() } else { format!("dev-{n:04}") },
        session: n,
        username: text(n, 4, "user"),
        zone: text(n, 3, "zone"),
        proto_name: text(n, 5, "MQTT"),
        proto_ver: number(n, 6),
        ip_address: match n % 3 {
            0 => Vec::new(),
            1 => vec![10, 0, 0, u8::try_from(n).unwrap_or_default()],
            _ => vec![0xfd; 16],
        },
        port: number(n, 11),
        is_bridge: Some(n.is_multiple_of(7)),
        mountpoint: text(n, 7, "mount"),
        keepalive: number(n, 4),
        clean_start: number(n, 3).map(|n| n == 1),
        expiry_interval: number(n, 2),
        conn_state: i32::try_from(1 + n % 3).unwrap_or_default(),
        connected_at_ms: i64::try_from(n % 8).ok().filter(|at| *at > 0),
        disconnected_at_ms: i64::try_from(n % 5).ok().filter(|at| *at > 0),
        created_at_ms: i64::try_from(n % 9).ok(),
        statistics: (!n.is_multiple_of(5)).then(|| Statistics {
            recv_oct: Some(n % 4),
            mqueue_len: n.is_multiple_of(2).then_some(n % 3),
            ..Statistics::default()
        }),
    };
    (1..=40).map(client).collect()
}

/// An order of this number: any field, either way round.
pub fn order(number: u8) -> Order {
    let fields: Vec<SortField> = SortField::IDENTITY.into_iter().chain(SortField::LIVE).collect();
    let at = usize::from(number) % (2 * fields.len());
    Order { field: fields[at / 2], descending: at % 2 == 1 }
}
