//! The store as the scripts of the Redis broker make it: numbering fenced by the server's own ID, exact histories, keys;
//! and what real servers do to it: lose their last writes, come up empty, name themselves anew.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fanout::broker::{Keep, NewPublication, Page, PageLimit, ReadFrom, Receipt, StoreError, removals::Kept};
use proto::{Epoch, Key, Position, Room};
use rand::Rng as _;
use service::simulation::Check;
use tokio::time::Instant;

/// A room's epoch and position outlive its history by this.
const META_EXTRA: Duration = Duration::from_hours(24);

/// One server and what it holds.
#[derive(Debug, Clone)]
pub struct Store {
    keep: Keep,
    /// Names the server: numbering made under another is not continued.
    server: u64,
    /// Highest generation of all epochs: what a node tells the scripts.
    floor: u64,
    rooms: BTreeMap<Room, Stored>,
    pub(crate) removals: Kept,
}

#[derive(Debug, Clone, Default)]
struct Stored {
    meta: Option<Meta>,
    /// Consecutive.
    history: VecDeque<(u64, Bytes)>,
    history_until: Option<Instant>,
    keys: BTreeMap<(Arc<str>, String), (Position, Instant)>,
}

#[derive(Debug, Clone)]
struct Meta {
    position: Position,
    server: u64,
    prev: Option<Position>,
    until: Instant,
}

/// Where a room stands in the store, and what its history holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub position: Position,
    pub prev: Option<Position>,
    /// First number in the history, or the next if it is empty.
    pub first_kept: u64,
    /// The numbering is that of this server.
    pub current: bool,
}

impl Store {
    pub fn new(keep: Keep) -> Self {
        Self { keep, server: service::rng().random(), floor: 0, rooms: BTreeMap::new(), removals: Kept::default() }
    }

    /// Names the server.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    /// Stores a publication, or knows its key.
    pub fn publish(&mut self, publication: &NewPublication, unix_ms: i64) -> Result<Receipt, StoreError> {
        let now = Instant::now();
        let NewPublication { room, sender, key, key_ttl, unless, entry, .. } = publication;
        let (server, keep, floor) = (self.server, self.keep, self.floor);
        let stored = self.rooms.entry(room.clone()).or_default();
        stored.expire(now);
        let name_of = |key: &Key| (Arc::clone(sender), key.to_string());
        let name = key.as_ref().map(name_of);
        let mut later = unless.iter().filter_map(|later| Some(&stored.keys.get(&name_of(later))?.0));
        let dedup = !service::simulation::is_off(Check::StoreDedup);
        if let Some((position, until)) = name.as_ref().and_then(|name| stored.keys.get(name))
            && *until > now
            && dedup
        {
            let is_behind = later.any(|later| later.epoch == position.epoch && later.seq < position.seq);
            let receipt = Receipt { position: position.clone(), duplicate: true };
            return if is_behind { Err(StoreError::Unknown) } else { Ok(receipt) };
        }
        if later.next().is_some() {
            return Err(StoreError::Unavailable);
        }
        let meta = stored.numbering(server, floor, unix_ms, keep.history_ttl + META_EXTRA);
        meta.position.seq += 1;
        meta.until = now + keep.history_ttl + META_EXTRA;
        let position = meta.position.clone();
        stored.history.push_back((position.seq, entry.clone()));
        while stored.history.len() as u64 > keep.history_size {
            stored.history.pop_front();
        }
        stored.history_until = Some(now + keep.history_ttl);
        if let Some(name) = name {
            stored.keys.insert(name, (position.clone(), now + key_ttl.unwrap_or(keep.dedup_window)));
        }
        self.floor = self.floor.max(position.epoch.generation());
        Ok(Receipt { position, duplicate: false })
    }

    /// Reads a page; a numbering of another server ends here.
    pub fn read(&mut self, room: &Room, from: &ReadFrom, limit: PageLimit, unix_ms: i64) -> Page {
        let (server, floor, ttl) = (self.server, self.floor, self.keep.history_ttl + META_EXTRA);
        let none = !matches!(from, ReadFrom::After(after) if !(after.epoch.is_empty() && after.seq == 0));
        let Some(stored) = self.rooms.get_mut(room) else { return Page { complete: none, ..Page::default() } };
        stored.expire(Instant::now());
        if stored.meta.is_none() {
            return Page { complete: none, ..Page::default() };
        }
        let meta = stored.numbering(server, floor, unix_ms, ttl);
        let (position, prev) = (meta.position.clone(), meta.prev.clone());
        self.floor = self.floor.max(position.epoch.generation());
        let (mut first, mut complete) = (1, true);
        match from {
            ReadFrom::Oldest => {}
            ReadFrom::Last(count) => first = (position.seq + 1).saturating_sub(*count).max(1),
            ReadFrom::After(after) if after.epoch == position.epoch || (after.epoch.is_empty() && after.seq == 0) => {
                (first, complete) = (after.seq + 1, after.seq <= position.seq);
            }
            ReadFrom::After(after) => match &prev {
                Some(prev) if prev.epoch == after.epoch => first = after.seq.min(prev.seq) + 1,
                prev => (first, complete) = (prev.as_ref().map_or(0, |prev| prev.seq) + 1, false),
            },
        }
        let (mut entries, mut bytes, mut first_seq) = (Vec::new(), 0, 0);
        for (seq, entry) in stored.history.iter().filter(|(seq, _)| *seq >= first) {
            if entries.len() >= limit.items || (!entries.is_empty() && bytes + entry.len() > limit.bytes) {
                break;
            }
            if entries.is_empty() {
                first_seq = *seq;
            }
            bytes += entry.len();
            entries.push(entry.clone());
        }
        let reached = if entries.is_empty() { first > position.seq } else { first_seq == first };
        if matches!(from, ReadFrom::After(_)) {
            complete &= reached;
        }
        Page { position, prev, first_seq, entries, complete }
    }

    /// None: a read has to begin a new epoch first.
    pub fn position(&mut self, room: &Room) -> Option<Position> {
        let Some(stored) = self.rooms.get_mut(room) else { return Some(Position::default()) };
        stored.expire(Instant::now());
        match &stored.meta {
            None => Some(Position::default()),
            Some(meta) => (meta.server == self.server).then(|| meta.position.clone()),
        }
    }

    pub fn renew(&mut self, room: &Room) {
        let until = Instant::now() + self.keep.history_ttl + META_EXTRA;
        if let Some(meta) = self.rooms.get_mut(room).and_then(|stored| stored.meta.as_mut()) {
            meta.until = until;
        }
    }

    /// None for a room without a position.
    pub fn standing(&self, room: &Room) -> Option<Standing> {
        let stored = self.rooms.get(room)?;
        let Meta { position, server, prev, .. } = stored.meta.clone()?;
        let first_kept = stored.history.front().map_or(position.seq + 1, |(seq, _)| *seq);
        Some(Standing { position, prev, first_kept, current: server == self.server })
    }

    pub fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.rooms.keys()
    }

    /// A replica, or the same server restarted from what is on disk, takes over: with what it has.
    pub fn fail_over(&mut self, to: &Self) {
        self.rooms = to.rooms.clone();
        self.server = service::rng().random();
    }

    /// Everything is gone.
    pub fn wipe(&mut self) {
        self.rooms.clear();
        self.server = service::rng().random();
    }
}

impl Stored {
    fn expire(&mut self, now: Instant) {
        if self.history_until.is_some_and(|until| until <= now) {
            self.history.clear();
            self.history_until = None;
        }
        if self.meta.as_ref().is_some_and(|meta| meta.until <= now) {
            self.meta = None;
        }
        self.keys.retain(|_, (_, until)| *until > now);
    }

    /// The numbering in force, begun anew if there is none or it is another server's.
    fn numbering(&mut self, server: u64, floor: u64, unix_ms: i64, ttl: Duration) -> &mut Meta {
        let old = self.meta.take_if(|meta| meta.server != server);
        let last = self.history.back().map_or(0, |(seq, _)| *seq);
        self.meta.get_or_insert_with(|| {
            let mut generation = u64::try_from(unix_ms).unwrap_or(1).max(floor + 1);
            let (seq, prev) = match old {
                Some(old) => {
                    generation = generation.max(old.position.epoch.generation() + 1);
                    let seq = last.max(old.position.seq);
                    (seq, Some(Position { epoch: old.position.epoch, seq }))
                }
                None => (last, (last > 0).then(|| Position { epoch: Epoch::new("-"), seq: last })),
            };
            let epoch = Epoch::new(&format!("{generation:x}-{:016x}", service::rng().random::<u64>()));
            Meta { position: Position { epoch, seq }, server, prev, until: Instant::now() + ttl }
        })
    }
}
