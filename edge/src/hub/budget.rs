use std::collections::VecDeque;

/// What the tails of a shard's rooms may hold together: `TAIL_BYTES`, shared out among the shards. The oldest frames go
/// first, whatever room they are of.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: usize,
    /// Frames held, a page counting as one.
    held: usize,
    /// Which room to take from next, oldest first; those whose frames went otherwise are passed over.
    order: VecDeque<Owner>,
}

/// The room at a slot, for as long as it is the same room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) slot: usize,
    pub(super) generation: u32,
    /// A page read from the history, which goes as a whole, rather than the first frame of the tail.
    pub(super) page: bool,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, held: 0, order: VecDeque::new() }
    }

    pub(super) fn add(&mut self, owner: Owner, bytes: usize) {
        self.used += bytes;
        self.held += 1;
        self.order.push_back(owner);
    }

    /// So many frames, or pages, of so many bytes in all are held no longer.
    pub(super) fn give_back(&mut self, count: usize, bytes: usize) {
        self.used -= bytes;
        self.held -= count;
    }

    /// Where to take from next, if too much is held, or too many are on the list that hold nothing.
    pub(super) fn next_to_go(&mut self) -> Option<Owner> {
        let over = self.used > self.limit || self.order.len() > 2 * self.held + 64;
        if over { self.order.pop_front() } else { None }
    }
}
