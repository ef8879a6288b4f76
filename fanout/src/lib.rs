//! Fanout owns the rooms: it stores what is published, announces it, and sends each edge what its rooms get.
//!
//! The way of a publication down: the publish API (`grpc::publish`, `http`) or a link → `publishing` (checks, `from`, `ts`)
//! → [`broker`] (stores and announces in one step) → `dispatcher` (a shard owns the room) → `room` (next, gap, epoch) →
//! `routing` (who is attached) → `attachments` (a bounded queue each) → `grpc::outbound` (the only writer of a link).
//!
//! - [`config`], `defaults`, `metrics`, [`auth`]: settings, constants, counters, who may come in.
//! - [`console`]: a page that shows the node's status to people.
//! - `server`: the listeners, and the order of the drain.
//!
//! What is not here: no lock over an await; no queue without a limit, a rule and a counter; no clock and no I/O in
//! `room` and `routing`; no `redis::` outside `broker::redis`; no gRPC status outside `grpc::status`; no body is decoded
//! on the way down.

mod attachments;
pub mod auth;
pub mod broker;
pub mod config;
pub mod console;
mod defaults;
mod dispatcher;
mod grpc;
mod http;
mod metrics;
mod publishing;
mod rates;
mod removals;
mod room;
mod routing;
mod server;
pub mod simulation;

pub use server::{Bound, serve};
