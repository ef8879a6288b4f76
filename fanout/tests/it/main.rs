//! Fanout from outside: real listeners, real clients, and both brokers under one contract.

#![expect(clippy::unwrap_used, reason = "tests")]

mod api;
mod link;
mod support;
