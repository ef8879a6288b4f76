//! Fanout from outside: real listeners, real clients, and both brokers under one contract.

#![expect(clippy::unwrap_used, reason = "tests")]

mod api;
mod contract;
mod drain;
mod hearing;
mod history;
mod link;
mod memory;
mod process;
mod proxy;
mod publish_api;
mod publish_stream;
mod queues;
mod redis;
mod redis_node;
mod redis_server;
mod subject;
mod support;
mod sweep;
