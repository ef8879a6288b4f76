//! Edges, fanout nodes and their links as they ship, run on one thread under a clock that stands still until it is told,
//! so that thousands of bad days pass in a minute, each from a seed that repeats it exactly.
//!
//! **Driven**: all that ships between a client's socket and the store: read and write pump, session, hub, upstream (links
//! with their backoff, placement, broadcasts), attachments, dispatcher, room, publishing; the tasks themselves, on tokio's
//! single-threaded scheduler. **Models**: time (tokio's, paused), randomness (`service::rng`), the network (`network`),
//! the store (`store`) and a node's way to it (`broker`), clients (`client`) and publishers.
//!
//! - `plan`: what a seed decides. `faults`: what goes wrong, when.
//! - `checker`: what each client must see; what the store must have.
//! - `run`: one seed, from the first to the last moment.
//!
//! It is built with `--cfg simulation --cfg tokio_unstable` only (see the Makefile): without, this crate is empty.
#![cfg(simulation)]

pub mod broker;
pub mod checker;
pub mod client;
mod edge_process;
mod faults;
pub mod network;
pub mod plan;
mod publisher;
pub mod record;
pub mod run;
pub mod store;
mod world;

pub use plan::{Kind, Plan};
pub use run::{Options, Outcome, run};
