//! The contract between gateway and node-agents: the wire messages, and the decisions that give a wrong
//! answer as soon as two sides take them differently.
//!
//! - [`v1`]: generated from `rollcall/v1/*.proto`; the messages are documented there, field by field.
//! - [`client`]: [`ClientRef`], the one view that filters and orders read, whatever stores the client.
//! - [`filter`]: which clients match.
//! - [`order`]: the one total order of clients, and keys in it.
//! - [`live`]: live figures as fields to sort by.
//! - [`address`]: IP addresses as they stand on the wire.
//! - [`group`]: which group of a count a client belongs to.
//! - [`wire`]: rows read from their bytes without a copy, and written in one pass.
//! - [`failure`]: why a node's part of an answer is missing.
//! - [`window`]: the last of what has happened, for those who follow it.
//! - [`protocol`]: which versions of the contract understand each other.
//!
//! Nothing here knows a runtime, a connection or a clock, but for the generated service stubs.

pub mod address;
pub mod client;
pub mod failure;
pub mod filter;
pub mod group;
pub mod live;
pub mod order;
pub mod protocol;
pub mod window;
pub mod wire;

pub use client::ClientRef;
pub use failure::Reason;
pub use filter::Matcher;
pub use order::{KeyRef, Order, SortField};
pub use protocol::Protocol;
pub use window::{Since, Window};

/// Messages and service stubs of package `rollcall.v1`; see the `.proto` files for their meaning.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("rollcall.v1");
}

/// The encoded descriptors of package `rollcall.v1`, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rollcall.v1.bin"));

/// The most rows one list request may ask for.
pub const MAX_LIMIT: u32 = 10_000;

/// The most rows one call for a list may ask a node for: a page, and the slack that a selection leaves round it.
pub const MAX_WINDOW: u32 = 20_000;

/// How many clients of a node, and of the cluster, have a rank in an order by a live figure: the first ones.
pub const MAX_RANKED: u32 = 10_000;

/// The most fences one survey may ask for.
pub const MAX_FENCES: u32 = 256;

/// The most rows in one chunk of a list's stream. Chunks of this size halved the time of a 10,000-row call
/// against one large message.
pub const CHUNK_ROWS: usize = 500;

/// A chunk also ends when its rows' encoding passes this many bytes: MQTT strings may be 64 KiB long each.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The most groups one node's count may have.
pub const MAX_GROUPS: usize = 200_000;

/// The most bytes the encodings of one node's groups may have together.
pub const MAX_GROUPS_BYTES: usize = 16 << 20;

/// The largest message either side accepts, bytes. A survey of [`MAX_FENCES`] keys with ids and user names of
/// ordinary length takes some 30 kB; this leaves room for 64 fences of two 64 KiB strings.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Bytes of the events of one message, unless one event alone has more, which can be no more than twice as many: its two
/// texts of 64 KiB, and some.
pub const MAX_EVENTS_BYTES: usize = 256 << 10;

/// The metadata key under which an agent that refuses a call says why, as [`Reason::as_str`].
pub const REASON_METADATA: &str = "rollcall-reason";
