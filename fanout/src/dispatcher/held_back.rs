//! Rooms whose publishers on this node wait: some attachment's queue refused the room, and it has not caught up yet; or an
//! edge asked for it, as most of the room's members do not keep up. For a while only: one edge must not silence a room, and
//! past it the history decides what that edge still gets.

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

use crate::{
    attachments::AttachmentId,
    defaults::{HOLD_ASKED, HOLD_LEASE, LINK_SILENCE},
};

/// Longest time that publishers of a room are held back for an edge that is behind: as long as a dead link may go unseen.
const LIMIT: Duration = LINK_SILENCE;

#[derive(Debug, Default)]
pub(super) struct HeldBack {
    rooms: Mutex<HashMap<Room, Held, RandomState>>,
    /// Their number, so that a publication usually takes no lock.
    count: AtomicUsize,
}

/// Why a room is held back.
#[derive(Debug, Default)]
struct Held {
    /// Until when for those that are behind; kept until they have caught up.
    behind: Option<Instant>,
    /// What edges asked for, each once.
    asked: Vec<Lease>,
}

/// An edge asks for a while, and again; not for ever.
#[derive(Debug)]
struct Lease {
    of: AttachmentId,
    since: Instant,
    until: Instant,
}

impl Lease {
    fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    fn holds(&self, now: Instant) -> bool {
        !self.is_over(now) && now < self.since + HOLD_ASKED
    }
}

impl Held {
    fn holds(&self, now: Instant) -> bool {
        self.behind.is_some_and(|until| now < until) || self.asked.iter().any(|lease| lease.holds(now))
    }

    /// Nothing is left to remember.
    fn is_over(&self, now: Instant) -> bool {
        self.behind.is_none() && self.asked.iter().all(|lease| lease.is_over(now))
    }
}

impl HeldBack {
    pub(super) fn contains(&self, room: &Room) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.lock().get(room).is_some_and(|held| held.holds(Instant::now()))
    }

    /// An attachment is behind in it from now on, if none is already.
    pub(super) fn insert(&self, room: &Room) {
        let mut rooms = self.lock();
        let held = rooms.entry_ref(room).or_default();
        held.behind.get_or_insert_with(|| Instant::now() + LIMIT);
        self.count.store(rooms.len(), Ordering::Relaxed);
    }

    /// None is behind in it any more.
    pub(super) fn remove(&self, room: &Room) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut rooms = self.lock();
            if let Some(held) = rooms.get_mut(room) {
                held.behind = None;
                if held.is_over(Instant::now()) {
                    rooms.remove(room);
                }
            }
            self.count.store(rooms.len(), Ordering::Relaxed);
        }
    }

    /// The edge asks for it, for so long from now. False if edges have asked for too many rooms.
    pub(super) fn ask(&self, room: &Room, of: AttachmentId, length: Duration, most: usize) -> bool {
        let now = Instant::now();
        let until = now + length.min(HOLD_LEASE);
        let mut rooms = self.lock();
        let has_place = rooms.contains_key(room) || {
            if rooms.len() >= most {
                rooms.retain(|_, held| !held.is_over(now));
            }
            rooms.len() < most
        };
        if has_place {
            let held = rooms.entry_ref(room).or_default();
            held.asked.retain(|lease| !lease.is_over(now));
            match held.asked.iter_mut().find(|lease| lease.of == of) {
                Some(lease) => lease.until = until,
                None => held.asked.push(Lease { of, since: now, until }),
            }
            if held.is_over(now) {
                rooms.remove(room);
            }
        }
        self.count.store(rooms.len(), Ordering::Relaxed);
        has_place
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Room, Held, RandomState>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn room(name: &str) -> Room {
        Room::try_new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_is_held_back_until_it_caught_up_but_not_for_ever() {
        let held_back = HeldBack::default();
        let (a, b) = (room("a"), room("b"));
        held_back.insert(&a);
        held_back.insert(&b);
        held_back.remove(&b);
        assert!(held_back.contains(&a) && !held_back.contains(&b));
        advance(LIMIT / 2).await;
        held_back.insert(&a);
        advance(LIMIT / 2).await;
        assert!(!held_back.contains(&a));
        held_back.remove(&a);
        held_back.insert(&a);
        assert!(held_back.contains(&a));
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_asks_for_a_while_and_again_but_not_for_ever() {
        let (held_back, a) = (HeldBack::default(), room("a"));
        let (one, other) = (AttachmentId(1), AttachmentId(2));
        assert!(held_back.ask(&a, one, 100 * MS, 9));
        assert!(held_back.ask(&a, other, 50 * MS, 9));
        assert!(held_back.ask(&a, one, Duration::ZERO, 9), "the one no longer, the other still");
        assert!(held_back.contains(&a));
        advance(50 * MS).await;
        assert!(!held_back.contains(&a));
        // Longer than a lease is no lease.
        assert!(held_back.ask(&a, one, Duration::from_secs(100), 9));
        advance(HOLD_LEASE).await;
        assert!(!held_back.contains(&a));
        let begun = Instant::now();
        while held_back.ask(&a, one, HOLD_LEASE, 9) && held_back.contains(&a) {
            advance(HOLD_LEASE / 2).await;
        }
        assert_eq!(begun.elapsed(), HOLD_ASKED);
        // Only once it has stopped asking.
        assert!(held_back.ask(&a, one, HOLD_LEASE, 9) && !held_back.contains(&a));
        advance(HOLD_LEASE).await;
        assert!(held_back.ask(&a, one, HOLD_LEASE, 9) && held_back.contains(&a));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_and_who_is_behind_do_not_end_each_other() {
        let (held_back, a) = (HeldBack::default(), room("a"));
        let edge = AttachmentId(1);
        held_back.insert(&a);
        held_back.ask(&a, edge, Duration::ZERO, 9);
        assert!(held_back.contains(&a), "still behind");
        held_back.ask(&a, edge, 100 * MS, 9);
        held_back.remove(&a);
        assert!(held_back.contains(&a), "still asked for");
        held_back.ask(&a, edge, Duration::ZERO, 9);
        assert!(!held_back.contains(&a) && held_back.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn edges_do_not_ask_for_rooms_without_end() {
        let (held_back, edge) = (HeldBack::default(), AttachmentId(1));
        assert!(held_back.ask(&room("a"), edge, 100 * MS, 2) && held_back.ask(&room("b"), edge, 50 * MS, 2));
        assert!(!held_back.ask(&room("c"), edge, 100 * MS, 2) && !held_back.contains(&room("c")));
        assert!(held_back.ask(&room("a"), edge, 100 * MS, 2), "it has its place");
        advance(50 * MS).await;
        assert!(held_back.ask(&room("c"), edge, 100 * MS, 2) && held_back.contains(&room("c")));
    }
}
