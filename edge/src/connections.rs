//! The connections that are open: how many, and a handle to each, for what goes to all of them.

use std::{
    collections::HashMap,
    num::NonZeroU32,
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
    table: Mutex<Table>,
    count: Arc<AtomicUsize>,
    max: usize,
    max_per_user: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    users: HashMap<UserId, OfUser, RandomState>,
}

#[derive(Debug)]
struct Slot {
    handle: Option<Arc<Outbox>>,
    /// Of the same user; a list costs less than one of its own for each user.
    next: Option<NonZeroU32>,
}

/// What a user has; nobody has nothing.
#[derive(Debug, Default)]
struct OfUser {
    places: u32,
    first: Option<NonZeroU32>,
}

/// The place of an open connection; given up when dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    slot: Option<NonZeroU32>,
    user: Option<UserId>,
}

impl Connections {
    /// `max`: how many may be open, in all and of one user.
    pub fn new(max: usize, max_per_user: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), count: Arc::default(), max, max_per_user, metrics })
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
        self.lock().slots.iter().filter_map(|slot| slot.handle.clone()).collect()
    }

    /// Those of one user.
    pub(crate) fn of_user(&self, user: &UserId) -> Vec<Arc<Outbox>> {
        let table = self.lock();
        let first = table.users.get(user).and_then(|of_user| of_user.first);
        let slots = std::iter::successors(first, |slot| table.slot(*slot).next);
        slots.filter_map(|slot| table.slot(slot).handle.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits in all outboxes, by a look that yields now and then.
    pub async fn held(&self) -> Limits {
        let mut all = Limits { frames: 0, bytes: 0 };
        let mut next = 0;
        loop {
            {
                let table = self.lock();
                let Some(rest) = table.slots.get(next..).filter(|rest| !rest.is_empty()) else { return all };
                for outbox in rest.iter().take(BATCH).filter_map(|slot| slot.handle.as_ref()) {
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
        let mut table = self.connections.lock();
        let places = &mut table.users.entry(user.clone()).or_default().places;
        if usize::try_from(*places).unwrap_or(usize::MAX) >= self.connections.max_per_user {
            return false;
        }
        *places += 1;
        self.user = Some(user.clone());
        true
    }

    /// The connection is open: from now on it is among the [`Connections::handles`].
    pub fn fill(&mut self, handle: Arc<Outbox>) {
        self.slot = self.connections.lock().add(handle, self.user.as_ref());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().give_up(self.slot, self.user.as_ref());
        self.connections.count.fetch_sub(1, Ordering::Relaxed);
        self.connections.metrics.connections.dec();
    }
}

impl Table {
    fn slot(&self, number: NonZeroU32) -> &Slot {
        &self.slots[index(number)]
    }

    /// None when there are more than four billion.
    fn add(&mut self, handle: Arc<Outbox>, user: Option<&UserId>) -> Option<NonZeroU32> {
        let number = match self.free.pop() {
            Some(free) => NonZeroU32::new(free)?,
            None => NonZeroU32::new(u32::try_from(self.slots.len() + 1).ok()?)?,
        };
        let first = user.and_then(|user| self.users.get_mut(user)).map(|of_user| &mut of_user.first);
        let slot = Slot { handle: Some(handle), next: first.and_then(|first| first.replace(number)) };
        match self.slots.get_mut(index(number)) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        Some(number)
    }

    fn give_up(&mut self, slot: Option<NonZeroU32>, user: Option<&UserId>) {
        if let Some(slot) = slot {
            self.unlink(slot, user);
            self.slots[index(slot)] = Slot { handle: None, next: None };
            self.free.push(slot.get());
        }
        if let Some(user) = user
            && let Some(of_user) = self.users.get_mut(user)
        {
            of_user.places -= 1;
            if of_user.places == 0 {
                self.users.remove(user);
            }
        }
    }

    /// Takes a slot out of its user's list, which is short.
    fn unlink(&mut self, slot: NonZeroU32, user: Option<&UserId>) {
        let Some(of_user) = user.and_then(|user| self.users.get_mut(user)) else { return };
        let next = self.slots[index(slot)].next;
        if of_user.first == Some(slot) {
            of_user.first = next;
            return;
        }
        let mut at = of_user.first;
        while let Some(number) = at {
            let before = &mut self.slots[index(number)];
            if before.next == Some(slot) {
                before.next = next;
                return;
            }
            at = before.next;
        }
    }
}

/// Slots are numbered from 1, so that none takes no place.
fn index(number: NonZeroU32) -> usize {
    usize::try_from(number.get()).unwrap_or(usize::MAX) - 1
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
        assert!(connections.lock().users.is_empty());
    }

    #[test]
    fn those_of_a_user_are_found_whichever_goes_first() {
        for goes in 0..3 {
            let connections = Connections::new(9, 9, Arc::default());
            let user = UserId::try_new("7").unwrap();
            let mut places = Vec::new();
            for id in ["7", "8", "7", "7"] {
                let mut place = connections.reserve().unwrap();
                assert!(place.belong_to(&UserId::try_new(id).unwrap()));
                let outbox = test_support::outbox();
                place.fill(outbox.clone());
                places.push((id, place, outbox));
            }
            places.remove([0, 2, 3][goes]);
            // Its slot is somebody else's now.
            let mut other = connections.reserve().unwrap();
            other.fill(test_support::outbox());
            let expected: Vec<_> =
                places.iter().rev().filter(|(id, ..)| *id == "7").map(|(.., outbox)| outbox).collect();
            let found = connections.of_user(&user);
            assert!(found.iter().zip(&expected).all(|(found, expected)| Arc::ptr_eq(found, expected)));
            assert_eq!((found.len(), connections.handles().len()), (2, 4));
            places.retain(|(id, ..)| *id == "8");
            assert!(connections.of_user(&user).is_empty());
        }
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
