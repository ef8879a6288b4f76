//! A room's position as a pure state machine: announcements and pages of history in; deliveries, losses and wishes to
//! read out. Whatever order announcements come in, doubled or not at all: each publication is delivered once, in order,
//! or a loss is named.

mod advance;

use bytes::Bytes;
use proto::{Epoch, Position};
use service::limit;
use smallvec::SmallVec;

pub(crate) use self::advance::{Advance, Cursor};
use crate::{
    broker::Page,
    defaults::{HELD_BYTES, HELD_ITEMS},
};

/// Consecutive publications of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) epoch: Epoch,
    /// `seq` of the first entry.
    pub(crate) first_seq: u64,
    pub(crate) entries: SmallVec<[Bytes; 1]>,
}

impl Run {
    /// `seq` of the last entry.
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + self.entries.len() as u64 - 1
    }

    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(Bytes::len).sum()
    }

    /// The part after `seq`, if there is any.
    pub(crate) fn after(&self, seq: u64) -> Option<Self> {
        let skip = usize::try_from((seq + 1).saturating_sub(self.first_seq)).ok()?;
        let entries: SmallVec<_> = self.entries.get(skip..)?.iter().cloned().collect();
        (!entries.is_empty()).then(|| Self {
            epoch: self.epoch.clone(),
            first_seq: self.first_seq + skip as u64,
            entries,
        })
    }
}

/// Why continuity is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostReason {
    /// More was missed than the history keeps.
    History,
    /// The store went back in time, or cannot prove that it did not.
    Failover,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Deliver(Run),
    /// Delivery goes on after the position.
    Lost(Position, LostReason),
    /// Read the history after this position and hand the page to [`RoomState::page`]; one at a time.
    Read(Position),
    /// The store answered from an epoch that was left: do not believe it, ask again in a while.
    AskLater,
    /// What was held became too much, and will be read again.
    HeldTooMuch,
}

pub(crate) type Effects = SmallVec<[Effect; 2]>;

/// See the module. Before [`start`](Self::start) it only remembers what it hears.
#[derive(Debug, Default)]
pub(crate) struct RoomState {
    position: Option<Position>,
    /// Generation of the highest epoch left. None up to it is taken up again.
    left: u64,
    /// There while something is ahead of the position, or a read under way.
    ahead: Option<Box<Ahead>>,
}

/// What is known beyond the position.
#[derive(Debug, Default)]
struct Ahead {
    /// Where the read under way began.
    reading: Option<Position>,
    /// The furthest position heard of since that read began.
    newest: Option<Position>,
    /// A run that waits for what comes before it.
    held: Option<Run>,
    held_bytes: usize,
}

impl RoomState {
    /// Where delivery stands; `None` before the start.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Whether a read asked for has not been answered.
    #[cfg(test)]
    pub(crate) fn is_reading(&self) -> bool {
        self.ahead.as_ref().is_some_and(|ahead| ahead.reading.is_some())
    }

    /// Begins delivery after the position, which was read once announcements were sure to come.
    pub(crate) fn start(&mut self, position: Position) -> Effects {
        self.position = Some(position);
        let mut effects = Effects::new();
        self.settle(&mut effects);
        effects
    }

    /// Takes an announcement, or news of a position without its publication.
    pub(crate) fn announced(&mut self, at: &Position, entry: Option<Bytes>) -> Effects {
        let mut effects = Effects::new();
        let Some(position) = &mut self.position else {
            self.hold(at, entry, &mut effects);
            return effects;
        };
        let first_ever = position.epoch.is_empty() && at.seq == 1 && at.epoch.generation() > self.left;
        if at.epoch == position.epoch || first_ever {
            if at.seq <= position.seq {
                return effects;
            }
            if let Some(entry) = entry.as_ref().filter(|_| at.seq == position.seq + 1) {
                *position = at.clone();
                let run =
                    Run { epoch: at.epoch.clone(), first_seq: at.seq, entries: SmallVec::from_buf([entry.clone()]) };
                effects.push(Effect::Deliver(run));
                if self.ahead.is_some() {
                    self.settle(&mut effects);
                }
                return effects;
            }
        } else if at.epoch.generation() <= self.left.max(position.epoch.generation()) {
            return effects;
        }
        self.hold(at, entry, &mut effects);
        self.read(&mut effects);
        effects
    }

    /// Compares with a position of the store that was asked for while this room stood at `then`.
    pub(crate) fn compare(&mut self, then: &Position, store: &Position) -> Effects {
        let mut effects = Effects::new();
        let Some(position) = &self.position else { return effects };
        let settled = store.epoch == position.epoch && store.epoch == then.epoch && store.seq >= then.seq;
        if !(settled && store.seq <= position.seq) && store != position {
            self.read(&mut effects);
        }
        effects
    }

    /// Asks for a page whatever is known.
    pub(crate) fn check(&mut self) -> Effects {
        let mut effects = Effects::new();
        self.read(&mut effects);
        effects
    }

    /// Takes the answer to the read asked for.
    pub(crate) fn page(&mut self, page: &Page) -> Effects {
        let mut effects = Effects::new();
        let Some(after) = self.ahead.as_mut().and_then(|ahead| ahead.reading.take()) else { return effects };
        let Some(position) = &mut self.position else { return effects };
        let mut cursor = Cursor { position: position.clone(), left: self.left };
        let advance = cursor.advance(&after, page, &mut effects);
        *position = cursor.position;
        self.left = cursor.left;
        match advance {
            Advance::Reached => {}
            Advance::More => self.note(&page.position),
            Advance::FromThePast => {
                effects.push(Effect::AskLater);
                return effects;
            }
        }
        self.settle(&mut effects);
        effects
    }

    /// Delivers what was held and now fits; reads if something is still ahead.
    fn settle(&mut self, effects: &mut Effects) {
        let (Some(ahead), Some(position)) = (&mut self.ahead, &mut self.position) else { return };
        if let Some(held) = ahead.held.take() {
            let first_ever = position.epoch.is_empty() && held.first_seq == 1 && held.epoch.generation() > self.left;
            if (held.epoch == position.epoch || first_ever) && held.first_seq <= position.seq + 1 {
                ahead.held_bytes = 0;
                if let Some(run) = held.after(position.seq) {
                    *position = Position { epoch: run.epoch.clone(), seq: run.last_seq() };
                    effects.push(Effect::Deliver(run));
                }
            } else if held.epoch.generation() > self.left && held.epoch.generation() >= position.epoch.generation() {
                ahead.held = Some(held);
            }
        }
        let missing = ahead.newest.as_ref().is_some_and(|newest| is_later(newest, position, self.left));
        if !missing {
            ahead.newest = None;
        }
        if missing && ahead.reading.is_none() {
            self.read(effects);
        } else if ahead.reading.is_none() && !missing {
            self.ahead = None;
        }
    }

    fn read(&mut self, effects: &mut Effects) {
        #[cfg(simulation)]
        if service::simulation::is_off(service::simulation::Check::GapRepair) {
            return;
        }
        let Some(position) = &self.position else { return };
        let ahead = self.ahead.get_or_insert_default();
        if ahead.reading.is_none() {
            // What is known so far is also known to the store: only what comes from now on asks for another read.
            ahead.newest = None;
            ahead.reading = Some(position.clone());
            effects.push(Effect::Read(position.clone()));
        }
    }

    fn note(&mut self, at: &Position) {
        let ahead = self.ahead.get_or_insert_default();
        if ahead
            .newest
            .as_ref()
            .is_none_or(|newest| (at.epoch.generation(), at.seq) > (newest.epoch.generation(), newest.seq))
        {
            ahead.newest = Some(at.clone());
        }
    }

    /// Remembers what cannot be delivered yet: its position always, the publication if it continues the run held.
    fn hold(&mut self, at: &Position, entry: Option<Bytes>, effects: &mut Effects) {
        self.note(at);
        let Some(ahead) = &mut self.ahead else { return };
        let Some(entry) = entry else { return };
        let bytes = entry.len();
        match &mut ahead.held {
            Some(run) if run.epoch == at.epoch && at.seq <= run.last_seq() => {}
            Some(run) if run.epoch == at.epoch && at.seq == run.last_seq() + 1 => {
                if run.entries.len() < limit(HELD_ITEMS) && ahead.held_bytes + bytes <= limit(HELD_BYTES) {
                    run.entries.push(entry);
                    ahead.held_bytes += bytes;
                } else {
                    // Full: the newest position will have it read.
                    ahead.held = None;
                    ahead.held_bytes = 0;
                    effects.push(Effect::HeldTooMuch);
                }
            }
            _ => {
                let entries = SmallVec::from_buf([entry]);
                ahead.held = Some(Run { epoch: at.epoch.clone(), first_seq: at.seq, entries });
                ahead.held_bytes = bytes;
            }
        }
    }
}

/// Whether `newest` is ahead of `position`: further in its epoch, or in a later one.
fn is_later(newest: &Position, position: &Position, left: u64) -> bool {
    if newest.epoch == position.epoch {
        newest.seq > position.seq
    } else {
        newest.epoch.generation() > left.max(position.epoch.generation())
    }
}

#[cfg(test)]
mod tests;
