//! What waits for a shard. Announcements are bounded in items and bytes; of what does not fit, each room's newest
//! position is kept, so that the shard reads the room: nothing is lost silently. The rest is bounded by its nature.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::{HashMap, HashSet, hash_map::EntryRef};
use proto::{Position, Room};
use service::{RandomState, limit};
use tokio::sync::Notify;

use super::held_back::HeldBack;
use crate::{
    attachments::AttachmentId,
    broker::Announcement,
    defaults::{SHARD_ANNOUNCEMENT_BYTES, SHARD_ANNOUNCEMENTS},
    metrics::Metrics,
};

/// What a shard takes out in one go.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order they came.
    pub(super) announcements: VecDeque<Announcement>,
    /// Newest positions of rooms whose announcements did not fit; after the others.
    pub(super) overflow: HashMap<Room, Position, RandomState>,
    /// Rooms whose announcements come from now on. Each was asked for once.
    pub(super) subscribed: Vec<Room>,
    /// Announcements of every room may have been missed.
    pub(super) reset: bool,
    /// Attachments that are closed, and those whose queue is half empty.
    pub(super) gone: Vec<AttachmentId>,
    pub(super) awake: HashSet<AttachmentId, RandomState>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.announcements.is_empty()
            && self.overflow.is_empty()
            && self.subscribed.is_empty()
            && !self.reset
            && self.gone.is_empty()
            && self.awake.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Inbox {
    inner: Mutex<Inner>,
    ready: Notify,
    /// Announcements that wait.
    backlog: AtomicUsize,
    held_back: HeldBack,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inner {
    batch: Batch,
    bytes: usize,
}

impl Inbox {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let (inner, ready, backlog) = (Mutex::default(), Notify::new(), AtomicUsize::new(0));
        Self { inner, ready, backlog, held_back: HeldBack::default(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn announced(&self, announcement: Announcement) {
        let bytes = announcement.entry.as_ref().map_or(0, bytes::Bytes::len);
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.batch.announcements.len() < limit(SHARD_ANNOUNCEMENTS)
            && inner.bytes + bytes <= limit(SHARD_ANNOUNCEMENT_BYTES)
        {
            self.metrics.shard_queue_items.inc();
            self.backlog.fetch_add(1, Ordering::Relaxed);
            inner.batch.announcements.push_back(announcement);
            inner.bytes += bytes;
        } else {
            self.metrics.shard_full.inc();
            keep_newest(&mut inner.batch.overflow, announcement);
        }
        drop(guard);
        self.ready.notify_one();
    }

    /// Announcements that wait, or `usize::MAX` for a room that is held back.
    pub(super) fn backlog(&self, room: &Room) -> usize {
        if self.held_back.contains(room) { usize::MAX } else { self.backlog.load(Ordering::Relaxed) }
    }

    pub(super) fn held_back(&self) -> &HeldBack {
        &self.held_back
    }

    pub(super) fn subscribed(&self, room: Room) {
        self.lock().batch.subscribed.push(room);
        self.ready.notify_one();
    }

    pub(super) fn reset(&self) {
        self.lock().batch.reset = true;
        self.ready.notify_one();
    }

    pub(super) fn gone(&self, id: AttachmentId) {
        self.lock().batch.gone.push(id);
        self.ready.notify_one();
    }

    pub(super) fn wake(&self, id: AttachmentId) {
        self.lock().batch.awake.insert(id);
        self.ready.notify_one();
    }

    /// Waits for something and takes all there is. Cancel-safe; for one task.
    pub(super) async fn take(&self) -> Batch {
        loop {
            {
                let mut inner = self.lock();
                if !inner.batch.is_empty() {
                    inner.bytes = 0;
                    let batch = std::mem::take(&mut inner.batch);
                    self.backlog.store(0, Ordering::Relaxed);
                    drop(inner);
                    let taken = i64::try_from(batch.announcements.len()).unwrap_or(i64::MAX);
                    self.metrics.shard_queue_items.dec_by(taken);
                    return batch;
                }
            }
            self.ready.notified().await;
        }
    }
}

fn keep_newest(overflow: &mut HashMap<Room, Position, RandomState>, announcement: Announcement) {
    let Announcement { room, position, .. } = announcement;
    match overflow.entry_ref(&room) {
        EntryRef::Occupied(mut known) => {
            let newest = known.get_mut();
            if (position.epoch.generation(), position.seq) > (newest.epoch.generation(), newest.seq) {
                *newest = position;
            }
        }
        EntryRef::Vacant(place) => {
            place.insert(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn of_what_does_not_fit_the_newest_position_is_kept() {
        let inbox = Inbox::new(Arc::new(Metrics::default()));
        let room = Room::try_new("a").unwrap();
        for seq in 1..=SHARD_ANNOUNCEMENTS as u64 + 3 {
            let position = Position::new("1-a", seq);
            inbox.announced(Announcement { room: room.clone(), position, entry: Some(Bytes::from_static(b"x")) });
        }
        let batch = inbox.take().await;
        assert_eq!(batch.announcements.len(), SHARD_ANNOUNCEMENTS);
        assert_eq!(batch.overflow[&room].seq, SHARD_ANNOUNCEMENTS as u64 + 3);
        inbox.reset();
        let batch = inbox.take().await;
        assert!(batch.reset && batch.announcements.is_empty());
    }
}
