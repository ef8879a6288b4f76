//! Places for connections that have not said yet what they want. When all are taken, the one that has waited longest makes
//! room: so clients that take their time delay nobody who does not, however many they are.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// See the module.
#[derive(Debug)]
pub struct Crowd {
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
pub struct Place {
    speaker: Speaker,
    cut: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Says that the connection has spoken: it will not be cut for others. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Speaker(Arc<Speech>);

#[derive(Debug)]
struct Speech {
    crowd: Arc<Crowd>,
    number: u64,
    spoken: AtomicBool,
}

impl Crowd {
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(places)), silent: Mutex::default() })
    }

    /// A place for one more; with all taken, once one of those that are silent is gone, or any other.
    pub async fn enter(self: &Arc<Self>) -> Place {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return self.place(Some(permit));
        }
        self.cut_oldest();
        self.wait().await
    }

    /// The same, but where all have spoken there is no place.
    pub async fn enter_or_leave(self: &Arc<Self>) -> Option<Place> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Some(self.place(Some(permit)));
        }
        if self.cut_oldest() { Some(self.wait().await) } else { None }
    }

    async fn wait(self: &Arc<Self>) -> Place {
        // The semaphore is never closed.
        let permit = self.places.clone().acquire_owned().await.ok();
        self.place(permit)
    }

    fn place(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>) -> Place {
        let cut = CancellationToken::new();
        let mut silent = self.lock();
        let number = silent.next;
        silent.next += 1;
        silent.cuts.insert(number, cut.clone());
        drop(silent);
        let speech = Speech { crowd: self.clone(), number, spoken: AtomicBool::new(false) };
        Place { speaker: Speaker(Arc::new(speech)), cut, _permit: permit }
    }

    fn cut_oldest(&self) -> bool {
        let oldest = self.lock().cuts.pop_first();
        oldest.is_some_and(|(_, oldest)| {
            oldest.cancel();
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub fn speaker(&self) -> Speaker {
        self.speaker.clone()
    }

    /// Waits until somebody else needs the place more.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.speaker.spoke();
    }
}

impl Speaker {
    pub fn spoke(&self) {
        if !self.0.spoken.swap(true, Ordering::Relaxed) {
            self.0.crowd.lock().cuts.remove(&self.0.number);
        }
    }

    pub fn has_spoken(&self) -> bool {
        self.0.spoken.load(Ordering::Relaxed)
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

    #[tokio::test(start_paused = true)]
    async fn where_all_have_spoken_one_may_leave() {
        let crowd = Crowd::new(2);
        let (first, second) = (crowd.enter_or_leave().await.unwrap(), crowd.enter_or_leave().await.unwrap());
        first.speaker().spoke();
        let leaves = async {
            second.cut().await;
            drop(second);
        };
        let (third, ()) = tokio::join!(crowd.enter_or_leave(), leaves);
        let third = third.unwrap();
        third.speaker().spoke();
        assert!(third.speaker().has_spoken() && crowd.enter_or_leave().await.is_none());
        drop(first);
        assert!(crowd.enter_or_leave().await.is_some());
    }
}
