//! Real faults: processes that stop, crash and come back, disks and descriptors that run out, networks that cut, spoil and
//! part, and hosts on either side that are hostile. What a user sees of each is in docs/faults.md, with the test here that
//! shows it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bulk_kicks;
mod documented;
mod hostile_clients;
mod hostile_node;
mod network;
mod partitions;
mod resources;
mod signals;
