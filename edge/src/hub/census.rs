//! What the edge reports of its rooms: the largest, the busiest, and how old publications are when they come. Pure.

use std::{cmp::Reverse, collections::BinaryHeap};

use proto::Room;

/// Rooms looked at between two other commands of a shard: a few dozen microseconds.
pub(super) const MAX_LOOK: usize = 1024;

/// Made by looking at all rooms of the hub, some at a time, whosever shard they are in.
#[derive(Debug)]
pub struct Census {
    /// By members.
    pub largest: Top,
    /// By publications since the census before.
    pub busiest: Top,
    pub ages: Ages,
}

impl Census {
    /// `limit`: rooms that each list may have.
    pub(super) fn new(limit: usize) -> Self {
        Self { largest: Top::new(limit), busiest: Top::new(limit), ages: Ages::default() }
    }
}

/// The rooms with most of something, and no more than so many: memory does not grow with the rooms looked at.
#[derive(Debug)]
pub struct Top {
    limit: usize,
    /// The least on top.
    rooms: BinaryHeap<Reverse<(u64, Room)>>,
}

impl Top {
    fn new(limit: usize) -> Self {
        Self { limit, rooms: BinaryHeap::new() }
    }

    /// A room that has none of it is in no list.
    pub(super) fn offer(&mut self, count: u64, room: &Room) {
        if self.rooms.len() >= self.limit {
            if self.rooms.peek().is_none_or(|Reverse((least, _))| *least >= count) {
                return;
            }
            self.rooms.pop();
        }
        if count > 0 {
            self.rooms.push(Reverse((count, room.clone())));
        }
    }

    /// Most first.
    pub fn into_rooms(self) -> impl Iterator<Item = (Room, u64)> {
        self.rooms.into_sorted_vec().into_iter().map(|Reverse((count, room))| (room, count))
    }
}

/// How many publications were how old when they came: under 1 ms, under 2, under 4, …, and older.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ages([u64; Self::CLASSES]);

impl Ages {
    /// The last but one ends at 16 s.
    const CLASSES: usize = 16;

    pub(super) fn count(&mut self, ms: i64) {
        // A clock behind the other's is no age.
        let ms = u64::try_from(ms).unwrap_or(0);
        let class = (u64::BITS - ms.leading_zeros()) as usize;
        self.0[class.min(Self::CLASSES - 1)] += 1;
    }

    pub(super) fn add(&mut self, other: Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    pub fn to_vec(self) -> Vec<u64> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_the_rooms_with_most_and_no_more_than_its_limit() {
        let mut top = Top::new(3);
        for (number, count) in [4, 0, 9, 1, 7, 7, 0, 8].into_iter().enumerate() {
            top.offer(count, &Room::try_new(&number.to_string()).unwrap());
            assert!(top.rooms.len() <= 3);
        }
        let rooms: Vec<_> = top.into_rooms().map(|(room, count)| (room.to_string(), count)).collect();
        assert_eq!((&*rooms[0].0, rooms[0].1), ("2", 9));
        assert_eq!(rooms.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [9, 8, 7]);
    }

    #[test]
    fn ages_are_counted_by_doubling() {
        let mut ages = Ages::default();
        for ms in [-5, 0, 1, 2, 3, 4, 1000, 16_383, 16_384, i64::MAX] {
            ages.count(ms);
        }
        let mut both = ages;
        both.add(ages);
        assert_eq!(ages.to_vec(), [2, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!(both.to_vec(), [4, 2, 4, 2, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 4]);
    }
}
