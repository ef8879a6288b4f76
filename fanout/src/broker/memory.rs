//! The embedded broker, for one fanout node: rooms in this process's memory, with Redis's numbering, limits, keys and
//! expiry. It is ready at once, hears itself, and forgets everything when it ends.

mod stored;

use std::{collections::HashMap, sync::Arc, time::Duration};

use ahash::RandomState;
use futures_util::{FutureExt as _, future::BoxFuture};
use proto::{Position, Room};
use service::{Clock, Lifecycle};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::stored::Stored;
use super::{
    Announcement, Broker, Events, Health, Keep, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, Receipt,
    StoreError,
    removals::{Kept, RemovalPage, Who},
};
use crate::metrics::Metrics;

/// Rooms are spread over so many locks, so that none is shared by all of them.
const LOCKS: usize = 64;

/// One lock's rooms are looked through for what expired this often; a whole round takes [`LOCKS`] times as long.
const SWEEP: Duration = Duration::from_secs(1);

/// Storing here is faster than delivering; without a limit a publisher would outrun its members at once.
const MAX_BACKLOG: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    identity: Arc<str>,
    keep: Keep,
    /// Announcements that may wait: so few that the history still has them when they turn out to be too many.
    backlog: usize,
    metrics: Arc<Metrics>,
    clock: Clock,
    events: Arc<dyn Events>,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    removals: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Shard {
    rooms: HashMap<Room, Stored, RandomState>,
    subscribed: hashbrown::HashSet<Room, RandomState>,
}

impl Memory {
    pub fn new(keep: Keep, clock: Clock, events: Arc<dyn Events>) -> Self {
        Self::counted(keep, clock, events, &Arc::default())
    }

    pub(crate) fn counted(keep: Keep, clock: Clock, events: Arc<dyn Events>, metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            backlog: usize::try_from(keep.history_size / 4).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG),
            metrics: Arc::clone(metrics),
            identity: format!("memory-{:016x}", rand::random::<u64>()).into(),
            keep,
            clock,
            events,
            hasher: RandomState::new(),
            shards: (0..LOCKS).map(|_| Mutex::default()).collect(),
            removals: Mutex::default(),
        }))
    }

    /// Frees what expired, until the token is cancelled.
    pub fn spawn_sweep(&self, lifecycle: &Lifecycle, end: CancellationToken) {
        let inner = Arc::clone(&self.0);
        lifecycle.spawn(async move {
            for shard in (0..LOCKS).cycle() {
                tokio::select! {
                    () = end.cancelled() => return,
                    () = tokio::time::sleep(SWEEP) => {}
                }
                let now = Instant::now();
                lock(&inner.shards[shard]).rooms.retain(|_, room| !room.expire(now));
            }
        });
    }
}

impl Inner {
    fn shard(&self, room: &Room) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(room) % LOCKS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }

    fn publish(&self, publication: NewPublication) -> Result<Receipt, StoreError> {
        let mut shard = self.shard(&publication.room);
        let stored = shard.rooms.entry(publication.room.clone()).or_default();
        let receipt = stored.publish(&publication, &self.keep, Instant::now(), &self.clock)?;
        let NewPublication { room, entry, .. } = publication;
        if shard.subscribed.contains(&room) {
            let entry = (!receipt.duplicate).then_some(entry);
            // Under the lock, so that announcements come in the order of the numbers. It only queues.
            self.events.announced(Announcement { room, position: receipt.position.clone(), entry });
        }
        Ok(receipt)
    }
}

/// A panic elsewhere must not take the broker with it: each step leaves a room whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Broker for Memory {
    fn publish(&self, publication: NewPublication) -> Result<Pending, StoreError> {
        let inner = &self.0;
        let backlog = inner.events.backlog(&publication.room);
        if backlog > inner.backlog {
            // A room that is held back is no queue that is full.
            inner.metrics.broker_full.inc_by((backlog < usize::MAX).into());
            return Err(StoreError::Busy);
        }
        Ok(Pending::Ready(self.0.publish(publication)))
    }

    fn subscribe(&self, room: &Room) {
        let mut shard = self.0.shard(room);
        shard.subscribed.insert(room.clone());
        // Under the lock: no announcement of the room may come before it.
        self.0.events.subscribed(room.clone());
    }

    fn unsubscribe(&self, room: &Room) {
        self.0.shard(room).subscribed.remove(room);
    }

    fn read(&self, room: Room, from: ReadFrom, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move {
            let mut shard = inner.shard(&room);
            let page = shard.rooms.get_mut(&room).map(|stored| stored.read(&from, limit, Instant::now()));
            Ok(page.unwrap_or_else(|| stored::empty(&from)))
        }
        .boxed()
    }

    fn positions(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>> {
        let inner = Arc::clone(&self.0);
        let now = Instant::now();
        let position = move |room: Room| {
            let mut shard = inner.shard(&room);
            Some(shard.rooms.get_mut(&room).map_or_else(Position::default, |stored| stored.position(now)))
        };
        async move { Ok(rooms.into_iter().map(position).collect()) }.boxed()
    }

    fn renew(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<(), ReadError>> {
        let (now, keep) = (Instant::now(), self.0.keep);
        for room in rooms {
            if let Some(stored) = self.0.shard(&room).rooms.get_mut(&room) {
                stored.renew(&keep, now);
            }
        }
        std::future::ready(Ok(())).boxed()
    }

    fn remove(&self, who: Who) -> BoxFuture<'static, Result<i64, StoreError>> {
        std::future::ready(lock(&self.0.removals).add(who, self.0.clock.unix_ms())).boxed()
    }

    fn removals(&self, after_ms: i64, limit: usize) -> BoxFuture<'static, Result<RemovalPage, ReadError>> {
        let removals = lock(&self.0.removals).after(after_ms, limit, self.0.clock.unix_ms());
        std::future::ready(Ok(RemovalPage { server: Arc::clone(&self.0.identity), removals })).boxed()
    }

    fn health(&self) -> Health {
        Health { kind: "memory", store: Some(Arc::clone(&self.0.identity)), ready: true, heard_ms_ago: 0 }
    }
}
