//! The made-up clients: row `n` of a node is a pure function of seed, node name and `n`.
//!
//! A client id holds its row's number, scrambled by a keyed permutation, so that nothing has to be remembered to
//! find the row of an id, and so that the ids of different nodes interleave in id order. It also holds a hash of the
//! node's name, which keeps the ids of different nodes apart.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use rollcall_proto::v1::{Client, ConnState, Statistics};

/// The moment the rows are a picture of: 2026-01-01T00:00:00Z, in milliseconds since 1970.
pub(super) const MOMENT_MS: i64 = 1_767_225_600_000;
/// How far before [`MOMENT_MS`] the oldest session began.
pub(super) const SPAN_MS: i64 = 30 * 24 * 3600 * 1000;

/// The figures a row has; those that need a connection are absent without one.
pub(super) const FIGURES: [&str; 17] = [
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
];

const KINDS: [&str; 10] =
    ["sensor", "meter", "pump", "valve", "tracker", "camera", "lamp", "gateway", "zähler", "センサー"];
const KIND_WEIGHTS: [u64; 10] = [30, 20, 10, 10, 10, 6, 6, 6, 1, 1];
const ZONES: [&str; 4] = ["external", "internal", "factory", "edge"];
const ZONE_WEIGHTS: [u64; 4] = [60, 25, 10, 5];
const KEEPALIVES: [u32; 5] = [60, 30, 120, 300, 0];
const EXPIRIES: [u32; 4] = [7_200, 86_400, 604_800, u32::MAX];
const UNICODE_NAMES: [&str; 4] = ["müller", "山田", "ольга", "مريم"];

/// Which draws belong to identity and which to figures.
const IDENTITY: u64 = 1;
const LIVE: u64 = 2;

/// A text that must be written next: what differs from it is an error. Live figures of a page are asked for by id, and
/// need no copy of each to compare with.
struct Expected<'a>(&'a str);

impl fmt::Write for Expected<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(text).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// The rows of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    count: u32,
    key: u64,
    /// Stands in every client id of the node.
    tag: u32,
}

impl Rows {
    pub(super) fn new(count: u32, seed: u64, node: &str) -> Self {
        let name = hash(node.as_bytes());
        let tag = u32::try_from(name >> 32).unwrap_or_default();
        Self { count, key: mix(name ^ mix(seed)), tag }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// A number of its own for every seed and node.
    pub(super) fn salt(&self) -> u64 {
        mix(self.key)
    }

    /// The number of a session before any reconnect; never 0, and below 2^32.
    pub(super) fn session(row: u32) -> u64 {
        u64::from(row) + 1
    }

    /// The row that has this id, if one has.
    pub(super) fn row_of(&self, clientid: &str) -> Option<u32> {
        let (rest, _tag) = clientid.rsplit_once('-')?;
        let (_kind, scrambled) = rest.rsplit_once('-')?;
        let row = self.unscramble(u32::from_str_radix(scrambled, 16).ok()?);
        (row < self.count && self.has_clientid(row, clientid)).then_some(row)
    }

    pub(super) fn clientid(&self, row: u32) -> String {
        let mut clientid = String::with_capacity(32);
        // Writing to memory cannot fail.
        let _ = self.write_clientid(row, &mut clientid);
        clientid
    }

    fn has_clientid(&self, row: u32, clientid: &str) -> bool {
        let mut expected = Expected(clientid);
        self.write_clientid(row, &mut expected).is_ok() && expected.0.is_empty()
    }

    fn write_clientid(&self, row: u32, to: &mut impl fmt::Write) -> fmt::Result {
        let kind = KINDS[Draws::new(self.key, row, 0).weighted(&KIND_WEIGHTS)];
        write!(to, "{kind}-{:08x}-{:08x}", self.scramble(row), self.tag)
    }

    /// Identity of a row; neither node nor statistics are set.
    pub(super) fn client(&self, row: u32) -> Client {
        let mut draws = Draws::new(self.key, row, IDENTITY);
        let conn_state = conn_state(&mut draws);
        let (proto_name, proto_ver) = match draws.weighted(&[50, 40, 10]) {
            0 => ("MQTT", 5),
            1 => ("MQTT", 4),
            _ => ("MQIsdp", 3),
        };
        // A session without a connection is one that outlives it.
        let lives_on = conn_state == ConnState::Disconnected || draws.one_in(3);
        let expiry = if lives_on { EXPIRIES[draws.weighted(&[70, 15, 10, 5])] } else { 0 };
        // MQTT 5 may begin anew and live on; earlier versions begin anew just when they do not live on.
        let clean_start = if proto_ver == 5 { !lives_on || draws.one_in(2) } else { !lives_on };
        let created = MOMENT_MS - SPAN_MS + draws.below_ms(SPAN_MS);
        let connected = if clean_start { created } else { created + draws.below_ms(MOMENT_MS - created) };
        let disconnected = (conn_state == ConnState::Disconnected)
            .then(|| connected + draws.below_ms(MOMENT_MS - connected));
        Client {
            clientid: self.clientid(row),
            session: Self::session(row),
            username: username(&mut draws),
            zone: Some(ZONES[draws.weighted(&ZONE_WEIGHTS)].to_owned()),
            proto_name: Some(proto_name.to_owned()),
            proto_ver: Some(proto_ver),
            ip_address: address(&mut draws),
            port: Some(1024 + draws.below(64_512)),
            is_bridge: Some(draws.one_in(100)),
            mountpoint: draws.one_in(20).then(|| format!("tenant-{}/", draws.below(20))),
            keepalive: Some(KEEPALIVES[draws.weighted(&[60, 15, 10, 10, 5])]),
            clean_start: Some(clean_start),
            expiry_interval: Some(expiry),
            conn_state: conn_state.into(),
            connected_at_ms: Some(connected),
            disconnected_at_ms: disconnected,
            created_at_ms: Some(created),
            ..Client::default()
        }
    }

    /// Live figures of a row, the same at every call until it has reconnected.
    pub(super) fn statistics(&self, row: u32, has_reconnected: bool) -> Statistics {
        let was = conn_state(&mut Draws::new(self.key, row, IDENTITY));
        let has_connection = has_reconnected || was != ConnState::Disconnected;
        let mut draws = Draws::new(self.key, row, LIVE);
        let mut figure = |bound: u32| Some(u64::from(draws.below(bound)));
        let (received, sent) = (figure(10_000), figure(10_000));
        let (acknowledged, subscriptions) = (figure(1_000), figure(8));
        let (inflight, awaiting, queued, dropped) = (figure(5), figure(2), figure(100), figure(10));
        let plus = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        let (recv_pkt, send_pkt) = (plus(received, acknowledged), plus(sent, acknowledged));
        let online = |figure: Option<u64>| figure.filter(|_| has_connection);
        let bytes = |packets: Option<u64>| packets.map(|packets| packets * 64);
        Statistics {
            subscriptions_cnt: subscriptions,
            max_subscriptions: Some(0),
            inflight,
            max_inflight: Some(32),
            mqueue_len: if has_connection { Some(0) } else { queued },
            max_mqueue: Some(1_000),
            mqueue_dropped: dropped,
            awaiting_rel: awaiting,
            max_awaiting_rel: Some(100),
            recv_oct: online(bytes(recv_pkt)),
            recv_cnt: online(recv_pkt),
            recv_pkt: online(recv_pkt),
            recv_msg: received,
            send_oct: online(bytes(send_pkt)),
            send_cnt: online(send_pkt),
            send_pkt: online(send_pkt),
            send_msg: sent,
            ..Statistics::default()
        }
    }

    /// A permutation of all row numbers: a Feistel network with the node's key.
    fn scramble(&self, row: u32) -> u32 {
        let (mut left, mut right) = halves(row);
        for round in 0..4 {
            (left, right) = (right, left ^ self.round(round, right));
        }
        (u32::from(left) << 16) | u32::from(right)
    }

    fn unscramble(&self, scrambled: u32) -> u32 {
        let (mut left, mut right) = halves(scrambled);
        for round in (0..4).rev() {
            (left, right) = (right ^ self.round(round, left), left);
        }
        (u32::from(left) << 16) | u32::from(right)
    }

    fn round(&self, round: u64, half: u16) -> u16 {
        low_half(mix(self.key ^ (round << 16) ^ u64::from(half)))
    }
}

/// Drawn first, so that figures can find it again without the rest of the row.
fn conn_state(draws: &mut Draws) -> ConnState {
    match draws.weighted(&[88, 10, 2]) {
        0 => ConnState::Connected,
        1 => ConnState::Disconnected,
        _ => ConnState::Idle,
    }
}

/// None for one in seven; half of the others share 50 names, the rest 5,000.
fn username(draws: &mut Draws) -> Option<String> {
    if draws.one_in(7) {
        return None;
    }
    let number = if draws.one_in(2) { draws.below(50) } else { draws.below(5_000) };
    if draws.one_in(50) {
        let name = UNICODE_NAMES[draws.weighted(&[1, 1, 1, 1])];
        return Some(format!("{name} {number}"));
    }
    Some(format!("user-{number:04}"))
}

/// One in eight by IPv6; few enough addresses that several clients share one in a large table.
fn address(draws: &mut Draws) -> Vec<u8> {
    if draws.one_in(8) {
        let (net, host) = (low_half(u64::from(draws.below(16))), low_half(u64::from(draws.below(4_096))));
        return Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host + 1).octets().to_vec();
    }
    let network = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    Ipv4Addr::from(network + 1 + draws.below(50_000)).octets().to_vec()
}

/// Random draws of one row, the same for the same key, row and purpose.
struct Draws(u64);

impl Draws {
    fn new(key: u64, row: u32, purpose: u64) -> Self {
        Self(mix(key ^ mix((purpose << 32) | u64::from(row))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// From 0 up to, but not including, the bound; 0 for a bound of 0.
    fn below(&mut self, bound: u32) -> u32 {
        // The high half of a 64-bit product: below the bound, so it fits.
        u32::try_from(((self.next() >> 32) * u64::from(bound)) >> 32).unwrap_or_default()
    }

    /// As [`Self::below`], for a duration up to 2^32 ms (49 days).
    fn below_ms(&mut self, bound: i64) -> i64 {
        self.below(u32::try_from(bound).unwrap_or_default()).into()
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.below(chances) == 0
    }

    /// An index, as often as its weight says.
    fn weighted(&mut self, weights: &[u64]) -> usize {
        let mut left = self.next() % weights.iter().sum::<u64>();
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        0
    }
}

/// The output function of SplitMix64: every bit of the input changes about half of the bits.
pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// FNV-1a: the standard library's hashes may change from one version to the next.
fn hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, fold))
}

fn halves(value: u32) -> (u16, u16) {
    (low_half(u64::from(value >> 16)), low_half(u64::from(value)))
}

fn low_half(value: u64) -> u16 {
    u16::try_from(value & 0xFFFF).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use rollcall_proto::address;

    use super::*;

    fn all(rows: Rows) -> Vec<Client> {
        (0..rows.count()).map(|row| rows.client(row)).collect()
    }

    #[test]
    fn rows_are_the_same_at_every_start_and_others_for_another_seed_or_node() {
        let rows = all(Rows::new(500, 7, "a@127.0.0.1"));
        assert_eq!(rows, all(Rows::new(500, 7, "a@127.0.0.1")));
        assert_eq!(rows[..100], all(Rows::new(100, 7, "a@127.0.0.1")), "a smaller table is the beginning");
        for other in [Rows::new(500, 8, "a@127.0.0.1"), Rows::new(500, 7, "b@127.0.0.1")] {
            assert!(all(other).iter().zip(&rows).all(|(a, b)| a.clientid != b.clientid));
        }
    }

    /// Written down, so that a change of the generator is noticed: tables made by it stand in benchmarks.
    #[test]
    fn the_first_row_is_what_it_always_was() {
        let row = Rows::new(1, 1, "a@127.0.0.1").client(0);
        let short = (row.clientid.as_str(), row.username.as_deref(), row.created_at_ms());
        assert_eq!(short, ("meter-6e695f46-5eb090ef", Some("user-0855"), 1_766_560_021_675));
    }

    #[test]
    fn ids_of_nodes_are_apart_and_interleave() {
        let mut ids = Vec::new();
        for node in ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"] {
            let rows = Rows::new(2_000, 1, node);
            ids.extend((0..2_000).map(|row| (rows.clientid(row), node)));
        }
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0].0 != pair[1].0));
        let changes = ids.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
        // Two thirds where the order is random.
        assert!((3_600..4_400).contains(&changes), "{changes} changes of node in 6,000 ids");
    }

    #[test]
    fn rows_spread_over_everything_that_can_be_filtered() {
        let rows = all(Rows::new(5_000, 3, "a@127.0.0.1"));
        let share =
            |holds: &dyn Fn(&Client) -> bool| rows.iter().filter(|row| holds(row)).count() * 100 / rows.len();
        let between = |what: &str, range: std::ops::Range<usize>, holds: &dyn Fn(&Client) -> bool| {
            let share = share(holds);
            assert!(range.contains(&share), "{what}: {share} %, expected {range:?}");
        };
        between("connected", 80..95, &|row| row.conn_state() == ConnState::Connected);
        between("disconnected", 5..15, &|row| row.conn_state() == ConnState::Disconnected);
        between("idle", 1..5, &|row| row.conn_state() == ConnState::Idle);
        between("no user name", 10..20, &|row| row.username.is_none());
        between("clean start", 30..90, &|row| row.clean_start == Some(true));
        between("lives on", 20..60, &|row| row.expiry_interval > Some(0));
        between("MQTT 5", 40..60, &|row| row.proto_ver == Some(5));
        between("MQTT 3.1.1", 30..50, &|row| row.proto_ver == Some(4));
        between("MQTT 3.1", 5..15, &|row| row.proto_name.as_deref() == Some("MQIsdp"));
        between("IPv6", 8..18, &|row| row.ip_address.len() == 16);
        between("mountpoint", 2..10, &|row| row.mountpoint.is_some());
        for zone in ZONES {
            between(zone, 3..70, &|row| row.zone.as_deref() == Some(zone));
        }
        assert!(rows.iter().any(|row| row.is_bridge == Some(true)));
        assert!(rows.iter().any(|row| !row.clientid.is_ascii()));
        let users: HashSet<_> = rows.iter().filter_map(|row| row.username.as_deref()).collect();
        assert!(
            users.len() > 1_000 && users.iter().any(|user| !user.is_ascii()),
            "{} user names",
            users.len()
        );
        for day in 0..30 {
            let start = MOMENT_MS - SPAN_MS + day * 86_400_000;
            assert!(
                rows.iter().any(|row| (start..start + 86_400_000).contains(&row.created_at_ms())),
                "day {day}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_row_is_found_by_its_id_and_makes_sense(
            count in 1..u32::MAX, at in 0.0..1.0, seed: u64, node in "\\PC{0,20}",
        ) {
            let rows = Rows::new(count, seed, &node);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "any row will do")]
            let row = ((f64::from(count) * at) as u32).min(count - 1);
            let client = rows.client(row);
            prop_assert_eq!(rows.row_of(&client.clientid), Some(row));
            prop_assert_eq!(Rows::new(row, seed, &node).row_of(&client.clientid), None);
            prop_assert_eq!(rows.row_of(&client.clientid.to_uppercase()), None);
            prop_assert!(address::from_wire(&client.ip_address).is_some());
            prop_assert!((1024..=65_535).contains(&client.port()));
            let (created, connected) = (client.created_at_ms(), client.connected_at_ms());
            prop_assert!(MOMENT_MS - SPAN_MS <= created && created <= connected && connected <= MOMENT_MS);
            let offline = client.conn_state() == ConnState::Disconnected;
            prop_assert_eq!(client.disconnected_at_ms.is_some(), offline);
            prop_assert!(client.disconnected_at_ms.is_none_or(|at| (connected..=MOMENT_MS).contains(&at)));
            prop_assert!(!offline || client.expiry_interval() > 0);
            let figures = rows.statistics(row, false);
            prop_assert_eq!(figures, rows.statistics(row, false));
            prop_assert_eq!(figures.recv_oct.is_none(), offline);
            prop_assert!(rows.statistics(row, true).recv_oct.is_some());
            prop_assert!(figures.recv_msg.is_some() && figures.reductions.is_none());
        }

        #[test]
        fn no_other_text_is_a_row(text in "\\PC{0,30}") {
            prop_assert_eq!(Rows::new(u32::MAX, 1, "a").row_of(&text), None);
        }
    }
}
