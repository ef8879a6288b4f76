//! What edge, fanout and backends say to each other.
//!
//! - [`wire`]: protobuf messages, clients and servers, generated from `proto/realtime/v1/*.proto` and checked in.
//! - [`Room`], [`Key`], [`Position`]: the names and places of the protocol, valid by construction.
//! - [`Stamp`]: what nodes that only pass an entry on read of it.
//! - [`VERSION`]: of the link. Neighbours N and N−1 work together.

mod key;
mod position;
mod room;
mod stamp;

pub use key::{Key, KeyError};
pub use position::{Epoch, MAX_SEQ, Position};
pub use room::{Room, RoomError};
pub use stamp::Stamp;

/// Version of the link protocol spoken by this build, sent in both hellos.
pub const VERSION: u32 = 1;

/// Largest page of history that one `ReadResult` or `Publications` carries, in bytes of entries.
pub const PAGE_BYTES: usize = 1 << 20;

/// Largest protobuf message either side of a link accepts. A page, or one publication with its frame, fits well within.
pub const MAX_LINK_MESSAGE_BYTES: usize = 4 << 20;

/// Removals of users that a store keeps, for an hour: fourteen a second all the time, or a large group at once. A node holds
/// as many in memory, an edge twice, at some 250 bytes each.
pub const MAX_REMOVALS: usize = 50_000;

/// Generated from `proto/`; `tests/bootstrap.rs` keeps it in step.
#[expect(clippy::all, clippy::pedantic, clippy::allow_attributes, unused_qualifications, reason = "generated code")]
pub mod wire {
    include!("generated/realtime.v1.rs");

    /// The file descriptors, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/realtime.v1.fds");
}
