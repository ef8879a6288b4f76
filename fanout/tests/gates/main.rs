//! What a fanout node may allocate, counted, with the budget as the limit. The node runs alone on the test's thread, and
//! only that thread's allocations count; its edges have threads of their own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod edge;
mod memory;
