//! What is measured: a server of the API, and the processes behind it as far as they are ours.

use std::sync::atomic::{AtomicU64, Ordering};

use rollcall_tests::bench::options::Remote;
use rollcall_tests::http;
use rollcall_tests::sandbox::{BASE, OPERATOR};
use serde_json::Value;

use crate::load::Load;

/// A server.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// `HOST:PORT`.
    authority: String,
    /// What stands before `/clients`.
    prefix: String,
    authorization: Option<String>,
    /// Rows, if it is known.
    pub(crate) total: Option<u64>,
    /// Process ids of agents on this machine.
    pub(crate) agents: Vec<u32>,
    /// Process id of the gateway, if it is on this machine.
    pub(crate) gateway: Option<u32>,
}

impl Subject {
    /// A gateway of our own.
    pub(crate) fn own(authority: String, total: u64, agents: Vec<u32>, gateway: u32) -> Self {
        Self {
            authority,
            prefix: BASE.to_owned(),
            authorization: Some(http::basic(OPERATOR.0, OPERATOR.1)),
            total: Some(total),
            agents,
            gateway: Some(gateway),
        }
    }

    /// Somebody else's server.
    pub(crate) fn remote(remote: &Remote) -> Self {
        Self {
            authority: remote.authority.clone(),
            prefix: remote.prefix.clone(),
            authorization: remote.key.as_ref().map(|(id, secret)| http::basic(id, secret)),
            total: remote.total,
            agents: Vec::new(),
            gateway: None,
        }
    }

    /// A server of anything, without a key.
    pub(crate) fn bare(authority: String) -> Self {
        Self {
            authority,
            prefix: String::new(),
            authorization: None,
            total: None,
            agents: Vec::new(),
            gateway: None,
        }
    }

    /// What is asked for by this path behind the prefix. `{n}` in it is another number at every request, `{page}` another
    /// page of so many.
    pub(crate) fn target(&self, path: &str) -> Target {
        self.target_with(path, "")
    }

    /// As [`target`](Self::target), with further header lines.
    pub(crate) fn target_with(&self, path: &str, headers: &str) -> Target {
        let authorization = self.authorization.as_ref();
        let authorization =
            authorization.map_or(String::new(), |value| format!("authorization: {value}\r\n"));
        Target {
            authority: self.authority.clone(),
            path: format!("{}{path}", self.prefix),
            rest: format!("host: {}\r\n{authorization}{headers}\r\n", self.authority),
            asked: AtomicU64::new(0),
            pages: 1,
        }
    }

    /// The answer under a path as JSON.
    pub(crate) fn json(&self, load: &Load, path: &str) -> Result<Value, String> {
        let body = load.get(&self.target(path)).map_err(|problem| format!("{path}: {problem}"))?;
        serde_json::from_slice(&body).map_err(|error| format!("{path}: the answer is no JSON: {error}"))
    }

    /// How many rows its nodes have sent it for pages since it started; `None` unless it is ours.
    pub(crate) fn rows_shipped(&self, load: &Load) -> Option<u64> {
        self.gateway?;
        let target = Target { path: "/metrics".to_owned(), ..self.target("") };
        let text = String::from_utf8(load.get(&target).ok()?).ok()?;
        let of_nodes = text.lines().filter(|line| line.starts_with("rollcall_node_rows_total{"));
        of_nodes.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok().map(|rows| rows as u64)).sum()
    }

    /// How many rows match these parameters (`&name=value`), as far as the server says so.
    pub(crate) fn count(&self, load: &Load, parameters: &str) -> Option<u64> {
        // Not 0 rows: peers may take that for no limit at all.
        let answer = self.json(load, &format!("/clients?_limit=1{parameters}")).ok()?;
        answer["meta"]["count"].as_u64().or_else(|| self.total.filter(|_| parameters.is_empty()))
    }
}

/// What is asked for, time and again.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) authority: String,
    path: String,
    /// What follows the request line.
    rest: String,
    asked: AtomicU64,
    pages: u64,
}

/// From one page to the next where all pages are asked for. A prime.
const STRIDE: u64 = 7_919;

impl Target {
    /// The same with `{page}` one of so many.
    pub(crate) fn with_pages(self, pages: u64) -> Self {
        Self { pages, ..self }
    }

    /// The next request.
    pub(crate) fn request(&self) -> Vec<u8> {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        // Far from one page to the next, and none twice before all were asked for.
        let page = 1 + (n + 1).wrapping_mul(STRIDE) % self.pages.max(1);
        let path = self.path.replace("{n}", &n.to_string()).replace("{page}", &page.to_string());
        format!("GET {path} HTTP/1.1\r\n{}", self.rest).into_bytes()
    }
}

/// The rows of an answer: of an object with `data`, or a bare array.
pub(crate) fn rows(answer: &Value) -> &[Value] {
    answer["data"].as_array().or_else(|| answer.as_array()).map_or(&[], Vec::as_slice)
}
