//! What is measured, a file a suite.

use rollcall_tests::bench::options::Options;
use rollcall_tests::http;
use serde_json::Value;

use crate::load::Load;
use crate::subject::{self, Subject};

pub(crate) mod depth;
pub(crate) mod export;
pub(crate) mod filter;
pub(crate) mod front;
pub(crate) mod memory;
pub(crate) mod mosquitto;
pub(crate) mod nodes;
pub(crate) mod page;
pub(crate) mod sort;
pub(crate) mod writes;

/// What every suite needs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) load: Load,
}

/// Rows a page, unless it says otherwise.
const LIMIT: u64 = 100;

/// The number of the last page.
fn last_page(rows: u64) -> u64 {
    rows.div_ceil(LIMIT).max(1)
}

/// A client that is there, with a user name if there is one such on page 1.
fn sample(bench: &Bench, subject: &Subject) -> Result<Value, String> {
    let page = subject.json(&bench.load, "/clients?_limit=100")?;
    let rows = subject::rows(&page);
    let is_named = |row: &&Value| text(row, "username").is_some_and(|name| name != "undefined");
    let row = rows.iter().skip(rows.len() / 2).find(is_named).or_else(|| rows.last());
    row.filter(|row| text(row, "clientid").is_some())
        .cloned()
        .ok_or_else(|| "no rows with a clientid".to_owned())
}

fn text<'a>(row: &'a Value, field: &str) -> Option<&'a str> {
    row[field].as_str().filter(|text| !text.is_empty())
}

/// A field of the sample, as it can stand in a URL; empty if it has none.
fn encoded(row: &Value, field: &str) -> String {
    http::encode(text(row, field).unwrap_or_default())
}
