//! Whether the subscriber connection hears what the command connection says, by the node's own pulse: a publication of
//! its own, about each second. A connection that answers pings may be deaf all the same, as when it leads to a server
//! that is no longer the one written to.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// A subscriber that missed the pulses of so long is deaf: more than a slow moment of Redis, less than a sweep.
const DEAF: Duration = Duration::from_secs(5);

/// Moments, in milliseconds after the start.
#[derive(Debug)]
pub(super) struct Hearing {
    /// Of the pulse. In a Cluster it is known once the server's slots are, and changes with them.
    channel: Mutex<Option<Arc<str>>>,
    start: Instant,
    /// The last pulse that Redis has confirmed.
    pulsed: AtomicU64,
    /// The last pulse heard.
    heard: AtomicU64,
    /// The subscriber's last connection.
    listening: AtomicU64,
    wanted: Notify,
}

impl Hearing {
    pub(super) fn new(channel: Option<&str>) -> Self {
        let moment = || AtomicU64::new(0);
        let (pulsed, heard, listening) = (moment(), moment(), moment());
        let channel = Mutex::new(channel.map(Into::into));
        Self { channel, start: Instant::now(), pulsed, heard, listening, wanted: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn channel(&self) -> Option<Arc<str>> {
        self.lock().clone()
    }

    pub(super) fn set_channel(&self, channel: &str) {
        *self.lock() = Some(channel.into());
    }

    pub(super) fn pulsed(&self) {
        self.pulsed.store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// A new connection listens: it should soon hear a pulse.
    pub(super) fn listens(&self) {
        self.listening.store(self.now(), Ordering::Relaxed);
        self.wanted.notify_one();
    }

    /// Resolves when a pulse should be sent at once.
    pub(super) async fn wants_pulse(&self) {
        self.wanted.notified().await;
    }

    /// Age of the last pulse heard; of the process, before the first.
    pub(super) fn heard_ms_ago(&self) -> u64 {
        self.now().saturating_sub(self.heard.load(Ordering::Relaxed))
    }

    /// Whether pulses have been sent for a while that the connection should have heard and did not.
    pub(super) fn is_deaf(&self) -> bool {
        let since = self.heard.load(Ordering::Relaxed).max(self.listening.load(Ordering::Relaxed));
        u128::from(self.pulsed.load(Ordering::Relaxed).saturating_sub(since)) >= DEAF.as_millis()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deaf_is_who_misses_what_was_sent() {
        let hearing = Hearing::new(Some("pulse"));
        let second = || tokio::time::advance(Duration::from_secs(1));
        for _ in 0..10 {
            second().await;
            assert!(!hearing.is_deaf(), "nothing was sent");
        }
        assert_eq!(hearing.heard_ms_ago(), 10_000);
        hearing.listens();
        for _ in 0..4 {
            second().await;
            hearing.pulsed();
            assert!(!hearing.is_deaf());
        }
        hearing.heard();
        for _ in 0..4 {
            second().await;
            hearing.pulsed();
        }
        assert!(!hearing.is_deaf());
        second().await;
        hearing.pulsed();
        assert!(hearing.is_deaf());
        assert_eq!(hearing.heard_ms_ago(), 5000);
        hearing.listens();
        assert!(!hearing.is_deaf(), "a new connection gets its time");
    }
}
