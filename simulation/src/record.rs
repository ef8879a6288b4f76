//! What is known to be true: every publication ever stored, which of them the store lost again, what its histories held,
//! and what publishers were told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use prost::Message as _;
use proto::{Epoch, Position, Room, wire};
use service::RandomState;

use crate::store::{Standing, Store};

/// See the module.
#[derive(Debug, Default)]
pub struct Record {
    rooms: BTreeMap<Room, RoomRecord>,
    /// Bodies whose publisher was told where they are.
    acked: Vec<(Room, String, Position)>,
    /// Bodies whose publisher was told that they are certainly not stored, and has not tried again since.
    refused: BTreeSet<String>,
    /// Bodies whose publisher was told that nobody knows, or nothing: they may come behind what it sent after them.
    unordered: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct RoomRecord {
    log: Vec<Entry>,
    at: HashMap<(Epoch, u64), usize, RandomState>,
    /// For each epoch: below this number its history has had holes.
    floors: HashMap<Epoch, u64, RandomState>,
    /// The last number each epoch is known to have reached.
    ends: HashMap<Epoch, u64, RandomState>,
    /// Where each epoch began: the one before, and its end as the store had it.
    began: HashMap<Epoch, Option<Position>, RandomState>,
    /// Epochs that were neither the present one nor the one before at some time.
    gone: HashSet<Epoch, RandomState>,
    wiped: bool,
}

#[derive(Debug)]
struct Entry {
    body: String,
    /// The store went back to before it.
    undone: bool,
}

/// How long each room's log was.
pub type Mark = BTreeMap<Room, usize>;

impl Record {
    /// A publication was stored.
    pub fn stored(&mut self, room: &Room, position: &Position, entry: &Bytes) {
        let body = body_of(entry);
        let record = self.rooms.entry(room.clone()).or_default();
        record.at.insert((position.epoch.clone(), position.seq), record.log.len());
        record.log.push(Entry { body, undone: false });
    }

    /// To be told after everything that may change the store.
    pub fn observe(&mut self, room: &Room, standing: Option<&Standing>) {
        let record = self.rooms.entry(room.clone()).or_default();
        let Some(Standing { position, prev, first_kept, .. }) = standing else { return };
        let mut known = vec![&position.epoch];
        known.extend(prev.as_ref().map(|prev| &prev.epoch));
        for epoch in &known {
            let floor = record.floors.entry((*epoch).clone()).or_default();
            *floor = (*floor).max(*first_kept);
        }
        let end = record.ends.entry(position.epoch.clone()).or_default();
        *end = (*end).max(position.seq);
        record.began.entry(position.epoch.clone()).or_insert_with(|| prev.clone());
        let left = record.ends.keys().filter(|epoch| !known.contains(epoch)).cloned().collect::<Vec<_>>();
        record.gone.extend(left);
    }

    pub fn mark(&self) -> Mark {
        self.rooms.iter().map(|(room, record)| (room.clone(), record.log.len())).collect()
    }

    /// The store went back to the mark.
    pub fn went_back(&mut self, mark: &Mark, store: &Store) {
        for (room, record) in &mut self.rooms {
            let kept = mark.get(room).copied().unwrap_or(0);
            for entry in record.log.iter_mut().skip(kept) {
                entry.undone = true;
            }
            if store.standing(room).is_none() {
                record.wiped = true;
                record.gone.extend(record.ends.keys().cloned());
            }
        }
    }

    pub fn acked(&mut self, room: &Room, body: &str, position: Position) {
        self.refused.remove(body);
        self.acked.push((room.clone(), body.to_owned(), position));
    }

    /// Its publisher was told that it is certainly not stored.
    pub fn refused(&mut self, body: &str) {
        self.refused.insert(body.to_owned());
    }

    /// Its publisher tries once more.
    pub fn tries(&mut self, body: &str) {
        self.refused.remove(body);
    }

    /// Its publisher was told that nobody knows, or nothing.
    pub fn is_unordered(&mut self, body: String) {
        self.unordered.insert(body);
    }

    /// The body stored there.
    pub fn body(&self, room: &Room, epoch: &Epoch, seq: u64) -> Option<&str> {
        let record = self.rooms.get(room)?;
        if let Some(index) = record.at.get(&(epoch.clone(), seq)) {
            return Some(&record.log[*index].body);
        }
        // Members that joined with the last so many get what the epoch before left under the present one.
        let prev = record.began.get(epoch)?.as_ref().filter(|prev| seq <= prev.seq)?;
        self.body(room, &prev.epoch, seq)
    }

    /// Whether the room has ever stood there, or beyond.
    pub fn was_reached(&self, room: &Room, at: &Position) -> bool {
        if at.epoch.is_empty() {
            return at.seq == 0;
        }
        self.rooms.get(room).and_then(|record| record.ends.get(&at.epoch)).is_some_and(|end| at.seq <= *end)
    }

    pub fn was_wiped(&self, room: &Room) -> bool {
        self.rooms.get(room).is_some_and(|record| record.wiped)
    }

    /// Whether everything of the epoch in the range may be missing: the history has dropped it, or the epoch itself.
    pub fn may_miss(&self, room: &Room, epoch: &Epoch, numbers: std::ops::RangeInclusive<u64>) -> bool {
        if numbers.is_empty() {
            return true;
        }
        let Some(record) = self.rooms.get(room) else { return false };
        if epoch.is_empty() {
            // Before the first epoch: what is missing is that one's beginning.
            return record.floors.values().any(|floor| *numbers.end() < *floor) || record.wiped;
        }
        record.gone.contains(epoch) || record.floors.get(epoch).is_some_and(|floor| *numbers.end() < *floor)
    }

    /// Whether the store has left the epoch.
    pub fn is_left(&self, room: &Room, epoch: &Epoch) -> bool {
        let Some(record) = self.rooms.get(room) else { return false };
        let newest = record.ends.keys().map(Epoch::generation).max().unwrap_or(0);
        record.gone.contains(epoch) || epoch.generation() < newest || record.wiped
    }

    /// Whether no later read may connect this epoch to the present one any more.
    pub fn is_gone(&self, room: &Room, epoch: &Epoch) -> bool {
        self.rooms.get(room).is_some_and(|record| record.gone.contains(epoch) || !record.ends.contains_key(epoch))
    }

    /// Whether the position is beyond what a later epoch began from, and the history has lost what follows there.
    pub fn lost_tail(&self, room: &Room, at: &Position) -> bool {
        let Some(record) = self.rooms.get(room) else { return false };
        let ends = record.began.values().flatten().filter(|prev| prev.epoch == at.epoch).map(|prev| prev.seq);
        let floor = record.floors.get(&at.epoch).copied().unwrap_or(0);
        ends.into_iter().any(|end| end.min(at.seq) + 1 < floor)
    }

    /// Where the epoch before this one ended.
    pub fn before(&self, room: &Room, epoch: &Epoch) -> Option<&Position> {
        self.rooms.get(room)?.began.get(epoch)?.as_ref()
    }

    /// What must be true in the end, whatever went wrong.
    pub fn check(&self) -> Result<(), String> {
        for (room, body, position) in &self.acked {
            let stored = self.body(room, &position.epoch, position.seq);
            if stored != Some(body.as_str()) {
                return Err(format!("{body} was acknowledged at {room} {position}, where there is {stored:?}"));
            }
        }
        for (room, record) in &self.rooms {
            let mut seen = BTreeSet::new();
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            // What the store lost is stored anew by a repeat, behind what it kept.
            let undone: BTreeSet<&str> =
                record.log.iter().filter(|entry| entry.undone).map(|entry| entry.body.as_str()).collect();
            for entry in &record.log {
                if self.refused.contains(&entry.body) {
                    return Err(format!("{} is in {room}, though its publisher was told that it is not", entry.body));
                }
                if entry.undone {
                    continue;
                }
                if !seen.insert(&entry.body) {
                    return Err(format!("{} is in {room} twice", entry.body));
                }
                if let Some((connection, number)) = number_of(&entry.body)
                    && !self.unordered.contains(&entry.body)
                    && !undone.contains(entry.body.as_str())
                {
                    let before = last.insert(connection, number).unwrap_or(0);
                    if before >= number {
                        return Err(format!("{} is in {room} behind number {before} of its connection", entry.body));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Connection and number of a broadcast, `b:<connection>:<number>`.
fn number_of(body: &str) -> Option<(&str, u64)> {
    let (connection, number) = body.strip_prefix("b:")?.split_once(':')?;
    Some((connection, number.parse().ok()?))
}

/// The body in an entry: a JSON string whose first word tells it from all others.
pub fn body_of(entry: &Bytes) -> String {
    let entry = wire::Entry::decode(entry.clone()).unwrap_or_default();
    word_of(&String::from_utf8_lossy(&entry.body)).to_owned()
}

/// The first word of a body.
pub fn word_of(body: &str) -> &str {
    body.trim_matches('"').split(' ').next().unwrap_or_default()
}
