//! Places for connections that are plain HTTP so far. When all are taken, the one that has waited longest without saying
//! what it wants makes room: so clients that take their time delay nobody who does not, however many they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(super) struct Crowd {
    places: Arc<Semaphore>,
    silent: Mutex<Silent>,
}

/// Connections that have not said what they want, in the order they came.
#[derive(Debug, Default)]
struct Silent {
    next: u64,
    cuts: BTreeMap<u64, CancellationToken>,
}

/// A connection's place; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    speaker: Speaker,
    cut: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Says that the connection has spoken: it will not be cut for others.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    crowd: Arc<Crowd>,
    number: u64,
}

impl Crowd {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(places)), silent: Mutex::default() })
    }

    /// A place for one more; with all taken, once one of those that are silent is gone.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        let permit = if let Ok(permit) = self.places.clone().try_acquire_owned() {
            Some(permit)
        } else {
            self.cut_oldest();
            // The semaphore is never closed.
            self.places.clone().acquire_owned().await.ok()
        };
        let cut = CancellationToken::new();
        let mut silent = self.lock();
        let number = silent.next;
        silent.next += 1;
        silent.cuts.insert(number, cut.clone());
        drop(silent);
        Place { speaker: Speaker { crowd: self.clone(), number }, cut, _permit: permit }
    }

    fn cut_oldest(&self) {
        if let Some((_, oldest)) = self.lock().cuts.pop_first() {
            oldest.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn speaker(&self) -> Speaker {
        self.speaker.clone()
    }

    /// Waits until somebody else needs the place more.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.speaker.spoke();
    }
}

impl Speaker {
    pub(super) fn spoke(&self) {
        self.crowd.lock().cuts.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_that_is_silent_makes_room() {
        let crowd = Crowd::new(3);
        let (speaks, oldest, second) = (crowd.enter().await, crowd.enter().await, crowd.enter().await);
        speaks.speaker().spoke();
        let enter = crowd.enter();
        let leaves = async {
            oldest.cut().await;
            drop(oldest);
        };
        let (_fourth, ()) = tokio::join!(enter, leaves);
        for stays in [&speaks, &second] {
            assert!(timeout(Duration::from_secs(1), stays.cut()).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_have_spoken_one_waits_and_places_are_given_back() {
        let crowd = Crowd::new(1);
        let only = crowd.enter().await;
        only.speaker().spoke();
        assert!(timeout(Duration::from_secs(1), crowd.enter()).await.is_err());
        drop(only);
        assert!(timeout(Duration::from_secs(1), crowd.enter()).await.is_ok());
        assert!(crowd.lock().cuts.is_empty());
    }
}
