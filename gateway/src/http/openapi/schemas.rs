//! Bodies: of answers, of a bulk kick, of errors.

use rollcall_proto::{MAX_LIMIT, Reason};
use serde_json::{Map, Value, json};

use super::parameters::filter_value;
use crate::http::limits::KickLimits;
use crate::http::query;
use crate::http::row::KEYS;

/// Errors that any operation may answer with.
pub(super) const ALWAYS: [&str; 8] =
    ["BadRequest", "NoKey", "NoRoute", "NoMethod", "TooLargeRequest", "TooManyGuesses", "Defect", "Busy"];

/// Each error: its component, its status, and when.
const ERRORS: [(&str, &str, &str); 15] = [
    (
        "BadRequest",
        "400",
        "Something of the request cannot be used; the message names it, its value and what was expected",
    ),
    ("NoKey", "401", "No key, or a wrong one"),
    ("Forbidden", "403", "The key's role is viewer"),
    ("NoRoute", "404", "There is nothing at this path"),
    (
        "NotFound",
        "404",
        "Every node said that it has no such client (code 112, of a kick), or there is no such node (code 101)",
    ),
    ("NoMethod", "405", "This path takes other methods, which Allow names"),
    ("Conflict", "409", "It is about more clients than max; nobody was kicked"),
    ("TooLargeRequest", "413", "URL, headers or body are too large"),
    ("TooLarge", "413", "The body is too large"),
    (
        "TooManyGuesses",
        "429",
        "Too many wrong keys came from this address; Retry-After says when to try again",
    ),
    ("Defect", "500", "A defect of the gateway; its log has more under the request's id"),
    (
        "BadGateway",
        "502",
        "The owning node did not confirm a kick; the message says whether it may have been carried out",
    ),
    (
        "Busy",
        "503",
        "The gateway is at a limit, where Retry-After says when to come back, or is shutting down",
    ),
    (
        "Unavailable",
        "503",
        "Nodes are missing that the answer depends on, and named in meta.nodes (code 101); or the gateway is at a limit or shutting \
         down (code 102)",
    ),
    ("Late", "504", "No answer within the deadline; a kick may have been carried out"),
];

/// Refers to a schema.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The status of an error.
pub(super) fn status_of(error: &str) -> &'static str {
    ERRORS.iter().find(|(name, ..)| *name == error).map_or("default", |(_, status, _)| status)
}

/// The errors' answers.
pub(super) fn errors() -> Map<String, Value> {
    let content = json!({ "application/json": { "schema": reference("Error") } });
    let errors = ERRORS.iter().map(|(name, status, when)| {
        let mut answer = json!({ "description": when, "content": content });
        let number = |description: &str| json!({ "description": description, "schema": { "type": "integer", "minimum": 1 } });
        let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
        match *status {
            "401" => answer["headers"] = json!({ "WWW-Authenticate": text("How to show a key") }),
            "405" => answer["headers"] = json!({ "Allow": text("The methods of this path") }),
            "429" => answer["headers"] = json!({ "Retry-After": number("Seconds") }),
            "503" => answer["headers"] = json!({ "Retry-After": number("Seconds, at a limit") }),
            _ => {}
        }
        ((*name).to_owned(), answer)
    });
    errors.collect()
}

/// Every schema with a name.
pub(super) fn components(limits: &KickLimits) -> Value {
    let nodes = || reference("NodesAnswered");
    let at_least =
        || json!({ "const": "at_least", "description": "The nodes that did not answer may have more" });
    let session = || object(&["node", "clientid"], json!({ "node": text(), "clientid": text() }));
    json!({
        "Error": object(&["code", "message"], json!({
            "code": { "enum": [101, 102, 108, 112], "description": "101: nodes, 102: any other, 108: a parameter, 112: no such client" },
            "message": text(),
            "meta": object(&["nodes"], json!({ "nodes": nodes() })),
        })),
        "NodesAnswered": object(&["failed"], json!({
            "total": count(),
            "answered": count(),
            "failed": list(object(&["node", "reason"], json!({
                "node": { "type": "string", "description": "Its name, or its address while it has told none" },
                "reason": { "enum": Reason::ALL.map(Reason::as_str) },
            }))),
        })),
        "Client": client(),
        "ClientPage": answer(
            object(&["limit", "hasnext", "cursor", "count", "consistent", "nodes"], json!({
                "page": count(),
                "limit": { "type": "integer", "minimum": 0, "maximum": MAX_LIMIT },
                "hasnext": flag(),
                "cursor": { "type": ["string", "null"], "description": "Leads to the next page; empty at the end, null where there is no walk, or where a page by number lost all its rows while it was read" },
                "count": { "type": "integer", "minimum": 0, "description": "Clients that match, exact over the nodes that answered" },
                "count_is": at_least(),
                "consistent": { "type": "boolean", "description": "false: the page is of no one state of each node; a page by number was read from live data, of the first and of those by cursor a node was seen to change between two of its answers" },
                "nodes": nodes(),
            })),
            list(reference("Client")),
        ),
        "ClientSessions": answer(object(&["nodes"], json!({ "nodes": nodes() })), list(reference("Client"))),
        "ClientCounts": answer(
            object(&["count", "nodes"], json!({
                "count": count(),
                "count_is": at_least(),
                "group_by": text(),
                "groups": object(&["total", "shown", "other"], json!({ "total": count(), "shown": count(), "other": count() })),
                "nodes": nodes(),
            })),
            list(object(&["value", "count"], json!({
                "value": { "type": ["string", "integer", "boolean", "null"] }, "count": count(),
            }))),
        ),
        "ExportEnd": object(&["meta"], json!({
            "meta": object(&["complete", "count", "nodes"], json!({ "complete": flag(), "count": count(), "nodes": nodes() })),
        })),
        "Kicked": answer(object(&["nodes"], json!({ "nodes": nodes() })), list(session())),
        "BulkKick": bulk_kick(limits),
        "DryRun": answer(
            object(&["dry_run", "count", "max", "within_max", "by_node", "nodes"], json!({
                "dry_run": { "const": true },
                "count": count(),
                "count_is": at_least(),
                "max": count(),
                "within_max": flag(),
                "by_node": list(object(&["node", "count"], json!({ "node": text(), "count": count() }))),
                "nodes": nodes(),
            })),
            list(session()),
        ),
        "BulkKickProgress": object(&["progress"], json!({
            "progress": object(&["done", "of", "kicked"], json!({ "done": count(), "of": count(), "kicked": count() })),
        })),
        "BulkKickLine": object(&["clientid", "outcome", "kicked_on"], json!({
            "clientid": text(),
            "node": { "type": "string", "description": "The node that had the session, of a kick by filter" },
            "outcome": { "enum": OUTCOMES },
            "kicked_on": list(text()),
            "message": text(),
        })),
        "BulkKickEnd": object(&["meta"], json!({
            "meta": object(&["complete", "count", "outcomes", "nodes"], json!({
                "complete": flag(),
                "count": count(),
                "outcomes": object(&OUTCOMES, OUTCOMES.iter().map(|outcome| ((*outcome).to_owned(), count())).collect()),
                "stopped": { "enum": ["client_gone", "draining", "unrecorded"] },
                "nodes": nodes(),
            })),
        })),
        "Whoami": answer(
            object(&[], json!({})),
            object(&["key", "role"], json!({ "key": text(), "role": { "enum": ["viewer", "operator"] } })),
        ),
        "Node": node(),
        "Nodes": answer(reference("NodesTotal"), list(reference("Node"))),
        "OneNode": answer(reference("NodesTotal"), reference("Node")),
        "NodesTotal": object(&["count", "states", "connected", "clients"], json!({
            "count": count(),
            "states": object(&STATES, STATES.iter().map(|state| ((*state).to_owned(), count())).collect()),
            "connected": count(),
            "clients": count(),
        })),
    })
}

const OUTCOMES: [&str; 7] = ["kicked", "gone", "moved", "not_found", "failed", "unknown", "left"];

const STATES: [&str; 6] = ["connected", "draining", "unavailable", "conflict", "incompatible", "unknown"];

/// A row.
fn client() -> Value {
    let properties = KEYS.iter().map(|key| {
        let (kind, meaning) = match *key {
            "node" => (json!("string"), "The node that the client is on"),
            "clientid" => (json!("string"), ""),
            "username" | "mountpoint" => (json!("string"), "\"undefined\" if there is none"),
            "connected" => (json!("boolean"), ""),
            "proto_name" | "zone" => (json!(["string", "null"]), ""),
            "ip_address" => (json!(["string", "null"]), "The client's end of the connection"),
            "is_bridge" | "clean_start" => (json!(["boolean", "null"]), ""),
            "connected_at" | "created_at" => (json!(["string", "null"]), "UTC"),
            "disconnected_at" => {
                (json!(["string", "null"]), "UTC; there only while the client is disconnected")
            }
            _ => (json!(["integer", "null"]), "null where the node's broker cannot tell"),
        };
        let mut schema = json!({ "type": kind });
        if !meaning.is_empty() {
            schema["description"] = meaning.into();
        }
        ((*key).to_owned(), schema)
    });
    // With _fields there are only some.
    object(&[], properties.collect())
}

fn node() -> Value {
    let or_null = |kind: &str| json!({ "type": [kind, "null"] });
    let properties = json!({
        "node": or_null("string"),
        "address": text(),
        "state": { "enum": STATES },
        "since": text(),
        "changes": count(),
        "failures": count(),
        "circuit": { "enum": ["open", "closed"] },
        "broker": or_null("string"),
        "broker_version": or_null("string"),
        "agent_version": or_null("string"),
        "protocol": or_null("integer"),
        "incarnation": or_null("string"),
        "capabilities": list(text()),
        "connected": or_null("integer"),
        "clients": or_null("integer"),
        "calls": count(),
        "agent_calls": or_null("integer"),
        "agent_scans": or_null("integer"),
        "started_at": or_null("string"),
        "restarts": count(),
        "previous_node": or_null("string"),
        "renamed_at": or_null("string"),
        "resynced_at": or_null("string"),
        "last_seen": or_null("string"),
        "last_error": or_null("string"),
        "last_error_at": or_null("string"),
        "broker_error": or_null("string"),
        "mqtt_addresses": list(text()),
    });
    let required: Vec<String> =
        properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let required: Vec<&str> = required.iter().map(String::as_str).collect();
    object(&required, properties)
}

/// The body of a bulk kick.
fn bulk_kick(limits: &KickLimits) -> Value {
    let number = |most: usize, default: usize| json!({ "type": "integer", "minimum": 1, "maximum": most, "default": default });
    let names = |description: &str| json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1, "description": description });
    let mut ids = names("Whom, each once");
    ids["uniqueItems"] = true.into();
    let filters =
        query::LIST.into_iter().take(query::FILTERS).map(|name| (name.to_owned(), filter_values(name)));
    let filter = json!({
        "type": "object",
        "properties": filters.collect::<Map<_, _>>(),
        "additionalProperties": false,
        "description": "The clients that match, by the filters of a list, each with one value or a list of them",
    });
    let mut schema = object(
        &[],
        json!({
            "clientids": ids,
            "filter": filter,
            "nodes": names("Only on these nodes"),
            "confirm": { "const": "all", "description": "Needed, but for a dry run, if the filter excludes nobody" },
            "partial": { "type": "boolean", "description": "Kick by filter although some nodes do not answer, without their clients" },
            "dry_run": { "type": "boolean", "description": "Say who would be kicked, and kick nobody" },
            "max": number(limits.most, limits.default_most),
            "rate": number(limits.most_rate as usize, limits.default_rate as usize),
        }),
    );
    schema["oneOf"] = json!([{ "required": ["clientids"] }, { "required": ["filter"] }]);
    schema["dependentRequired"] = json!({ "confirm": ["filter"], "partial": ["filter"] });
    schema
}

/// A filter's value, or a list of them.
fn filter_values(name: &str) -> Value {
    let mut one = filter_value(name);
    if one["type"] == "integer" {
        // In JSON they are numbers of a size.
        one["minimum"] = i64::MIN.into();
        one["maximum"] = u64::MAX.into();
    }
    json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
}

/// A successful answer.
fn answer(meta: Value, data: Value) -> Value {
    object(&["code", "meta", "data"], json!({ "code": { "const": 0 }, "meta": meta, "data": data }))
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}
