//! One room of the memory broker. Time is passed in.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ahash::RandomState;
use bytes::Bytes;
use proto::{Epoch, Key, Position};
use service::Clock;
use tokio::time::Instant;

use crate::broker::{Keep, NewPublication, Page, PageLimit, ReadFrom, Receipt, StoreError, epoch_name};

/// A room's position, history and keys. Empty until the first publication, and again once all has expired.
#[derive(Debug, Default)]
pub(super) struct Stored {
    position: Position,
    /// The last of it is the publication at `position`.
    history: VecDeque<Bytes>,
    keys: HashMap<(Arc<str>, Key), (Position, Instant), RandomState>,
    history_until: Option<Instant>,
    meta_until: Option<Instant>,
}

impl Stored {
    pub(super) fn publish(
        &mut self,
        publication: &NewPublication,
        keep: &Keep,
        now: Instant,
        clock: &Clock,
    ) -> Result<Receipt, StoreError> {
        self.forget(now);
        let NewPublication { sender, key, key_ttl, unless, entry, .. } = publication;
        let mut later = unless.iter().filter_map(|later| self.known(sender, later, now));
        if let Some(position) = key.as_ref().and_then(|key| self.known(sender, key, now)) {
            let is_behind = later.any(|later| later.epoch == position.epoch && later.seq < position.seq);
            return if is_behind { Err(StoreError::Unknown) } else { Ok(Receipt { position, duplicate: true }) };
        }
        if later.next().is_some() {
            return Err(StoreError::Unavailable);
        }
        if self.position.epoch.is_empty() {
            let generation = u64::try_from(clock.unix_ms()).unwrap_or(1).max(1);
            self.position.epoch = Epoch::new(&epoch_name(generation, rand::random()));
        }
        self.position.seq += 1;
        // The block it came in with is larger than the entry: keep only the entry.
        self.history.push_back(Bytes::copy_from_slice(entry));
        while self.history.len() as u64 > keep.history_size {
            self.history.pop_front();
        }
        self.history_until = Some(now + keep.history_ttl);
        self.meta_until = Some(now + keep.meta_ttl());
        if let Some(key) = key {
            let until = now + key_ttl.unwrap_or(keep.dedup_window);
            self.keys.insert((Arc::clone(sender), key.clone()), (self.position.clone(), until));
        }
        Ok(Receipt { position: self.position.clone(), duplicate: false })
    }

    /// Where the publication with this key of the sender is.
    fn known(&self, sender: &Arc<str>, key: &Key, now: Instant) -> Option<Position> {
        let (position, until) = self.keys.get(&(Arc::clone(sender), key.clone()))?;
        (*until > now).then(|| position.clone())
    }

    pub(super) fn position(&mut self, now: Instant) -> Position {
        self.forget(now);
        self.position.clone()
    }

    /// Keeps the position, if there is one, as long again as a publication would.
    pub(super) fn renew(&mut self, keep: &Keep, now: Instant) {
        self.forget(now);
        if self.meta_until.is_some() {
            self.meta_until = Some(now + keep.meta_ttl());
        }
    }

    pub(super) fn read(&mut self, from: &ReadFrom, limit: PageLimit, now: Instant) -> Page {
        self.forget(now);
        let end = self.position.seq;
        let first_kept = end - self.history.len() as u64 + 1;
        let (first, complete) = match from {
            ReadFrom::Oldest => (first_kept, true),
            ReadFrom::Last(count) => (first_kept.max((end + 1).saturating_sub(*count)), true),
            ReadFrom::After(after) => {
                let same = after.epoch == self.position.epoch || (after.epoch.is_empty() && after.seq == 0);
                let wanted = if same { after.seq.saturating_add(1) } else { 1 };
                (wanted.max(first_kept), same && wanted >= first_kept && after.seq <= end)
            }
        };
        let skip = usize::try_from(first.saturating_sub(first_kept)).unwrap_or(usize::MAX);
        let entries = page(self.history.iter().skip(skip), limit);
        let first_seq = if entries.is_empty() { 0 } else { first };
        Page { position: self.position.clone(), prev: None, first_seq, entries, complete }
    }

    /// Lets go of what expired; true when nothing is left.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.keys.retain(|_, (_, until)| *until > now);
        if self.keys.is_empty() {
            self.keys.shrink_to_fit();
        }
        self.position.epoch.is_empty() && self.keys.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        if self.history_until.is_some_and(|until| until <= now) {
            self.history = VecDeque::new();
            self.history_until = None;
        }
        if self.meta_until.is_some_and(|until| until <= now) {
            self.position = Position::default();
            self.meta_until = None;
        }
    }
}

/// What a read of a room never published to gives.
pub(super) fn empty(from: &ReadFrom) -> Page {
    Stored::default().read(from, PageLimit { items: 1, bytes: 0 }, Instant::now())
}

/// As many as fit, but at least one.
fn page<'a>(entries: impl Iterator<Item = &'a Bytes>, limit: PageLimit) -> Vec<Bytes> {
    let mut bytes = 0;
    let fits = |entry: &&Bytes| {
        bytes += entry.len();
        bytes <= limit.bytes || bytes == entry.len()
    };
    entries.take(limit.items.max(1)).take_while(fits).cloned().collect()
}
