//! The node-agent as a plugin of Mosquitto 2: it runs in the broker's own process, one `plugin` line in
//! `mosquitto.conf` loads it.
//!
//! Mosquitto 2.0 has no call that lists its clients and no event for a client that has connected, so the plugin keeps
//! its own [`table`] out of what it is told: every login is seen before it is decided (`BASIC_AUTH`), and was accepted
//! if the client is still there when the broker's loop comes round (`TICK`); a client's end is an event of its own
//! (`DISCONNECT`). Sessions from before the broker's start are read out of the file that the broker has loaded them from
//! ([`persistence`]), which its [`configuration`] names; if they cannot be known the agent refuses to answer. docs/brokers.md says field by field what that can tell.
//!
//! What the plugin promises the broker:
//! - It decides about nobody. Logins are left to whoever decided before, see [`options::Logins`]; about topics it is not
//!   asked at all.
//! - The broker's loop never waits for it: callbacks take a lock that nobody holds for longer than some rows take to be
//!   read, and kicks are carried out in the loop's own time, because the broker's functions are for its thread alone.
//! - No panic reaches the broker, and no signal meant for the broker is taken by one of the agent's threads.
//!
//! In the order things happen: [`ffi`] is called by the broker, [`options`] reads what stands in its configuration,
//! [`plugin`] starts the agent and takes the events to the [`table`]; [`broker`] is the agent's side of it, and
//! [`takeover`] ends the sessions of those who are away.

mod broker;
mod configuration;
mod ffi;
mod log;
mod options;
mod persistence;
mod plugin;
mod table;
mod takeover;
