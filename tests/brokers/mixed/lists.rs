//! What lists, pages, counts and exports of the cluster must be.

use std::collections::{BTreeMap, BTreeSet};

use rollcall_tests::http::encode;
use rollcall_tests::model::{FIGURES, Query, SORT_FIELDS, identity};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use super::{Mixed, PREFIX, places};

/// Leaves out of rows what is not looked at, so that no broker is asked for it.
const PLACES: &str = "&_fields=node,clientid";

/// Fields that the API tells by the second and nodes sort by the millisecond.
const TIMES: [&str; 3] = ["connected_at", "disconnected_at", "created_at"];

pub(super) fn every_row_says_who_connected_where_and_how(mixed: &mut Mixed) {
    let rows = mixed.rows("");
    assert_eq!(rows.len(), mixed.known.len());
    for row in &rows {
        let known = &mixed.known[row["clientid"].as_str().unwrap()];
        let connect = &known.connect;
        // RabbitMQ takes what stands before the colon for the virtual host.
        let username =
            connect.username.as_deref().map_or("undefined", |name| name.rsplit(':').next().unwrap());
        let told = |field: &str, value: Value| match mixed.tells(row, &format!("identity:{field}")) {
            true => value,
            false => Value::Null,
        };
        for (key, expected) in [
            ("node", json!(known.node)),
            ("username", json!(username)),
            ("zone", told("zone", json!(known.zone))),
            ("proto_ver", json!(connect.level)),
            ("proto_name", json!(if connect.level == 3 { "MQIsdp" } else { "MQTT" })),
            ("keepalive", told("keepalive", json!(connect.keepalive))),
            ("connected", json!(known.is_online)),
            ("ip_address", json!("127.0.0.1")),
            ("port", told("port", json!(known.port))),
            ("is_bridge", told("is_bridge", json!(false))),
            ("mountpoint", json!("undefined")),
        ] {
            assert_eq!(row[key], expected, "{key} of {row}");
        }
        // RabbitMQ knows neither of a client that has subscribed to nothing, Mosquitto not how long a session is kept.
        if known.connect.clean {
            assert!(row["clean_start"].is_null() || row["clean_start"] == true, "{row}");
        } else {
            assert_eq!(row["clean_start"], false, "{row}");
        }
        if connect.level == 5 && !row["expiry_interval"].is_null() {
            assert_eq!(row["expiry_interval"], connect.expiry.unwrap_or(0), "{row}");
        }
        assert_eq!(row["disconnected_at"].is_string(), !known.is_online, "{row}");
        assert!(row["connected_at"].is_string() && row["created_at"].is_string(), "{row}");
    }
}

/// The rows as the model has them: what a row calls `undefined` is nothing, and times are numbers.
fn table(mixed: &Mixed) -> Vec<Value> {
    let mut rows = mixed.rows("");
    for row in &mut rows {
        for key in ["username", "mountpoint"] {
            if row[key] == "undefined" {
                row[key] = Value::Null;
            }
        }
        row["conn_state"] = json!(if row["connected"] == true { "connected" } else { "disconnected" });
        for key in TIMES {
            row[format!("{key}_ms")] = json!(seconds(&row[key]).map(|seconds| seconds * 1000));
        }
    }
    rows
}

fn seconds(time: &Value) -> Option<i64> {
    let text = format!("{}Z", time.as_str()?.replace(' ', "T"));
    Some(text.parse::<jiff::Timestamp>().unwrap().as_second())
}

fn query(filters: &[(&str, &str)], sort: Option<&str>, order: Option<&str>) -> Query {
    let ours = [("_like_clientid", PREFIX)];
    let filters = ours.iter().chain(filters).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Query {
        filters: filters.collect(),
        sort: sort.map(str::to_owned),
        order: order.map(str::to_owned),
        nodes: Vec::new(),
    }
}

/// That one page of all is what the model says, and so is its count.
fn assert_is_as_modelled(mixed: &Mixed, query: &Query, table: &[Value]) {
    let expected: Vec<_> = query.select(table).into_iter().map(identity).collect();
    let answer = mixed.whole(&(query.target(1, 10_000) + PLACES));
    assert_eq!(places(&answer.rows()), expected, "{query:?}");
    assert_eq!(answer.json()["meta"]["count"], expected.len(), "{query:?}");
}

pub(super) fn every_sort_is_that_of_one_list(mixed: &mut Mixed) {
    let table = table(mixed);
    for order in ["asc", "desc"] {
        for field in SORT_FIELDS {
            if !TIMES.contains(&field) {
                assert_is_as_modelled(mixed, &query(&[], Some(field), Some(order)), &table);
                continue;
            }
            let rows = mixed.rows(&format!("&_sort={field}&_order={order}&_fields={field}"));
            assert_eq!(rows.len(), table.len());
            let values: Vec<Option<i64>> = rows.iter().map(|row| seconds(&row[field])).collect();
            assert_is_sorted(&values, order, field);
        }
    }
    for node in mixed.capabilities.keys() {
        let mut query = query(&[], None, Some("desc"));
        query.nodes = vec![node.clone()];
        assert_is_as_modelled(mixed, &query, &table);
    }
}

/// Whichever way, with what is unknown behind all else.
fn assert_is_sorted(values: &[Option<i64>], order: &str, field: &str) {
    let known: Vec<i64> = values.iter().copied().flatten().collect();
    assert!(values[..known.len()].iter().all(Option::is_some), "{field} {order}: {values:?}");
    let is_sorted = if order == "asc" { known.is_sorted() } else { known.iter().rev().is_sorted() };
    assert!(is_sorted, "{field} {order}: {values:?}");
}

pub(super) fn every_figure_sorts_and_is_null_elsewhere(mixed: &mut Mixed) {
    let is_true = |row: &Value| {
        FIGURES.iter().all(|figure| {
            let is_told = mixed.tells(row, &format!("statistics:{figure}"));
            // Of who is away, figures of the connection are unknown.
            row[figure].is_null() && (!is_told || row["connected"] == false)
                || row[figure].is_number() && is_told
        })
    };
    // RabbitMQ tells those of a new connection some seconds later.
    eventually("figures of all brokers that tell them", || {
        let wrong: Vec<Value> = mixed.rows("").into_iter().filter(|row| !is_true(row)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
    });
    // Those of Erlang's processes change while they are read.
    for figure in FIGURES.into_iter().filter(|figure| *figure != "reductions") {
        for order in ["asc", "desc"] {
            let rows = mixed.rows(&format!("&_sort={figure}&_order={order}&_fields=node,clientid,{figure}"));
            assert_eq!(rows.len(), mixed.known.len(), "{figure}");
            let values: Vec<Option<i64>> = rows.iter().map(|row| row[figure].as_i64()).collect();
            assert_is_sorted(&values, order, figure);
            let ties = rows.windows(2).filter(|pair| pair[0][figure] == pair[1][figure]);
            assert!(ties.into_iter().all(|pair| identity(&pair[0]) < identity(&pair[1])), "{figure} {order}");
        }
    }
}

/// What the rows have under a name, as it is asked for.
fn values(table: &[Value], name: &str) -> BTreeSet<String> {
    let value = |row: &Value| match &row[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    table.iter().filter_map(value).collect()
}

pub(super) fn every_filter_finds_what_it_names(mixed: &mut Mixed) {
    let table = table(mixed);
    let check = |filters: &[(&str, &str)]| assert_is_as_modelled(mixed, &query(filters, None, None), &table);
    for (name, at_least, absent) in [
        ("clientid", table.len(), "mixed-nobody"),
        ("username", 4, "nobody"),
        ("zone", 3, "nowhere"),
        ("proto_name", 2, "MQTTX"),
        ("proto_ver", 3, "9"),
        ("ip_address", 1, "192.0.2.1"),
        ("conn_state", 2, "idle"),
        ("clean_start", 2, "false"),
    ] {
        let values = values(&table, name);
        assert!(values.len() >= at_least, "{name} does not differ: {values:?}");
        for value in &values {
            check(&[(name, value)]);
            check(&[(name, value), (name, absent)]);
        }
        check(&[(name, absent)]);
        let all: Vec<(&str, &str)> = values.iter().map(|value| (name, value.as_str())).collect();
        check(&all[..all.len().min(20)]);
    }
    for (name, value) in [
        ("_like_clientid", "-01"),
        ("_like_clientid", "7"),
        ("_like_clientid", "%"),
        ("_like_username", "d"),
        ("_like_username", "ice"),
        ("_like_username", "undefined"),
    ] {
        check(&[(name, value)]);
    }
    for (zone, proto_ver) in values(&table, "zone")
        .iter()
        .flat_map(|zone| values(&table, "proto_ver").into_iter().map(move |proto_ver| (zone, proto_ver)))
    {
        for state in ["connected", "disconnected"] {
            check(&[("zone", zone), ("proto_ver", &proto_ver), ("conn_state", state)]);
            check(&[("clean_start", "false"), ("proto_ver", &proto_ver), ("conn_state", state)]);
        }
    }
    // The last moment of a second is told by no row, so only the first is asked for, or a second in which nobody came.
    for name in ["created_at", "connected_at"] {
        let seen: BTreeSet<i64> = table.iter().filter_map(|row| seconds(&row[name])).collect();
        let (first, last) = (*seen.first().unwrap(), *seen.last().unwrap());
        for second in first - 1..=last + 1 {
            check(&[(&format!("_gte_{name}"), &second.to_string())]);
            if !seen.contains(&second) {
                check(&[(&format!("_lte_{name}"), &second.to_string())]);
            }
        }
    }
}

pub(super) fn pages_and_cursors_walk_all_brokers_once(mixed: &mut Mixed) {
    let table = table(mixed);
    for (sort, order) in [
        ("clientid", "asc"),
        ("zone", "desc"),
        ("proto_ver", "asc"),
        ("port", "desc"),
        ("username", "asc"),
        ("connected", "desc"),
        ("keepalive", "asc"),
        ("node", "desc"),
    ] {
        let query = query(&[], Some(sort), Some(order));
        let expected: Vec<_> = query.select(&table).into_iter().map(identity).collect();
        for limit in [7, 50] {
            let mut paged = Vec::new();
            for page in 1..=expected.len().div_ceil(limit) {
                paged.extend(places(&mixed.whole(&(query.target(page, limit) + PLACES)).rows()));
            }
            assert_eq!(paged, expected, "pages of {limit}, {query:?}");
            let (mut walked, mut cursor) = (Vec::new(), String::new());
            loop {
                let answer = mixed.whole(&(query.target_behind(&encode(&cursor), limit) + PLACES));
                walked.extend(places(&answer.rows()));
                cursor = answer.json()["meta"]["cursor"].as_str().unwrap().to_owned();
                if cursor.is_empty() {
                    break;
                }
            }
            assert_eq!(walked, expected, "a walk by {limit}, {query:?}");
        }
    }
}

pub(super) fn groups_are_counted_over_all_brokers(mixed: &mut Mixed) {
    let table = table(mixed);
    for by in ["node", "zone", "proto_name", "proto_ver", "conn_state", "clean_start", "username"] {
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for row in &table {
            *expected.entry(row[by].to_string()).or_default() += 1;
        }
        let target = format!("/client_counts?_like_clientid={PREFIX}&_group_by={by}");
        let body = mixed.whole(&target).json();
        let groups = body["data"].as_array().unwrap();
        let count = |group: &Value| usize::try_from(group["count"].as_u64().unwrap()).unwrap();
        let told: BTreeMap<String, usize> =
            groups.iter().map(|group| (group["value"].to_string(), count(group))).collect();
        assert_eq!(told, expected, "{by}");
        assert_eq!(groups.len(), told.len(), "{body}");
        assert!(groups.iter().map(count).rev().is_sorted(), "the largest come first: {body}");
        assert_eq!(body["meta"]["count"], table.len(), "{body}");
    }
    let target = format!("/client_counts?_like_clientid={PREFIX}&conn_state=disconnected&_group_by=node");
    let groups = mixed.whole(&target).json()["data"].clone();
    assert_eq!(
        groups.as_array().unwrap().len(),
        mixed.capabilities.len(),
        "somebody is away everywhere: {groups}"
    );
}

pub(super) fn an_export_is_of_all_brokers(mixed: &mut Mixed) {
    let target = format!("/client_export?_like_clientid={PREFIX}&_fields=node,clientid");
    let export = mixed.gateway.get(&target);
    let text = String::from_utf8(export.body).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (end, rows) = lines.split_last().unwrap();
    assert_eq!((&end["meta"]["complete"], &end["meta"]["count"]), (&json!(true), &json!(rows.len())));
    let expected: Vec<_> = query(&[], None, None).select(&table(mixed)).into_iter().map(identity).collect();
    assert_eq!(places(rows), expected);
}
