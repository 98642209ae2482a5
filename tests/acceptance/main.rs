//! What a user sees of a running cluster, one file a subject. Every test starts its own processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod bad_input;
mod bulk_kicks;
mod cli;
mod counters;
mod failures;
mod identity;
mod keys;
mod kick;
mod listeners;
mod lists;
mod model;
mod mosquitto;
mod names;
mod nodes;
mod real;
mod secrets;
mod sessions;
mod tls;
