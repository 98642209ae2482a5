//! Bodies of bulk kicks.
//!
//! - What is read names somebody: client ids, each once and none empty, or a filter, never both; and is within its limits.
//! - Its filter is what a list's query string of the same values is read as.
//! - Written anew from what it was read as, it is read as the same. With a member more that means nothing, or with any
//!   member a second time, it is refused.
//! - A filter that has no condition is read only if it is confirmed or a dry run.
//! - A refusal says what was expected, or that the body is no JSON.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use rollcall_fuzz::mutate::{self, Form};
use rollcall_fuzz::parameters::{Written, seconds, state_name};
use rollcall_gateway::cluster::Scope;
use rollcall_gateway::fuzzing::{self, KICK_LIMITS, ReadKicks};
use rollcall_proto::address;
use rollcall_proto::v1::Filter;
use serde_json::{Value, json};

/// Values at which something changes.
const FORM: Form = Form {
    separator: ',',
    equals: ":",
    values: &[
        "0",
        "1",
        "-1",
        "500",
        "501",
        "10000",
        "10001",
        "946684799",
        "946684800",
        "1767225600",
        "1767225601",
        "18446744073709551616",
        "1.0",
        "\"\"",
        "\"a\"",
        "\"all\"",
        "\"5\"",
        "\"idle\"",
        "\"::ffff:10.0.0.7\"",
        "true",
        "null",
        "[]",
        "{}",
        "[\"a\",\"a\"]",
        "[\"connected\",\"idle\",\"disconnected\"]",
    ],
    accepted: &[
        include_str!("../corpus/kick_body/ids"),
        include_str!("../corpus/kick_body/everything"),
        include_str!("../corpus/kick_body/all"),
        include_str!("../corpus/kick_body/dry_run"),
    ],
};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, 0, |input, noise| mutate::text(input, FORM, noise))
});

fuzz_target!(|data: &[u8]| match fuzzing::kicks(data) {
    Ok(read) => check_read(data, &read),
    Err(message) => assert!(
        (message.starts_with("the body is no JSON: ") || message.contains("expected"))
            && !message.ends_with('.'),
        "{message}"
    ),
});

fn check_read(data: &[u8], read: &ReadKicks) {
    let ReadKicks { clientids, matching, scope, dry_run, most, rate } = read;
    assert_ne!(clientids.is_empty(), matching.is_none(), "{read:?}");
    assert_eq!(clientids.iter().collect::<HashSet<_>>().len(), clientids.len());
    assert!(clientids.iter().all(|id| !id.is_empty()));
    assert!((1..=KICK_LIMITS.most).contains(most) && (1..=KICK_LIMITS.most_rate).contains(rate), "{read:?}");
    if let Scope::Only(nodes) = scope {
        assert!(!nodes.is_empty() && nodes.iter().all(|node| !node.is_empty()), "{read:?}");
    }
    if let Some((filter, _)) = matching {
        let mut query = Written::default();
        query.filter(filter);
        let listed = fuzzing::list(query.text()).expect("a list takes the filter");
        assert_eq!(&listed.query.filter, filter, "{query:?}");
        // Without conditions somebody said so.
        if *filter == Filter::default() && !dry_run {
            let sent: Value = serde_json::from_slice(data).expect("what was read is JSON");
            assert_eq!(sent["confirm"], "all");
        }
    }
    let written = write(read);
    assert_eq!(fuzzing::kicks(written.to_string().as_bytes()).as_ref(), Ok(read), "{written}");
    let mut more = written.clone();
    more["kick_nobody"] = true.into();
    assert!(fuzzing::kicks(more.to_string().as_bytes()).is_err());
    let members = written.as_object().expect("it is written as an object");
    for (name, value) in members {
        let twice = format!("{{{}:{value},{}", json!(name), &written.to_string()[1..]);
        assert!(fuzzing::kicks(twice.as_bytes()).is_err(), "{twice}");
    }
}

/// A body that says the same, in other words where there are some.
fn write(read: &ReadKicks) -> Value {
    let mut body = json!({"max": read.most, "rate": read.rate, "dry_run": read.dry_run});
    if let Scope::Only(nodes) = &read.scope {
        body["nodes"] = json!(nodes);
    }
    match &read.matching {
        None => body["clientids"] = json!(read.clientids),
        Some((filter, partial)) => {
            body["filter"] = conditions(filter);
            body["partial"] = json!(partial);
            body["confirm"] = json!("all");
        }
    }
    body
}

fn conditions(filter: &Filter) -> Value {
    let addresses = filter.ip_address.iter().filter_map(|bytes| address::from_wire(bytes));
    let bound = |bound: Option<i64>| bound.map(seconds).into_iter().collect::<Vec<_>>();
    let mut all = json!({
        "clientid": filter.clientid,
        "username": filter.username,
        "zone": filter.zone,
        "proto_name": filter.proto_name,
        "proto_ver": filter.proto_ver,
        "ip_address": addresses.collect::<Vec<_>>(),
        "conn_state": filter.conn_state.iter().map(|state| state_name(*state)).collect::<Vec<_>>(),
        "clean_start": filter.clean_start,
        "_like_clientid": filter.like_clientid,
        "_like_username": filter.like_username,
        "_gte_created_at": bound(filter.gte_created_at_ms),
        "_lte_created_at": bound(filter.lte_created_at_ms),
        "_gte_connected_at": bound(filter.gte_connected_at_ms),
        "_lte_connected_at": bound(filter.lte_connected_at_ms),
    });
    if let Some(all) = all.as_object_mut() {
        all.retain(|_, value| *value != json!([]));
    }
    all
}
