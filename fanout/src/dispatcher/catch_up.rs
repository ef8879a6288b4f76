//! Attachments that are behind in a room: joined with a position, or refused by a full queue. They are served from the
//! history, page by page, their rooms taking turns, while their queue is at most half full; a page serves all whose
//! cursor it meets. At the room's position they are live.

use std::{collections::VecDeque, time::Duration};

use hashbrown::HashSet;
use proto::Room;
use service::{RandomState, limit};

use super::{
    member::{Member, Mode},
    shard::{RoomEntry, Shard},
    store::{Asked, Purpose},
};
use crate::{
    attachments::{AttachmentId, Space},
    broker::Page,
    defaults::CATCH_UP_READS,
    room::Effects,
};

/// An attachment's rooms that are behind, in turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    rooms: VecDeque<Room>,
    /// The same rooms: each has one turn.
    queued: HashSet<Room, RandomState>,
    /// Pages being read.
    reading: usize,
}

impl Shard {
    /// Puts the room among the attachment's turns, if it is behind there.
    pub(super) fn enqueue(&mut self, id: AttachmentId, room: &Room) {
        if let Some(entry) = self.routing.get_mut(room)
            && let Some(Member { mode: Mode::Behind(_), .. }) = entry.member_mut(id)
        {
            let turns = self.turns.entry(id).or_default();
            if turns.queued.insert(room.clone()) {
                turns.rooms.push_back(room.clone());
            }
        }
    }

    /// The same for everyone behind in the room, and goes on with them.
    pub(super) fn enqueue_all(&mut self, room: &Room) {
        let Some(entry) = self.routing.get_mut(room) else { return };
        let behind = entry.members.iter().filter(|(_, member)| matches!(member.mode, Mode::Behind(_)));
        let ids: Vec<_> = behind.map(|(id, _)| *id).collect();
        for id in ids {
            self.enqueue(id, room);
            self.take_turns(id);
        }
    }

    /// Reads pages for the attachment's rooms in turn, as far as its queue allows.
    pub(super) fn take_turns(&mut self, id: AttachmentId) {
        let Some(turns) = self.turns.get_mut(&id) else { return };
        for _ in 0..turns.rooms.len() {
            if turns.reading >= limit(CATCH_UP_READS) {
                return;
            }
            let Some(room) = turns.rooms.pop_front() else { break };
            turns.queued.remove(&room);
            let Some(entry) = self.routing.get_mut(&room) else { continue };
            let (catching_up, asked) = (entry.data.catching_up, entry.data.asked(&room));
            let Some(member) = entry.member_mut(id) else { continue };
            let Mode::Behind(behind) = &member.mode else { continue };
            match member.attachment.queue.space(&room, self.index) {
                Space::Yes => {}
                Space::RoomFull => {
                    turns.queued.insert(room.clone());
                    turns.rooms.push_back(room);
                    continue;
                }
                Space::QueueFull => {
                    turns.queued.insert(room.clone());
                    turns.rooms.push_front(room);
                    return;
                }
            }
            if catching_up {
                // Whoever's page it is, all of the room are looked at when it comes.
                continue;
            }
            let asked = Asked { at: behind.position.clone(), ..asked };
            entry.data.catching_up = true;
            turns.reading += 1;
            self.metrics.replays.inc();
            self.store.page(Purpose::CatchUp(id), asked, Duration::ZERO);
        }
        if turns.rooms.is_empty() && turns.reading == 0 {
            self.turns.remove(&id);
        }
    }

    /// A page came, read for one of those behind in the room.
    pub(super) fn caught_up(&mut self, id: AttachmentId, asked: &Asked, page: &Page) {
        if let Some(turns) = self.turns.get_mut(&id) {
            turns.reading = turns.reading.saturating_sub(1);
        }
        let shard = self.index;
        let Some(entry) = self.same(asked) else { return self.take_turns(id) };
        entry.data.catching_up = false;
        let at = entry.data.state.position().cloned().unwrap_or_default();
        let mut believed = true;
        for (_, member) in &mut entry.members {
            believed &= member.take_page(&asked.room, &asked.at, page, &at, shard);
        }
        if believed {
            let news = entry.news(page);
            self.apply(&asked.room, news);
            self.enqueue_all(&asked.room);
        } else {
            // When the room's own check is answered, everyone behind is looked at again.
            self.metrics.from_the_past.inc();
            self.store.check_later(asked.clone());
        }
        self.release(&asked.room);
        self.take_turns(id);
    }
}

impl RoomEntry {
    /// A page may know of a later epoch than the room: then the room is told.
    fn news(&mut self, page: &Page) -> Effects {
        let known = self.data.state.position().is_some_and(|at| at.epoch == page.position.epoch);
        if known { Effects::new() } else { self.data.state.check() }
    }
}
