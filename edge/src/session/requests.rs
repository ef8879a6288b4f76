//! What clients ask of a room, once its turn has come.

use bytes::Bytes;
use proto::{Key, Room};
use service::limit;

use super::{
    Action, Forward, Id, Joining, MAX_WAITING, MAX_WAITING_BYTES, Session, cancelled, error, left,
    rooms::{Membership, Step, Waiting},
};
use crate::protocol::{ErrorCode, Since};

impl Session {
    pub(super) fn or_wait(&mut self, room: Room, request: Waiting, actions: &mut Vec<Action>) {
        let held = self.rooms.held_bytes();
        let Some(busy) = self.rooms.busy(&room) else {
            self.handle(room, request, actions);
            return;
        };
        if self.waiting < limit(MAX_WAITING) && held + request.bytes() <= MAX_WAITING_BYTES {
            busy.queue.push_back(request);
            self.waiting += 1;
        } else {
            self.refuse(request.id(), &room, actions);
        }
    }

    pub(super) fn handle(&mut self, room: Room, request: Waiting, actions: &mut Vec<Action>) {
        match request {
            // What waited behind it was asked later: it is not cancelled.
            Waiting::Leave { id } if self.rooms.membership(&room).is_some() => {
                self.start_leaving(&room, id, None, actions);
            }
            Waiting::Leave { id } => actions.push(left(id.as_deref(), &room)),
            Waiting::Join { id, since, grant } => self.join(room, id, since, grant, actions),
            Waiting::Broadcast { id, body, key } => match self.rooms.membership(&room) {
                Some(Membership { publish: true }) => self.broadcast(room, id, &body, key, actions),
                Some(_) => {
                    let text = format!("you may only listen in {room}");
                    actions.push(error(id.as_deref(), ErrorCode::NotAuthorized, &text, Some(&room)));
                }
                None => {
                    let text = format!("join {room} first");
                    actions.push(error(id.as_deref(), ErrorCode::NotJoined, &text, Some(&room)));
                }
            },
        }
    }

    fn broadcast(&mut self, room: Room, id: Id, body: &str, key: Option<Key>, actions: &mut Vec<Action>) {
        if self.waiting >= limit(MAX_WAITING) || self.rooms.held_bytes() + body.len() > MAX_WAITING_BYTES {
            self.refuse(id.as_deref(), &room, actions);
            return;
        }
        self.next_op = self.next_op.wrapping_add(1);
        let op = self.next_op;
        // Ours is unique among all connections, and much shorter than a key may be.
        let ours = || Key::try_new(&format!("{}-{op}", self.connection)).ok().flatten();
        let key_is_ours = key.is_none();
        let Some(key) = key.or_else(ours) else { return };
        let deadline = self.now + self.settings.publish_timeout;
        let body = Bytes::copy_from_slice(body.as_bytes());
        let forward = Forward { op, body, key, key_is_ours, deadline, alone: false, via: None, unless: Vec::new() };
        self.waiting += 1;
        let forward = self.rooms.broadcasts_or_new(&room).push(id, forward);
        actions.extend(forward.map(|forward| Action::Publish { room, forward }));
    }

    fn refuse(&mut self, id: Option<&str>, room: &Room, actions: &mut Vec<Action>) {
        self.full.inc();
        actions.push(error(id, ErrorCode::RateLimited, "too many requests wait for an answer", Some(room)));
    }

    fn join(&mut self, room: Room, id: Id, since: Option<Since>, grant: Option<Box<str>>, actions: &mut Vec<Action>) {
        if let Some(automatic) = self.automatic.iter().find(|automatic| automatic.room == room) {
            let publish = automatic.publish;
            self.start_joining(room, Joining { id, publish, grant: None, since }, actions);
            return;
        }
        let own = self.rooms.names().filter(|name| !self.is_automatic(name)).count();
        if own >= self.settings.max_rooms && !self.rooms.contains(&room) {
            let text = format!("at most {} rooms a connection", self.settings.max_rooms);
            actions.push(error(id.as_deref(), ErrorCode::TooManyRooms, &text, Some(&room)));
            return;
        }
        let op = self.start(&room, Step::Authorizing { id, since });
        actions.push(Action::Authorize { op, room, grant });
    }

    pub(super) fn leave(&mut self, room: &Room, id: Id, actions: &mut Vec<Action>) {
        if self.rooms.busy(room).is_some_and(|busy| matches!(busy.step, Step::Leaving)) {
            // One is under way: what was asked in between is cancelled, and this one answered after it.
            self.cancel_waiting(room, actions);
            self.or_wait(room.clone(), Waiting::Leave { id }, actions);
            return;
        }
        let joining = self.cancel_step(room, actions);
        self.cancel_waiting(room, actions);
        if joining || self.rooms.membership(room).is_some() {
            self.start_leaving(room, id, None, actions);
        } else {
            self.rooms.forget_if_idle(room);
            actions.push(left(id.as_deref(), room));
        }
    }

    /// Cancels the join under way. True if the hub knows of it.
    pub(super) fn cancel_step(&mut self, room: &Room, actions: &mut Vec<Action>) -> bool {
        let Some(busy) = self.rooms.busy(room) else { return false };
        let step = std::mem::replace(&mut busy.step, Step::Idle);
        let joining = matches!(step, Step::Joining { .. });
        if let Step::Authorizing { id, .. } | Step::Joining { id, .. } = step {
            actions.push(cancelled(id.as_deref(), room));
        }
        joining
    }

    /// Answers what waits behind a join that is cancelled: joins are cancelled as well, and a broadcast comes too early.
    pub(super) fn cancel_waiting(&mut self, room: &Room, actions: &mut Vec<Action>) {
        let Some(queue) = self.rooms.take_queue(room) else { return };
        self.waiting -= queue.len();
        for request in queue {
            match request {
                Waiting::Join { id, .. } => actions.push(cancelled(id.as_deref(), room)),
                Waiting::Leave { id } => actions.push(left(id.as_deref(), room)),
                Waiting::Broadcast { .. } => self.handle(room.clone(), request, actions),
            }
        }
    }
}
