//! What a room keeps of its publications for those that catch up: its tail, and a page read from the history. Both are
//! counted against the budget that all rooms of a shard share.

use proto::Position;

use super::{Cx, HubRoom, Item};
use crate::hub::{budget::Owner, page::Page, replay::Replay, tail::Tail};

impl HubRoom {
    /// The item is about to be handed out: the room stands after it, and its tail ends with it.
    pub(super) fn extend_tail(&mut self, item: &Item, cx: &mut Cx<'_>) {
        match item {
            Item::Publication { position, frame, .. } => {
                if self.tail.as_ref().is_none_or(|tail| tail.end() != self.handed) {
                    self.drop_tail(cx);
                }
                let handed = &self.handed;
                // The first publication of all comes after a position without an epoch.
                let before = Position { epoch: position.epoch.clone(), seq: handed.seq };
                self.tail.get_or_insert_with(|| Box::new(Tail::after(&before))).push(frame.clone());
                cx.budget.add(self.owner(cx.slot, false), frame.len());
                self.handed.clone_from(position);
            }
            Item::Lost { position, .. } => {
                self.drop_tail(cx);
                self.handed.clone_from(position);
            }
        }
    }

    fn owner(&self, slot: usize, page: bool) -> Owner {
        Owner { slot, generation: self.generation, page }
    }

    pub(in crate::hub) fn drop_tail(&mut self, cx: &mut Cx<'_>) {
        if let Some(tail) = self.tail.take() {
            cx.budget.give_back(tail.len(), tail.bytes());
        }
    }

    pub(in crate::hub) fn drop_page(replay: &mut Replay, cx: &mut Cx<'_>) {
        if let Some(page) = replay.take_page() {
            cx.budget.give_back(1, page.bytes());
        }
    }

    /// Keeps what was read: as part of the tail where the two meet, else beside it.
    pub(in crate::hub) fn keep_page(&mut self, page: Page, cx: &mut Cx<'_>) {
        let Some(mut replay) = self.replay.take() else { return };
        Self::drop_page(&mut replay, cx);
        let run = page.run;
        let bytes = run.bytes();
        if run.len() > 0 {
            if self.tail.is_none() && run.end() == self.handed {
                self.tail = Some(Box::new(Tail::after(&self.handed)));
            }
            let before = self.tail.as_ref().map_or(0, |tail| tail.bytes());
            match &mut self.tail {
                Some(tail) if tail.meets(&run) => {
                    let added = tail.prepend(run);
                    let mut bytes = tail.bytes() - before;
                    for _ in 0..added {
                        // Which frame's bytes are whose does not matter to the sum.
                        cx.budget.add(self.owner(cx.slot, false), std::mem::take(&mut bytes));
                    }
                }
                _ => {
                    replay.set_page(run);
                    cx.budget.add(self.owner(cx.slot, true), bytes);
                }
            }
        }
        self.replay = Some(replay);
    }

    /// Gives memory back. Returns how many frames, or pages, and how many bytes.
    pub(in crate::hub) fn evict(&mut self, page: bool) -> (usize, usize) {
        let freed = if page {
            self.replay.as_mut().and_then(|replay| replay.take_page()).map(|page| page.bytes())
        } else {
            self.tail.as_mut().and_then(|tail| tail.pop_front())
        };
        freed.map_or((0, 0), |bytes| (1, bytes))
    }
}
