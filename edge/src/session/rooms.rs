use std::collections::VecDeque;

use proto::{Key, Room};

use super::{Id, OpId, broadcasts::Broadcasts};
use crate::protocol::Since;

/// The rooms of one session. A few, so a list that is searched beats a map in memory.
#[derive(Debug, Default)]
pub(super) struct Rooms(Vec<RoomState>);

#[derive(Debug)]
pub(super) struct RoomState {
    room: Room,
    pub(super) membership: Option<Membership>,
    pub(super) busy: Option<Box<Busy>>,
    /// None while none is without a receipt.
    broadcasts: Option<Box<Broadcasts>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) publish: bool,
}

/// An operation under way, and what waits for its end.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) op: OpId,
    pub(super) step: Step,
    pub(super) queue: VecDeque<Waiting>,
}

#[derive(Debug)]
pub(super) enum Step {
    Authorizing {
        id: Id,
        since: Option<Since>,
    },
    Joining {
        id: Id,
        publish: bool,
    },
    Leaving,
    /// Between two steps.
    Idle,
}

#[derive(Debug)]
pub(super) enum Waiting {
    Join { id: Id, since: Option<Since>, grant: Option<Box<str>> },
    Leave { id: Id },
    Broadcast { id: Id, body: Box<str>, key: Option<Key> },
}

impl Waiting {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Broadcast { body, .. } => body.len(),
            Self::Join { .. } | Self::Leave { .. } => 0,
        }
    }

    pub(super) fn id(&self) -> Option<&str> {
        let (Self::Join { id, .. } | Self::Leave { id } | Self::Broadcast { id, .. }) = self;
        id.as_deref()
    }
}

impl RoomState {
    fn held_bytes(&self) -> usize {
        let queued = self.busy.iter().flat_map(|busy| &busy.queue).map(Waiting::bytes).sum::<usize>();
        queued + self.broadcasts.as_ref().map_or(0, |broadcasts| broadcasts.bytes())
    }
}

impl Rooms {
    /// Bytes of the bodies that wait for a busy room or a receipt.
    pub(super) fn held_bytes(&self) -> usize {
        self.0.iter().map(RoomState::held_bytes).sum()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Room> {
        self.0.iter().map(|state| &state.room)
    }

    pub(super) fn contains(&self, room: &Room) -> bool {
        self.names().any(|name| name == room)
    }

    pub(super) fn membership(&self, room: &Room) -> Option<Membership> {
        self.0.iter().find(|state| state.room == *room)?.membership
    }

    pub(super) fn busy(&mut self, room: &Room) -> Option<&mut Busy> {
        self.0.iter_mut().find(|state| state.room == *room)?.busy.as_deref_mut()
    }

    /// The room's state, made if there is none.
    pub(super) fn state(&mut self, room: &Room) -> &mut RoomState {
        let index = self.0.iter().position(|state| state.room == *room).unwrap_or_else(|| {
            if self.0.is_empty() {
                // Most sessions have one room, the personal one.
                self.0.reserve_exact(1);
            }
            self.0.push(RoomState { room: room.clone(), membership: None, busy: None, broadcasts: None });
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    pub(super) fn broadcasts(&mut self, room: &Room) -> Option<&mut Broadcasts> {
        self.0.iter_mut().find(|state| state.room == *room)?.broadcasts.as_deref_mut()
    }

    pub(super) fn broadcasts_or_new(&mut self, room: &Room) -> &mut Broadcasts {
        self.state(room).broadcasts.get_or_insert_default()
    }

    pub(super) fn take_queue(&mut self, room: &Room) -> Option<VecDeque<Waiting>> {
        self.busy(room).map(|busy| std::mem::take(&mut busy.queue))
    }

    /// Forgets a room that is neither joined nor busy, or busy with nothing.
    pub(super) fn forget_if_idle(&mut self, room: &Room) {
        let Some(index) = self.0.iter().position(|state| state.room == *room) else { return };
        let state = &mut self.0[index];
        if state.busy.as_ref().is_some_and(|busy| matches!(busy.step, Step::Idle) && busy.queue.is_empty()) {
            state.busy = None;
        }
        state.broadcasts.take_if(|broadcasts| broadcasts.len() == 0);
        if state.busy.is_none() && state.membership.is_none() && state.broadcasts.is_none() {
            self.0.swap_remove(index);
        }
    }
}
