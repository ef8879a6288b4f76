//! Broker events → room → attachments. Rooms are spread over shards, each one task that owns its rooms: their state
//! machines and who is attached to them. Everything reaches a shard by bounded queues, and nobody waits for a room.

mod answers;
mod catch_up;
mod held_back;
mod inbox;
mod member;
mod shard;
mod store;
mod sweep;
#[cfg(test)]
mod tests;

use std::{num::NonZero, sync::Arc, time::Duration};

use proto::{Position, Room};
use service::{Clock, Lifecycle, RandomState, limit, traces::Traces};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{inbox::Inbox, shard::Shard, sweep::Sweep};
use crate::{
    attachments::{Attachment, AttachmentId},
    broker::{Announcement, Broker, Events},
    defaults::{HELD_BACK_ROOMS, MAX_SHARDS, SHARD_INTERESTS},
    metrics::Metrics,
};

/// Whether a room is wanted now, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) room: Room,
    pub(crate) wanted: bool,
    /// Where the edge stands; `None`: from the room's position on.
    pub(crate) position: Option<Position>,
}

/// Wishes of one attachment for rooms of one shard.
#[derive(Debug)]
struct Interest {
    attachment: Arc<Attachment>,
    wishes: Vec<Wish>,
}

/// The way to the shards. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Dispatcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hasher: RandomState,
    shards: Vec<Handle>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Handle {
    inbox: Arc<Inbox>,
    interests: mpsc::Sender<Interest>,
}

/// What shards measure with.
#[derive(Debug, Clone)]
pub(crate) struct Instruments {
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Traces,
}

/// The shards' ends of their queues, until there is a broker to start them with.
#[derive(Debug)]
pub(crate) struct Shards(Vec<(Arc<Inbox>, mpsc::Receiver<Interest>)>);

impl Dispatcher {
    /// With a shard for each processor, up to [`MAX_SHARDS`].
    pub(crate) fn new(metrics: &Arc<Metrics>) -> (Self, Shards) {
        Self::with_shards(std::thread::available_parallelism().map_or(1, NonZero::get), metrics)
    }

    pub(crate) fn with_shards(count: usize, metrics: &Arc<Metrics>) -> (Self, Shards) {
        let count = count.clamp(1, MAX_SHARDS);
        let mut ends = Vec::with_capacity(count);
        let shards = (0..count)
            .map(|_| {
                let inbox = Arc::new(Inbox::new(Arc::clone(metrics)));
                let (interests, receiver) = mpsc::channel(limit(SHARD_INTERESTS));
                ends.push((Arc::clone(&inbox), receiver));
                Handle { inbox, interests }
            })
            .collect();
        (Self(Arc::new(Inner { hasher: RandomState::new(), shards, metrics: Arc::clone(metrics) })), Shards(ends))
    }

    fn shard_of(&self, room: &Room) -> usize {
        usize::try_from(self.0.hasher.hash_one(room)).unwrap_or(0) % self.0.shards.len()
    }

    fn inbox(&self, room: &Room) -> &Inbox {
        &self.0.shards[self.shard_of(room)].inbox
    }

    /// Hands an attachment's wishes to the shards; waits only while a shard's queue is full.
    pub(crate) async fn interest(&self, attachment: &Arc<Attachment>, wishes: Vec<Wish>) {
        let mut parts = vec![Vec::new(); self.0.shards.len()];
        for wish in wishes {
            parts[self.shard_of(&wish.room)].push(wish);
        }
        for (shard, wishes) in self.0.shards.iter().zip(parts) {
            if !wishes.is_empty() {
                if shard.interests.capacity() == 0 {
                    self.0.metrics.interests_full.inc();
                }
                // Fails only when the shards are gone, and then the links end, too.
                let _ = shard.interests.send(Interest { attachment: Arc::clone(attachment), wishes }).await;
            }
        }
    }

    /// An edge asks that publishers of the room be held back, for so long from now.
    pub(crate) fn hold_back(&self, id: AttachmentId, room: &Room, length: Duration) {
        if !self.inbox(room).held_back().ask(room, id, length, limit(HELD_BACK_ROOMS)) {
            self.0.metrics.held_back_full.inc();
        }
    }

    /// The attachment is closed: take it out of every room.
    pub(crate) fn gone(&self, id: AttachmentId) {
        for shard in &self.0.shards {
            shard.inbox.held_back().gone(id);
            shard.inbox.gone(id);
        }
    }

    /// The attachment's queue is half empty: the shards in the mask go on with what is behind.
    pub(crate) fn wake(&self, id: AttachmentId, mask: u64) {
        for (index, shard) in self.0.shards.iter().enumerate() {
            if mask & (1 << index) != 0 {
                shard.inbox.wake(id);
            }
        }
    }
}

impl Events for Dispatcher {
    fn announced(&self, announcement: Announcement) {
        self.inbox(&announcement.room).announced(announcement);
    }

    fn subscribed(&self, room: Room) {
        self.inbox(&room).subscribed(room);
    }

    fn reset(&self) {
        for shard in &self.0.shards {
            shard.inbox.reset();
        }
    }

    fn backlog(&self, room: &Room) -> usize {
        self.inbox(room).backlog(room)
    }
}

impl Shards {
    /// Starts them; they end with the token. Each room is compared with the store about once in `sweep`.
    pub(crate) fn spawn(
        self,
        broker: &Arc<dyn Broker>,
        sweep: Duration,
        instruments: &Instruments,
        lifecycle: &Lifecycle,
        end: &CancellationToken,
    ) {
        let count = self.0.len();
        for (index, (inbox, interests)) in self.0.into_iter().enumerate() {
            let sweep = Sweep::new(sweep, count, Instant::now());
            let shard = Shard::new(index, Arc::clone(broker), inbox, instruments.clone(), sweep);
            lifecycle.spawn_vital(shard.run(interests, end.clone()));
        }
    }
}
