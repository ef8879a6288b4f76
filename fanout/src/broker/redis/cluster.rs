//! The same on a Redis Cluster: each room is on the primary that has its slot, and its publications are stored,
//! announced (by sharded pub/sub) and read there. Each primary has connections of its own, under supervisors of its own.
//!
//! - `slots`: which primary has which slot; `topology`: the task that finds out, and starts and ends what a primary needs.
//! - `pump`: the queue's far end: each room's publications in order, wherever its slot goes.

mod pump;
mod slots;
mod topology;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::RandomState;
use futures_util::{FutureExt as _, future::BoxFuture, future::join_all};
use hashbrown::HashMap;
use proto::{Position, Room};
use service::Lifecycle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{pump::Pump, slots::Slots, topology::Topology};
use super::{
    RedisSettings,
    keys::Keys,
    primary::Primary,
    publish::{Queue, Shared},
};
use crate::{
    broker::{
        Broker, Events, Health, Keep, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, StoreError,
        removals::{RemovalPage, Who},
    },
    metrics::Metrics,
};

/// Tries of a read before it fails: a slot that moves, or a topology that is found out anew, takes about so long.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    slots: watch::Receiver<Arc<Slots>>,
    store: watch::Receiver<Option<Arc<str>>>,
    wanted: Arc<Wanted>,
    queue: Queue,
}

/// Rooms whose announcements are wanted, and which primary was asked for them.
#[derive(Debug, Default)]
struct Wanted(Mutex<HashMap<Room, Option<Arc<Primary>>, RandomState>>);

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, HashMap<Room, Option<Arc<Primary>>, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks those that have the rooms now, and no others any more.
    fn route(&self, slots: &Slots) {
        for (room, asked) in self.lock().iter_mut() {
            let owner = slots.owner(room);
            if asked.as_ref().map(Arc::as_ptr) == owner.map(Arc::as_ptr) {
                continue;
            }
            if let Some(before) = asked.take() {
                before.subscriptions.set(room, false);
            }
            if let Some(owner) = owner {
                owner.subscriptions.set(room, true);
                owner.subscriptions.subscribed_again();
                *asked = Some(Arc::clone(owner));
            }
        }
    }
}

impl Cluster {
    /// Starts its tasks, which end with the token. It is ready once it can store, read and hear.
    pub fn start(
        settings: RedisSettings,
        keep: Keep,
        events: Arc<dyn Events>,
        lifecycle: &Lifecycle,
        end: &CancellationToken,
    ) -> Self {
        Self::spawn(settings, keep, events, &Arc::default(), lifecycle, end)
    }

    pub(crate) fn spawn(
        settings: RedisSettings,
        keep: Keep,
        events: Arc<dyn Events>,
        metrics: &Arc<Metrics>,
        lifecycle: &Lifecycle,
        end: &CancellationToken,
    ) -> Self {
        let keys = Keys::new(settings.prefix.clone(), settings.address.db);
        let shared = Arc::new(Shared::new(keys, keep, events, Arc::clone(metrics), true));
        let wanted = Arc::<Wanted>::default();
        let (sender, slots) = watch::channel(Arc::default());
        let (namer, store) = watch::channel(None);
        let topology =
            Topology::new(settings, Arc::clone(&shared), Arc::clone(&wanted), sender, namer, lifecycle, end.clone());
        lifecycle.spawn_vital_until(end.clone(), topology.run());
        let (queue, jobs) = Queue::new(Arc::clone(&shared));
        let pump = Pump::new(Arc::clone(&shared), slots.clone(), jobs);
        lifecycle.spawn_vital_until(end.clone(), pump.run());
        Self(Arc::new(Inner { shared, slots, store, wanted, queue }))
    }
}

impl Inner {
    fn slots(&self) -> Arc<Slots> {
        Arc::clone(&self.slots.borrow())
    }

    async fn read(&self, room: &Room, from: &ReadFrom, limit: PageLimit) -> Result<Page, ReadError> {
        for _ in 0..TRIES {
            if let Some(owner) = self.slots().owner(room)
                && let Ok(page) = owner.read(room, from, limit).await
            {
                return Ok(page);
            }
            self.shared.moved.notify_one();
            tokio::time::sleep(PAUSE).await;
        }
        Err(ReadError)
    }

    /// By primary, with the places that the rooms had.
    fn parts(&self, rooms: &[Room]) -> Vec<(Arc<Primary>, Vec<usize>, Vec<Room>)> {
        let slots = self.slots();
        let mut parts: Vec<(Arc<Primary>, Vec<usize>, Vec<Room>)> = Vec::new();
        for (place, room) in rooms.iter().enumerate() {
            let Some(owner) = slots.owner(room) else { continue };
            let known = parts.iter().position(|(primary, ..)| Arc::ptr_eq(primary, owner));
            let part = known.unwrap_or_else(|| {
                parts.push((Arc::clone(owner), Vec::new(), Vec::new()));
                parts.len() - 1
            });
            parts[part].1.push(place);
            parts[part].2.push(room.clone());
        }
        parts
    }

    /// Those whose primary does not answer are left to be read, which is tried again.
    async fn positions(&self, rooms: &[Room]) -> Result<Vec<Option<Position>>, ReadError> {
        let asking = self.parts(rooms).into_iter().map(|(primary, places, rooms)| async move {
            let answer = primary.positions(&rooms).await;
            (places, answer)
        });
        let (mut positions, mut answered) = (vec![None; rooms.len()], rooms.is_empty());
        for (places, answer) in join_all(asking).await {
            let Ok(answer) = answer else {
                self.shared.moved.notify_one();
                continue;
            };
            answered = true;
            for (place, position) in places.into_iter().zip(answer) {
                positions[place] = position;
            }
        }
        answered.then_some(positions).ok_or(ReadError)
    }

    async fn remove(&self, who: &Who) -> Result<i64, StoreError> {
        let mut refused = StoreError::Unavailable;
        for _ in 0..TRIES {
            if let Some(owner) = self.slots().owner_of(self.shared.keys.removals_slot()) {
                match owner.remove(who).await {
                    Err(error @ (StoreError::Unavailable | StoreError::Unknown)) => refused = error,
                    stored => return stored,
                }
            }
            self.shared.moved.notify_one();
            tokio::time::sleep(PAUSE).await;
        }
        Err(refused)
    }

    /// Asked for again soon.
    async fn removals(&self, after_ms: i64, limit: usize) -> Result<RemovalPage, ReadError> {
        let slots = self.slots();
        let owner = slots.owner_of(self.shared.keys.removals_slot()).ok_or(ReadError)?;
        owner.removals(after_ms, limit).await.inspect_err(|_| self.shared.moved.notify_one())
    }

    async fn renew(&self, rooms: &[Room]) -> Result<(), ReadError> {
        let renewing =
            self.parts(rooms).into_iter().map(|(primary, _, rooms)| async move { primary.renew(&rooms).await });
        join_all(renewing).await.into_iter().collect()
    }
}

impl Broker for Cluster {
    fn publish(&self, publication: NewPublication) -> Result<Pending, StoreError> {
        self.0.queue.push(publication)
    }

    fn subscribe(&self, room: &Room) {
        let slots = self.0.slots();
        let owner = slots.owner(room);
        if let Some(owner) = owner {
            owner.subscriptions.set(room, true);
        }
        self.0.wanted.lock().insert(room.clone(), owner.cloned());
        // The slots may have been told to others just before: then it was not among them.
        let now = self.0.slots();
        if !Arc::ptr_eq(&now, &slots) {
            self.0.wanted.route(&now);
        }
    }

    fn unsubscribe(&self, room: &Room) {
        if let Some(Some(asked)) = self.0.wanted.lock().remove(room) {
            asked.subscriptions.set(room, false);
        }
    }

    fn read(&self, room: Room, from: ReadFrom, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.read(&room, &from, limit).await }.boxed()
    }

    fn positions(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.positions(&rooms).await }.boxed()
    }

    fn renew(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<(), ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.renew(&rooms).await }.boxed()
    }

    fn remove(&self, who: Who) -> BoxFuture<'static, Result<i64, StoreError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.remove(&who).await }.boxed()
    }

    fn removals(&self, after_ms: i64, limit: usize) -> BoxFuture<'static, Result<RemovalPage, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.removals(after_ms, limit).await }.boxed()
    }

    /// Ready while any primary is: one that fails over does not take the rooms of the others away.
    fn health(&self) -> Health {
        let slots = self.0.slots();
        let store = self.0.store.borrow().clone();
        let ready = slots.primaries().iter().any(|primary| primary.is_ready());
        let heard = slots.primaries().iter().map(|primary| primary.hearing.heard_ms_ago()).max();
        Health {
            kind: "redis",
            ready: store.is_some() && ready,
            store,
            // Before anything is known, as long as a process that has heard nothing.
            heard_ms_ago: heard.unwrap_or_else(|| self.0.shared.age_ms()),
        }
    }
}
