//! What one idle client costs an agent: its resident memory with a table of clients, less that with an empty one.

use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

const NODE: &str = "a@127.0.0.1";

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) clients: usize,
    pub(crate) empty: u64,
    pub(crate) full: u64,
}

impl Memory {
    pub(crate) fn per_client(self) -> f64 {
        self.full.saturating_sub(self.empty) as f64 / self.clients as f64
    }
}

pub(crate) fn measure(clients: usize) -> Memory {
    let empty = resident(&[]);
    let rows: Vec<Value> = (0..clients).map(row).collect();
    Memory { clients, empty, full: resident(&rows) }
}

/// Of an agent with these clients, that has answered and come to rest.
fn resident(rows: &[Value]) -> u64 {
    let table = rows::table(rows);
    let cluster = Cluster::of(vec![Agent::file(NODE, table.path())]);
    assert_eq!(cluster.gateway.get("/clients?_limit=0").json()["meta"]["count"], rows.len());
    let mut last = Vec::new();
    eventually("rest of the agent's memory", || {
        last.push(cluster.agents[0].process.resident());
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
        "node": NODE,
        "clientid": format!("device-{index:08}"),
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
