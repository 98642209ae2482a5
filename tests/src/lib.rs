//! A Rollcall cluster as a user runs it: real processes, real sockets, real MQTT clients.
//!
//! Nothing here uses the libraries of gateway or node-agent, so that a mistake they share cannot hide itself. Every
//! wait is for a condition and has a deadline ([`wait::eventually`]); every listener takes a free port. What goes
//! wrong panics, since this crate serves tests only; a process's log is then printed with the panic.
//!
//! - [`sandbox`]: agents, gateway, and a cluster of both.
//! - [`proxy`]: a TCP proxy that cuts, stalls, delays, splits and spoils.
//! - [`hosts`]: hosts of the test's own, in network namespaces.
//! - [`http`]: a client that sends targets byte for byte, also those no library would send.
//! - [`mosquitto`]: a broker of its own, with the agent as its plugin.
//! - [`mqtt`]: an MQTT client that counts its own bytes and packets.
//! - [`brokers`]: brokers of other makers, each in a process of its own.
//! - [`certs`]: certificates, and a client that trusts them.
//! - [`written`]: the search for secrets in what was written.
//! - [`mod@bench`]: what the benchmark computes.
//! - [`rows`] and [`model`]: made-up clients, and what any list of them must look like.
//! - [`mod@truth`] and [`asker`]: what may be answered while nodes fail, and somebody who asks for everything and checks it.
//!
//! Decided against: starting gateway and agents in the test's own process, which would be quicker, but could not
//! show that a killed node is survived, nor that the command line is what it is said to be.

pub mod asker;
pub mod bench;
pub mod binaries;
pub mod brokers;
pub mod certs;
pub mod hosts;
pub mod http;
pub mod model;
pub mod mosquitto;
pub mod mqtt;
pub mod process;
pub mod proxy;
pub mod rows;
pub mod sandbox;
pub mod truth;
pub mod wait;
pub mod written;
