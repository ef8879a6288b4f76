use std::time::Duration;

use tokio::time::Instant;

use super::rate::{Bucket, Rate, Verdict};

/// So many messages in a row that were not understood end the connection.
const MAX_MALFORMED: u8 = 20;

/// The time over which the allowance of joins is given.
const JOINS_PERIOD: Duration = Duration::from_secs(10);

/// How much one client may ask (`PROTOCOL.md`, section 3, "Error codes").
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Rooms besides the automatic ones.
    pub max_rooms: usize,
    /// How long a broadcast may wait for its receipt, repeats included.
    pub publish_timeout: Duration,
    /// Messages in a second, in the long run and at once.
    pub rate: u32,
    pub burst: u32,
}

/// What one client has used of it.
#[derive(Debug)]
pub(super) struct Limits {
    messages: Bucket,
    joins: Bucket,
    malformed: u8,
}

/// What a message is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    Message,
    Join,
}

impl Settings {
    #[expect(clippy::cast_precision_loss, reason = "rates are small")]
    fn messages(&self) -> Rate {
        Rate { per_second: self.rate as f32, burst: self.burst as f32 }
    }

    /// Enough to join all rooms again after a reconnect, besides the messages.
    #[expect(clippy::cast_precision_loss, reason = "rates are small")]
    fn joins(&self, automatic: usize) -> Rate {
        let burst = (self.max_rooms + automatic) as f32;
        Rate { per_second: burst / JOINS_PERIOD.as_secs_f32(), burst }
    }
}

impl Limits {
    pub(super) fn new(settings: &Settings, automatic: usize, now: Instant) -> Self {
        Self {
            messages: Bucket::full(settings.messages(), now),
            joins: Bucket::full(settings.joins(automatic), now),
            malformed: 0,
        }
    }

    pub(super) fn take(&mut self, charge: Charge, settings: &Settings, automatic: usize, now: Instant) -> Verdict {
        match charge {
            Charge::Message => self.messages.take(settings.messages(), now),
            Charge::Join => self.joins.take(settings.joins(automatic), now),
        }
    }

    pub(super) fn understood(&mut self) {
        self.malformed = 0;
    }

    /// One more that was not understood. True when there were too many.
    pub(super) fn malformed(&mut self) -> bool {
        self.malformed += 1;
        self.malformed >= MAX_MALFORMED
    }
}
