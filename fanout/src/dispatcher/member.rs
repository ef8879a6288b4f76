//! An attachment in a room: what it is handed, and where it stands.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use proto::{Epoch, Position, Room, wire};

use crate::{
    attachments::Attachment,
    broker::Page,
    room::{Advance, Cursor, Effect, Effects, LostReason, Run},
};

/// An attachment in a room.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) attachment: Arc<Attachment>,
    /// Where the last publication handed over is; for a live one.
    pub(super) cursor: Position,
    pub(super) mode: Mode,
}

#[derive(Debug)]
pub(super) enum Mode {
    /// Waits for the room to begin; with the position it came with.
    Joining(Option<Box<Position>>),
    /// Gets what the room delivers.
    Live,
    Behind(Box<Behind>),
}

#[derive(Debug)]
pub(super) struct Behind {
    /// Everything up to here was handed over.
    pub(super) position: Position,
    /// The edge waits for the room's state.
    owes_state: bool,
    /// It was live, and its queue refused the room.
    refused: bool,
    _counted: Counted,
}

impl Mode {
    fn behind(position: Position, owes_state: bool, attachment: &Attachment) -> Self {
        let counted = Counted::new(&attachment.queue.metrics().behind);
        Self::Behind(Box::new(Behind { position, owes_state, refused: !owes_state, _counted: counted }))
    }
}

/// Counts as long as it is there, however it goes.
#[derive(Debug)]
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Member {
    pub(super) fn joining(attachment: Arc<Attachment>, position: Option<Position>) -> Self {
        Self { attachment, cursor: Position::default(), mode: Mode::Joining(position.map(Box::new)) }
    }
}

impl Member {
    /// Whether its queue refused the room and it has not caught up since.
    pub(super) fn is_refused(&self) -> bool {
        matches!(&self.mode, Mode::Behind(behind) if behind.refused)
    }

    /// Begins delivery to a member that joined, with the room at `at`; true if it must catch up first.
    pub(super) fn admit(&mut self, room: &Room, at: &Position) -> bool {
        let Mode::Joining(from) = std::mem::replace(&mut self.mode, Mode::Live) else { return false };
        match from {
            Some(from) if *from != *at => {
                self.mode = Mode::behind(*from, true, &self.attachment);
                true
            }
            _ => {
                self.cursor = at.clone();
                self.attachment.control(state(room, at.clone(), None));
                false
            }
        }
    }

    /// Hands the run to a live member; true if it fell behind by that.
    pub(super) fn deliver(&mut self, room: &Room, run: &Run, shard: usize) -> bool {
        if !matches!(self.mode, Mode::Live) || self.cursor.seq >= run.last_seq() {
            return false;
        }
        let part = if self.cursor.seq < run.first_seq { Some(run.clone()) } else { run.after(self.cursor.seq) };
        let Some(part) = part else { return false };
        let (first, last) = (part.first_seq, part.last_seq());
        if self.attachment.queue.push_run(room, part, shard) {
            self.moved(&run.epoch, last);
            return false;
        }
        #[cfg(simulation)]
        if service::simulation::is_off(service::simulation::Check::Behind) {
            self.moved(&run.epoch, last);
            return false;
        }
        let position = Position { epoch: run.epoch.clone(), seq: first - 1 };
        self.mode = Mode::behind(position, false, &self.attachment);
        true
    }

    fn moved(&mut self, epoch: &Epoch, seq: u64) {
        if self.cursor.epoch != *epoch {
            self.cursor.epoch = epoch.clone();
        }
        self.cursor.seq = seq;
    }

    /// Tells a live member of a loss. One behind finds out by itself.
    pub(super) fn lost(&mut self, room: &Room, position: &Position, reason: LostReason) {
        let passed = reason == LostReason::History && self.cursor.seq >= position.seq;
        if matches!(self.mode, Mode::Live) && !passed {
            let after = std::mem::replace(&mut self.cursor, position.clone());
            self.attachment.control(lost(room, after, position.clone(), reason));
        }
    }

    /// Moves one that is behind on by a page read after `after`, if it meets its cursor; the room is at `at`. False if
    /// the page is of an epoch that the room has left.
    pub(super) fn take_page(
        &mut self,
        room: &Room,
        after: &Position,
        page: &Page,
        at: &Position,
        shard: usize,
    ) -> bool {
        let Mode::Behind(behind) = &mut self.mode else { return true };
        let last = (page.first_seq + page.entries.len() as u64).saturating_sub(1);
        let position = &behind.position;
        let within = position.epoch == page.position.epoch && (page.first_seq..=last).contains(&(position.seq + 1));
        if position != after && !within {
            return true;
        }
        let before = position.clone();
        let mut cursor = Cursor { position: before.clone(), left: 0 };
        let mut effects = Effects::new();
        let advance = cursor.advance(&before, page, &mut effects);
        if advance == Advance::FromThePast {
            if at.epoch.generation() >= before.epoch.generation() {
                return false;
            }
            // The edge comes from a later epoch than this store has ever had here.
            cursor.position = at.clone();
            effects.push(Effect::Lost(at.clone(), LostReason::Failover));
        }
        let finished_prev = page.complete && page.prev.as_ref().is_some_and(|prev| prev.epoch == before.epoch);
        if std::mem::take(&mut behind.owes_state) {
            let kept = finished_prev || !matches!(effects.first(), Some(Effect::Lost(..)));
            if kept {
                self.attachment.control(state(room, before, None));
            } else if let Effect::Lost(to, _) = effects.remove(0) {
                behind.position = to.clone();
                self.attachment.control(state(room, to, Some(before)));
            }
        }
        if behind.hand_over(&self.attachment, room, effects, shard) {
            behind.position = cursor.position;
            if behind.position.epoch == at.epoch && behind.position.seq >= at.seq {
                self.cursor = behind.position.clone();
                self.mode = Mode::Live;
            }
        }
        true
    }
}

impl Behind {
    /// Hands over what a page gave, as far as the queue takes it; true if all of it.
    fn hand_over(&mut self, attachment: &Attachment, room: &Room, effects: Effects, shard: usize) -> bool {
        for effect in effects {
            match effect {
                Effect::Deliver(run) => {
                    let end = Position { epoch: run.epoch.clone(), seq: run.last_seq() };
                    if !attachment.queue.push_run(room, run, shard) {
                        return false;
                    }
                    self.position = end;
                }
                Effect::Lost(to, reason) => {
                    let after = std::mem::replace(&mut self.position, to.clone());
                    attachment.control(lost(room, after, to, reason));
                }
                Effect::Read(_) | Effect::AskLater | Effect::HeldTooMuch => {}
            }
        }
        true
    }
}

/// `missed_after`: the position that was asked from, if something was missed since.
fn state(room: &Room, position: Position, missed_after: Option<Position>) -> wire::fanout_message::Kind {
    let (position, complete) = (Some(position.into()), missed_after.is_none());
    let (room, after) = (room.as_str().to_owned(), missed_after.map(Into::into));
    wire::fanout_message::Kind::State(wire::State { room, position, complete, after })
}

fn lost(room: &Room, after: Position, position: Position, reason: LostReason) -> wire::fanout_message::Kind {
    let reason = match reason {
        LostReason::History => wire::LostReason::History,
        LostReason::Failover => wire::LostReason::Failover,
    };
    let (position, after) = (Some(position.into()), Some(after.into()));
    let (room, reason) = (room.as_str().to_owned(), reason.into());
    wire::fanout_message::Kind::Lost(wire::Lost { room, position, reason, after })
}
