//! When the next batch goes. The first after a pause goes at once. While publications keep coming, each batch costs all
//! tiers a round of wake-ups, and so the next waits a little for others to share it: the longer the more there are to
//! share it, but never so long that who publishes one by one, each after the receipt of the last, is held up.

use std::time::Duration;

use tokio::time::Instant;

/// Between two batches that are not full, at least.
const LEAST: Duration = Duration::from_millis(1);

/// And at most: what a publication may wait for others, half a frame of a screen.
const MOST: Duration = Duration::from_millis(8);

/// Publications that go without waiting for more: what one call of the script takes.
const FULL: usize = super::CALL;

/// Of one way to Redis.
#[derive(Debug)]
pub(in crate::broker::redis) struct Pace {
    due: Instant,
    wait: Duration,
    /// When the last publication came.
    last: Instant,
}

impl Pace {
    pub(in crate::broker::redis) fn new(now: Instant) -> Self {
        Self { due: now, wait: LEAST, last: now }
    }

    /// When what waits goes at the latest.
    pub(in crate::broker::redis) fn due(&self) -> Instant {
        self.due
    }

    /// Some have come.
    pub(in crate::broker::redis) fn came(&mut self, now: Instant) {
        self.last = now;
    }

    pub(in crate::broker::redis) fn is_due(&self, waiting: usize, now: Instant) -> bool {
        waiting >= FULL || now >= self.due
    }

    /// So many go now.
    pub(in crate::broker::redis) fn sent(&mut self, count: usize, now: Instant) {
        let paused = now >= self.due + self.wait;
        let flowing = now - self.last <= self.wait / 2;
        // One for each millisecond, or it does not pay.
        let most = LEAST.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).min(MOST);
        self.wait = match (paused, flowing) {
            (true, _) => LEAST,
            (false, true) => (self.wait * 2).min(most),
            (false, false) => self.wait / 2,
        }
        .max(LEAST);
        self.due = now + self.wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches sent and the longest that a publication waited, when so many come every so often for a second.
    fn steady(every: Duration, count: usize) -> (usize, Duration) {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let (mut batches, mut longest) = (0, Duration::ZERO);
        let mut waiting: Vec<Instant> = Vec::new();
        let step = Duration::from_micros(100);
        let mut send = |now, waiting: &mut Vec<Instant>, pace: &mut Pace| {
            if !waiting.is_empty() && pace.is_due(waiting.len(), now) {
                pace.sent(waiting.len(), now);
                batches += 1;
                longest = longest.max(waiting.drain(..).map(|at| now - at).max().unwrap());
            }
        };
        for tick in 0..10_000_u32 {
            let now = start + step * tick;
            if (step * tick).as_micros().is_multiple_of(every.as_micros()) {
                pace.came(now);
                waiting.extend(vec![now; count]);
            }
            send(now, &mut waiting, &mut pace);
        }
        (batches, longest)
    }

    #[test]
    fn what_keeps_coming_shares_batches_and_what_is_rare_goes_at_once() {
        let ms = Duration::from_millis;
        // 2,000 a second.
        let (batches, longest) = steady(ms(1), 2);
        assert!((100..200).contains(&batches), "{batches}");
        assert!(longest <= MOST, "{longest:?}");
        // 10,000 a second: what one call takes is not held back.
        let (batches, longest) = steady(ms(1), 10);
        assert!((240..350).contains(&batches), "{batches}");
        assert!(longest <= ms(3), "{longest:?}");
        // Fewer than one a millisecond, or far apart.
        assert_eq!(steady(ms(2), 1), (500, Duration::ZERO));
        assert_eq!(steady(ms(50), 10), (20, Duration::ZERO));
    }

    #[test]
    fn who_waits_for_receipts_is_not_held_up() {
        // Sixteen publish again half a millisecond after the last batch went.
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let start = now;
        for _ in 0..100 {
            pace.sent(16, now);
            pace.came(now + LEAST / 2 - Duration::from_micros(1));
            now = pace.due();
        }
        assert!(now - start <= LEAST * 101, "{:?}", now - start);
    }
}
