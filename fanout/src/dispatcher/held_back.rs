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
    defaults::{HOLD_ASKED, HOLD_BREAK, HOLD_LEASE, LINK_SILENCE},
};

/// Longest time that publishers of a room are held back for an edge that is behind: as long as a dead link may go unseen.
const LIMIT: Duration = LINK_SILENCE;

#[derive(Debug, Default)]
pub(super) struct HeldBack {
    inner: Mutex<Inner>,
    /// The rooms' number, so that a publication usually takes no lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    rooms: HashMap<Room, Held, RandomState>,
    /// When those that are no longer held back were last looked for.
    swept: Option<Instant>,
}

/// Why a room is held back.
#[derive(Debug, Default)]
struct Held {
    /// Until when for those that are behind; kept until they have caught up.
    behind: Option<Instant>,
    /// What edges asked for, each once.
    asked: Vec<Lease>,
}

/// An edge asks for a while, and again.
#[derive(Debug)]
struct Lease {
    of: AttachmentId,
    since: Instant,
    until: Instant,
}

impl Lease {
    fn holds(&self, now: Instant) -> bool {
        let round = (HOLD_ASKED + HOLD_BREAK).as_millis();
        now < self.until && (now - self.since).as_millis() % round < HOLD_ASKED.as_millis()
    }

    /// It is kept a little longer: who asks again at once has not begun anew.
    fn is_over(&self, now: Instant) -> bool {
        self.until + HOLD_LEASE <= now
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
        self.count.load(Ordering::Relaxed) > 0
            && self.lock().rooms.get(room).is_some_and(|held| held.holds(Instant::now()))
    }

    /// An attachment is behind in it from now on, if none is already.
    pub(super) fn insert(&self, room: &Room) {
        self.change(|inner| {
            let held = inner.rooms.entry_ref(room).or_default();
            held.behind.get_or_insert_with(|| Instant::now() + LIMIT);
        });
    }

    /// None is behind in it any more.
    pub(super) fn remove(&self, room: &Room) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(|inner| {
                let Some(held) = inner.rooms.get_mut(room) else { return };
                held.behind = None;
                if held.is_over(Instant::now()) {
                    inner.rooms.remove(room);
                }
            });
        }
    }

    /// The edge asks for it, for so long from now. False if too many rooms are held back.
    pub(super) fn ask(&self, room: &Room, of: AttachmentId, length: Duration, most: usize) -> bool {
        let now = Instant::now();
        let until = now + length.min(HOLD_LEASE);
        self.change(|inner| {
            let full = |inner: &Inner| inner.rooms.len() >= most && !inner.rooms.contains_key(room);
            // Not for each that is asked for.
            if full(inner) && inner.swept.is_none_or(|swept| swept + HOLD_LEASE <= now) {
                inner.swept = Some(now);
                inner.rooms.retain(|_, held| !held.is_over(now));
            }
            if full(inner) {
                return false;
            }
            let held = inner.rooms.entry_ref(room).or_default();
            held.asked.retain(|lease| !lease.is_over(now));
            match held.asked.iter_mut().find(|lease| lease.of == of) {
                Some(lease) => lease.until = until,
                None => held.asked.push(Lease { of, since: now, until }),
            }
            true
        })
    }

    /// The attachment is closed.
    pub(super) fn gone(&self, id: AttachmentId) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(|inner| {
                inner.rooms.retain(|_, held| {
                    held.asked.retain(|lease| lease.of != id);
                    held.behind.is_some() || !held.asked.is_empty()
                });
            });
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        self.count.store(inner.rooms.len(), Ordering::Relaxed);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn an_edge_asks_for_a_while() {
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
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_asks_for_ever_lets_some_through() {
        let (held_back, a, edge) = (HeldBack::default(), room("a"), AttachmentId(1));
        // Saying between that it is over does not help.
        for between in [None, Some(Duration::ZERO)] {
            let begun = Instant::now();
            let mut free = Vec::new();
            while begun.elapsed() < 2 * HOLD_ASKED {
                for length in between.into_iter().chain([HOLD_LEASE]) {
                    assert!(held_back.ask(&a, edge, length, 9));
                }
                free.extend((!held_back.contains(&a)).then(|| begun.elapsed()));
                advance(10 * MS).await;
            }
            let expected: Vec<_> = (0..5).map(|n| HOLD_ASKED + n * 10 * MS).collect();
            assert_eq!(free, expected);
            held_back.gone(edge);
            assert!(!held_back.contains(&a) && held_back.count.load(Ordering::Relaxed) == 0);
        }
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
        assert!(!held_back.contains(&a));
        advance(HOLD_LEASE).await;
        held_back.insert(&a);
        held_back.remove(&a);
        assert!(held_back.lock().rooms.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn edges_do_not_ask_for_rooms_without_end() {
        let (held_back, edge) = (HeldBack::default(), AttachmentId(1));
        assert!(held_back.ask(&room("a"), edge, 100 * MS, 2) && held_back.ask(&room("b"), edge, 50 * MS, 2));
        assert!(!held_back.ask(&room("c"), edge, 100 * MS, 2) && !held_back.contains(&room("c")));
        assert!(held_back.ask(&room("a"), edge, 100 * MS, 2), "it has its place");
        advance(100 * MS + HOLD_LEASE).await;
        assert!(held_back.ask(&room("c"), edge, 100 * MS, 2) && held_back.contains(&room("c")));
    }
}
