//! Exponential backoff with full jitter: each delay is uniform between zero and a bound that doubles up to a maximum
//! (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

use rand::Rng;

/// Delays between the tries of one thing. Waiting is the caller's, so that it can listen to its token meanwhile.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    /// The first delay is at most `first`, later ones at most `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, bound: first }
    }

    /// The next delay.
    pub fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let delay = self.bound.mul_f64(rng.random::<f64>());
        self.bound = (self.bound * 2).min(self.max);
        delay
    }

    /// To be called when it worked: the next failure starts over.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_maximum_and_start_over() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, max);
        let mut rng = rand::rng();
        for exponent in 0..12 {
            let bound = (first * (1 << exponent)).min(max);
            assert!(backoff.next_delay(&mut rng) <= bound);
        }
        assert_eq!(backoff.bound, max);
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= first);
    }
}
