//! The embedded broker adapter, tried with real MQTT clients over real connections.
#![cfg(feature = "embedded")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod certificates;
mod figures;
mod front;
mod front_load;
mod identity;
mod kick;
mod listeners;
mod login;
mod raw;
mod sandbox;
mod sessions;
mod storm;
