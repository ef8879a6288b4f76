//! A node's way to the store: a connection for commands, which takes time, fails before and after the write and is lost;
//! and one for announcements, which drops, doubles, delays and reorders them, is lost, and goes deaf. A model of what the
//! Redis broker makes of Redis; it passes the contract suite of brokers.

mod commands;
mod subscriber;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use fanout::broker::{
    Announcement, Broker, Events, Health, Keep, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, Receipt,
    StoreError,
    removals::{RemovalPage, Who},
};
use futures_util::{FutureExt as _, future::BoxFuture};
use proto::{Position, Room};
use service::{Lifecycle, limit};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    plan::Plan,
    world::{World, lock, one_in, up_to},
};

/// Publications that wait for the store, and how many go in one call.
const QUEUE: usize = 16_384;
const BATCH: usize = 32;

/// Announcements that may wait to be delivered; more, and publishers are held back.
const MAX_BACKLOG: usize = 4096;

/// A node that hears nothing of its own for so long connects anew.
const DEAF: Duration = Duration::from_millis(2500);

/// How much later than Redis's own announcement a receipt is one.
const SAY_RECEIPT: Duration = Duration::from_millis(20);

/// See the module.
pub struct ModelBroker {
    world: Arc<World>,
    /// This broker, for what outlives a call.
    me: Weak<Self>,
    events: Arc<dyn Events>,
    jobs: mpsc::Sender<Job>,
    changes: mpsc::UnboundedSender<Change>,
    news: mpsc::UnboundedSender<(Instant, u64, News)>,
    state: Mutex<State>,
    lifecycle: Lifecycle,
    end: CancellationToken,
}

struct Job {
    publication: NewPublication,
    receipt: oneshot::Sender<Result<Receipt, StoreError>>,
}

/// What a node asks of its subscriber connection.
enum Change {
    Subscribe(Room),
    Unsubscribe(Room),
}

/// What comes over it.
#[derive(Debug)]
enum News {
    Subscribed(Room),
    Announced(Announcement),
    Reset,
}

#[derive(Debug)]
struct State {
    /// Rooms the node wants.
    wanted: BTreeSet<Room>,
    /// Rooms the server announces on the connection.
    subscribed: BTreeSet<Room>,
    /// Counts subscriber connections; what was under way on an earlier one never arrives.
    connection: u64,
    /// When there will be one again.
    down_until: Option<Instant>,
    /// Nothing arrives, and nobody is told, until then.
    deaf_until: Option<Instant>,
    deaf_since: Instant,
    /// Commands fail until then.
    commands_down_until: Instant,
    /// Counts command connections: what was under way on an earlier one has no answer.
    commands: u64,
    /// The last announcement under way arrives then.
    arrives: Instant,
}

impl std::fmt::Debug for ModelBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelBroker").finish_non_exhaustive()
    }
}

impl ModelBroker {
    pub(crate) fn start(
        world: &Arc<World>,
        events: Arc<dyn Events>,
        lifecycle: &Lifecycle,
        end: CancellationToken,
    ) -> Arc<Self> {
        let (jobs, queue) = mpsc::channel(limit(QUEUE));
        #[expect(clippy::disallowed_methods, reason = "as much as a run is long")]
        let ((changes, to_follow), (news, to_deliver)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let now = Instant::now();
        let broker = Arc::new_cyclic(|me| Self {
            world: Arc::clone(world),
            me: me.clone(),
            events,
            jobs,
            changes,
            news,
            state: Mutex::new(State {
                wanted: BTreeSet::new(),
                subscribed: BTreeSet::new(),
                connection: 0,
                down_until: None,
                deaf_until: None,
                deaf_since: now,
                commands_down_until: now,
                commands: 0,
                arrives: now,
            }),
            lifecycle: lifecycle.clone(),
            end,
        });
        broker.spawn(Arc::clone(&broker).store(queue));
        broker.spawn(Arc::clone(&broker).follow(to_follow));
        broker.spawn(Arc::clone(&broker).deliver(to_deliver));
        broker
    }

    /// A node's way to a store of its own, on which nothing goes wrong.
    pub fn alone(
        keep: Keep,
        events: Arc<dyn Events>,
        lifecycle: &Lifecycle,
        end: CancellationToken,
    ) -> Arc<dyn Broker> {
        let world = World::new(Plan { keep, ..Plan::calm() }, false);
        let broker = Self::start(&world, events, lifecycle, end);
        lock(&world.brokers)[0] = Some(broker.clone());
        broker
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.lifecycle.spawn(async move {
            end.run_until_cancelled(task).await;
        });
    }

    fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    fn latency(&self) -> Duration {
        up_to(self.world.plan.store_latency)
    }

    fn errs(&self) -> bool {
        !self.world.is_settling() && one_in(self.world.plan.errors)
    }

    /// Commands fail for a while; what is under way has no answer.
    pub(crate) fn lose_commands(&self, down: Duration) {
        let mut state = lock(&self.state);
        state.commands += 1;
        state.commands_down_until = Instant::now() + down;
    }

    fn commands_are_down(&self) -> bool {
        lock(&self.state).commands_down_until > Instant::now()
    }

    /// Asks the store something: it takes time there and back, and may fail.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&World) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, ReadError>> {
        let (there, back) = (self.latency() / 2, self.latency() / 2);
        let Some(me) = self.me() else { return std::future::ready(Err(ReadError)).boxed() };
        async move {
            sleep(there).await;
            if me.commands_are_down() || me.errs() {
                me.world.count("store: a read failed");
                return Err(ReadError);
            }
            let answer = question(&me.world);
            sleep(back).await;
            Ok(answer)
        }
        .boxed()
    }
}

impl Broker for ModelBroker {
    fn publish(&self, publication: NewPublication) -> Result<Pending, StoreError> {
        if self.events.backlog(&publication.room) > limit(MAX_BACKLOG) {
            self.world.count("store: publishers held back");
            return Err(StoreError::Busy);
        }
        let (receipt, pending) = oneshot::channel();
        match self.jobs.try_send(Job { publication, receipt }) {
            Ok(()) => Ok(Pending::Waiting(pending)),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.world.count("store: queue full");
                Err(StoreError::Busy)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Unavailable),
        }
    }

    fn subscribe(&self, room: &Room) {
        lock(&self.state).wanted.insert(room.clone());
        let _ = self.changes.send(Change::Subscribe(room.clone()));
    }

    fn unsubscribe(&self, room: &Room) {
        lock(&self.state).wanted.remove(room);
        let _ = self.changes.send(Change::Unsubscribe(room.clone()));
    }

    fn read(&self, room: Room, from: ReadFrom, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        self.ask(move |world| {
            let mut truth = world.truth();
            let page = truth.store.read(&room, &from, limit, world.unix_ms());
            truth.observe(&room);
            drop(truth);
            world.say(|| {
                let entries = page.entries.len();
                format!(
                    "read {room} {from:?}: {} prev {:?}, {entries} from {}, complete {}",
                    page.position, page.prev, page.first_seq, page.complete
                )
            });
            page
        })
    }

    fn positions(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>> {
        self.ask(move |world| {
            let mut truth = world.truth();
            rooms.iter().map(|room| truth.store.position(room)).collect()
        })
    }

    fn renew(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<(), ReadError>> {
        self.ask(move |world| {
            let mut truth = world.truth();
            for room in &rooms {
                truth.store.renew(room);
            }
        })
    }

    fn remove(&self, who: Who) -> BoxFuture<'static, Result<i64, StoreError>> {
        let stored = self.ask(move |world| world.truth().store.removals.add(who, world.unix_ms()));
        async move { stored.await.unwrap_or(Err(StoreError::Unavailable)) }.boxed()
    }

    fn removals(&self, after_ms: i64, limit: usize) -> BoxFuture<'static, Result<RemovalPage, ReadError>> {
        self.ask(move |world| {
            let mut truth = world.truth();
            let removals = truth.store.removals.after(after_ms, limit, world.unix_ms());
            RemovalPage { server: truth.store.server().to_string().into(), removals }
        })
    }

    fn health(&self) -> Health {
        let state = lock(&self.state);
        let deaf = state.down_until.is_some() || state.deaf_until.is_some();
        let silent = if deaf { state.deaf_since.elapsed().as_millis() } else { 0 };
        let ready = !deaf && state.commands_down_until <= Instant::now();
        Health {
            kind: "model",
            store: Some("model-0000000000000001".into()),
            ready,
            heard_ms_ago: u64::try_from(silent).unwrap_or(u64::MAX),
        }
    }
}
