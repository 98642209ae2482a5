//! The node-agent: reports the clients of one broker node to Rollcall's gateways, and kicks them.
//!
//! In the order a request meets them:
//! - [`config`]: the settings, from file, environment and flags.
//! - [`mod@run`]: the server from start to drain; [`incoming`]: its connections; `doorstep`: until they have said what they are.
//! - `service`: the gRPC calls; `calls`: what holds for all of them; `scans`: searches of
//!   many rows.
//! - [`query`]: what a request may ask, and snapshots.
//! - [`listing`]: the clients a list is about; [`ranked`]: in order of a live figure.
//! - [`index`]: the clients, ordered and searchable.
//! - [`follow`]: keeps the index true to the broker.
//! - `packed`: clients that wait in one block.
//! - [`metrics`]: what Prometheus is told.
//! - [`broker`]: the boundary to the broker, and its adapters; `front`: counts what passes between clients and a broker.

pub mod broker;
mod calls;
pub mod config;
mod doorstep;
pub mod events;
pub mod follow;
#[cfg(feature = "front")]
mod front;
pub mod incoming;
pub mod index;
pub mod listing;
pub mod metrics;
mod packed;
pub mod query;
pub mod ranked;
mod refusals;
pub mod run;
mod scans;
mod service;
mod tls;
mod token;
