//! Rooms whose publishers on this node wait: some attachment's queue refused the room, and it has not caught up yet. For
//! a while only: one edge must not silence a room, and past it the history decides what that edge still gets.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use proto::Room;
use service::RandomState;
use tokio::time::Instant;

use crate::defaults::LINK_SILENCE;

/// Longest time that publishers of a room are held back for an edge that is behind: as long as a dead link may go unseen.
const LIMIT: Duration = LINK_SILENCE;

#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// Until when. Written by the shard only.
    rooms: Mutex<HashMap<Room, Instant, RandomState>>,
    /// Their number, so that a publication usually takes no lock.
    count: AtomicUsize,
}

impl HeldBack {
    pub(super) fn contains(&self, room: &Room) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.lock().get(room).is_some_and(|until| Instant::now() < *until)
    }

    /// From now on, if it is not already.
    pub(super) fn insert(&self, room: &Room) {
        let mut rooms = self.lock();
        if !rooms.contains_key(room) {
            rooms.insert(room.clone(), Instant::now() + LIMIT);
        }
        self.count.store(rooms.len(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, room: &Room) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut rooms = self.lock();
            rooms.remove(room);
            self.count.store(rooms.len(), Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Room, Instant, RandomState>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_room_is_held_back_until_it_caught_up_but_not_for_ever() {
        let held_back = HeldBack::default();
        let (a, b) = (Room::try_new("a").unwrap(), Room::try_new("b").unwrap());
        held_back.insert(&a);
        held_back.insert(&b);
        held_back.remove(&b);
        assert!(held_back.contains(&a) && !held_back.contains(&b));
        tokio::time::advance(LIMIT / 2).await;
        held_back.insert(&a);
        tokio::time::advance(LIMIT / 2).await;
        assert!(!held_back.contains(&a));
        held_back.remove(&a);
        held_back.insert(&a);
        assert!(held_back.contains(&a));
    }
}
