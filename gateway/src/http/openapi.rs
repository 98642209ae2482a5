//! The API described for machines, as OpenAPI 3.1, and the same as a page to read.
//!
//! It is made from what reads requests and writes answers: the names of parameters, the keys of a row, sort fields,
//! groups, reasons and limits are those of the code. What a name means stands here once, and tests hold both together: a
//! parameter without a description, or a description without a parameter, does not pass. Derived documents (utoipa and the
//! like) were decided against: rows are written by hand and queries read by tables, so there are no types to derive from.
//!
//! Both are given to whoever asks, without a key: they say what the program is, nothing of the cluster.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Method;
use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use serde_json::{Value, json};

use super::error::ApiError;
use super::limits::KickLimits;
use super::route::READ;

mod operations;
mod page;
mod parameters;
mod schemas;

pub(super) use self::page::Escaped;

/// Where the two stand under the base path.
pub(super) const DOCUMENT: &str = "/openapi.json";
pub(super) const PAGE: &str = "/docs";

/// The document and the page, written once.
#[derive(Debug)]
pub(super) struct Described {
    document: Bytes,
    page: Bytes,
    policy: HeaderValue,
}

impl Described {
    /// Describes the API under a base path.
    pub(super) fn new(base_path: &str, limits: &KickLimits) -> Self {
        let document = document(base_path, limits);
        let (page, policy) = page::write(&document);
        Self { document: document.to_string().into(), page: page.into(), policy }
    }

    /// The answer at a path under the base path, if it is one of the two.
    pub(super) fn answer(&self, method: &Method, path: &str) -> Option<Result<Response, ApiError>> {
        let (kind, body, policy) = match path.strip_suffix('/').unwrap_or(path) {
            DOCUMENT => ("application/json", &self.document, None),
            PAGE => ("text/html; charset=utf-8", &self.page, Some(&self.policy)),
            _ => return None,
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Some(Err(ApiError::MethodNotAllowed { allow: READ }));
        }
        let mut response = Response::new(Body::from(body.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(policy) = policy {
            headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        Some(Ok(response))
    }
}

/// The whole document.
fn document(base_path: &str, limits: &KickLimits) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Rollcall",
            "summary": "The clients of a cluster of MQTT brokers: list, get, count, export, kick",
            "description": "EMQX 4's Clients API over a cluster of any brokers. Every answer names the nodes that it lacks; \
                            \"not found\" is said only when every node said so.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": if base_path.is_empty() { "/" } else { base_path } }],
        "security": [{ "basic": [] }, { "bearer": [] }],
        "tags": [
            { "name": "clients", "description": "Clients of all nodes" },
            { "name": "kicks", "description": "Ending connections and sessions; for keys of the role operator" },
            { "name": "nodes", "description": "The nodes that the gateway expects" },
        ],
        "paths": operations::paths(),
        "components": {
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic", "description": "A key's id and secret" },
                "bearer": { "type": "http", "scheme": "bearer", "description": "A key's secret" },
            },
            "parameters": parameters::components(),
            "schemas": schemas::components(limits),
            "responses": schemas::errors(),
        },
    })
}

#[cfg(test)]
mod tests;
