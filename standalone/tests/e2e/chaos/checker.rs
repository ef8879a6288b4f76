//! What all clients of a run saw, and what all publishers were told, held together. Positions of a room are ordered: by
//! generation of the epoch, then by `seq`. A client walks along that order one publication at a time, or is told that it
//! was taken over a part of it; so whoever arrives at the end has had everything, or knows.

use std::collections::{BTreeMap, HashMap};

use proto::{Epoch, Position};

/// Which publication: the how manieth of the room's publisher.
pub(super) type Number = u32;

/// A place in the order of a room.
type Place = (u64, u64);

fn place(at: &Position) -> Place {
    (at.epoch.generation(), at.seq)
}

/// One room, as seen from outside.
#[derive(Debug, Default)]
pub(super) struct Room {
    stored: BTreeMap<Place, Number>,
    acknowledged: BTreeMap<Place, Number>,
    /// By generation: its name, and where it began.
    epochs: BTreeMap<u64, (Epoch, Option<u64>)>,
    members: HashMap<usize, Member>,
    pub(super) wrong: Vec<String>,
}

#[derive(Debug, Default)]
struct Member {
    at: Option<Position>,
    told: Vec<(Place, Place)>,
}

/// What a run came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) acknowledged: usize,
    /// Epochs that ended.
    pub(super) fenced: usize,
    /// Acknowledged, and beyond where the next epoch began.
    pub(super) dropped: usize,
    /// Told to members: `lost`, or `recovered:false`.
    pub(super) told: usize,
    /// Members that did not get an acknowledged publication, and were told.
    pub(super) missed: usize,
}

impl Count {
    pub(super) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.fenced += other.fenced;
        self.dropped += other.dropped;
        self.told += other.told;
        self.missed += other.missed;
    }
}

impl Room {
    fn fail(&mut self, what: String) {
        // What comes first tells most.
        if self.wrong.len() < 5 {
            self.wrong.push(what);
        }
    }

    fn store(&mut self, at: &Position, number: Number) {
        self.knows(&at.epoch, None);
        let there = *self.stored.entry(place(at)).or_insert(number);
        if there != number {
            self.fail(format!("{at} is {there} and {number}"));
        }
    }

    fn knows(&mut self, epoch: &Epoch, begins: Option<u64>) {
        let (name, began) = self.epochs.entry(epoch.generation()).or_insert_with(|| (epoch.clone(), None));
        *began = began.or(begins);
        if name != epoch {
            let what = format!("two epochs of one generation: {name:?}, {epoch:?}");
            self.fail(what);
        }
    }

    /// Its publisher was told its place.
    pub(super) fn receipt(&mut self, at: &Position, number: Number) {
        self.store(at, number);
        self.acknowledged.insert(place(at), number);
    }

    /// What a member shows when it comes back.
    pub(super) fn since(&self, member: usize) -> Option<Position> {
        self.members.get(&member)?.at.clone()
    }

    pub(super) fn joined(&mut self, member: usize, to: &Position, recovered: bool) {
        let held = self.members.entry(member).or_default().at.clone();
        match held {
            Some(held) if recovered => {
                if held != *to {
                    self.fail(format!("{member} was at {held}, recovered at {to}"));
                }
            }
            Some(held) => self.told(member, &held, to, "recovered:false"),
            None => self.members.entry(member).or_default().at = Some(to.clone()),
        }
    }

    pub(super) fn message(&mut self, member: usize, epoch: Option<&str>, seq: u64, number: Number) {
        let Some(held) = self.since(member) else { return self.fail(format!("{member} got {seq} before joined")) };
        let epoch = match epoch {
            Some(epoch) if held.epoch.is_empty() => Epoch::new(epoch),
            Some(epoch) if epoch != held.epoch.as_str() => {
                return self.fail(format!("{member} at {held} got {seq} of {epoch}"));
            }
            _ => held.epoch.clone(),
        };
        if seq != held.seq + 1 {
            self.fail(format!("{member} at {held} got {seq}"));
        }
        let at = Position { epoch, seq };
        self.store(&at, number);
        self.members.entry(member).or_default().at = Some(at);
    }

    pub(super) fn lost(&mut self, member: usize, to: &Position, reason: &str) {
        let Some(held) = self.since(member) else { return self.fail(format!("{member} lost before joined")) };
        if reason != "failover" || held.epoch == to.epoch {
            // No run publishes more than the history keeps.
            self.fail(format!("{member} at {held} was told lost ({reason}) to {to}"));
        }
        self.knows(&to.epoch, Some(to.seq));
        self.told(member, &held, to, reason);
    }

    fn told(&mut self, member: usize, from: &Position, to: &Position, how: &str) {
        let (from, to) = ((place(from), from), (place(to), to));
        if to.0 < from.0 {
            self.fail(format!("{member} went back from {} to {} by {how}", from.1, to.1));
        }
        let member = self.members.entry(member).or_default();
        member.told.push((from.0, to.0));
        member.at = Some(to.1.clone());
    }

    /// Members that are not yet where the last receipt is.
    pub(super) fn late(&self) -> Vec<usize> {
        let last = self.acknowledged.last_key_value().map(|(place, _)| *place);
        let late = |at: &Option<Position>| at.as_ref().map(place) < last;
        self.members.iter().filter(|(_, member)| late(&member.at)).map(|(number, _)| *number).collect()
    }

    /// Holds all together, once everybody has arrived. The server's ID changed at most so often.
    pub(super) fn finish(&mut self, changes: usize) -> Count {
        let late = self.late();
        if !late.is_empty() {
            self.fail(format!("never arrived: {late:?}"));
        }
        let fenced = self.epochs.len().saturating_sub(1);
        if fenced > changes {
            self.fail(format!("{fenced} epochs ended, and the store's ID changed {changes} times"));
        }
        // A publisher has one under way at a time: in one epoch its numbers rise, or one is there twice.
        let mut last: Option<(u64, Number)> = None;
        let mut twisted = Vec::new();
        for (&(generation, seq), &number) in &self.stored {
            if let Some((of, before)) = last
                && of == generation
                && number <= before
            {
                twisted.push(format!("{number} at {seq} of {generation:x} follows {before}"));
            }
            last = Some((generation, number));
        }
        for what in twisted {
            self.fail(what);
        }
        let began = |generation| {
            let mut later = self.epochs.range(generation + 1..);
            later.next().and_then(|(_, (_, began))| *began)
        };
        let dropped = |(generation, seq): &&Place| began(*generation).is_some_and(|began| *seq > began);
        let told = || self.members.values().flat_map(|member| &member.told);
        let missed = told().map(|(from, to)| {
            use std::ops::Bound::{Excluded, Included};
            if from < to { self.acknowledged.range((Excluded(*from), Included(*to))).count() } else { 0 }
        });
        Count {
            acknowledged: self.acknowledged.len(),
            fenced,
            dropped: self.acknowledged.keys().filter(dropped).count(),
            told: told().count(),
            missed: missed.sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1-a";
    const NEW: &str = "2-b";

    fn at(epoch: &str, seq: u64) -> Position {
        Position::new(epoch, seq)
    }

    /// Two members, one publication that both have.
    fn begun() -> Room {
        let mut room = Room::default();
        for member in 0..2 {
            room.joined(member, &Position::default(), false);
            room.message(member, Some(OLD), 1, 0);
        }
        room.receipt(&at(OLD, 1), 0);
        room
    }

    /// What comes after; whether it is found wrong, where the store's ID changed once.
    fn is_wrong(and_then: impl FnOnce(&mut Room)) -> bool {
        let mut room = begun();
        and_then(&mut room);
        room.finish(1);
        !room.wrong.is_empty()
    }

    #[test]
    fn what_is_right_is_counted() {
        let mut room = begun();
        room.receipt(&at(OLD, 2), 1);
        room.message(0, None, 2, 1);
        // Promoted: what was acknowledged as 2 is gone, the number is given out again.
        room.receipt(&at(NEW, 2), 2);
        for member in 0..2 {
            room.lost(member, &at(NEW, 1), "failover");
            room.message(member, Some(NEW), 2, 2);
        }
        let count = room.finish(1);
        assert!(room.wrong.is_empty(), "{:?}", room.wrong);
        assert_eq!(count, Count { acknowledged: 3, fenced: 1, dropped: 1, told: 2, missed: 1 });
    }

    #[test]
    fn each_breach_is_found() {
        assert!(!is_wrong(|_| {}));
        assert!(is_wrong(|room| room.message(0, None, 3, 2)), "a gap");
        assert!(is_wrong(|room| room.message(0, None, 1, 0)), "twice");
        assert!(is_wrong(|room| room.message(0, Some(NEW), 2, 1)), "another epoch without a word");
        assert!(is_wrong(|room| room.receipt(&at(OLD, 2), 1)), "acknowledged, and nobody got it");
        assert!(is_wrong(|room| room.receipt(&at(OLD, 1), 1)), "one number, two publications");
        assert!(is_wrong(|room| (0..2).for_each(|member| room.message(member, None, 2, 0))), "one stored twice");
        assert!(is_wrong(|room| room.joined(0, &at(OLD, 2), true)), "recovered elsewhere");
        assert!(is_wrong(|room| room.lost(0, &at(OLD, 2), "failover")), "a failover in the same epoch");
        assert!(is_wrong(|room| room.lost(0, &at(OLD, 2), "history")), "within the limits");
        assert!(is_wrong(|room| room.joined(0, &at(OLD, 0), false)), "back in time");
        assert!(is_wrong(|room| room.receipt(&at("1-b", 9), 1)), "two epochs of one generation");
        assert!(
            is_wrong(|room| (2..4).for_each(|generation| room.lost(0, &at(&format!("{generation}-c"), 1), "failover"))),
            "more epochs than changes"
        );
    }
}
