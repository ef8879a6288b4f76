//! The messages of `PROTOCOL.md`, and the WebSocket frames around them. Pure: bytes in, values out, and back.

pub mod client;
mod code;
mod envelope;
pub mod frame;
pub mod server;

pub use client::{ClientMessage, Malformed, Request, Since};
pub use code::ErrorCode;
pub use envelope::Envelope;
pub use server::ServerMessage;

/// The subprotocol a client may offer, and then gets.
pub const SUBPROTOCOL: &str = "realtime.v1";
