//! What operators and their tools touch, over real processes: the page, the command line, the description of the API, and what monitoring sees. A real Prometheus
//! scrapes a real cluster, evaluates the alert rules of `deploy/` and answers the queries of the dashboard; tests that need it
//! (Debian: prometheus, which has promtool) say SKIPPED where there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod deployed;
mod events;
mod growth;
mod openapi;
mod page;
mod prometheus;
mod scrapes;
