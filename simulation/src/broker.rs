//! A node's way to the store: a connection for commands, which takes time, fails before and after the write and is lost;
//! and one for announcements, which drops, doubles, delays and reorders them, is lost, and goes deaf. A model of what the
//! Redis broker makes of Redis; it passes the contract suite of brokers.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use fanout::broker::{
    Announcement, Broker, Events, Health, Keep, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, Receipt,
    StoreError,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use proto::{Position, Room};
use rand::Rng as _;
use service::{Lifecycle, limit};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    plan::Plan,
    record::body_of,
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

    /// The pump of publications: in order, some at a time.
    async fn store(self: Arc<Self>, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.recv_many(&mut jobs, BATCH).await > 0 {
            let connection = lock(&self.state).commands;
            sleep(self.latency() / 4).await;
            let lost = lock(&self.state).commands != connection;
            let down = lock(&self.state).commands_down_until > Instant::now();
            for job in jobs.drain(..) {
                self.store_one(job, lost, down);
            }
        }
    }

    fn store_one(&self, job: Job, lost: bool, down: bool) {
        let Job { publication, receipt } = job;
        let world = &self.world;
        let body = body_of(&publication.entry);
        if down || publication.deadline <= Instant::now() || self.errs() {
            world.count("store: refused before the write");
            world.truth().record.is_unordered(&body);
            let _ = receipt.send(Err(StoreError::Unavailable));
            return;
        }
        // The connection was lost while it was under way: it may have arrived.
        if lost && service::rng().random() {
            world.count("store: unknown, and not stored");
            world.truth().record.is_unordered(&body);
            let _ = receipt.send(Err(StoreError::Unknown));
            return;
        }
        let answer = world.store(&publication);
        if lost || self.errs() {
            world.count("store: unknown, but stored");
            let _ = receipt.send(Err(StoreError::Unknown));
            return;
        }
        if world.plan.say_receipts
            && let Some(me) = self.me()
        {
            let (room, position) = (publication.room, answer.position.clone());
            self.spawn(async move {
                sleep(SAY_RECEIPT).await;
                me.events.announced(Announcement { room, position, entry: None });
            });
        }
        let delay = self.latency() / 4;
        self.spawn(async move {
            sleep(delay).await;
            let _ = receipt.send(Ok(answer));
        });
    }

    /// What the server announces to all who are subscribed.
    fn hear(&self, announcement: &Announcement) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if !state.subscribed.contains(&announcement.room) || state.deaf_until.is_some_and(|until| until > now) {
            return;
        }
        let world = &self.world;
        let faulty = |share: u32| !world.is_settling() && one_in(world.plan.announcements * share);
        if faulty(1) {
            world.count("announcement: dropped");
            return;
        }
        state.arrives = state.arrives.max(now + up_to(self.world.plan.hear_latency));
        let (mut at, connection) = (state.arrives, state.connection);
        drop(state);
        if faulty(2) {
            world.count("announcement: doubled");
            let late = now + up_to(Duration::from_millis(300));
            self.arrive_later(late, connection, announcement.clone());
        }
        if faulty(2) {
            world.count("announcement: late, out of order");
            at += up_to(Duration::from_millis(300));
            self.arrive_later(at, connection, announcement.clone());
            return;
        }
        let _ = self.news.send((at, connection, News::Announced(announcement.clone())));
    }

    fn arrive_later(&self, at: Instant, connection: u64, announcement: Announcement) {
        let Some(me) = self.me() else { return };
        self.spawn(async move {
            sleep_until(at).await;
            me.arrive(connection, News::Announced(announcement));
        });
    }

    async fn deliver(self: Arc<Self>, mut arriving: mpsc::UnboundedReceiver<(Instant, u64, News)>) {
        while let Some((at, connection, news)) = arriving.recv().await {
            sleep_until(at).await;
            self.arrive(connection, news);
        }
    }

    fn arrive(&self, connection: u64, news: News) {
        if lock(&self.state).connection != connection {
            return;
        }
        match news {
            News::Announced(announcement) => self.events.announced(announcement),
            News::Subscribed(room) => self.events.subscribed(room),
            News::Reset => self.events.reset(),
        }
    }

    /// The supervisor of the subscriber connection.
    async fn follow(self: Arc<Self>, mut changed: mpsc::UnboundedReceiver<Change>) {
        let mut looks = tokio::time::interval(Duration::from_millis(250));
        loop {
            let change = tokio::select! {
                biased;
                change = changed.recv() => change,
                _ = looks.tick() => {
                    self.look_after();
                    continue;
                }
            };
            let Some(change) = change else { return };
            sleep(self.world.plan.subscribe_latency + self.latency() / 4).await;
            let mut state = lock(&self.state);
            match change {
                // While there is no connection it waits for the next.
                Change::Subscribe(_) if state.down_until.is_some() => {}
                Change::Subscribe(room) => {
                    if state.wanted.contains(&room) {
                        state.subscribed.insert(room.clone());
                        self.send(&mut state, News::Subscribed(room));
                    }
                }
                Change::Unsubscribe(room) => {
                    if !state.wanted.contains(&room) {
                        state.subscribed.remove(&room);
                    }
                }
            }
        }
    }

    fn send(&self, state: &mut State, news: News) {
        state.arrives = state.arrives.max(Instant::now() + self.latency() / 4);
        let _ = self.news.send((state.arrives, state.connection, news));
    }

    /// A connection that is down comes back; one that is deaf is given up.
    fn look_after(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.down_until.is_some_and(|until| until <= now) {
            state.down_until = None;
            let State { wanted, subscribed, .. } = &mut *state;
            subscribed.clone_from(wanted);
            for room in state.subscribed.clone() {
                self.send(&mut state, News::Subscribed(room));
            }
            self.send(&mut state, News::Reset);
        } else if state.deaf_until.is_some() && now - state.deaf_since >= DEAF {
            self.world.count("subscriber: deaf, given up");
            lose(&mut state, Duration::from_millis(200));
        }
    }

    /// Announcements end; the connection is made anew after a while.
    pub(crate) fn lose_subscriber(&self, down: Duration) {
        lose(&mut lock(&self.state), down);
    }

    /// Announcements no longer arrive, and nobody is told.
    pub(crate) fn go_deaf(&self, long: Duration) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.deaf_until = Some(now + long);
        state.deaf_since = now;
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

fn lose(state: &mut State, down: Duration) {
    let now = Instant::now();
    state.connection += 1;
    state.subscribed.clear();
    state.down_until = Some(now + down);
    if state.deaf_until.take().is_none() {
        state.deaf_since = now;
    }
}

impl World {
    /// Stores a publication and announces it to every node.
    fn store(&self, publication: &NewPublication) -> Receipt {
        let room = &publication.room;
        let mut truth = self.truth();
        let receipt = truth.store.publish(publication, self.unix_ms());
        if !receipt.duplicate {
            truth.record.stored(room, &receipt.position, &publication.entry);
        }
        truth.observe(room);
        drop(truth);
        self.say(|| format!("store {room} {} {}", receipt.position, body_of(&publication.entry)));
        let entry = (!receipt.duplicate).then(|| publication.entry.clone());
        let announcement = Announcement { room: room.clone(), position: receipt.position.clone(), entry };
        for broker in lock(&self.brokers).iter().flatten() {
            broker.hear(&announcement);
        }
        receipt
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
