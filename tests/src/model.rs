//! The cluster as one `Vec`: what any list must look like, said as plainly as possible.
//!
//! Deliberately not the code of the product: filters and order are written a second time, from the API's
//! documentation, over JSON. Slow and obvious.

use std::cmp::Ordering;
use std::net::IpAddr;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Map, Value, json};

use crate::http::encode;
use crate::rows::EPOCH_MS;

/// The identity fields a list can be sorted by.
pub const SORT_FIELDS: [&str; 17] = [
    "clientid",
    "username",
    "node",
    "zone",
    "proto_name",
    "proto_ver",
    "ip_address",
    "port",
    "is_bridge",
    "mountpoint",
    "keepalive",
    "clean_start",
    "expiry_interval",
    "connected",
    "connected_at",
    "disconnected_at",
    "created_at",
];

/// The live figures a list can be sorted by. A table can leave them out, with which they are `null`.
pub const FIGURES: [&str; 20] = [
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
    "mailbox_len",
    "heap_size",
    "reductions",
];

/// The fields that clients can be counted by.
pub const GROUP_FIELDS: [&str; 7] =
    ["node", "zone", "proto_name", "proto_ver", "conn_state", "clean_start", "username"];

/// A list, as asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Parameter and value, in the order they are sent.
    pub filters: Vec<(String, String)>,
    /// `_sort`.
    pub sort: Option<String>,
    /// `_order`.
    pub order: Option<String>,
    /// `_node`.
    pub nodes: Vec<String>,
}

impl Query {
    /// The request for one page of it.
    #[must_use]
    pub fn target(&self, page: usize, limit: usize) -> String {
        format!("/clients?_page={page}&_limit={limit}{}", self.parameters())
    }

    /// The request for the page behind a cursor.
    #[must_use]
    pub fn target_behind(&self, cursor: &str, limit: usize) -> String {
        format!("/clients?_cursor={cursor}&_limit={limit}{}", self.parameters())
    }

    /// The request for a count of its rows by a field, so many groups of it at the most.
    #[must_use]
    pub fn target_of_groups(&self, field: &str, top: usize) -> String {
        let unsorted = Self { sort: None, order: None, ..self.clone() };
        format!("/client_counts?_group_by={field}&_top={top}{}", unsorted.parameters())
    }

    /// How many of its rows have each value of a field: the largest number first, equals by value, and of equals those
    /// without one last.
    #[must_use]
    pub fn groups(&self, rows: &[Value], field: &str) -> Vec<(Value, usize)> {
        let mut groups: Vec<(Value, usize)> = Vec::new();
        for row in rows.iter().filter(|row| self.matches(row)) {
            match groups.iter_mut().find(|(value, _)| *value == row[field]) {
                Some((_, count)) => *count += 1,
                None => groups.push((row[field].clone(), 1)),
            }
        }
        let place = |value: &Value| {
            (value.is_null(), value.as_str().map(str::to_owned), value.as_u64(), value.as_bool())
        };
        groups.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| place(a).cmp(&place(b))));
        groups
    }

    fn parameters(&self) -> String {
        let one = |name: &str, value: &Option<String>| value.clone().map(|value| (name.to_owned(), value));
        let nodes = self.nodes.iter().map(|node| ("_node".to_owned(), node.clone()));
        let rest = one("_sort", &self.sort).into_iter().chain(one("_order", &self.order)).chain(nodes);
        let all = self.filters.iter().cloned().chain(rest);
        all.map(|(name, value)| format!("&{name}={}", encode(&value))).collect()
    }

    /// The rows it selects, in order.
    #[must_use]
    pub fn select<'a>(&self, rows: &'a [Value]) -> Vec<&'a Value> {
        let mut selected: Vec<&Value> = rows.iter().filter(|row| self.matches(row)).collect();
        selected.sort_by(|a, b| self.compare(a, b));
        selected
    }

    fn matches(&self, row: &Value) -> bool {
        let on_node = self.nodes.is_empty() || self.nodes.iter().any(|node| row["node"] == **node);
        on_node
            && self.filters.iter().all(|(name, _)| {
                let values =
                    self.filters.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
                if name.starts_with('_') {
                    values.into_iter().all(|value| holds(row, name, value))
                } else {
                    values.into_iter().any(|value| holds(row, name, value))
                }
            })
    }

    fn compare(&self, a: &Value, b: &Value) -> Ordering {
        let field = self.sort.as_deref().unwrap_or("clientid");
        let down = self.order.as_deref() == Some("desc");
        let by_field = match (sort_value(a, field), sort_value(b, field)) {
            (Some(a), Some(b)) if down => b.cmp(&a),
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_field.then_with(|| identity(a).cmp(&identity(b)))
    }
}

/// Client id and node: no node of these tests has two sessions under one id.
#[must_use]
pub fn identity(row: &Value) -> (String, String) {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (text("clientid"), text("node"))
}

/// Whether one condition holds.
fn holds(row: &Value, name: &str, value: &str) -> bool {
    let text = |key: &str| row[key].as_str();
    let seconds = || value.parse::<i64>().unwrap_or_default() * 1000;
    let time = |key: &str| row[key].as_i64();
    match name {
        "clientid" | "username" | "zone" | "proto_name" | "conn_state" => text(name) == Some(value),
        "proto_ver" => row[name].as_i64() == value.parse().ok() && !row[name].is_null(),
        "clean_start" => row[name].as_bool().is_some_and(|flag| flag == (value == "true")),
        "ip_address" => text(name).is_some_and(|own| {
            Some(canonical(own)) == value.parse().ok().map(|ip: IpAddr| ip.to_canonical())
        }),
        "_like_clientid" => text("clientid").is_some_and(|id| id.contains(value)),
        "_like_username" => text("username").unwrap_or_default().contains(value),
        "_gte_created_at" => time("created_at_ms").is_some_and(|at| at >= seconds()),
        "_lte_created_at" => time("created_at_ms").is_some_and(|at| at <= seconds()),
        "_gte_connected_at" => time("connected_at_ms").is_some_and(|at| at >= seconds()),
        "_lte_connected_at" => time("connected_at_ms").is_some_and(|at| at <= seconds()),
        _ => unreachable!("no filter is called {name}"),
    }
}

/// A value as it sorts; within one field always the same variant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SortValue {
    Number(i64),
    Text(String),
    /// 4 before 6, then by value.
    Address(u8, u128),
}

fn sort_value(row: &Value, field: &str) -> Option<SortValue> {
    match field {
        "connected" => Some(SortValue::Number((row["conn_state"] == "connected").into())),
        "connected_at" | "disconnected_at" | "created_at" => {
            row[format!("{field}_ms")].as_i64().map(SortValue::Number)
        }
        "ip_address" => row[field].as_str().map(|text| match canonical(text) {
            IpAddr::V4(v4) => SortValue::Address(4, u32::from(v4).into()),
            IpAddr::V6(v6) => SortValue::Address(6, v6.into()),
        }),
        _ => match &row[field] {
            Value::String(text) => Some(SortValue::Text(text.clone())),
            Value::Number(number) => number.as_i64().map(SortValue::Number),
            Value::Bool(flag) => Some(SortValue::Number((*flag).into())),
            _ => None,
        },
    }
}

fn canonical(text: &str) -> IpAddr {
    text.parse::<IpAddr>().expect("tables hold addresses").to_canonical()
}

/// The row as the API writes it.
#[must_use]
pub fn rendered(row: &Value) -> Value {
    let mut out = Map::new();
    for key in SORT_FIELDS {
        let value = match key {
            "username" | "mountpoint" if row[key].is_null() => json!("undefined"),
            "ip_address" => row[key].as_str().map(|text| canonical(text).to_string()).into(),
            "connected" => (row["conn_state"] == "connected").into(),
            "disconnected_at" if row["conn_state"] != "disconnected" => continue,
            "connected_at" | "disconnected_at" | "created_at" => {
                row[format!("{key}_ms")].as_i64().map(date_and_time).into()
            }
            _ => row[key].clone(),
        };
        out.insert(key.to_owned(), value);
    }
    for key in FIGURES {
        out.insert(key.to_owned(), row[key].clone());
    }
    Value::Object(out)
}

fn date_and_time(milliseconds: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(milliseconds).expect("a time within the calendar");
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A query that often selects something, over clients of [`crate::rows`].
#[must_use]
pub fn random_query(random: &mut StdRng, rows: &[Value], nodes: &[String]) -> Query {
    let mut filters = Vec::new();
    for _ in 0..*[0, 0, 1, 1, 2, 3].choose(random).unwrap_or(&0) {
        filters.push(random_filter(random, rows));
    }
    Query {
        filters,
        sort: random.random_bool(0.9).then(|| SORT_FIELDS.choose(random).map(ToString::to_string)).flatten(),
        order: random
            .random_bool(0.7)
            .then(|| ["asc", "desc"].choose(random).map(ToString::to_string))
            .flatten(),
        nodes: nodes.iter().filter(|_| random.random_bool(0.2)).cloned().collect(),
    }
}

fn random_filter(random: &mut StdRng, rows: &[Value]) -> (String, String) {
    let names = [
        "clientid",
        "username",
        "zone",
        "proto_name",
        "proto_ver",
        "ip_address",
        "conn_state",
        "clean_start",
        "_like_clientid",
        "_like_username",
        "_gte_created_at",
        "_lte_created_at",
        "_gte_connected_at",
        "_lte_connected_at",
    ];
    let name = *names.choose(random).unwrap_or(&"zone");
    let row = rows.choose(random).unwrap_or(&Value::Null);
    let own = |key: &str| match &row[key] {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    };
    let value = match name {
        "_like_clientid" => slice(random, &own("clientid").unwrap_or_default()),
        "_like_username" => slice(random, &own("username").unwrap_or_default()),
        _ if name.starts_with('_') => (EPOCH_MS / 1000 + random.random_range(-30..30)).to_string(),
        "ip_address" => own(name).unwrap_or_else(|| "10.0.0.9".to_owned()),
        "proto_ver" => own(name).unwrap_or_else(|| "-7".to_owned()),
        "clean_start" => own(name).unwrap_or_else(|| "true".to_owned()),
        _ => own(name).unwrap_or_else(|| "undefined".to_owned()),
    };
    (name.to_owned(), value)
}

/// A piece of the text, in whole characters.
fn slice(random: &mut StdRng, text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let start = random.random_range(0..=characters.len());
    let end = random.random_range(start..=characters.len().min(start + 4));
    characters[start..end].iter().collect()
}
