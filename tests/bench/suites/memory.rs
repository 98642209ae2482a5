//! What one idle client costs an agent: its resident memory with clients, less that without any.

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::bench::table::{Table, number};
use rollcall_tests::rows;
use rollcall_tests::sandbox::Agent;
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use super::Bench;
use crate::bed::{self, NODES};
use crate::report::{Section, mebibytes, rounded};

/// Rows of the file: more would take longer to write than to measure.
const FILE_ROWS: usize = 100_000;

pub(crate) fn measure(bench: &Bench) -> Section {
    let mut table = Table::new(&["", "clients", "MiB", "MiB of none", "bytes/client"]);
    let (mut json, mut goals) = (Vec::new(), Vec::new());
    let clients = bench.options.clients;
    let rows = clients.min(FILE_ROWS);
    for (label, clients, empty, full, has_goal) in [
        ("file, 20-byte ids", rows, of_file(0), of_file(rows), true),
        ("synthetic, 24-byte ids", clients, of_synthetic(0), of_synthetic(clients), false),
    ] {
        let each = full.saturating_sub(empty) as f64 / clients as f64;
        if has_goal {
            goals.push((Figure::BytesPerClient, each));
        }
        let mib = |bytes| number(mebibytes(bytes));
        table.add([label.to_owned(), clients.to_string(), mib(full), mib(empty), number(each)]);
        json.push(json!({
            "case": label,
            "clients": clients,
            "resident_bytes": full,
            "resident_bytes_empty": empty,
            "bytes_per_client": rounded(each),
        }));
    }
    Section { notes: Vec::new(), table, json, goals }
        .note("the broker's own table included, which a synthetic broker has none of, and what the start has left over")
}

fn of_file(clients: usize) -> u64 {
    let rows: Vec<Value> = (0..clients).map(row).collect();
    let table = rows::table(&rows);
    at_rest(&Agent::file(NODES[0], table.path()), clients)
}

fn of_synthetic(clients: usize) -> u64 {
    at_rest(&bed::synthetic(NODES[0], clients, 0), clients)
}

/// Resident memory of an agent that has answered and come to rest.
fn at_rest(agent: &Agent, clients: usize) -> u64 {
    let (_gateway, _) = bed::gateway(&[agent.process.address], clients as u64, vec![agent.process.pid()]);
    let mut last = Vec::new();
    eventually("rest of the agent's memory", || {
        last.push(agent.process.resident());
        let end = &last[last.len().saturating_sub(10)..];
        if end.len() == 10 && end.iter().all(|bytes| *bytes == end[0]) {
            Ok(end[0])
        } else {
            Err(format!("{end:?}"))
        }
    })
}

/// An ordinary device.
fn row(index: usize) -> Value {
    let connected_at = 1_616_033_757_000_i64 + i64::try_from(index).unwrap_or_default() * 137;
    json!({
        "node": NODES[0],
        "clientid": format!("device-{index:013}"),
        "username": format!("tenant-{}", index % 1000),
        "zone": "external",
        "proto_name": "MQTT",
        "proto_ver": 4 + index % 2,
        "ip_address": format!("10.{}.{}.{}", index >> 16 & 255, index >> 8 & 255, index & 255),
        "port": 1024 + index % 60_000,
        "is_bridge": false,
        "keepalive": 60,
        "clean_start": true,
        "expiry_interval": 0,
        "conn_state": "connected",
        "connected_at_ms": connected_at,
        "created_at_ms": connected_at,
    })
}
