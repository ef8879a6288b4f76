//! The two queues whose concurrency is worth a model, kept free of tokio's net so that loom can run them:
//! `RUSTFLAGS="--cfg loom" cargo test -p queues --release`.
//!
//! - [`Outbox`]: a connection's bounded send queue. Many push, one pump takes.
//! - [`Interest`]: the set of rooms whose wish changed, each with its latest wish. Many set, one link drains.
//!
//! Both keep the waker of their one reader inside the lock, so that a push and a park can never miss each other, and
//! wake it only when it waits.

mod interest;
mod outbox;
mod sync;

pub use interest::Interest;
pub use outbox::{Limits, Outbox, PushError, Taken};
