//! Lists of clients that reconnect a hundred times a second: which rows they have is not known, but not any rows will do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rollcall_tests::model::identity;
use rollcall_tests::truth::{self, Wrong};
use rollcall_tests::wait::pause;

use crate::bed::{Bed, CHURNING, Check, SYNTHETIC};

/// Clients that may be between two sessions at once.
const MOVING: u64 = 50;

pub(crate) fn check(bed: &Bed, random: &mut StdRng, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let outcome = if random.random_bool(0.3) { count(bed) } else { page(bed, random) };
        match outcome {
            Ok(Some(check)) => bed.checked(check),
            Ok(None) => {}
            Err(wrong) => bed.asked.note_wrong(wrong),
        }
        pause(Duration::from_millis(20));
    }
}

fn name(bed: &Bed) -> String {
    rollcall_tests::http::encode(&bed.asked.truth.nodes[CHURNING])
}

fn is_all(count: Option<u64>) -> bool {
    count.is_some_and(|count| (SYNTHETIC - MOVING..=SYNTHETIC).contains(&count))
}

fn count(bed: &Bed) -> Result<Option<Check>, Wrong> {
    let target = format!("/client_counts?_group_by=zone&_node={}", name(bed));
    let response = bed.ask("GET", &target).map_err(|error| format!("{target}: {error}"))?;
    let body = truth::json(&response)?;
    if response.status != 200 {
        return refused(bed, response.status, &body);
    }
    let total = body["meta"]["count"].as_u64();
    let sum: u64 = truth::rows(&body)?.iter().filter_map(|group| group["count"].as_u64()).sum();
    if !is_all(total) || total != Some(sum) {
        return Err(format!("{target}: {body}"));
    }
    Ok(Some(Check::ChurningList))
}

fn page(bed: &Bed, random: &mut StdRng) -> Result<Option<Check>, Wrong> {
    let limit = [10, 100, 500][random.random_range(0..3)];
    let last = (SYNTHETIC - MOVING) / limit;
    let number = random.random_range(1..last);
    // By client id, which no reconnect changes.
    let target = format!("/nodes/{}/clients?_limit={limit}&_page={number}&_fields=clientid,node", name(bed));
    let response = bed.ask("GET", &target).map_err(|error| format!("{target}: {error}"))?;
    let body = truth::json(&response)?;
    if response.status != 200 {
        return refused(bed, response.status, &body);
    }
    let rows = truth::rows(&body)?;
    let is_sorted = rows.iter().map(identity).is_sorted_by(|a, b| a < b);
    if rows.len() as u64 != limit || !is_sorted || !is_all(body["meta"]["count"].as_u64()) {
        return Err(format!("{target}: {} rows, sorted: {is_sorted}, {}", rows.len(), body["meta"]));
    }
    Ok(Some(Check::ChurningPage))
}

fn refused(bed: &Bed, status: u16, body: &serde_json::Value) -> Result<Option<Check>, Wrong> {
    let scope = [bed.asked.truth.nodes[CHURNING].clone()];
    bed.asked.truth.refusal(status, body, &scope, true).map(|_| None)
}
