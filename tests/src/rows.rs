//! Made-up clients, in the format of `--broker file`: few values a field, so that ties and empty answers are common,
//! and every value that is easily mistaken.

use std::collections::HashSet;
use std::io::Write as _;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// The environment variable that replays a run.
const SEED: &str = "ROLLCALL_TEST_SEED";

/// A random generator, and the seed to print where it matters.
#[must_use]
pub fn generator() -> (StdRng, u64) {
    let given = std::env::var_os(SEED).and_then(|text| text.to_str().and_then(|text| text.parse().ok()));
    let seed = given.unwrap_or_else(rand::random);
    println!("{SEED}={seed} replays this run");
    (StdRng::seed_from_u64(seed), seed)
}

/// 2021-03-18 03:00:00 UTC, milliseconds: where the clients' times lie.
pub const EPOCH_MS: i64 = 1_616_036_400_000;

/// Makes rows for these nodes: spread evenly, all but a few on one, or each node with its own range of ids.
///
/// # Panics
/// If there is no node.
#[must_use]
pub fn clients(random: &mut StdRng, nodes: &[String], count: usize) -> Vec<Value> {
    let shape = random.random_range(0..3);
    let mut taken = HashSet::new();
    let mut rows = Vec::with_capacity(count);
    while rows.len() < count {
        let at = match shape {
            1 if random.random_bool(0.97) => 0,
            _ => random.random_range(0..nodes.len()),
        };
        let prefix = if shape == 2 { format!("{at}-") } else { String::new() };
        let row = client(random, &nodes[at], &prefix, count);
        if taken.insert((at, row["clientid"].clone())) {
            rows.push(row);
        }
    }
    rows
}

fn client(random: &mut StdRng, node: &str, prefix: &str, count: usize) -> Value {
    let odd =
        ["é", "😀", "a/b", "per%cent", "plus+", "sp ace", "quote\"", "back\\slash", "Z", "\u{1}", "..", ""];
    // Twice as many ids as clients: some stand on several nodes.
    let mut clientid = format!("{prefix}dev-{:05}", random.random_range(0..count * 2));
    if random.random_bool(0.1) {
        clientid += odd.choose(random).copied().unwrap_or_default();
    }
    // Far longer than a cursor, and alike for long.
    if random.random_bool(0.05) {
        clientid = format!("{prefix}{}{clientid}", "long".repeat(300));
    }
    let state =
        *["connected", "connected", "connected", "disconnected", "idle"].choose(random).unwrap_or(&"idle");
    let connected_at = EPOCH_MS + random.random_range(-50..50) * 500;
    let usernames = ["alice", "bob", "al", "undefined", "Ünï", "user 1", "", "a+b"];
    let zones = ["external", "internal", "edge"];
    let addresses =
        ["10.0.0.1", "10.0.0.2", "9.255.0.1", "::1", "fe80::1", "::ffff:10.0.0.1", "2001:db8::ff"];
    json!({
        "node": node,
        "clientid": clientid,
        "username": maybe(random, 0.8, &usernames),
        "zone": maybe(random, 0.95, &zones),
        "proto_name": maybe(random, 0.95, &["MQTT", "MQIsdp", "CoAP"]),
        "proto_ver": maybe(random, 0.95, &[3, 4, 5]),
        "ip_address": maybe(random, 0.95, &addresses),
        "port": random.random_bool(0.95).then(|| random.random_range(1..65_536)),
        "is_bridge": maybe(random, 0.9, &[true, false]),
        "mountpoint": maybe(random, 0.3, &["m/", "n/"]),
        "keepalive": maybe(random, 0.95, &[0, 30, 60]),
        "clean_start": maybe(random, 0.95, &[true, false]),
        "expiry_interval": maybe(random, 0.95, &[0_u32, 7200, u32::MAX]),
        "conn_state": state,
        "connected_at_ms": random.random_bool(0.95).then_some(connected_at),
        "disconnected_at_ms":
            (state == "disconnected").then(|| connected_at + random.random_range(0..5000)),
        "created_at_ms": connected_at - random.random_range(0..3) * 1500,
        "subscriptions_cnt": random.random_range(0..3),
        "inflight": random.random_bool(0.9).then(|| random.random_range(0..30)),
        "send_msg": random.random_bool(0.05).then(|| random.random_range(0..1_000_000)),
        "mqueue_len": random.random_bool(0.5).then(|| random.random_range(0..10)),
        "recv_oct": random.random_bool(0.5).then(|| random.random_range(0..=u64::from(u32::MAX) * 2)),
    })
}

fn maybe<T: Copy>(random: &mut StdRng, probability: f64, values: &[T]) -> Option<T> {
    random.random_bool(probability).then(|| values.choose(random).copied()).flatten()
}

/// A file of these rows, one a line.
///
/// # Panics
/// If it cannot be written.
#[must_use]
pub fn table(rows: &[Value]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    file.write_all(text.as_bytes()).expect("space on disk");
    file
}
