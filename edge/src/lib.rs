//! An edge holds browsers' sockets. It is stateless: its rooms follow from its sockets.
//!
//! # The way down
//! `upstream::link` parses what a fanout node sends and hands it to the [`hub`]; the shard that owns the room makes the
//! WebSocket frame, once, and puts it into each member's [`outbox`]; each connection's write pump takes all that is
//! queued and hands it to the kernel in one vectored write.
//!
//! # The way up
//! [`upgrade`] admits a socket; its read pump parses requests ([`protocol`]); the [`session`], which knows no sockets,
//! decides; the connection carries its actions out: asks [`authorize`], joins the [`hub`], forwards through [`upstream`].
//!
//! # What always holds
//! - Only a connection's write pump writes to its socket; only the link task to its stream.
//! - No lock is held over an await; none is shared by all rooms.
//! - Every queue has a limit, a rule for being full, and a counter ([`metrics`]).
//! - `hub::{members, room, rooms}`, `session`, `heartbeat`, `protocol` contain no I/O and no clock.
//! - Dependencies point one way: `server → upgrade → connection → {session, hub} → {outbox, interest} → {protocol,
//!   close}`; `upstream → {hub, interest}`. The hub knows no upstream, the session no hub.

pub mod auth;
pub mod authorize;
pub mod close;
pub mod config;
pub mod connection;
pub mod connections;
mod defaults;
pub mod deliveries;
mod drain;
pub mod hub;
pub mod interest;
pub mod keys;
mod memory;
pub mod metrics;
pub mod outbound;
pub mod outbox;
pub mod protocol;
pub mod removals;
mod server;
pub mod session;
#[cfg(simulation)]
pub mod simulation;
#[cfg(test)]
mod test_support;
pub mod upgrade;
pub mod upstream;

pub use server::{Bound, serve};
