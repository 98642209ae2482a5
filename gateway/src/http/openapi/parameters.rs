//! Parameters of paths, query strings and headers.

use rollcall_proto::{MAX_LIMIT, SortField};
use serde_json::{Map, Value, json};

use crate::http::api::TIMEOUT_HEADER;
use crate::http::query;
use crate::http::row::KEYS;
use crate::page::cursor;
use crate::page::groups::GroupBy;

/// References to the query parameters of these names.
pub(super) fn named(names: impl IntoIterator<Item = &'static str>) -> Vec<Value> {
    names.into_iter().map(reference).collect()
}

/// Refers to a parameter.
pub(super) fn reference(component: &str) -> Value {
    json!({ "$ref": format!("#/components/parameters/{component}") })
}

/// Every parameter that an operation refers to.
pub(super) fn components() -> Map<String, Value> {
    let mut all = Map::new();
    let names = query::LIST.into_iter().chain(query::COUNT).chain(["_format"]);
    for name in names {
        let (schema, description) = query_parameter(name);
        let mut parameter =
            json!({ "name": name, "in": "query", "description": description, "schema": schema });
        if name == "_fields" {
            parameter["style"] = "form".into();
            parameter["explode"] = false.into();
        }
        all.insert(name.to_owned(), parameter);
    }
    for (component, name, description) in [
        ("path_node", "node", "A node, by its name, or by its address while it has told none"),
        ("path_clientid", "clientid", "A client id, percent-encoded; a slash in it is %2F"),
        ("path_username", "username", "A user name, percent-encoded"),
    ] {
        let schema = json!({ "type": "string", "minLength": 1 });
        let parameter = json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema });
        all.insert(component.to_owned(), parameter);
    }
    let timeout = json!({
        "name": TIMEOUT_HEADER,
        "in": "header",
        "description": "Answer within so many milliseconds, if that is sooner than request_timeout",
        "schema": { "type": "integer", "minimum": 1, "maximum": u64::MAX },
    });
    all.insert("timeout".to_owned(), timeout);
    let id = json!({ "type": "string", "pattern": "^[0-9a-f]{16}-[0-9]{1,18}$" });
    for (component, name, place, schema, description) in [
        (
            "after",
            "_after",
            "query",
            id.clone(),
            "The id of the last event that was read: the stream takes up behind it",
        ),
        ("last_event_id", "Last-Event-ID", "header", id, "The same, as browsers send it"),
        (
            "events_format",
            "_format",
            "query",
            json!({ "enum": ["sse", "ndjson"], "default": "sse" }),
            "Server-Sent Events, or a JSON object a line",
        ),
    ] {
        let parameter = json!({ "name": name, "in": place, "description": description, "schema": schema });
        all.insert(component.to_owned(), parameter);
    }
    all
}

/// The schema of one value of a filter, in a query string or in the body of a bulk kick.
pub(super) fn filter_value(name: &str) -> Value {
    match name {
        "proto_ver" | "_gte_created_at" | "_lte_created_at" | "_gte_connected_at" | "_lte_connected_at" => {
            json!({ "type": "integer" })
        }
        "clean_start" => json!({ "type": "boolean" }),
        "conn_state" => json!({ "enum": ["connected", "idle", "disconnected"] }),
        "ip_address" => json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] }),
        _ => json!({ "type": "string" }),
    }
}

/// The schema of a query parameter, and what it means.
fn query_parameter(name: &str) -> (Value, String) {
    let any_of = |schema: Value| json!({ "type": "array", "items": schema });
    let one = || filter_value(name);
    match name {
        "clientid" | "username" | "zone" | "proto_name" => {
            (any_of(one()), "Exactly this, byte for byte; given again: any of them".into())
        }
        "proto_ver" => (any_of(one()), "The protocol's level; given again: any of them".into()),
        "ip_address" => (any_of(one()), "An IPv4 or IPv6 address; given again: any of them".into()),
        "conn_state" => (any_of(one()), "The connection's state; given again: any of them".into()),
        "clean_start" => (one(), "Whether CONNECT asked for a clean start".into()),
        "_like_clientid" | "_like_username" => (
            any_of(one()),
            "Contains this, case-sensitive, every character literal; given again: all of them".into(),
        ),
        "_gte_created_at" => (one(), "The session began at or after, seconds since 1970 UTC".into()),
        "_lte_created_at" => (one(), "The session began at or before, seconds since 1970 UTC".into()),
        "_gte_connected_at" => (one(), "Connected at or after, seconds since 1970 UTC".into()),
        "_lte_connected_at" => (one(), "Connected at or before, seconds since 1970 UTC".into()),
        "_page" => (
            json!({ "type": "integer", "minimum": 1, "maximum": u64::MAX, "default": 1 }),
            "Which page; any costs about what the first does".into(),
        ),
        "_cursor" => (
            json!({ "type": "string", "maxLength": cursor::MAX_LENGTH, "pattern": "^[A-Za-z0-9_-]*$" }),
            "In place of _page: meta.cursor of the page before, empty to begin a walk. It belongs to its filters, order \
             and nodes. A walk shows every client once that keeps its session and the value it is sorted by; clientid, node \
             and created_at stay while a session lasts, others may change when a client reconnects, and it may then be \
             shown again or not at all"
                .into(),
        ),
        "_limit" => (
            json!({ "type": "integer", "minimum": 0, "default": MAX_LIMIT }),
            format!("Rows a page; more than {MAX_LIMIT} is lowered to that, and 0 only counts"),
        ),
        "_sort" => {
            let fields = SortField::IDENTITY.into_iter().chain(SortField::LIVE).map(SortField::name);
            (
                json!({ "enum": fields.collect::<Vec<_>>(), "default": "clientid" }),
                "The field to sort by. By a live figure only the first 10,000 clients have a rank: no walk by cursor, no \
                 export"
                    .into(),
            )
        }
        "_order" => (json!({ "enum": ["asc", "desc"], "default": "asc" }), "Turns round the sorted field".into()),
        "_fields" => (
            json!({ "type": "array", "items": { "enum": &KEYS[..] }, "minItems": 1 }),
            "Only these fields of a row, between commas".into(),
        ),
        "_node" => (
            any_of(json!({ "type": "string", "minLength": 1 })),
            "Only these nodes, by name; given again: any of them".into(),
        ),
        "_partial" => (
            json!({ "type": "boolean" }),
            "false: 503 rather than an answer without a silent node's clients".into(),
        ),
        "_group_by" => {
            let fields = GroupBy::ALL.into_iter().map(GroupBy::name);
            (json!({ "enum": fields.collect::<Vec<_>>() }), "Count the clients of each value of this".into())
        }
        "_top" => (
            json!({ "type": "integer", "minimum": 1, "maximum": query::MOST_TOP, "default": query::DEFAULT_TOP }),
            "How many groups at the most, the largest; only with _group_by".into(),
        ),
        "_format" => (
            json!({ "enum": ["ndjson", "csv"], "default": "ndjson" }),
            "A JSON object a line, or RFC 4180 with a header line".into(),
        ),
        // A test finds it.
        _ => (json!(false), String::new()),
    }
}
