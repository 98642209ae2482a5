//! What the benchmark (`tests/bench`) computes, apart from its clocks and sockets. Here it can be tested: tests that
//! stand in a benchmark are never run.
//!
//! - [`options`]: its command line.
//! - [`body`]: where a response ends, without keeping it.
//! - [`samples`]: quantiles and medians.
//! - [`usage`]: what the system says of a process.
//! - [`table`]: columns of text.
//! - [`goals`]: the figures Rollcall is meant to reach, and whether it did.

pub mod body;
pub mod goals;
pub mod options;
pub mod samples;
pub mod table;
pub mod usage;
