use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashTable;
use proto::{Position, Room, wire::ReadResult};
use service::RandomState;
use tokio::{sync::oneshot, time::Instant};

use super::{
    budget::Budget,
    census::{Census, MAX_LOOK},
    moves::Moves,
    page::Page,
    replay::{Progress, ReadId},
    room::{Cx, HubRoom, Taken, Waiting, pace::LOOK_AGAIN},
};
use crate::{
    deliveries::Deliveries,
    interest::{LinkId, Placement},
    outbox::Outbox,
    protocol::server::LostReason,
};

/// How long after a read of the history failed it is tried again.
const READ_RETRY: Duration = Duration::from_millis(250);

/// The rooms of one shard: a table, the rooms that have something to hand out, and those that time may end.
pub(super) struct Rooms {
    slots: Vec<Option<Box<HubRoom>>>,
    free: Vec<usize>,
    by_name: HashTable<usize>,
    hasher: RandomState,
    placement: Arc<Placement>,
    /// Rooms with something to hand out, each once; they take turns.
    work: VecDeque<usize>,
    /// Rooms with members-to-be, by the first deadline; each once.
    waiting: BinaryHeap<Reverse<(Instant, Room)>>,
    /// Rooms that were left by all, by the time they may be given up; each once.
    lingering: VecDeque<(Instant, Room)>,
    /// Rooms whose history could not be read, by the time to try again.
    retries: VecDeque<(Instant, Room)>,
    /// Rooms that wait for their members, by the time to look at these again; each once.
    waits: VecDeque<(Instant, Room)>,
    linger: Duration,
    /// Members of all rooms.
    members: usize,
    budget: Budget,
    /// Frames queued for members that catch up, not yet counted.
    replayed: u64,
    /// Rooms whose publishers are held back, not yet counted.
    hold_backs: u64,
    generation: u32,
    moves: Moves,
    next_read: u64,
    /// Frames handed out between two yields, whatever rooms they are of: half of what one client may have waiting.
    slice: usize,
    after_ms: Box<dyn FnMut() -> u64 + Send>,
    pub(super) deliveries: Deliveries,
}

/// What a walk did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Walked {
    pub(super) members: usize,
    pub(super) frames: u64,
    /// Rooms whose publishers are held back from now on.
    pub(super) hold_backs: u64,
}

impl Rooms {
    /// `tail_bytes`: what the tails of all rooms may hold. `send_queue`: messages that wait for one
    /// client. `shards`: how many there are. `after_ms`: a member's own moment to reload, from now.
    pub(super) fn new(
        linger: Duration,
        tail_bytes: usize,
        send_queue: usize,
        shards: usize,
        after_ms: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            placement: Arc::default(),
            work: VecDeque::new(),
            waiting: BinaryHeap::new(),
            lingering: VecDeque::new(),
            retries: VecDeque::new(),
            waits: VecDeque::new(),
            linger,
            members: 0,
            budget: Budget::new(tail_bytes),
            replayed: 0,
            hold_backs: 0,
            generation: 0,
            moves: Moves::new(shards),
            next_read: 0,
            slice: send_queue.div_ceil(2),
            after_ms,
            deliveries: Deliveries::default(),
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
        if self.find(&room).is_none() {
            self.insert(room.clone());
        }
        let waits = self.with(&room, |state, cx| {
            state.empty_since = None;
            state.join(joining, cx);
            state.place(cx);
            state.deadline().is_some() && !std::mem::replace(&mut state.listed.waiting, true)
        });
        if waits == Some(true) {
            self.waiting.push(Reverse((deadline, room)));
        }
    }

    pub(super) fn leave(&mut self, room: &Room, member: &Arc<Outbox>, now: Instant) {
        self.with(room, |state, cx| state.leave(member, cx));
        self.linger_if_empty(room, now);
    }

    /// A member that catches up has room for more.
    pub(super) fn more(&mut self, room: &str, member: &Arc<Outbox>, done: oneshot::Sender<Progress>) {
        self.with(room, |state, cx| state.more(member, done, cx));
    }

    /// The answer to a read, over the link given.
    pub(super) fn page(&mut self, link: LinkId, result: ReadResult, now: Instant) {
        let (room, id) = (result.room.clone(), ReadId { link, number: result.id });
        if result.error.is_none() {
            self.with(&room, |state, cx| {
                let position = Position::from(result.position.clone().unwrap_or_default());
                let present = state.replay.as_ref().is_some_and(|replay| replay.reads_present(&position));
                state.page_read(id, Page::new(&state.name, result, present), cx);
            });
            return;
        }
        let failed = self.with(&room, |state, _| {
            let failed = state.replay.as_mut().is_some_and(|replay| replay.page_failed(id));
            failed.then(|| state.name.clone())
        });
        if let Some(name) = failed.flatten() {
            self.retries.push_back((now + READ_RETRY, name));
        }
    }

    pub(super) fn state(&mut self, from: LinkId, room: &str, position: Position, missed_after: Option<&Position>) {
        self.with(room, |state, cx| state.state(from, position, missed_after, cx));
    }

    pub(super) fn lost(
        &mut self,
        from: LinkId,
        room: &str,
        position: Position,
        reason: LostReason,
        after: Option<&Position>,
    ) {
        self.with(room, |state, cx| state.lost_by(from, position, reason, after, cx.placement));
    }

    pub(super) fn publications(&mut self, room: &str, epoch: &str, first_seq: u64, entries: &[Bytes]) -> Taken {
        self.with(room, |state, cx| state.publications(epoch, first_seq, entries, cx)).unwrap_or_default()
    }

    /// Asks again for everything after where the room stands: something was dropped on the way here.
    pub(super) fn ask_again(&mut self, room: &str) {
        self.with(room, |state, cx| {
            state.ask(cx.placement);
            // It may have been a page.
            if let Some(replay) = &mut state.replay {
                replay.read_again();
            }
        });
    }

    /// The links that are up changed: rooms go where they belong now.
    pub(super) fn place(&mut self, placement: Arc<Placement>, now: Instant) {
        self.placement = placement;
        self.moves.begin(self.slots.len(), now);
    }

    /// Looks at some rooms since the links changed: who lost its link moves now, others when it is their turn.
    fn check_places(&mut self, limit: usize) -> usize {
        let mut checked = 0;
        while checked < limit
            && let Some(slot) = self.moves.next_check()
        {
            checked += 1;
            if self.with_slot(slot, HubRoom::check_place) == Some(true) {
                self.moves.later(slot);
            }
        }
        checked
    }

    /// Hands out what is pending to at most about `budget` members; rooms take turns.
    pub(super) fn walk(&mut self, budget: usize, now: Instant) -> Walked {
        let mut walked = Walked { members: self.check_places(budget), ..Walked::default() };
        // A client may be in many rooms: bursts in all of them together are no slowness either.
        let mut slices = 0;
        while walked.members < budget && slices < self.slice {
            let Some(slot) = self.work.pop_front() else { break };
            let rest = budget - walked.members;
            let done = self.with_slot(slot, |room, cx| {
                room.listed.work = false;
                let waited = room.waits;
                let (members, frames) = room.walk(rest, now, cx);
                let slice = if members == 0 { 0 } else { frames.div_ceil(members) };
                let waits = (room.waits && !waited).then(|| room.name.clone());
                (members, frames, slice, waits, room.has_work() && !room.members.is_walking())
            });
            let Some((members, frames, slice, waits, more)) = done else { continue };
            self.waits.extend(waits.map(|room| (now + LOOK_AGAIN, room)));
            // A room that only moved on counts as well, or many of them would take for ever.
            walked.members += members.max(1);
            walked.frames += frames as u64;
            slices += slice;
            if more {
                // Not its next slice in the same breath.
                break;
            }
        }
        walked.frames += std::mem::take(&mut self.replayed);
        walked.hold_backs = std::mem::take(&mut self.hold_backs);
        walked
    }

    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty() || self.moves.has_checks()
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.peek().map(|Reverse((deadline, _))| *deadline);
        let first = |queue: &VecDeque<(Instant, Room)>| queue.front().map(|(deadline, _)| *deadline);
        let lists = [first(&self.lingering), first(&self.retries), first(&self.waits)];
        [waiting, self.moves.deadline()].into_iter().chain(lists).flatten().min()
    }

    /// Gives up on members-to-be that have waited long enough, and on rooms that nobody came back to; moves rooms whose
    /// turn it is.
    pub(super) fn expire(&mut self, now: Instant) {
        for slot in self.moves.due(now) {
            self.with_slot(slot, HubRoom::place);
        }
        while self.waiting.peek().is_some_and(|Reverse((deadline, _))| *deadline <= now) {
            let Some(Reverse((_, room))) = self.waiting.pop() else { break };
            let next = self.with(&room, |state, cx| {
                state.expire(now, cx);
                state.listed.waiting = state.deadline().is_some();
                state.deadline()
            });
            self.linger_if_empty(&room, now);
            self.waiting.extend(next.flatten().map(|deadline| Reverse((deadline, room))));
        }
        while let Some((_, room)) = self.retries.pop_front_if(|(deadline, _)| *deadline <= now) {
            self.with(&room, |state, _| {
                if let Some(replay) = &mut state.replay {
                    replay.read_again();
                }
            });
        }
        while let Some((_, room)) = self.waits.pop_front_if(|(deadline, _)| *deadline <= now) {
            self.with(&room, |state, _| state.waits = false);
        }
        while let Some((_, room)) = self.lingering.pop_front_if(|(deadline, _)| *deadline <= now) {
            let linger = self.linger;
            let Some(state) = self.get(&room) else { continue };
            state.listed.lingering = false;
            match state.empty_since {
                Some(since) if state.is_empty() && since + linger <= now && !state.has_work() => self.remove(&room),
                // Left again meanwhile, later than when it got onto the list.
                Some(_) if state.is_empty() => self.linger_if_empty(&room, now),
                _ => {}
            }
        }
    }

    /// Looks at some rooms from this slot on. Returns where to go on, if there are more.
    pub(super) fn look(&mut self, from: usize, census: &mut Census) -> Option<usize> {
        let end = from.saturating_add(MAX_LOOK);
        for room in self.slots.iter_mut().take(end).skip(from).flatten() {
            census.largest.offer(room.len() as u64, &room.name);
            census.busiest.offer(std::mem::take(&mut room.published).into(), &room.name);
        }
        (end < self.slots.len()).then_some(end)
    }

    fn linger_if_empty(&mut self, room: &Room, now: Instant) {
        let deadline = now + self.linger;
        let Some(state) = self.get(room) else { return };
        if !state.is_empty() {
            return;
        }
        state.empty_since.get_or_insert(now);
        if !std::mem::replace(&mut state.listed.lingering, true) {
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

    fn with<T>(&mut self, room: &str, change: impl FnOnce(&mut HubRoom, &mut Cx<'_>) -> T) -> Option<T> {
        let slot = self.find(room)?;
        self.with_slot(slot, change)
    }

    /// Changes a room; puts it on the work list if it has something to hand out now, and keeps the counts.
    fn with_slot<T>(&mut self, slot: usize, change: impl FnOnce(&mut HubRoom, &mut Cx<'_>) -> T) -> Option<T> {
        let state = self.slots[slot].as_deref_mut()?;
        let members = state.len();
        let mut cx = Cx {
            placement: &self.placement,
            budget: &mut self.budget,
            after_ms: &mut *self.after_ms,
            deliveries: &self.deliveries,
            slot,
            next_read: &mut self.next_read,
            replayed: 0,
            hold_backs: 0,
        };
        let result = change(state, &mut cx);
        self.replayed += cx.replayed;
        self.hold_backs += cx.hold_backs;
        self.members = self.members + state.len() - members;
        if state.has_work() && !std::mem::replace(&mut state.listed.work, true) {
            self.work.push_back(slot);
        }
        self.evict();
        Some(result)
    }

    /// Keeps the tails of all rooms within their budget.
    fn evict(&mut self) {
        while let Some(owner) = self.budget.next_to_go() {
            if let Some(room) = self.slots[owner.slot].as_deref_mut().filter(|room| room.generation == owner.generation)
            {
                let (count, bytes) = room.evict(owner.page);
                self.budget.give_back(count, bytes);
            }
        }
    }

    fn insert(&mut self, room: Room) -> usize {
        let hash = self.hasher.hash_one(room.as_str());
        self.generation = self.generation.wrapping_add(1);
        let state = Some(Box::new(HubRoom::new(room, self.generation)));
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
        self.with_slot(slot, |state, cx| {
            state.give_up(cx.placement);
            state.drop_tail(cx);
            state.end_replay(cx);
        });
        self.slots[slot] = None;
        self.free.push(slot);
    }
}
