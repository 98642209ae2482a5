//! Query strings of a list, an export and a count.
//!
//! - What parses, parses to the same with every byte percent-encoded, with empty parts, and written anew from what it
//!   was read as.
//! - A page has at most 10,000 rows, begins at 1, and a scope that names nodes names one at least.
//! - What is read as a number is one.
//! - An unknown parameter is refused wherever it stands.
//! - A refusal names a parameter that came, and one that is wrong by itself is refused alone in the same words.
//! - A cursor of a list is read in that list and in no other; a list by a live figure has none, and no page behind the
//!   first 10,000 clients.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use rollcall_fuzz::clients;
use rollcall_fuzz::mutate::{self, Form};
use rollcall_fuzz::parameters::{Written, decode, encode, name_and_value, parts};
use rollcall_gateway::cluster::{CountQuery, ExportQuery, ListQuery, Scope, Start};
use rollcall_gateway::fuzzing::{self, Read, Refused};
use rollcall_gateway::page::cursor::Position;
use rollcall_proto::{MAX_LIMIT, MAX_RANKED, Order};

/// More parameters are refused, so that nothing can be added to as many.
const MOST_PARAMETERS: usize = 256;

/// Values at which something changes, beside those in the corpus.
const FORM: Form = Form {
    separator: '&',
    equals: "=",
    values: &[
        "-99999999999999999999",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551616",
        "-1",
        "0",
        "1",
        "%2B7",
        "%2B%2B7",
        "1000",
        "1001",
        "10000",
        "10001",
        "::ffff:10.0.0.7",
        "connected",
        "true",
        "desc",
        "node",
        "node,recv_oct",
        "recv_oct",
        "%00",
        "%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC%C3%BC",
        "%C3",
        "%",
        "",
    ],
    accepted: &[
        include_str!("../corpus/query/everything"),
        include_str!("../corpus/query/page"),
        include_str!("../corpus/query/export"),
        include_str!("../corpus/query/count"),
    ],
};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, 0, |input, noise| mutate::text(input, FORM, noise))
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(read) = check(text, fuzzing::list) {
        check_list(text, &read);
    }
    if let Some(read) = check(text, fuzzing::export) {
        let ExportQuery { filter, order, scope, .. } = &read.query;
        let mut written = written(filter, scope, &read);
        written.order(*order);
        written.add("_format", read.format);
        same(written.text(), fuzzing::export, &read);
    }
    if let Some(read) = check(text, fuzzing::count) {
        let CountQuery { filter, group_by, top, scope } = &read.query;
        assert!((1..=1000).contains(top), "{top} groups");
        let mut written = written(filter, scope, &read);
        if let Some(group_by) = group_by {
            written.add("_group_by", group_by.name());
            written.add("_top", top);
        }
        same(written.text(), fuzzing::count, &read);
    }
});

/// What holds for every operation. Gives what was read, if the text is not refused.
fn check<Q: Debug + PartialEq>(
    text: &str,
    read: impl Fn(&str) -> Result<Read<Q>, Refused>,
) -> Option<Read<Q>> {
    match read(text) {
        Ok(accepted) => {
            check_accepted(text, &read, &accepted);
            Some(accepted)
        }
        Err(refused) => {
            check_refused(text, &read, &refused);
            None
        }
    }
}

fn check_accepted<Q: Debug + PartialEq>(
    text: &str,
    read: &impl Fn(&str) -> Result<Read<Q>, Refused>,
    accepted: &Read<Q>,
) {
    let given = parts(text);
    assert!(given.len() <= MOST_PARAMETERS);
    assert!(given.iter().all(|part| !is_for_a_number(part) || has_a_number(part)), "{text}");
    let encoded = given.iter().map(|part| {
        let (name, value) = name_and_value(part);
        let encoded = |raw| encode(&decode(raw).expect("what was accepted can be decoded"));
        format!("{}={}", encoded(name), encoded(value))
    });
    same(&encoded.collect::<Vec<_>>().join("&"), read, accepted);
    same(&format!("&{}&&", given.join("&&")), read, accepted);
    if given.len() == MOST_PARAMETERS {
        return;
    }
    let before_and_behind = [format!("nonsense=1&{text}"), format!("{text}&nonsense")];
    for with_unknown in before_and_behind {
        let refused = read(&with_unknown).expect_err("an unknown parameter is refused");
        assert_eq!(refused.parameter.as_deref(), Some("nonsense"), "{with_unknown}");
        let names =
            refused.message.rsplit_once("expected one of ").expect("the message says what there is").1;
        let is_known = |part: &&str| {
            let name = decode(name_and_value(part).0);
            names.split(", ").any(|known| name.as_deref() == Some(known))
        };
        assert!(given.iter().all(is_known), "{text}: accepted, but {}", refused.message);
    }
    if let Some(part) = given.first() {
        // A parameter by another name is another parameter.
        let upper = decode(name_and_value(part).0).unwrap_or_default().to_ascii_uppercase();
        let refused = read(&encode(&upper)).expect_err("names are spelled in lower case");
        assert_eq!(refused.parameter, Some(upper));
    }
}

fn is_for_a_number(part: &str) -> bool {
    let name = decode(name_and_value(part).0).unwrap_or_default();
    name.ends_with("ed_at") || ["proto_ver", "_page", "_limit", "_top"].contains(&name.as_str())
}

/// A sign or none, and digits.
fn has_a_number(part: &str) -> bool {
    let value = decode(name_and_value(part).1).unwrap_or_default();
    let digits = value.strip_prefix(['+', '-']).unwrap_or(&value);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn check_refused<Q: Debug + PartialEq>(
    text: &str,
    read: &impl Fn(&str) -> Result<Read<Q>, Refused>,
    refused: &Refused,
) {
    let message = &refused.message;
    assert!(!message.is_empty() && !message.ends_with('.'), "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < 4096, "a message of {} bytes", message.len());
    let given = parts(text);
    let Some(parameter) = &refused.parameter else {
        assert!(given.len() > MOST_PARAMETERS, "{message}");
        return;
    };
    let is_named = |part: &&str| {
        let name = name_and_value(part).0;
        name == parameter || decode(name).as_ref() == Some(parameter)
    };
    let at_fault: Vec<&str> = given.iter().copied().filter(is_named).collect();
    assert!(!at_fault.is_empty(), "{message}: no parameter {parameter:?} was given");
    let start: String = parameter.chars().take(100).collect();
    assert!(
        message.contains(format!("{start:?}").trim_matches('"')),
        "{message}: {parameter:?} is not named"
    );
    if refused.by_itself {
        assert!(
            at_fault.iter().any(|part| read(part).as_ref() == Err(refused)),
            "{message}: no parameter of that name is refused alone"
        );
    }
}

fn check_list(text: &str, read: &Read<ListQuery>) {
    let ListQuery { filter, order, start, limit, scope } = &read.query;
    assert!(*limit <= MAX_LIMIT, "{limit} rows");
    assert!(!read.fields.is_empty());
    let mut written = written(filter, scope, read);
    written.order(*order);
    written.add("_limit", limit);
    match start {
        Start::Page(page) => {
            assert!(*page >= 1);
            let end = page.saturating_mul((*limit).into());
            assert!(!order.field.is_live() || end <= MAX_RANKED.into(), "ranks up to {end}");
            check_cursor(text, read);
            written.add("_page", page);
        }
        Start::Cursor(Position::After(key)) => {
            let cursor = fuzzing::cursor_behind(&read.query, key).expect("a list that goes on can be walked");
            written.add("_cursor", cursor);
        }
        // What stands in a cursor of a long key is for the gateway to choose.
        Start::Cursor(Position::Hashed(_)) => return,
    }
    same(written.text(), fuzzing::list, read);
}

/// A cursor of the list that begins at a page is read as it was made, and in no list of another order.
fn check_cursor(text: &str, read: &Read<ListQuery>) {
    let given = parts(text);
    let is_place =
        |part: &&str| matches!(decode(name_and_value(part).0).as_deref(), Some("_page" | "_cursor"));
    if given.len() + 2 > MOST_PARAMETERS || given.iter().any(is_place) {
        return;
    }
    let order = read.query.order;
    let key = order.key(&clients::example().as_client_ref()).into();
    let Some(cursor) = fuzzing::cursor_behind(&read.query, &key) else {
        assert!(order.field.is_live());
        let refused = fuzzing::list(&format!("{text}&_cursor=")).expect_err("no walk by a live figure");
        assert_eq!(refused.parameter.as_deref(), Some("_cursor"));
        return;
    };
    let behind = fuzzing::list(&format!("{text}&_cursor={cursor}")).expect("a cursor of this list is read");
    assert_eq!(behind.query, ListQuery { start: Start::Cursor(Position::After(key)), ..read.query.clone() });
    let other = Order { descending: !order.descending, ..order };
    let is_order = |part: &&str| decode(name_and_value(part).0).as_deref() == Some("_order");
    let mut elsewhere = given.iter().copied().filter(|part| !is_order(part)).collect::<Vec<_>>().join("&");
    elsewhere += if other.descending { "&_order=desc" } else { "&_order=asc" };
    let refused =
        fuzzing::list(&format!("{elsewhere}&_cursor={cursor}")).expect_err("a cursor of another list");
    assert_eq!(refused.parameter.as_deref(), Some("_cursor"));
}

/// What every operation takes, written anew.
fn written<Q>(filter: &rollcall_proto::v1::Filter, scope: &Scope, read: &Read<Q>) -> Written {
    let mut written = Written::default();
    written.filter(filter);
    if let Scope::Only(nodes) = scope {
        assert!(!nodes.is_empty() && nodes.iter().all(|node| !node.is_empty()), "{nodes:?}");
        written.each("_node", nodes);
    }
    written.each("_partial", read.partial);
    if !read.fields.is_empty() {
        written.add("_fields", read.fields.join(","));
    }
    written
}

/// Another way to say it is read as the same, unless it takes too many parameters.
fn same<Q: Debug + PartialEq>(
    text: &str,
    read: impl Fn(&str) -> Result<Read<Q>, Refused>,
    expected: &Read<Q>,
) {
    if parts(text).len() <= MOST_PARAMETERS {
        assert_eq!(read(text).as_ref(), Ok(expected), "{text}");
    }
}
