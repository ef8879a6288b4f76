//! The one seam to what stores and announces: [`memory`] or [`redis`], which pass one contract suite.

pub mod memory;
pub mod redis;
pub mod removals;
#[cfg(test)]
pub(crate) mod scripted;
pub mod share;

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use proto::{Key, Position, Room};
use removals::{RemovalPage, Who};
use share::Part;
use tokio::{sync::oneshot, time::Instant};

/// What is to be stored and announced.
#[derive(Debug)]
pub struct NewPublication {
    pub room: Room,
    /// Whose key `key` is: a user id, or `@name`.
    pub sender: Arc<str>,
    pub key: Option<Key>,
    /// How long the key is remembered, if not for `DEDUP_WINDOW`.
    pub key_ttl: Option<Duration>,
    /// Keys of the sender's later publications. If one is known, and `key` is not, this one comes too late, and is refused
    /// as certainly not stored; if both are, and this one is behind it, its receipt is [`StoreError::Unknown`].
    pub unless: Vec<Key>,
    /// An encoded `wire::Entry`; opaque from here to the edge.
    pub entry: Bytes,
    /// Past it, if not yet sent to the store, the publication is refused as certainly not stored.
    pub deadline: Instant,
    /// Of what its publisher may have in the queue to the store.
    pub part: Option<Part>,
}

impl NewPublication {
    /// What it takes while it waits for the store.
    pub(crate) fn bytes(&self) -> usize {
        self.entry.len() + self.unless.iter().map(|key| key.len()).sum::<usize>()
    }
}

/// Where a publication is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub position: Position,
    /// The key had been seen: nothing new was stored.
    pub duplicate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("a queue is full; not stored")]
    Busy,
    #[error("the store is not available; not stored")]
    Unavailable,
    #[error("the store did not answer; may have been stored")]
    Unknown,
}

/// The store could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is not available")]
pub struct ReadError;

/// A receipt on its way.
#[derive(Debug)]
pub enum Pending {
    Ready(Result<Receipt, StoreError>),
    Waiting(oneshot::Receiver<Result<Receipt, StoreError>>),
}

impl Future for Pending {
    type Output = Result<Receipt, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(result) => Poll::Ready(result.clone()),
            // Whoever held the other end is gone without a word.
            Self::Waiting(receiver) => {
                Pin::new(receiver).poll(cx).map(|result| result.unwrap_or(Err(StoreError::Unknown)))
            }
        }
    }
}

/// Where a read begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFrom {
    /// After this position, oldest first.
    After(Position),
    /// The latest so many, oldest first.
    Last(u64),
    /// From the oldest kept.
    Oldest,
}

/// How much of it is read. A page has at least one publication if there is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    pub items: usize,
    pub bytes: usize,
}

/// Part of a room's history, read in one atomic step with the room's position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The room's position.
    pub position: Position,
    /// Where the epoch before this one ended; up to there publications carry its numbers, too.
    pub prev: Option<Position>,
    /// `seq` of the first entry; the others follow by one. 0 without entries.
    pub first_seq: u64,
    pub entries: Vec<Bytes>,
    /// For `After`: of this epoch or the one before, and consecutive from there to where the page ends, or to the end of
    /// that epoch. Always true otherwise.
    pub complete: bool,
}

impl Page {
    /// For answers that name one epoch: what was read after a position of the epoch before is not complete, and only
    /// what the present one has goes with it.
    pub(crate) fn of_present_epoch(mut self, from: &ReadFrom) -> Self {
        if let ReadFrom::After(after) = from
            && let Some(prev) = self.prev.take_if(|prev| prev.epoch == after.epoch)
        {
            let old = usize::try_from((prev.seq + 1).saturating_sub(self.first_seq)).unwrap_or(usize::MAX);
            self.entries.drain(..old.min(self.entries.len()));
            self.first_seq = if self.entries.is_empty() { 0 } else { self.first_seq.max(prev.seq + 1) };
            self.complete = false;
        }
        self
    }
}

/// An announcement: a room's history grew, or is known to reach here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub room: Room,
    pub position: Position,
    /// `None` when a duplicate made the broker say its position again.
    pub entry: Option<Bytes>,
}

/// Where a broker's news go. None of these waits; what cannot be taken is kept as a position to read up to.
pub trait Events: Debug + Send + Sync + 'static {
    fn announced(&self, announcement: Announcement);
    /// From now on every announcement of the room comes, until the next reset or `unsubscribe`.
    fn subscribed(&self, room: Room);
    /// Connected again and everything subscribed again: of every room, announcements may have been missed.
    fn reset(&self);

    /// How many announcements wait where this room's would go; `usize::MAX` if the room has fallen behind. A publisher
    /// is held back rather than let to run ahead of what can be delivered.
    fn backlog(&self, _room: &Room) -> usize {
        0
    }
}

/// The broker as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `memory` or `redis`.
    pub kind: &'static str,
    /// Identity of the store, once known.
    pub store: Option<Arc<str>>,
    /// It can store, read and hear.
    pub ready: bool,
    /// Age of the last pulse of this node that its subscriber connection heard. 0 for a broker that is its own.
    pub heard_ms_ago: u64,
}

/// Stores publications of rooms under consecutive numbers and announces them.
pub trait Broker: Debug + Send + Sync + 'static {
    /// Takes a publication into the queue to the store. Those of one caller to one room are stored in the order of calls.
    fn publish(&self, publication: NewPublication) -> Result<Pending, StoreError>;

    /// Asks for a room's announcements; a level, answered by [`Events::subscribed`].
    fn subscribe(&self, room: &Room);

    fn unsubscribe(&self, room: &Room);

    fn read(&self, room: Room, from: ReadFrom, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>>;

    /// The positions of rooms, in the order given. `None`: to be had by a read only.
    fn positions(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>>;

    /// These rooms are live: their positions are not to expire for another while.
    fn renew(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<(), ReadError>>;

    /// Keeps that a user was removed. Answers when, by the store's clock. Asking again does no harm.
    fn remove(&self, who: Who) -> BoxFuture<'static, Result<i64, StoreError>>;

    /// The removals kept that came after this time, oldest first, so many at most.
    fn removals(&self, after_ms: i64, limit: usize) -> BoxFuture<'static, Result<RemovalPage, ReadError>>;

    fn health(&self) -> Health;
}

/// What a broker keeps, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Publications of a room, exactly.
    pub history_size: u64,
    /// After the last publication.
    pub history_ttl: Duration,
    /// An idempotency key.
    pub dedup_window: Duration,
}

impl Keep {
    /// A room's epoch and position outlive its history by this.
    const META_EXTRA: Duration = Duration::from_hours(24);

    pub(crate) fn meta_ttl(&self) -> Duration {
        self.history_ttl + Self::META_EXTRA
    }
}

/// The name of a new epoch: its generation rises even after a wipe, its random part meets no other's.
pub(crate) fn epoch_name(generation: u64, random: u64) -> String {
    format!("{generation:x}-{random:016x}")
}
