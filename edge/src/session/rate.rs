use tokio::time::Instant;

/// A token bucket that may go into debt: 16 bytes a client. Pure: the time is passed in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    /// What is left, at `at`. Below zero: the debt.
    left: f32,
    at: Instant,
}

/// Fractions of seconds are not exact; a thousandth of a message more or less is no matter.
const ROUNDING: f32 = 0.001;

/// How much a bucket holds, and how fast it fills.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: f32,
    pub(super) burst: f32,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    /// Not to be done; after so many milliseconds without another, it would be.
    Refused(u32),
    /// The debt is as large as the burst: too much.
    TooMuch,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// Takes one. A request that is refused takes one as well: that is the debt.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Verdict {
        let passed = now.saturating_duration_since(self.at).as_secs_f32();
        self.left = (self.left + passed * rate.per_second).min(rate.burst) - 1.0;
        self.at = now;
        if self.left >= -ROUNDING {
            Verdict::Granted
        } else if self.left > -rate.burst {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
            let ms = ((1.0 - self.left) / rate.per_second * 1000.0).ceil() as u32;
            Verdict::Refused(ms)
        } else {
            Verdict::TooMuch
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 20.0 };

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate_then_a_debt_that_has_an_end() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(RATE, now);
        for _ in 0..20 {
            assert_eq!(bucket.take(RATE, now), Verdict::Granted);
        }
        assert_eq!(bucket.take(RATE, now), Verdict::Refused(200), "the debt, and the request itself");
        assert_eq!(bucket.take(RATE, now), Verdict::Refused(300));
        now += Duration::from_millis(300);
        assert_eq!(bucket.take(RATE, now), Verdict::Granted);
        assert_eq!(bucket.take(RATE, now), Verdict::Refused(200), "and no more than that");
        // A second's pause is never worth more than the burst.
        now += Duration::from_mins(1);
        assert_eq!((0..21).filter(|_| bucket.take(RATE, now) == Verdict::Granted).count(), 20);
        for _ in 0..18 {
            assert!(matches!(bucket.take(RATE, now), Verdict::Refused(_)));
        }
        assert_eq!(bucket.take(RATE, now), Verdict::TooMuch);
    }

    #[test]
    fn a_bucket_is_small() {
        assert!(size_of::<Bucket>() <= 24, "{}", size_of::<Bucket>());
    }
}
