//! What an edge is to be told, in order, bounded in items and bytes. A room may hold a quarter of it; what exceeds that,
//! or the whole, is refused, and whoever was refused is woken when the queue is half empty.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hashbrown::HashMap;
use proto::{Room, wire};
use service::{RandomState, limit, traces::Traces};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{End, traced::Traced};
use crate::{
    defaults::{LINK_MESSAGE_BYTES, LINK_QUEUE_BYTES, LINK_QUEUE_CONTROLS, LINK_QUEUE_ITEMS},
    metrics::Metrics,
    room::Run,
};

/// Places for messages that an empty queue keeps; a burst, such as the states of all rooms of a new link, is not kept.
const KEPT_PLACES: usize = 1024;

/// A message that is no publication.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) kind: wire::fanout_message::Kind,
    /// Held until the message is on its way.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(crate) enum Message {
    Publications(Room, Run),
    Control(Control),
}

/// Whether there is space for a page of a room's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Yes,
    /// The room holds its share.
    RoomFull,
    QueueFull,
}

/// Many shards put in, the link takes out.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    ready: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Inner {
    messages: VecDeque<Message>,
    total: Share,
    shares: HashMap<Room, Share, RandomState>,
    controls: usize,
    /// Bit n: shard n was refused and waits.
    waiting: u64,
    ended: Ended,
    traced: Traced,
}

/// Whether it still takes anything in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Ended {
    #[default]
    No,
    /// By the edge.
    Quietly,
    For(End),
}

/// Part of the queue.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    items: usize,
    bytes: usize,
}

impl Share {
    fn of(run: &Run) -> Self {
        Self { items: run.entries.len(), bytes: run.bytes() }
    }

    fn add(&mut self, other: Self) {
        self.items += other.items;
        self.bytes += other.bytes;
    }

    fn sub(&mut self, other: Self) {
        self.items = self.items.saturating_sub(other.items);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    /// Whether this is at most the `part`th part of the queue.
    fn within(self, part: usize) -> bool {
        self.items <= limit(LINK_QUEUE_ITEMS) / part && self.bytes <= limit(LINK_QUEUE_BYTES) / part
    }
}

impl Queue {
    pub(super) fn new(metrics: Arc<Metrics>, traces: Traces) -> Self {
        let inner = Inner {
            messages: VecDeque::new(),
            total: Share::default(),
            shares: HashMap::default(),
            controls: 0,
            waiting: 0,
            ended: Ended::No,
            traced: Traced::new(traces),
        };
        Self { inner: Mutex::new(inner), ready: Notify::new(), metrics }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a run; false when it is full, or the room's share of it is. Then `shard` is woken in time.
    pub(crate) fn push_run(&self, room: &Room, run: Run, shard: usize) -> bool {
        let size = Share::of(&run);
        let mut inner = self.lock();
        if inner.ended != Ended::No {
            return true;
        }
        let mut of_room = inner.shares.get(room).copied().unwrap_or_default();
        let mut total = inner.total;
        of_room.add(size);
        total.add(size);
        // A single run always finds place in an empty queue, however large it is.
        let over_room = !of_room.within(4) && of_room.items != size.items;
        let over_total = !total.within(1) && total.items != size.items;
        if over_room || over_total {
            inner.waiting |= 1 << shard;
            drop(inner);
            if over_total {
                self.metrics.link_queue_full.inc()
            } else {
                self.metrics.link_room_full.inc()
            };
            return false;
        }
        inner.total = total;
        *inner.shares.entry_ref(room).or_default() = of_room;
        inner.traced.queued(room, &run);
        inner.append(room, run);
        drop(inner);
        self.metrics.link_queue_items.inc_by(signed(size.items));
        self.metrics.link_queue_bytes.inc_by(signed(size.bytes));
        self.ready.notify_one();
        true
    }

    /// Queues what must not be dropped; false when too much of it waits.
    pub(super) fn push_control(&self, control: Control) -> bool {
        let mut inner = self.lock();
        if inner.ended != Ended::No {
            return true;
        }
        if inner.controls >= limit(LINK_QUEUE_CONTROLS) {
            drop(inner);
            self.metrics.link_controls_full.inc();
            return false;
        }
        inner.controls += 1;
        inner.messages.push_back(Message::Control(control));
        drop(inner);
        self.ready.notify_one();
        true
    }

    /// Whether a page of the room's history may be read for it now; if not, `shard` is woken in time.
    pub(crate) fn space(&self, room: &Room, shard: usize) -> Space {
        let mut inner = self.lock();
        let space = if !inner.total.within(2) {
            Space::QueueFull
        } else if inner.shares.get(room).is_some_and(|share| !share.within(8)) {
            Space::RoomFull
        } else {
            return Space::Yes;
        };
        inner.waiting |= 1 << shard;
        space
    }

    /// No more is taken in.
    pub(super) fn end(&self, reason: Option<End>) {
        let mut inner = self.lock();
        if inner.ended == Ended::No {
            inner.ended = reason.map_or(Ended::Quietly, Ended::For);
        }
        if reason == Some(End::Overrun) {
            let total = inner.total;
            inner.messages.clear();
            inner.shares.clear();
            inner.traced.clear();
            inner.total = Share::default();
            drop(inner);
            self.gauge_out(total);
        } else {
            drop(inner);
        }
        self.ready.notify_one();
    }

    /// Waits for messages and takes some, up to about the bytes of one message of a link. Also the shards to wake.
    /// `Err` is the end, with its reason, once nothing is left. Cancel-safe; for one task.
    pub(crate) async fn pop(&self, into: &mut VecDeque<Message>) -> Result<u64, Option<End>> {
        loop {
            if let Some(result) = self.try_pop(into) {
                return result;
            }
            self.ready.notified().await;
        }
    }

    fn try_pop(&self, into: &mut VecDeque<Message>) -> Option<Result<u64, Option<End>>> {
        let mut inner = self.lock();
        if inner.messages.is_empty() {
            return match inner.ended {
                Ended::No => None,
                Ended::Quietly => Some(Err(None)),
                Ended::For(end) => Some(Err(Some(end))),
            };
        }
        let mut taken = Share::default();
        while taken.bytes < limit(LINK_MESSAGE_BYTES)
            && let Some(message) = inner.messages.pop_front()
        {
            match &message {
                Message::Control(_) => inner.controls -= 1,
                Message::Publications(room, run) => {
                    let share = Share::of(run);
                    taken.add(share);
                    inner.release(room, share);
                    inner.traced.taken(room, run);
                }
            }
            into.push_back(message);
        }
        if inner.messages.is_empty() && inner.messages.capacity() > KEPT_PLACES {
            inner.messages.shrink_to(KEPT_PLACES);
        }
        let wake = if inner.total.within(2) { std::mem::take(&mut inner.waiting) } else { 0 };
        drop(inner);
        self.gauge_out(taken);
        Some(Ok(wake))
    }

    fn gauge_out(&self, share: Share) {
        self.metrics.link_queue_items.dec_by(signed(share.items));
        self.metrics.link_queue_bytes.dec_by(signed(share.bytes));
    }

    /// Bytes of the entries that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().total.bytes
    }
}

impl Inner {
    /// Joins the run to the last message if it continues it.
    fn append(&mut self, room: &Room, run: Run) {
        if let Some(Message::Publications(last_room, last)) = self.messages.back_mut()
            && last_room == room
            && last.epoch == run.epoch
            && last.last_seq() + 1 == run.first_seq
            && last.bytes() + run.bytes() <= limit(LINK_MESSAGE_BYTES)
        {
            last.entries.extend(run.entries);
        } else {
            self.messages.push_back(Message::Publications(room.clone(), run));
        }
    }

    fn release(&mut self, room: &Room, share: Share) {
        self.total.sub(share);
        if let Some(held) = self.shares.get_mut(room) {
            held.sub(share);
            if held.items == 0 {
                self.shares.remove(room);
            }
        }
    }
}

/// For gauges, which are signed.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Drop for Queue {
    fn drop(&mut self) {
        let total = self.lock().total;
        self.gauge_out(total);
    }
}

#[cfg(test)]
mod tests;
