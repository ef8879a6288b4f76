//! Who was removed by a backend, from which room or altogether, lately: what was given before is void. No
//! ban: whoever is let in again is in.
//!
//! It is a table, not a list of events. Links enter what they bring, which may come more than once; each is given a number
//! of this edge's, and the user's connections are woken. They look what is new since they last did.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::{MAX_REMOVALS, Room};
use service::RandomState;
use tokio::time::Instant;

use crate::{auth::UserId, connections::Connections, metrics::Metrics};

/// How long they are known. A store keeps them for an hour, as long as any grant is good, and a node tells of each for an
/// hour after it has read it: none may come again when it is forgotten here, or it would be taken for a new one.
const KEPT: Duration = Duration::from_mins(125);

/// How many: the store's limit is for an hour.
const CAPACITY: usize = 2 * MAX_REMOVALS;

/// Clocks of edges and store may differ by so much: a grant that seems to be given this long after a removal may have been
/// given before. It costs a question more to be wrong the other way.
const SKEW_MS: i64 = 10_000;

/// One removal, as this edge knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rises with each that is learned. 0: there was none.
    pub number: u64,
    /// By the store's clock.
    at_ms: i64,
}

impl Removed {
    /// Whether what was given then was given before it, as far as clocks can tell.
    pub fn is_after(self, given_ms: i64) -> bool {
        self.number > 0 && given_ms < self.at_ms.saturating_add(SKEW_MS)
    }
}

/// What is new for a user since it last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Up to which number.
    pub seen: u64,
    pub everywhere: Option<Removed>,
    pub rooms: Vec<Room>,
}

/// See the module.
#[derive(Debug)]
pub struct Removals {
    table: Mutex<Table>,
    /// The last number given.
    latest: AtomicU64,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Table {
    users: HashMap<UserId, OfUser, RandomState>,
    /// All in the order they were learned, those replaced by a later one included.
    learned: VecDeque<(Instant, u64, UserId, Option<Room>)>,
    /// The latest one forgotten for want of place: what was given before it is void for everybody.
    floor: Removed,
}

#[derive(Debug, Default)]
struct OfUser {
    everywhere: Option<Removed>,
    rooms: HashMap<Room, Removed, RandomState>,
}

impl Removals {
    pub fn new(connections: Arc<Connections>, metrics: Arc<Metrics>) -> Self {
        Self { table: Mutex::default(), latest: AtomicU64::new(0), connections, metrics, capacity: CAPACITY }
    }

    /// A link says that a user was removed, from this room or from all; the same comes by every link.
    pub(crate) fn learn(&self, user: &UserId, room: Option<&Room>, at_ms: i64) {
        {
            let mut table = self.lock();
            let number = self.latest.load(Ordering::Relaxed) + 1;
            if !table.enter(user, room, Removed { number, at_ms }) {
                return;
            }
            table.learned.push_back((Instant::now(), number, user.clone(), room.cloned()));
            if table.forget(self.capacity) {
                self.metrics.removals_full.inc();
            }
            self.metrics.removals.set(i64::try_from(table.learned.len()).unwrap_or(i64::MAX));
            self.latest.store(number, Ordering::Release);
        }
        tracing::info!(user = user.as_str(), room = room.map(Room::as_str), "a backend removes a user");
        for connection in self.connections.of_user(user) {
            connection.queue().wake_owner();
        }
    }

    /// The number of the last one: all before it have been seen by who looks now.
    pub fn latest(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// What concerns a user and is newer than `seen`.
    pub(crate) fn since(&self, seen: u64, user: &UserId) -> News {
        let table = self.lock();
        let mut news = News { seen: self.latest.load(Ordering::Relaxed), ..News::default() };
        if let Some(of_user) = table.users.get(user) {
            news.everywhere = of_user.everywhere.filter(|removed| removed.number > seen);
            let rooms = of_user.rooms.iter().filter(|(_, removed)| removed.number > seen);
            news.rooms = rooms.map(|(room, _)| room.clone()).collect();
        }
        news
    }

    /// The last one by which the user was removed from this room.
    pub(crate) fn last(&self, user: &UserId, room: &Room) -> Removed {
        if self.latest() == 0 {
            return Removed::default();
        }
        let table = self.lock();
        let of_user = table.users.get(user);
        let of_room = of_user.and_then(|of_user| of_user.rooms.get(room).copied());
        let everywhere = of_user.and_then(|of_user| of_user.everywhere);
        let all = [Some(table.floor), of_room, everywhere];
        Removed {
            number: all.iter().flatten().map(|removed| removed.number).max().unwrap_or_default(),
            at_ms: all.iter().flatten().map(|removed| removed.at_ms).max().unwrap_or_default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// False if it is known, or a later one is.
    fn enter(&mut self, user: &UserId, room: Option<&Room>, removed: Removed) -> bool {
        let of_user = self.users.entry(user.clone()).or_default();
        let known = match room {
            None => of_user.everywhere.get_or_insert_default(),
            Some(room) => of_user.rooms.entry(room.clone()).or_default(),
        };
        // One that was forgotten already, and comes again, is new.
        let is_new = known.number == 0 || known.at_ms < removed.at_ms;
        if is_new {
            *known = removed;
        }
        is_new
    }

    /// Forgets what is too old, and the oldest of what is too much. True if it was too much.
    fn forget(&mut self, capacity: usize) -> bool {
        let mut full = false;
        while let Some((learned, number, ..)) = self.learned.front() {
            let too_many = self.learned.len() > capacity;
            if !too_many && learned.elapsed() < KEPT {
                break;
            }
            let number = *number;
            let Some((.., user, room)) = self.learned.pop_front() else { break };
            let removed = self.take(&user, room.as_ref(), number);
            if let Some(removed) = removed.filter(|_| too_many) {
                full = true;
                let at_ms = removed.at_ms.max(self.floor.at_ms);
                self.floor = Removed { number, at_ms };
            }
        }
        full
    }

    /// Takes it out, unless a later one has its place.
    fn take(&mut self, user: &UserId, room: Option<&Room>, number: u64) -> Option<Removed> {
        let of_user = self.users.get_mut(user)?;
        let taken = match room {
            None => of_user.everywhere.take_if(|removed| removed.number == number),
            Some(room) if of_user.rooms.get(room)?.number == number => of_user.rooms.remove(room),
            Some(_) => None,
        };
        if of_user.everywhere.is_none() && of_user.rooms.is_empty() {
            self.users.remove(user);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removals(capacity: usize) -> Removals {
        let metrics = Arc::<Metrics>::default();
        let connections = Connections::new(9, 9, metrics.clone());
        Removals { capacity, ..Removals::new(connections, metrics) }
    }

    fn user(id: &str) -> UserId {
        UserId::try_new(id).unwrap()
    }

    fn room(name: &str) -> Room {
        Room::try_new(name).unwrap()
    }

    #[tokio::test]
    async fn each_is_new_once_and_a_later_one_again() {
        let removals = removals(9);
        removals.learn(&user("7"), Some(&room("a")), 1000);
        let first = removals.since(0, &user("7"));
        assert_eq!(first, News { seen: 1, everywhere: None, rooms: vec![room("a")] });
        for at_ms in [1000, 999] {
            removals.learn(&user("7"), Some(&room("a")), at_ms);
            assert_eq!(removals.since(1, &user("7")), News { seen: 1, ..News::default() });
        }
        removals.learn(&user("7"), Some(&room("a")), 1001);
        removals.learn(&user("7"), None, 1002);
        removals.learn(&user("8"), Some(&room("b")), 1003);
        let second = removals.since(first.seen, &user("7"));
        assert_eq!((second.seen, second.everywhere.unwrap().at_ms), (4, 1002));
        assert_eq!(second.rooms, [room("a")]);
        assert_eq!(removals.since(0, &user("9")), News { seen: 4, ..News::default() });
    }

    #[tokio::test]
    async fn what_was_given_before_is_void_for_that_user_and_room() {
        let removals = removals(9);
        assert_eq!(removals.last(&user("7"), &room("a")), Removed::default());
        removals.learn(&user("7"), Some(&room("a")), 100_000);
        removals.learn(&user("8"), None, 200_000);
        let is_void = |id, name, given| removals.last(&user(id), &room(name)).is_after(given);
        for (id, name, given, void) in [
            ("7", "a", 99_999, true),
            ("7", "a", 109_999, true),
            ("7", "a", 110_000, false),
            ("7", "b", 99_999, false),
            ("8", "b", 199_999, true),
            ("8", "b", 210_000, false),
            ("9", "a", 99_999, false),
        ] {
            assert_eq!(is_void(id, name, given), void, "{id} {name} {given}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_forgotten_after_their_time() {
        let removals = removals(9);
        removals.learn(&user("7"), Some(&room("a")), 1000);
        tokio::time::advance(KEPT / 2).await;
        removals.learn(&user("8"), None, 2000);
        tokio::time::advance(KEPT / 2).await;
        removals.learn(&user("9"), None, 3000);
        assert_eq!(removals.last(&user("7"), &room("a")), Removed::default());
        assert_eq!(removals.last(&user("8"), &room("a")).at_ms, 2000);
        assert_eq!(removals.lock().users.len(), 2);
        assert_eq!(removals.metrics.removals_full.get(), 0);
    }

    #[tokio::test]
    async fn beyond_the_limit_the_oldest_void_what_everybody_was_given_before() {
        let removals = removals(2);
        for (id, at_ms) in [("1", 100_000), ("2", 200_000), ("3", 300_000)] {
            removals.learn(&user(id), Some(&room("a")), at_ms);
        }
        assert_eq!(removals.lock().users.len(), 2);
        assert_eq!(removals.metrics.removals_full.get(), 1);
        let anybody = removals.last(&user("9"), &room("b"));
        assert!(anybody.is_after(99_999) && !anybody.is_after(110_000));
        assert!(removals.last(&user("3"), &room("a")).is_after(299_999));
    }

    #[tokio::test]
    async fn the_same_user_again_and_again_takes_no_more_than_its_share() {
        let removals = removals(2);
        for at_ms in 1..100 {
            removals.learn(&user("1"), None, at_ms);
        }
        assert_eq!(removals.lock().learned.len(), 2);
        assert_eq!(removals.last(&user("1"), &room("a")).at_ms, 99);
        assert_eq!(removals.metrics.removals_full.get(), 0, "none was forgotten before its time");
    }
}
