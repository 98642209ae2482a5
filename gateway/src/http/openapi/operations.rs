//! The operations, path by path.

use serde_json::{Value, json};

use super::parameters::{named, reference};
use super::schemas::{self, reference as schema};
use super::{DOCUMENT, PAGE};
use crate::http::query;

/// Every path and what can be done there.
pub(super) fn paths() -> Value {
    let list = named(query::LIST);
    let of_node = named(query::LIST.into_iter().filter(|name| *name != "_node"));
    let one = named(["_fields", "_partial"]);
    let page = || json_answer("A page", "ClientPage");
    json!({
        "/clients": {
            "get": read("listClients", "clients", "List clients", list.clone(), page(), &LIST_ERRORS),
        },
        "/clients/username/{username}": {
            "parameters": [reference("path_username")],
            "get": read("listClientsOfUser", "clients", "List clients of a user", list, page(), &LIST_ERRORS),
        },
        "/nodes/{node}/clients": {
            "parameters": [reference("path_node")],
            "get": read("listClientsOfNode", "clients", "List clients of a node", of_node.clone(), page(), &NODE_ERRORS),
        },
        "/nodes/{node}/clients/username/{username}": {
            "parameters": [reference("path_node"), reference("path_username")],
            "get": read(
                "listClientsOfUserOfNode", "clients", "List clients of a user on a node", of_node, page(), &NODE_ERRORS,
            ),
        },
        "/clients/{clientid}": {
            "parameters": [reference("path_clientid")],
            "get": read("getClient", "clients", "Get every session of a client", one.clone(), sessions(), &LIST_ERRORS),
            "delete": kick("kickClient", "Kick a client, wherever it is"),
        },
        "/nodes/{node}/clients/{clientid}": {
            "parameters": [reference("path_node"), reference("path_clientid")],
            "get": read("getClientOfNode", "clients", "Get a client of a node", one, sessions(), &NODE_ERRORS),
            "delete": kick("kickClientOfNode", "Kick a client of a node"),
        },
        "/client_counts": {
            "get": read(
                "countClients", "clients", "Count clients, and groups of them", named(query::COUNT),
                json_answer("The count", "ClientCounts"), &LIST_ERRORS,
            ),
        },
        "/client_export": {
            "get": read(
                "exportClients", "clients", "Stream every client that matches, in order", named(query::export_names()),
                export_answer(), &LIST_ERRORS,
            ),
        },
        "/client_events": {
            "get": read(
                "followClients", "clients", "Follow what happens to clients", events_parameters(), events_answer(), &LIST_ERRORS,
            ),
        },
        "/client_kicks": { "post": bulk() },
        "/nodes": {
            "get": read("listNodes", "nodes", "List the nodes expected", vec![], json_answer("All nodes", "Nodes"), &[]),
        },
        "/nodes/{node}": {
            "parameters": [reference("path_node")],
            "get": read(
                "getNode", "nodes", "Get a node", vec![], json_answer("The node", "OneNode"), &["NotFound", "Unavailable"],
            ),
        },
        "/whoami": {
            "get": read("whoami", "nodes", "Tell the key's id and role", vec![], json_answer("The key", "Whoami"), &[]),
        },
        DOCUMENT: { "get": open("getOpenApi", "This document", "application/json", json!({ "type": "object" })) },
        PAGE: { "get": open("getDocs", "This document, to read", "text/html", json!({ "type": "string" })) },
    })
}

fn events_parameters() -> Vec<Value> {
    let filters = query::events_names().filter(|name| !["_after", "_format"].contains(name));
    named(filters).into_iter().chain(["after", "last_event_id", "events_format"].map(reference)).collect()
}

fn events_answer() -> Value {
    json!({
        "description": "Events for as long as they are read: connected, disconnected, kicked, ended, node_up, node_down, resync, lost, ready, alive",
        "content": {
            "text/event-stream": { "schema": { "type": "string" } },
            "application/x-ndjson": { "schema": { "type": "string" } },
        },
    })
}

/// What may go wrong with any read.
const LIST_ERRORS: [&str; 2] = ["Unavailable", "Late"];

/// The same of a read of one node.
const NODE_ERRORS: [&str; 3] = ["NotFound", "Unavailable", "Late"];

fn read(
    id: &str,
    tag: &str,
    summary: &str,
    mut parameters: Vec<Value>,
    answer: Value,
    errors: &[&'static str],
) -> Value {
    parameters.push(reference("timeout"));
    json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "parameters": parameters,
        "responses": responses(answer, errors),
    })
}

fn kick(id: &str, summary: &str) -> Value {
    let errors = ["Forbidden", "NotFound", "BadGateway", "Unavailable", "Late"];
    let answer = json_answer("The nodes it was kicked on", "Kicked");
    json!({
        "operationId": id,
        "tags": ["kicks"],
        "summary": summary,
        "description": "Ends the connection and the session. 404 only if every node said that it has no such client.",
        "parameters": [reference("timeout")],
        "responses": responses(answer, &errors),
    })
}

fn bulk() -> Value {
    let answer = json!({
        "description": "Of a dry run who would be kicked; else a stream of lines while the clients are kicked",
        "content": {
            "application/json": { "schema": schema("DryRun") },
            "application/x-ndjson": { "schema": { "type": "string" } },
        },
    });
    json!({
        "operationId": "kickClients",
        "tags": ["kicks"],
        "summary": "Kick many clients",
        "description": "By ids or by a filter. Lines of the stream are of the schemas BulkKickProgress, BulkKickLine and, last, \
                        BulkKickEnd; without the last one it broke off.",
        "parameters": [reference("timeout")],
        "requestBody": { "required": true, "content": { "application/json": { "schema": schema("BulkKick") } } },
        "responses": responses(answer, &["Forbidden", "Conflict", "TooLarge", "Unavailable", "Late"]),
    })
}

/// An answer that needs no key.
fn open(id: &str, summary: &str, kind: &str, body: Value) -> Value {
    json!({
        "operationId": id,
        "summary": summary,
        "security": [],
        "responses": { "200": { "description": summary, "content": { kind: { "schema": body } } } },
    })
}

fn responses(answer: Value, errors: &[&'static str]) -> Value {
    let mut responses = json!({ "200": answer });
    for name in schemas::ALWAYS.iter().chain(errors) {
        responses[schemas::status_of(name)] = json!({ "$ref": format!("#/components/responses/{name}") });
    }
    responses
}

fn json_answer(description: &str, name: &str) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema(name) } } })
}

fn sessions() -> Value {
    json_answer("Its sessions, none if no node has it", "ClientSessions")
}

fn export_answer() -> Value {
    json!({
        "description": "NDJSON: rows, and a last line of the schema ExportEnd, without which it broke off. CSV breaks off if it is not \
                        whole.",
        "content": {
            "application/x-ndjson": { "schema": { "type": "string" } },
            "text/csv": { "schema": { "type": "string" } },
        },
    })
}
