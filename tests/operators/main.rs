//! What operators and their tools touch, over real processes: the page, the command line, the description of the API, and what monitoring sees. A real Prometheus
//! scrapes a real cluster, evaluates the alert rules of `deploy/` and answers the queries of the dashboard; tests that need it
//! (Debian: prometheus, which has promtool) say SKIPPED where there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

mod cli;
mod deployed;
mod events;
mod growth;
mod openapi;
mod page;
mod prometheus;
mod scrapes;
mod tutorial;

/// A program, where the test command has found it or put it.
fn program(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|program| program.is_file())
}
