use std::{cmp::Reverse, collections::VecDeque, sync::Arc, time::Duration};

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashTable;
use proto::{Position, Room};
use tokio::time::Instant;

use super::room::{HubRoom, Taken, Waiting};
use crate::{
    interest::{LinkId, Placement},
    outbox::Outbox,
    protocol::server::LostReason,
};

/// The rooms of one shard: a table, the rooms that have something to hand out, and those that time may end.
#[derive(Debug)]
pub(super) struct Rooms {
    slots: Vec<Option<Box<HubRoom>>>,
    free: Vec<usize>,
    by_name: HashTable<usize>,
    hasher: RandomState,
    placement: Arc<Placement>,
    /// Rooms with something to hand out, each once; they take turns.
    work: VecDeque<usize>,
    /// Rooms with members-to-be, by deadline; all wait equally long, so they come in order.
    waiting: VecDeque<(Instant, Room)>,
    /// Rooms that were left by all, by the time they may be given up; each once.
    lingering: VecDeque<(Instant, Room)>,
    linger: Duration,
    /// Members of all rooms.
    members: usize,
}

/// What a walk did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Walked {
    pub(super) members: usize,
    pub(super) frames: usize,
}

impl Rooms {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            placement: Arc::default(),
            work: VecDeque::new(),
            waiting: VecDeque::new(),
            lingering: VecDeque::new(),
            linger,
            members: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn members(&self) -> usize {
        self.members
    }

    pub(super) fn join(&mut self, room: Room, joining: Waiting) {
        let deadline = joining.deadline;
        let slot = self.find(&room).unwrap_or_else(|| self.insert(room.clone()));
        let placement = self.placement.clone();
        let Some(state) = &mut self.slots[slot] else { return };
        let before = state.members.len();
        state.join(joining);
        self.members += state.members.len() - before;
        state.empty_since = None;
        state.place(&placement);
        if !state.waiting.is_empty() {
            self.waiting.push_back((deadline, room));
        }
    }

    pub(super) fn leave(&mut self, room: &Room, member: &Arc<Outbox>, now: Instant) {
        let Some(state) = self.get(room) else { return };
        let before = state.members.len();
        state.leave(member);
        let left = before - state.members.len();
        self.members -= left;
        self.linger_if_empty(room, now);
    }

    pub(super) fn state(&mut self, from: LinkId, room: &str, position: Position, complete: bool) {
        self.with(room, |state, placement| state.state(from, position, complete, placement));
    }

    pub(super) fn lost(&mut self, room: &str, position: Position, reason: LostReason) {
        self.with(room, |state, _| state.lost(position, reason));
    }

    pub(super) fn publications(&mut self, room: &str, epoch: &str, first_seq: u64, entries: &[Bytes]) -> Taken {
        self.with(room, |state, placement| state.publications(epoch, first_seq, entries, placement)).unwrap_or_default()
    }

    /// Asks again for everything after where the room stands: something was dropped on the way here.
    pub(super) fn ask_again(&mut self, room: &str) {
        self.with(room, HubRoom::ask);
    }

    /// The links that are up changed: rooms go where they belong now.
    pub(super) fn place(&mut self, placement: Arc<Placement>) {
        self.placement = placement;
        for room in self.slots.iter_mut().flatten() {
            room.place(&self.placement);
        }
    }

    /// Hands out what is pending to at most about `budget` members; rooms take turns.
    pub(super) fn walk(&mut self, budget: usize, after_ms: &mut dyn FnMut() -> u64) -> Walked {
        let mut walked = Walked::default();
        while walked.members < budget {
            let Some(slot) = self.work.pop_front() else { break };
            let Some(room) = &mut self.slots[slot] else { continue };
            let (members, frames) = room.walk(budget - walked.members, after_ms);
            walked.members += members;
            walked.frames += frames;
            if room.has_work() {
                self.work.push_back(slot);
                if !room.members.is_walking() {
                    // One slice of a burst: the pumps run before the next.
                    break;
                }
            }
        }
        walked
    }

    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let first = |queue: &VecDeque<(Instant, Room)>| queue.front().map(|(deadline, _)| *deadline);
        [first(&self.waiting), first(&self.lingering)].into_iter().flatten().min()
    }

    /// Gives up on members-to-be that have waited long enough, and on rooms that nobody came back to.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, room)) = self.waiting.pop_front_if(|(deadline, _)| *deadline <= now) {
            if let Some(state) = self.get(&room) {
                state.expire(now);
                self.linger_if_empty(&room, now);
            }
        }
        while let Some((_, room)) = self.lingering.pop_front_if(|(deadline, _)| *deadline <= now) {
            let linger = self.linger;
            let Some(state) = self.get(&room) else { continue };
            state.lingering = false;
            match state.empty_since {
                Some(since) if state.is_empty() && since + linger <= now && !state.has_work() => self.remove(&room),
                // Left again meanwhile, later than when it got onto the list.
                Some(_) if state.is_empty() => self.linger_if_empty(&room, now),
                _ => {}
            }
        }
    }

    /// The rooms with most members, at most `limit`.
    pub(super) fn top(&self, limit: usize) -> Vec<(Room, usize)> {
        let rooms = self.slots.iter().flatten();
        let mut rooms: Vec<_> = rooms.map(|room| (room.members.len(), &room.name)).collect();
        if rooms.len() > limit {
            rooms.select_nth_unstable_by_key(limit, |(members, _)| Reverse(*members));
            rooms.truncate(limit);
        }
        rooms.into_iter().map(|(members, name)| (name.clone(), members)).collect()
    }

    fn linger_if_empty(&mut self, room: &Room, now: Instant) {
        let deadline = now + self.linger;
        let Some(state) = self.get(room) else { return };
        if !state.is_empty() {
            return;
        }
        state.empty_since.get_or_insert(now);
        if !std::mem::replace(&mut state.lingering, true) {
            self.lingering.push_back((deadline, room.clone()));
        }
    }

    fn find(&self, room: &str) -> Option<usize> {
        let is_it = |slot: &usize| self.slots[*slot].as_ref().is_some_and(|state| state.name.as_str() == room);
        self.by_name.find(self.hasher.hash_one(room), is_it).copied()
    }

    fn get(&mut self, room: &str) -> Option<&mut HubRoom> {
        let slot = self.find(room)?;
        self.slots[slot].as_deref_mut()
    }

    /// Changes a room, and puts it on the work list if it has something to hand out now.
    fn with<T>(&mut self, room: &str, change: impl FnOnce(&mut HubRoom, &Placement) -> T) -> Option<T> {
        let slot = self.find(room)?;
        let state = self.slots[slot].as_deref_mut()?;
        let (had_work, members) = (state.has_work(), state.members.len());
        let result = change(state, &self.placement);
        self.members += state.members.len() - members;
        if !had_work && state.has_work() {
            self.work.push_back(slot);
        }
        Some(result)
    }

    fn insert(&mut self, room: Room) -> usize {
        let hash = self.hasher.hash_one(room.as_str());
        let state = Some(Box::new(HubRoom::new(room)));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = state;
        let slots = &self.slots;
        let hasher = &self.hasher;
        let rehash = |slot: &usize| slots[*slot].as_ref().map_or(0, |state| hasher.hash_one(state.name.as_str()));
        self.by_name.insert_unique(hash, slot, rehash);
        slot
    }

    fn remove(&mut self, room: &str) {
        let Some(slot) = self.find(room) else { return };
        if let Ok(entry) = self.by_name.find_entry(self.hasher.hash_one(room), |other| *other == slot) {
            entry.remove();
        }
        if let Some(state) = self.slots[slot].take() {
            state.give_up(&self.placement);
        }
        self.free.push(slot);
    }
}
