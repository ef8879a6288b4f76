//! How a page of history moves a position on. The same for a room and for one attachment's cursor in it.

use bytes::Bytes;
use proto::Position;
use smallvec::SmallVec;

use super::{Effect, Effects, LostReason, Run};
use crate::broker::Page;

/// A position that pages move on.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    pub(crate) position: Position,
    /// Generation of the highest epoch left; 0 for one that has left none.
    pub(crate) left: u64,
}

/// Where a page took a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advance {
    /// To the room's position as the page has it, or beyond.
    Reached,
    /// Not yet so far: another page follows.
    More,
    /// Nowhere: the page is of an epoch that was left.
    FromThePast,
}

impl Cursor {
    /// Applies a page that was read after `after`, which the cursor may have passed meanwhile.
    pub(crate) fn advance(&mut self, after: &Position, page: &Page, effects: &mut Effects) -> Advance {
        let store = &page.position;
        let mine = &self.position.epoch;
        if store.epoch == *mine {
            if store.epoch == after.epoch && store.seq < after.seq {
                // Numbers that were given out are not there: the store went back, if in the same epoch.
                self.lose(store.clone(), LostReason::Failover, effects);
                return Advance::Reached;
            }
            self.take(page, effects);
        } else if mine.is_empty() && self.position.seq == 0 && store.epoch.generation() > self.left {
            // The room's first epoch; whether the history reaches back to its 1 is for contiguity to say.
            self.position.epoch = store.epoch.clone();
            self.take(page, effects);
        } else if store.epoch.is_empty() && after.epoch.is_empty() {
            // Read before the room's first publication, which has come meanwhile.
            return Advance::Reached;
        } else if !store.epoch.is_empty() && store.epoch.generation() <= self.left.max(mine.generation()) {
            return Advance::FromThePast;
        } else if !self.leave(page, effects) {
            return Advance::More;
        }
        if self.position.epoch == store.epoch && self.position.seq < store.seq {
            Advance::More
        } else {
            Advance::Reached
        }
    }

    /// Leaves the epoch for the page's, after what is left of it. False if more of it is still to be read.
    fn leave(&mut self, page: &Page, effects: &mut Effects) -> bool {
        let store = &page.position;
        let end = match &page.prev {
            Some(prev) => {
                let keeps = prev.epoch == self.position.epoch;
                #[cfg(simulation)]
                let keeps = keeps && !service::simulation::is_off(service::simulation::Check::Prev);
                if keeps {
                    if !page.entries.is_empty() && (self.position.seq + 2..=prev.seq).contains(&page.first_seq) {
                        // Who stands further on than this is not concerned, and gets all that the history still has.
                        let lost = Position { epoch: prev.epoch.clone(), seq: page.first_seq - 1 };
                        self.lose(lost, LostReason::History, effects);
                    }
                    self.deliver(page, prev.seq, effects);
                    if !page.entries.is_empty() && last_seq(page) < prev.seq {
                        return false;
                    }
                }
                prev.seq
            }
            None if page.entries.is_empty() => store.seq,
            None => page.first_seq - 1,
        };
        self.left = self.left.max(self.position.epoch.generation());
        let first_there = (page.first_seq..).take(page.entries.len()).find(|seq| *seq > end);
        let seq = first_there.map_or(end, |first| first - 1);
        self.lose(Position { epoch: store.epoch.clone(), seq }, LostReason::Failover, effects);
        self.take(page, effects);
        true
    }

    /// Delivers what the page has after the position, once what it has no more is named lost.
    fn take(&mut self, page: &Page, effects: &mut Effects) {
        let end = page.position.seq;
        let next = if page.entries.is_empty() { end + 1 } else { page.first_seq };
        if next > self.position.seq + 1 {
            let lost = Position { epoch: self.position.epoch.clone(), seq: next - 1 };
            self.lose(lost, LostReason::History, effects);
        }
        self.deliver(page, end, effects);
    }

    /// Delivers the page's publications after the position up to `end`.
    fn deliver(&mut self, page: &Page, end: u64, effects: &mut Effects) {
        let entries: SmallVec<[Bytes; 1]> = (page.first_seq..)
            .zip(&page.entries)
            .filter(|(seq, _)| *seq > self.position.seq && *seq <= end)
            .map(|(_, entry)| entry.clone())
            .collect();
        if entries.is_empty() {
            return;
        }
        let first_seq = page.first_seq.max(self.position.seq + 1);
        let run = Run { epoch: self.position.epoch.clone(), first_seq, entries };
        self.position.seq = run.last_seq();
        effects.push(Effect::Deliver(run));
    }

    fn lose(&mut self, to: Position, reason: LostReason, effects: &mut Effects) {
        self.position = to.clone();
        effects.push(Effect::Lost(to, reason));
    }
}

fn last_seq(page: &Page) -> u64 {
    (page.first_seq + page.entries.len() as u64).saturating_sub(1)
}
