mod hand_out;
mod links;
mod memory;
pub(super) mod pace;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use proto::{Position, Room};
use service::limit;
use tokio::{sync::oneshot, time::Instant};

use self::{hand_out::hand, pace::Pace};
use super::{budget::Budget, members::Members, page, replay::Replay, tail::Tail};
use crate::{
    deliveries::{Deliveries, Delivery},
    interest::{LinkId, Placement},
    outbox::Outbox,
    protocol::{
        ServerMessage, Since,
        server::{Joined, LostReason},
    },
    session::JoinOutcome,
};

/// Publications that wait to be handed to a room's members, and bytes of them. Beyond that they are dropped, and asked for
/// when half of it is handed out.
const ROOM_PENDING: usize = 4096;
const ROOM_PENDING_BYTES: usize = 4 << 20;

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
    pub(super) handed: Position,
    pending: VecDeque<Item>,
    pending_bytes: usize,
    /// Something was dropped because too much was pending: to be asked for when there is less.
    dropped: bool,
    slice: Vec<Item>,
    /// For its members, which are to be looked at again.
    pub(super) waits: bool,
    /// None while members keep up.
    pace: Option<Box<Pace>>,
    /// What was handed out last, ending there.
    pub(super) tail: Option<Box<Tail>>,
    /// None while nobody catches up.
    pub(super) replay: Option<Box<Replay>>,
    /// Publications since somebody looked.
    pub(super) published: u32,
    /// Distinguishes it from other rooms that had its slot.
    pub(super) generation: u32,
    pub(super) link: Option<LinkId>,
    /// The link the room is moving away from, kept until the new one has answered.
    leaving: Option<LinkId>,
    /// The link was asked where the room stands, and has not answered yet.
    asked: bool,
    pub(super) listed: Listed,
    pub(super) empty_since: Option<Instant>,
}

/// On which of the hub's lists a room is, each at most once.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Rooms with something to do in the next walks.
    pub(super) work: bool,
    /// Rooms with members-to-be, by deadline.
    pub(super) waiting: bool,
    /// Rooms that may be given up.
    pub(super) lingering: bool,
}

/// A member-to-be: the room's position is not known yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) member: Arc<Outbox>,
    pub(super) id: Option<Box<str>>,
    pub(super) publish: bool,
    pub(super) grant: Option<Box<str>>,
    /// Where it stands already, or how much it wants.
    pub(super) since: Option<Since>,
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<JoinOutcome>,
}

impl Waiting {
    /// Puts `joined` into its outbox. False if its connection is gone, and it must not become a member.
    pub(super) fn answer(self, room: &Room, position: &Position, recovered: bool, outcome: JoinOutcome) -> bool {
        let Self { member, id, publish, grant, done, .. } = self;
        let Position { epoch, seq } = position;
        let payload = Joined { room, epoch, seq: *seq, recovered, publish, grant: grant.as_deref() };
        member.push(ServerMessage::Joined { id: id.as_deref(), payload }.frame());
        done.send(outcome).is_ok()
    }
}

/// What a room is given to work with.
pub(super) struct Cx<'a> {
    pub(super) placement: &'a Placement,
    pub(super) budget: &'a mut Budget,
    /// A member's own moment to reload, from now.
    pub(super) after_ms: &'a mut dyn FnMut() -> u64,
    pub(super) deliveries: &'a Deliveries,
    pub(super) slot: usize,
    /// The number of the last read of a history.
    pub(super) next_read: &'a mut u64,
    /// Counts frames queued for members that catch up.
    pub(super) replayed: u64,
    /// Counts rooms whose publishers are held back from now on.
    pub(super) hold_backs: u64,
}

/// What members get next.
#[derive(Debug)]
enum Item {
    /// With its span, if it is traced.
    Publication {
        position: Position,
        frame: Bytes,
        delivery: Option<Box<Delivery>>,
    },
    Lost {
        position: Position,
        reason: LostReason,
    },
}

/// What became of publications that a link brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) fresh: usize,
    pub(super) duplicates: usize,
    pub(super) gap: bool,
    /// Too much waits to be handed out: the rest was dropped, and will be asked for.
    pub(super) full: bool,
}

impl HubRoom {
    pub(super) fn new(name: Room, generation: u32) -> Self {
        Self {
            name,
            members: Members::default(),
            waiting: Vec::new(),
            received: None,
            handed: Position::default(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            dropped: false,
            slice: Vec::new(),
            waits: false,
            pace: None,
            tail: None,
            replay: None,
            published: 0,
            generation,
            link: None,
            leaving: None,
            asked: false,
            listed: Listed::default(),
            empty_since: None,
        }
    }

    /// Members, those that catch up included.
    pub(super) fn len(&self) -> usize {
        self.members.len() + self.replay.as_ref().map_or(0, |replay| replay.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.waiting.is_empty()
    }

    /// Makes it a member, or keeps it until the room's position is known. One that is a member already is answered
    /// again.
    pub(super) fn join(&mut self, joining: Waiting, cx: &mut Cx<'_>) {
        if self.received.is_some() {
            self.admit(joining, cx);
        } else {
            self.waiting.push(joining);
        }
    }

    fn admit(&mut self, mut joining: Waiting, cx: &mut Cx<'_>) {
        if let Some(since) = joining.since.take() {
            self.catch_up(joining, since, cx);
            return;
        }
        let member = joining.member.clone();
        if let Some(replay) = &mut self.replay {
            replay.remove(&member);
        }
        if self.members.is_awaited(&member) {
            // Joined again in the middle of a walk: what the walk still has for it comes before the position it is told.
            self.members.remove(&member);
            hand(&self.name, &self.slice, &member, cx.after_ms);
        }
        if joining.answer(&self.name, &self.handed, false, JoinOutcome::Joined) {
            self.members.insert(member);
        }
    }

    /// Ends a membership, or the waiting for one.
    pub(super) fn leave(&mut self, member: &Arc<Outbox>, cx: &mut Cx<'_>) {
        self.members.remove(member);
        self.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.member, member));
        if let Some(replay) = &mut self.replay {
            replay.remove(member);
        }
        self.end_replay(cx);
    }

    /// Gives up what is kept for those that catch up, once there are none.
    pub(super) fn end_replay(&mut self, cx: &mut Cx<'_>) {
        if let Some(mut replay) = self.replay.take_if(|replay| replay.len() == 0) {
            Self::drop_page(&mut replay, cx);
        }
    }

    /// Gives up on those who have waited long enough.
    pub(super) fn expire(&mut self, now: Instant, cx: &mut Cx<'_>) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.deadline <= now) {
            let _ = waiting.done.send(JoinOutcome::Unavailable);
        }
        if let Some(replay) = &mut self.replay {
            replay.expire(now);
        }
        self.end_replay(cx);
    }

    /// A run of publications, encoded as stored; asks again when it does not follow on what was received.
    pub(super) fn publications(&mut self, epoch: &str, first_seq: u64, entries: &[Bytes], cx: &Cx<'_>) -> Taken {
        let mut taken = Taken::default();
        for (seq, entry) in (first_seq..).zip(entries) {
            // Before the room's position is known there is nobody to deliver to.
            let Some(received) = &mut self.received else { break };
            let first_ever = received.epoch.is_empty() && received.seq == 0 && seq == 1;
            let same = received.epoch.as_str() == epoch;
            #[cfg(simulation)]
            let same = same || service::simulation::is_off(service::simulation::Check::Epoch);
            if !first_ever && !same || seq > received.seq + 1 {
                taken.gap = true;
                break;
            }
            let had = seq <= received.seq;
            #[cfg(simulation)]
            let had = had && !service::simulation::is_off(service::simulation::Check::Dedup);
            if had {
                taken.duplicates += 1;
                continue;
            }
            if self.pending.len() >= limit(ROOM_PENDING) || self.pending_bytes + entry.len() > limit(ROOM_PENDING_BYTES)
            {
                (taken.full, self.dropped) = (true, true);
                break;
            }
            if first_ever {
                received.epoch = proto::Epoch::new(epoch);
            }
            received.seq = seq;
            let position = received.clone();
            taken.fresh += 1;
            self.queue(position, entry, cx.deliveries);
        }
        self.published = self.published.saturating_add(u32::try_from(taken.fresh).unwrap_or(u32::MAX));
        if taken.gap && !self.asked {
            self.ask(cx.placement);
        }
        taken
    }

    fn queue(&mut self, position: Position, entry: &Bytes, deliveries: &Deliveries) {
        // With nobody to hand it to, it is handed out.
        if self.members.is_empty() && self.replay.is_none() && self.pending.is_empty() {
            self.handed = position;
            return;
        }
        let frame = page::frame(&self.name, &position.epoch, position.seq, entry.clone());
        self.pending_bytes += frame.len();
        let delivery = deliveries.begin(entry);
        self.pending.push_back(Item::Publication { position, frame, delivery });
    }

    pub(super) fn has_work(&self) -> bool {
        let admits = self.received.is_some() && !self.waiting.is_empty();
        let serves = self.replay.as_ref().is_some_and(|replay| replay.has_work());
        admits || serves || self.has_pending()
    }

    fn has_pending(&self) -> bool {
        self.members.is_walking() || (!self.pending.is_empty() && !self.waits)
    }

    /// When the first member-to-be is to be given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let replay = self.replay.as_ref().and_then(|replay| replay.deadline());
        self.waiting.iter().map(|waiting| waiting.deadline).chain(replay).min()
    }
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Publication { frame, .. } => frame.len(),
            Self::Lost { .. } => 0,
        }
    }
}
