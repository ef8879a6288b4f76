//! End to end: the real binaries as processes of their own, a real Redis, real sockets.
//!
//! `harness` starts and ends them and speaks for clients, publishers and backends; the other modules are the tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

mod addresses;
mod authorization;
mod bodies;
mod catching_up;
mod chaos;
mod conformance;
mod connecting;
mod contract;
mod crowd;
mod demo;
mod drops;
mod floods;
mod handshake;
mod joining;
mod limits;
mod links;
mod liveness;
mod messages;
mod order;
mod outage;
mod quick_start;
mod readiness;
mod redeploy;
mod refusals;
mod removals;
mod requests;
mod rollout;
mod secrets;
mod shutdown;
mod stages;
mod standalone;
mod swarm;
mod tls;
mod tokens;
mod traces;
