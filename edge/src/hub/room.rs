use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use proto::{Position, Room, wire::Entry};
use tokio::{sync::oneshot, time::Instant};

use super::members::Members;
use crate::{
    interest::{LinkId, Placement, Wish},
    outbox::Outbox,
    protocol::{Envelope, ServerMessage, server::Joined, server::LostReason},
    session::JoinOutcome,
};

/// One room of the hub: where it stands, who is in it, what is still to be handed to them.
///
/// Publications that came in are *pending* until a walk over the members begins that hands them out. So there are two
/// positions: that of the last one received, from which continuity is judged, and that of the last one a walk has begun
/// to hand out, from which a new member goes on.
#[derive(Debug)]
pub(super) struct HubRoom {
    pub(super) name: Room,
    pub(super) members: Members,
    pub(super) waiting: Vec<Waiting>,
    /// None until a fanout node said where the room stands.
    received: Option<Position>,
    handed: Position,
    pending: VecDeque<Item>,
    slice: Vec<Item>,
    link: Option<LinkId>,
    /// The link the room is moving away from, kept until the new one has answered.
    leaving: Option<LinkId>,
    /// The link was asked where the room stands, and has not answered yet.
    asked: bool,
    /// Whether the hub has it on its list of rooms that may be given up.
    pub(super) lingering: bool,
    pub(super) empty_since: Option<Instant>,
}

/// A member-to-be: the room's position is not known yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) member: Arc<Outbox>,
    pub(super) id: Option<Box<str>>,
    pub(super) publish: bool,
    pub(super) grant: Option<Box<str>>,
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<JoinOutcome>,
}

/// What members get next.
#[derive(Debug)]
enum Item {
    Publication { position: Position, frame: Bytes },
    Lost { position: Position, reason: LostReason },
}

/// What became of publications that a link brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) fresh: usize,
    pub(super) duplicates: usize,
    pub(super) gap: bool,
    pub(super) malformed: usize,
}

impl HubRoom {
    pub(super) fn new(name: Room) -> Self {
        Self {
            name,
            members: Members::default(),
            waiting: Vec::new(),
            received: None,
            handed: Position::default(),
            pending: VecDeque::new(),
            slice: Vec::new(),
            link: None,
            leaving: None,
            asked: false,
            lingering: false,
            empty_since: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.waiting.is_empty()
    }

    /// Makes it a member, or keeps it until the room's position is known. One that is a member already is answered
    /// again.
    pub(super) fn join(&mut self, joining: Waiting) {
        if self.received.is_some() {
            self.admit(joining);
        } else {
            self.waiting.push(joining);
        }
    }

    fn admit(&mut self, joining: Waiting) {
        let Waiting { member, id, publish, grant, done, .. } = joining;
        if self.members.is_awaited(&member) {
            // Joined again in the middle of a walk: what the walk still has for it comes before the position it is told.
            self.members.remove(&member);
            hand(&self.name, &self.slice, &member, &mut || 0);
        }
        let Position { epoch, seq } = &self.handed;
        let payload = Joined { room: &self.name, epoch, seq: *seq, recovered: false, publish, grant: grant.as_deref() };
        member.push(ServerMessage::Joined { id: id.as_deref(), payload }.frame());
        // Only one whose connection is gone no longer waits for the answer: it must not become a member.
        if done.send(JoinOutcome::Joined).is_ok() {
            self.members.insert(member);
        }
    }

    /// Ends a membership, or the waiting for one.
    pub(super) fn leave(&mut self, member: &Arc<Outbox>) {
        self.members.remove(member);
        self.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.member, member));
    }

    /// Gives up on those who have waited long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.deadline <= now) {
            let _ = waiting.done.send(JoinOutcome::Unavailable);
        }
    }

    /// Tells the links what is wanted of the room, given those that are up now.
    pub(super) fn place(&mut self, placement: &Placement) {
        let Some(best) = placement.place(&self.name) else {
            self.link = self.link.filter(|link| placement.get(*link).is_some());
            return;
        };
        if self.link == Some(best.id) {
            return;
        }
        let before = self.link.replace(best.id).filter(|link| placement.get(*link).is_some());
        if let Some(before) = before {
            self.abandon(placement, self.leaving);
            self.leaving = Some(before);
        }
        self.ask(placement);
    }

    /// Asks the link for everything after where the room stands.
    pub(super) fn ask(&mut self, placement: &Placement) {
        if let Some(link) = self.link.and_then(|link| placement.get(link)) {
            link.interest.set(self.name.clone(), Wish { wanted: true, position: self.received.clone() });
            self.asked = true;
        }
    }

    /// Tells the links that the room is no longer wanted.
    pub(super) fn give_up(&self, placement: &Placement) {
        self.abandon(placement, self.link);
        self.abandon(placement, self.leaving);
    }

    fn abandon(&self, placement: &Placement, link: Option<LinkId>) {
        if let Some(link) = link.and_then(|link| placement.get(link)) {
            link.interest.set(self.name.clone(), Wish { wanted: false, position: None });
        }
    }

    /// The link's answer to what was asked. `complete`: nothing was missed between our position and its.
    pub(super) fn state(&mut self, from: LinkId, position: Position, complete: bool, placement: &Placement) {
        if self.link != Some(from) {
            return;
        }
        self.asked = false;
        let leaving = self.leaving.take();
        self.abandon(placement, leaving);
        match &self.received {
            None => {
                self.handed = position.clone();
                self.received = Some(position);
                for joining in std::mem::take(&mut self.waiting) {
                    self.admit(joining);
                }
            }
            Some(_) if complete => {}
            Some(before) if before.epoch == position.epoch && before.seq >= position.seq => {}
            Some(before) => {
                let reason = if before.epoch == position.epoch { LostReason::History } else { LostReason::Failover };
                self.lost(position, reason);
            }
        }
    }

    /// Continuity is broken: delivery goes on after `position`.
    pub(super) fn lost(&mut self, position: Position, reason: LostReason) {
        let Some(received) = &mut self.received else { return };
        // The same loss told twice, by two links, is one.
        if received.epoch == position.epoch && received.seq >= position.seq {
            return;
        }
        received.clone_from(&position);
        self.pending.push_back(Item::Lost { position, reason });
    }

    /// A run of publications, encoded as stored; asks again when it does not follow on what was received.
    pub(super) fn publications(
        &mut self,
        epoch: &str,
        first_seq: u64,
        entries: &[Bytes],
        placement: &Placement,
    ) -> Taken {
        let mut taken = Taken::default();
        for (seq, entry) in (first_seq..).zip(entries) {
            // Before the room's position is known there is nobody to deliver to.
            let Some(received) = &mut self.received else { break };
            let first_ever = received.epoch.is_empty() && received.seq == 0 && seq == 1;
            if !first_ever && received.epoch.as_str() != epoch || seq > received.seq + 1 {
                taken.gap = true;
                break;
            }
            if seq <= received.seq {
                taken.duplicates += 1;
                continue;
            }
            if first_ever {
                received.epoch = proto::Epoch::new(epoch);
            }
            received.seq = seq;
            let position = received.clone();
            match prost::Message::decode(entry.clone()) {
                Ok(entry) => {
                    taken.fresh += 1;
                    self.queue(position, &entry);
                }
                // Newer than we understand, or broken in the store: the same for everybody, so it is passed over.
                Err(_) => taken.malformed += 1,
            }
        }
        if taken.gap && !self.asked {
            self.ask(placement);
        }
        taken
    }

    fn queue(&mut self, position: Position, entry: &Entry) {
        if self.members.is_empty() {
            // Nobody to hand it to, so it is handed out.
            if self.pending.is_empty() {
                self.handed = position;
                return;
            }
        }
        let epoch = (position.seq == 1).then_some(position.epoch.as_str());
        let frame = Envelope { room: &self.name, seq: position.seq, epoch, entry }.frame();
        self.pending.push_back(Item::Publication { position, frame });
    }

    pub(super) fn has_work(&self) -> bool {
        self.members.is_walking() || !self.pending.is_empty()
    }

    /// Hands what is pending to at most `members` members, in slices of at most half an outbox. Returns how many
    /// members it met, and how many frames were queued.
    pub(super) fn walk(&mut self, members: usize, after_ms: &mut dyn FnMut() -> u64) -> (usize, usize) {
        if !self.members.is_walking() {
            self.begin_slice();
        }
        let (mut met, mut queued) = (0, 0);
        for member in self.members.walk(members) {
            met += 1;
            queued += hand(&self.name, &self.slice, member, after_ms);
        }
        if !self.members.is_walking() {
            self.slice.clear();
            if self.pending.is_empty() {
                // Bursts give their memory back.
                self.slice.shrink_to(4);
                self.pending.shrink_to(4);
            }
        }
        (met, queued)
    }

    fn begin_slice(&mut self) {
        // Not empty if the last one it was for has left.
        self.slice.clear();
        self.members.begin_walk();
        // Without a member there is nothing to fit into.
        let limits = self.members.first_limits();
        let (mut frames, mut bytes) = (0, 0);
        while let Some(item) = self.pending.front() {
            let (position, len) = match item {
                Item::Publication { position, frame } => (position, frame.len()),
                Item::Lost { position, .. } => (position, 0),
            };
            let fits = limits.is_none_or(|max| frames < max.frames.div_ceil(2) && bytes + len <= max.bytes / 2);
            if !fits && frames > 0 {
                break;
            }
            self.handed.clone_from(position);
            frames += 1;
            bytes += len;
            self.slice.extend(self.pending.pop_front());
        }
    }
}

/// Puts a slice into a member's outbox. Returns how many frames were queued.
fn hand(room: &Room, slice: &[Item], member: &Outbox, after_ms: &mut dyn FnMut() -> u64) -> usize {
    for (queued, item) in slice.iter().enumerate() {
        let frame = match item {
            Item::Publication { frame, .. } => frame.clone(),
            Item::Lost { position, reason } => ServerMessage::lost(room, position, *reason, after_ms()).frame(),
        };
        if !member.push(frame) {
            return queued;
        }
    }
    slice.len()
}
