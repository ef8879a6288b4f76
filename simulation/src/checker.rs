//! What one client must see in its rooms: consecutive numbers, each once, in order, with the bodies that were stored; and
//! a loss only when there is no other way.

use std::{collections::BTreeMap, sync::Arc};

use proto::{Epoch, Position, Room};

use crate::{
    plan::Kind,
    record::{Record, word_of},
    world::World,
};

/// How a join was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Plain,
    Last(u32),
    Since(Position),
}

/// A room as its member sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Where it stands, or stood when it was last a member.
    pub(crate) position: Option<Position>,
    /// It was told `joined`, and not `left`.
    pub(crate) member: bool,
    /// It joined this time without a past: nothing may be lost as long as the store and one node are well.
    live: bool,
}

/// See the module.
pub(crate) struct Checker {
    client: usize,
    world: Arc<World>,
    pub(crate) rooms: BTreeMap<Room, Seen>,
}

impl Checker {
    pub(crate) fn new(client: usize, world: Arc<World>) -> Self {
        Self { client, world, rooms: BTreeMap::new() }
    }

    fn fail(&self, room: &Room, what: &str) {
        self.world.fail(&format!("client {} in {room}: {what}", self.client));
    }

    /// The connection is gone: nothing comes until it has joined again.
    pub(crate) fn disconnected(&mut self) {
        for seen in self.rooms.values_mut() {
            seen.member = false;
        }
    }

    pub(crate) fn joined(&mut self, room: &Room, asked: &Asked, position: Position, recovered: bool) {
        let world = self.world.clone();
        let truth = world.truth();
        let record = &truth.record;
        if !record.was_reached(room, &position) {
            self.fail(room, &format!("joined at {position}, where the room never was"));
        }
        match asked {
            Asked::Since(since) if recovered => {
                world.count("client: recovered");
                if *since != position {
                    self.fail(room, &format!("recovered from {since} at {position}"));
                }
            }
            Asked::Since(since) => {
                world.count("client: not recovered");
                if !may_not_recover(record, room, since) || world.plan.kind == Kind::Calm {
                    self.fail(room, &format!("not recovered from {since}, for no reason"));
                }
            }
            Asked::Plain | Asked::Last(_) if recovered => self.fail(room, "recovered, without having asked for it"),
            Asked::Plain => world.count("client: joined"),
            Asked::Last(_) => world.count("client: joined with the last"),
        }
        let seen = self.rooms.entry(room.clone()).or_default();
        // Whatever it was told before, it goes on from here.
        *seen = Seen { position: Some(position), member: true, live: *asked == Asked::Plain };
    }

    pub(crate) fn left(&mut self, room: &Room) {
        if let Some(seen) = self.rooms.get_mut(room) {
            seen.member = false;
        }
    }

    /// Where the member stands, unless it is none.
    fn at(&self, room: &Room, what: &str) -> Option<Position> {
        let seen = self.rooms.get(room).filter(|seen| seen.member);
        if seen.is_none() {
            self.fail(room, &format!("{what}, but is no member"));
        }
        seen.and_then(|seen| seen.position.clone())
    }

    pub(crate) fn message(&mut self, room: &Room, epoch: Option<&str>, seq: u64, body: &str) {
        let Some(at) = self.at(room, "got a message") else { return };
        let epoch = match epoch {
            Some(epoch) if at.epoch.is_empty() => Epoch::new(epoch),
            Some(epoch) if at.epoch.as_str() != epoch => {
                return self.fail(room, &format!("got {seq} of {epoch} at {at}"));
            }
            _ => at.epoch.clone(),
        };
        if seq != at.seq + 1 {
            return self.fail(room, &format!("got {seq} at {at}"));
        }
        let world = self.world.clone();
        let truth = world.truth();
        let stored = truth.record.body(room, &epoch, seq);
        if stored != Some(word_of(body)) {
            self.fail(room, &format!("got {body:?} as {seq} of {epoch}, which is {stored:?}"));
        }
        if let Some(seen) = self.rooms.get_mut(room) {
            seen.position = Some(Position { epoch, seq });
        }
    }

    pub(crate) fn lost(&mut self, room: &Room, to: Position, reason: &str) {
        let Some(at) = self.at(room, "was told of a loss") else { return };
        let world = self.world.clone();
        world.count(&format!("client: lost {reason}"));
        let live = self.rooms.get(room).is_some_and(|seen| seen.live);
        match world.plan.kind {
            Kind::Calm => self.fail(room, &format!("lost from {at} to {to} on a calm day")),
            Kind::Planned if live => self.fail(room, &format!("lost from {at} to {to}, though all went as planned")),
            _ => {}
        }
        let truth = world.truth();
        let record = &truth.record;
        let explained = match reason {
            "history" => history_explains(record, room, &at, &to),
            "failover" => failover_explains(record, room, &at, &to),
            _ => false,
        };
        if !explained || !(record.was_reached(room, &to)) {
            let standing = truth.store.standing(room);
            self.fail(room, &format!("lost ({reason}) from {at} to {to}, for no reason: {standing:?}"));
        }
        if let Some(seen) = self.rooms.get_mut(room) {
            seen.position = Some(to);
        }
    }

    /// Whether every member stands where the store does.
    pub(crate) fn is_done(&self) -> bool {
        let truth = self.world.truth();
        self.rooms.iter().filter(|(_, seen)| seen.member).all(|(room, seen)| {
            let standing = truth.store.standing(room);
            seen.position == Some(standing.map(|standing| standing.position).unwrap_or_default())
        })
    }

    /// In the end it does.
    pub(crate) fn finish(&self) {
        let truth = self.world.truth();
        for (room, seen) in self.rooms.iter().filter(|(_, seen)| seen.member) {
            let standing = truth.store.standing(room);
            let at = standing.as_ref().map(|standing| standing.position.clone()).unwrap_or_default();
            if seen.position.as_ref() != Some(&at) {
                let stands = seen.position.as_ref().map(ToString::to_string);
                self.fail(room, &format!("stands at {stands:?} in the end, the store at {at}"));
            } else if standing.is_some_and(|standing| !standing.current) {
                self.fail(room, "nobody noticed that the store is another");
            }
        }
    }
}

fn may_not_recover(record: &Record, room: &Room, since: &Position) -> bool {
    record.is_gone(room, &since.epoch) && !since.epoch.is_empty()
        || record.was_wiped(room)
        || !record.was_reached(room, since)
        || record.may_miss(room, &since.epoch, since.seq + 1..=since.seq + 1)
        || record.lost_tail(room, since)
}

fn history_explains(record: &Record, room: &Room, at: &Position, to: &Position) -> bool {
    let same = at.epoch == to.epoch || at.epoch.is_empty();
    same && to.seq > at.seq && record.may_miss(room, &to.epoch, at.seq + 1..=to.seq)
}

fn failover_explains(record: &Record, room: &Room, at: &Position, to: &Position) -> bool {
    if to.epoch.is_empty() {
        return record.was_wiped(room);
    }
    if at.epoch == to.epoch || !record.is_left(room, &at.epoch) {
        return false;
    }
    let (end, continued) = match record.before(room, &to.epoch) {
        Some(prev) => (prev.seq, prev.epoch == at.epoch),
        None => (0, false),
    };
    let old = if continued {
        // Once something is missing, what is left of the old epoch does not follow on, and is left out.
        at.seq >= end || record.may_miss(room, &at.epoch, at.seq + 1..=at.seq + 1)
    } else {
        record.is_gone(room, &at.epoch) || record.was_wiped(room)
    };
    old && record.may_miss(room, &to.epoch, end + 1..=to.seq)
}
