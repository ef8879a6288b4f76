//! What an edge may allocate, counted, with the budget as the limit. The edge runs alone on the test's thread, and only
//! that thread's allocations count; its node and its clients have threads of their own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod allocations;
mod clients;
mod memory;
mod node;
mod subject;
