//! Which rooms are compared with the store when, though nothing says that they should be: all in turn, each about once in
//! a round, so that an announcement that was lost without a trace is missed for so long only. Pure; time is passed in.

use std::{collections::VecDeque, time::Duration};

use proto::Room;
use rand::Rng;
use tokio::time::Instant;

use crate::defaults::{POSITIONS_BATCH, SWEEP_RATE};

/// A shard's rooms in turn.
#[derive(Debug)]
pub(super) struct Sweep {
    /// `POSITION_CHECK_INTERVAL`.
    interval: Duration,
    /// Rooms a second.
    rate: usize,
    /// With their serials. A room that was given up goes when its turn comes.
    turns: VecDeque<(Room, u64)>,
    /// When the next ones have their turn.
    due: Instant,
    /// Rooms that have their turn then.
    count: usize,
}

impl Sweep {
    /// For one of so many shards.
    pub(super) fn new(interval: Duration, shards: usize, now: Instant) -> Self {
        let rate = (SWEEP_RATE / shards.max(1)).max(1);
        Self { interval, rate, turns: VecDeque::new(), due: now + interval, count: 0 }
    }

    pub(super) fn add(&mut self, room: Room, serial: u64) {
        self.turns.push_back((room, serial));
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Those whose turn it is. Who is to have another turn is to be added again.
    pub(super) fn take(&mut self, now: Instant, rng: &mut impl Rng) -> Vec<(Room, u64)> {
        let rooms = self.turns.len();
        let taken = self.turns.drain(..self.count.min(rooms)).collect();
        self.plan(rooms, now, rng);
        taken
    }

    /// A round is as long as the interval, a little less so that nodes do not keep in step, or as the rate needs. It is cut
    /// into as few batches as hold all rooms.
    fn plan(&mut self, rooms: usize, now: Instant, rng: &mut impl Rng) {
        let batches = rooms.div_ceil(POSITIONS_BATCH).max(1);
        self.count = rooms.div_ceil(batches);
        let jittered = self.interval.mul_f64(rng.random_range(0.75..1.0)) / u32::try_from(batches).unwrap_or(u32::MAX);
        let needed = Duration::from_millis((self.count as u64 * 1000).div_ceil(self.rate as u64));
        self.due = now + jittered.max(needed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Sweeps for some time; how often each room had its turn, and the largest batch.
    fn sweep(rooms: usize, interval: Duration, shards: usize, time: Duration) -> (HashMap<Room, usize>, usize, usize) {
        let mut now = Instant::now();
        let end = now + time;
        let mut sweep = Sweep::new(interval, shards, now);
        for room in 0..rooms {
            sweep.add(Room::try_new(&format!("r{room}")).unwrap(), 0);
        }
        let (mut turns, mut largest, mut batches) = (HashMap::new(), 0, 0);
        while sweep.due() <= end {
            now = sweep.due();
            let taken = sweep.take(now, &mut rand::rng());
            largest = largest.max(taken.len());
            batches += usize::from(!taken.is_empty());
            for (room, serial) in taken {
                *turns.entry(room.clone()).or_insert(0) += 1;
                sweep.add(room, serial);
            }
        }
        (turns, largest, batches)
    }

    #[tokio::test(start_paused = true)]
    async fn each_room_has_its_turn_once_a_round() {
        let interval = Duration::from_secs(15);
        let (turns, largest, batches) = sweep(1000, interval, 2, interval * 10);
        assert_eq!(turns.len(), 1000);
        assert!(turns.values().all(|turns| (8..=13).contains(turns)), "{:?}", turns.values().max());
        assert!(largest <= POSITIONS_BATCH && batches <= 2 * 13, "{largest} {batches}");
        let (turns, _, batches) = sweep(1, interval, 2, interval * 10);
        assert!((8..=13).contains(&turns.len().max(batches)), "{batches}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_rooms_take_longer_rather_than_more_reads() {
        // 400,000 rooms of one of two shards, at 2,500 a second: 160 s.
        let (turns, largest, _) = sweep(400_000, Duration::from_secs(15), 2, Duration::from_secs(100));
        let swept: usize = turns.values().sum();
        // After a first interval of rest.
        assert!((205_000..=212_500).contains(&swept), "{swept}");
        assert!(largest <= POSITIONS_BATCH);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_do_is_no_busy_loop() {
        let mut sweep = Sweep::new(Duration::from_millis(100), 1, Instant::now());
        let due = sweep.due();
        assert!(sweep.take(due, &mut rand::rng()).is_empty());
        assert!(sweep.due() > due);
    }
}
