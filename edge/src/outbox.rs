//! A connection's bounded send queue, with the rule for a slow consumer: when the queue is full, what waits is dropped
//! and the connection closed with 4008. Nobody else is delayed by it.

use std::{
    future::{pending, poll_fn},
    sync::Arc,
};

use bytes::Bytes;
use queues::{Limits, PushError};

use crate::{auth::UserId, close::CloseReason, metrics::Metrics};

/// What all outboxes of an edge have in common.
#[derive(Debug)]
pub struct Rules {
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// The handle to a connection that hub, registry and pumps share.
#[derive(Debug)]
pub struct Outbox {
    queue: queues::Outbox<CloseReason>,
    rules: Arc<Rules>,
    /// None for a client that is only told why it is refused.
    user: Option<UserId>,
}

impl Outbox {
    pub fn new(user: UserId, rules: Arc<Rules>) -> Self {
        Self { queue: queues::Outbox::new(), rules, user: Some(user) }
    }

    /// For a client that is only told why it is refused.
    pub fn nobodys(rules: Arc<Rules>) -> Self {
        Self { queue: queues::Outbox::new(), rules, user: None }
    }

    /// Queues a frame. False if it was not: the connection is closing, or closes now because it is too slow.
    pub fn push(&self, frame: Bytes) -> bool {
        match self.queue.push(frame, self.rules.limits, CloseReason::SlowConsumer) {
            Ok(()) => true,
            Err(PushError::Closed) => false,
            Err(PushError::Full) => {
                let Limits { frames, bytes } = self.rules.limits;
                self.rules.metrics.outbox_full.inc();
                tracing::warn!(
                    user = self.user(),
                    limit_frames = frames,
                    limit_bytes = bytes,
                    "close a slow consumer: its outbox is full"
                );
                false
            }
        }
    }

    /// Queues a frame of a replay, if that leaves most of the queue to what is live. False if not, which is no slowness.
    pub fn fill(&self, frame: Bytes) -> bool {
        self.queue.try_push(frame, self.share())
    }

    /// Waits until there is room for more of a replay: for ever, once it is closed.
    pub async fn low(&self) {
        let Limits { frames, bytes } = self.share();
        // Half of it: so that a replay comes in runs, not frame by frame.
        let low = Limits { frames: frames / 2, bytes: bytes / 2 };
        poll_fn(|cx| self.queue.poll_low(cx, low)).await;
        if self.queue.is_closed() {
            // It takes nothing more, however little it holds: who asked the hub again and again would spin.
            pending::<()>().await;
        }
    }

    /// Frames that wait, if they are more than half of what it may hold: else none.
    pub fn lag(&self) -> usize {
        if self.queue.is_closed() {
            return 0;
        }
        let (Limits { frames, bytes }, held) = (self.rules.limits, self.queue.held());
        if 2 * held.frames > frames || 2 * held.bytes > bytes { held.frames } else { 0 }
    }

    /// What replays may fill: a quarter. A slice of what is live takes up to half, and answers must fit as well.
    fn share(&self) -> Limits {
        let Limits { frames, bytes } = self.rules.limits;
        Limits { frames: frames.div_ceil(4), bytes: bytes.div_ceil(4) }
    }

    pub fn limits(&self) -> Limits {
        self.rules.limits
    }

    /// Whose connection it is, for logs.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("-")
    }

    /// For the write pump.
    pub fn queue(&self) -> &queues::Outbox<CloseReason> {
        &self.queue
    }

    /// So much of what the pump took is with the kernel, by one call.
    pub fn wrote(&self, frames: usize, bytes: usize) {
        self.queue.written(frames, bytes);
        self.rules.metrics.writes.inc();
        self.rules.metrics.frames_written.inc_by(frames as u64);
        self.rules.metrics.bytes_written.inc_by(bytes as u64);
    }

    /// Waits until the write pump has ended, and tells why it did.
    pub async fn ended(&self) -> CloseReason {
        poll_fn(|cx| self.queue.poll_ended(cx)).await
    }

    /// Sends what is queued, then closes. False if it was closing before.
    pub fn finish(&self, reason: CloseReason) -> bool {
        self.queue.finish(reason)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use crate::{close::CloseReason, test_support};

    #[test]
    fn a_closed_outbox_never_has_room_for_more() {
        let outbox = test_support::outbox();
        assert!(outbox.low().now_or_never().is_some());
        outbox.finish(CloseReason::Restarting);
        assert!(outbox.low().now_or_never().is_none());
        assert!(!outbox.fill(test_support::frame()));
    }
}
