//! Rollcall's gateway: EMQX 4's Clients API over a cluster of node-agents.
//!
//! In reading order:
//! - [`config`], [`key_file`], [`keys`], [`live_keys`]: what the gateway is told;
//! - [`run`]: from start to end; [`byte_stream`], `serve`: connections;
//! - `http`: from a request to a question, and from an answer to JSON;
//! - [`cluster`]: the question put to every node;
//! - [`page`]: what their answers amount to;
//! - [`audit`]: every kick on record;
//! - [`metrics`]: what Prometheus is told;
//! - [`dev_certs`]: certificates to begin with.

pub mod audit;
pub mod byte_stream;
pub mod cluster;
pub mod config;
pub mod dev_certs;
mod http;
pub mod key_file;
pub mod keys;
pub mod live_keys;
pub mod metrics;
pub mod page;
mod run;
mod serve;

pub use self::config::Config;
#[cfg(any(fuzzing, clippy))]
pub use self::http::fuzzing;
pub use self::http::limits::Limits;
pub use self::run::{Gateway, StartError, run};
