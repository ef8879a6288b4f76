//! The connections that are open: how many, and a handle to each, for what goes to all of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use queues::Limits;
use service::RandomState;
use tokio::task::yield_now;

use crate::{auth::UserId, metrics::Metrics, outbox::Outbox};

/// Outboxes looked into between two yields.
const BATCH: usize = 1024;

/// The handles of the open connections.
#[derive(Debug)]
pub struct Connections {
    slots: Mutex<Slots>,
    count: Arc<AtomicUsize>,
    /// How many each user has; no entry is zero.
    users: Mutex<HashMap<UserId, usize, RandomState>>,
    max: usize,
    max_per_user: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Slots {
    handles: Vec<Option<Arc<Outbox>>>,
    free: Vec<usize>,
}

/// The place of an open connection; given up when dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    slot: Option<usize>,
    user: Option<UserId>,
}

impl Connections {
    /// `max`: how many may be open, in all and of one user.
    pub fn new(max: usize, max_per_user: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let (slots, count, users) = (Mutex::default(), Arc::default(), Mutex::default());
        Arc::new(Self { slots, count, users, max, max_per_user, metrics })
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.count() >= self.max
    }

    /// A place for one more, unless all are taken. To be had before the upgrade, so that the gap before the 101 counts.
    pub fn reserve(self: &Arc<Self>) -> Option<Place> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.metrics.connections.inc();
        Some(Place { connections: self.clone(), slot: None, user: None })
    }

    /// The handles of all that are open now.
    pub fn handles(&self) -> Vec<Arc<Outbox>> {
        lock(&self.slots).handles.iter().flatten().cloned().collect()
    }

    /// What waits in all outboxes, by a look that yields now and then.
    pub async fn held(&self) -> Limits {
        let mut all = Limits { frames: 0, bytes: 0 };
        let mut next = 0;
        loop {
            {
                let slots = lock(&self.slots);
                let Some(batch) = slots.handles.get(next..).filter(|rest| !rest.is_empty()) else { return all };
                for outbox in batch.iter().take(BATCH).flatten() {
                    let held = outbox.queue().held();
                    all.frames += held.frames;
                    all.bytes += held.bytes;
                }
            }
            next += BATCH;
            yield_now().await;
        }
    }

    /// How clients are to be spread when many must do the same thing.
    pub fn spread(&self) -> Spread {
        Spread { connections: self.count.clone() }
    }
}

impl Place {
    /// Counts the place as the user's. False if the user has too many already.
    pub fn belong_to(&mut self, user: &UserId) -> bool {
        let mut users = lock(&self.connections.users);
        let count = users.entry(user.clone()).or_default();
        if *count >= self.connections.max_per_user {
            return false;
        }
        *count += 1;
        self.user = Some(user.clone());
        true
    }

    /// The connection is open: from now on it is among the [`Connections::handles`].
    pub fn fill(&mut self, handle: Arc<Outbox>) {
        let mut slots = lock(&self.connections.slots);
        let slot = slots.free.pop().unwrap_or(slots.handles.len());
        if slot == slots.handles.len() {
            slots.handles.push(None);
        }
        slots.handles[slot] = Some(handle);
        drop(slots);
        self.slot = Some(slot);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let mut slots = lock(&self.connections.slots);
            slots.handles[slot] = None;
            slots.free.push(slot);
        }
        if let Some(user) = self.user.take() {
            let mut users = lock(&self.connections.users);
            if let Some(count) = users.get_mut(&user) {
                *count -= 1;
                if *count == 0 {
                    users.remove(&user);
                }
            }
        }
        self.connections.count.fetch_sub(1, Ordering::Relaxed);
        self.connections.metrics.connections.dec();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The window over which clients are spread that reconnect or reload at the same time: the node's connections ÷ 2,000
/// seconds, within 1–60 s (`PROTOCOL.md`, section 3, `reconnect_ms`).
#[derive(Debug, Clone)]
pub struct Spread {
    connections: Arc<AtomicUsize>,
}

impl Spread {
    pub fn window(&self) -> Duration {
        let connections = self.connections.load(Ordering::Relaxed) as u64;
        Duration::from_millis(connections / 2).clamp(Duration::from_secs(1), Duration::from_mins(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    #[test]
    fn places_are_limited_and_given_back() {
        let connections = Connections::new(2, 9, Arc::default());
        let mut first = connections.reserve().unwrap();
        let second = connections.reserve().unwrap();
        assert!(connections.is_full());
        assert!(connections.reserve().is_none());
        let outbox = test_support::outbox();
        first.fill(outbox.clone());
        assert!(Arc::ptr_eq(&connections.handles()[0], &outbox));
        drop((first, second));
        assert_eq!(connections.count(), 0);
        assert!(connections.handles().is_empty());
    }

    #[tokio::test]
    async fn what_waits_is_counted_over_all() {
        let connections = Connections::new(usize::MAX, 9, Arc::default());
        let places: Vec<_> = (0..=BATCH)
            .map(|_| {
                let (mut place, outbox) = (connections.reserve().unwrap(), test_support::outbox());
                outbox.push(test_support::frame());
                place.fill(outbox);
                place
            })
            .collect();
        let held = connections.held().await;
        assert_eq!((held.frames, held.bytes), (places.len(), places.len() * test_support::frame().len()));
        drop(places);
        assert_eq!(connections.held().await.frames, 0);
    }

    #[test]
    fn a_user_has_only_so_many() {
        let connections = Connections::new(9, 1, Arc::default());
        let user = UserId::try_new("7").unwrap();
        let (mut first, mut second) = (connections.reserve().unwrap(), connections.reserve().unwrap());
        assert!(first.belong_to(&user));
        assert!(!second.belong_to(&user));
        assert!(second.belong_to(&UserId::try_new("8").unwrap()));
        drop(first);
        assert!(connections.reserve().unwrap().belong_to(&user));
        drop(second);
        assert!(lock(&connections.users).is_empty());
    }

    #[test]
    fn the_window_grows_with_the_connections() {
        let connections = Connections::new(usize::MAX, 9, Arc::default());
        let spread = connections.spread();
        assert_eq!(spread.window(), Duration::from_secs(1));
        connections.count.store(10_000, Ordering::Relaxed);
        assert_eq!(spread.window(), Duration::from_secs(5));
        connections.count.store(1_000_000, Ordering::Relaxed);
        assert_eq!(spread.window(), Duration::from_mins(1));
    }
}
