use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::question::Failure;

/// How long a question waits for a place: after that its client had better come again than wait on.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many questions are under way, so many wait in turn, and no more.
#[derive(Debug)]
pub(super) struct Places {
    inflight: Semaphore,
    queue: Semaphore,
}

impl Places {
    pub(super) fn new(inflight: usize, queue: usize) -> Self {
        let semaphore = |places: usize| Semaphore::new(places.min(Semaphore::MAX_PERMITS));
        Self { inflight: semaphore(inflight), queue: semaphore(queue) }
    }

    /// A place for a question, given back when dropped; so is one in the queue when this future is dropped.
    pub(super) async fn take(&self) -> Result<SemaphorePermit<'_>, Failure> {
        // Nothing is free while others wait: a place given back goes to the first in the queue.
        if let Ok(place) = self.inflight.try_acquire() {
            return Ok(place);
        }
        let _waiting = self.queue.try_acquire().map_err(|_| Failure::QueueFull)?;
        match timeout(PATIENCE, self.inflight.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Failure::QueueTime),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let places = Places::new(1, 1);
        let first = places.take().await.unwrap();
        let start = Instant::now();
        let waiting = places.take();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(matches!(places.take().now_or_never(), Some(Err(Failure::QueueFull))));
        assert!(matches!(waiting.await, Err(Failure::QueueTime)));
        assert_eq!(start.elapsed(), PATIENCE);
        drop(first);
        assert!(places.take().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn places_go_to_those_who_wait_in_turn() {
        let places = Places::new(1, 2);
        let first = places.take().await.unwrap();
        let (mut second, mut third) = (Box::pin(places.take()), Box::pin(places.take()));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        drop(second.await.unwrap());
        assert!(third.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_queue() {
        let places = Places::new(1, 1);
        let _first = places.take().await.unwrap();
        let mut gone = Box::pin(places.take());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        assert!(places.take().now_or_never().is_none(), "waits, as there is room to");
    }
}
