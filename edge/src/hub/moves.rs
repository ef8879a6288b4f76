use std::{collections::VecDeque, ops::Range, time::Duration};

use tokio::time::Instant;

/// How often some rooms move whose link still serves them, and how many of an edge do so in a second: a node that comes
/// or drains is not to be met by all at once.
const TICK: Duration = Duration::from_millis(10);
const ROOMS_PER_SECOND: usize = 2000;

/// Which rooms of a shard are still to be looked at since the links changed, and which are to move when it is their turn.
#[derive(Debug)]
pub(super) struct Moves {
    check: Range<usize>,
    paced: VecDeque<usize>,
    next: Option<Instant>,
    per_tick: usize,
}

impl Moves {
    /// `shards`: among how many the edge's rate is shared out.
    pub(super) fn new(shards: usize) -> Self {
        let ticks = usize::try_from(1000 / TICK.as_millis()).unwrap_or(1);
        Self { check: 0..0, paced: VecDeque::new(), next: None, per_tick: (ROOMS_PER_SECOND / ticks / shards).max(1) }
    }

    /// The links changed: all slots are to be looked at.
    pub(super) fn begin(&mut self, slots: usize, now: Instant) {
        self.check = 0..slots;
        self.paced.clear();
        self.next = Some(now + TICK);
    }

    pub(super) fn has_checks(&self) -> bool {
        !self.check.is_empty()
    }

    pub(super) fn next_check(&mut self) -> Option<usize> {
        self.check.next()
    }

    /// This one can wait for its turn.
    pub(super) fn later(&mut self, slot: usize) {
        self.paced.push_back(slot);
    }

    /// When it is somebody's turn.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.paced.is_empty())
    }

    /// Those whose turn it is.
    pub(super) fn due(&mut self, now: Instant) -> Vec<usize> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Vec::new();
        }
        self.next = Some(now + TICK);
        self.paced.drain(..self.per_tick.min(self.paced.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_rooms_move_in_a_second() {
        let start = Instant::now();
        let mut moves = Moves::new(2);
        moves.begin(5000, start);
        while let Some(slot) = moves.next_check() {
            moves.later(slot);
        }
        let mut now = start;
        let mut gone = Vec::new();
        while now < start + Duration::from_secs(1) {
            now = moves.deadline().unwrap();
            gone.extend(moves.due(now));
            assert!(moves.due(now).is_empty());
        }
        assert_eq!(gone, (0..1000).collect::<Vec<_>>(), "half of the edge's");
        moves.begin(0, now);
        assert_eq!(moves.deadline(), None);
    }
}
