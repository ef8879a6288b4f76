//! Subscriptions, on a connection of their own under one supervisor: connect, subscribe everything wanted, say that
//! announcements may have been missed; keep in step with what is wanted; find a dead connection by pings, and a deaf one by
//! the pulse; again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashSet;
use proto::{Position, Room};
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value};
use service::{Backoff, Lifecycle};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    commands::Commands,
    connect::{Connection, Drivers, OnPush, connect, lost},
    hearing::Hearing,
    publish::Shared,
};
use crate::{broker::Announcement, defaults::RETRY};

/// How often the connection is tried.
const PING_PERIOD: Duration = Duration::from_secs(1);

/// How often what is wanted is compared with what is subscribed, in a Cluster.
const RECONCILE_PERIOD: Duration = Duration::from_secs(2);

/// Channels of one command: each is answered, and the answers must come within the response time-out.
const CHUNK: usize = 256;

/// What is wanted, and how the connection is.
#[derive(Debug)]
pub(super) struct Subscriptions {
    wanted: Mutex<Wanted>,
    changed: Notify,
    connected: AtomicBool,
    /// In a Cluster: some that had been subscribed before have been subscribed again since this was looked at.
    again: AtomicBool,
}

#[derive(Debug, Default)]
struct Wanted {
    rooms: HashSet<Room, RandomState>,
    /// Those that may differ from what is subscribed.
    changed: HashSet<Room, RandomState>,
    /// In a Cluster: what the server has confirmed and not taken back.
    confirmed: HashSet<Room, RandomState>,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        let (connected, again) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { wanted: Mutex::default(), changed: Notify::new(), connected, again }
    }

    pub(super) fn set(&self, room: &Room, wanted: bool) {
        let mut state = self.lock();
        if wanted {
            state.rooms.insert(room.clone());
        } else {
            state.rooms.remove(room);
        }
        state.changed.insert(room.clone());
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What changed: the rooms to subscribe and those to unsubscribe.
    fn changes(&self) -> (Vec<Room>, Vec<Room>) {
        let mut state = self.lock();
        let changed = std::mem::take(&mut state.changed);
        changed.into_iter().partition(|room| state.rooms.contains(room))
    }

    /// The pulse has another channel.
    pub(super) fn pulse_changed(&self) {
        self.changed.notify_one();
    }

    /// Marks everything that is not as it should be as changed.
    fn reconcile(&self) {
        let mut state = self.lock();
        let Wanted { rooms, changed, confirmed } = &mut *state;
        if rooms.difference(confirmed).next().is_some() {
            self.subscribed_again();
        }
        changed.extend(rooms.symmetric_difference(confirmed).cloned());
    }

    /// The server has subscribed a room, or taken it back; false if that was not asked for.
    fn confirmed(&self, room: &Room, subscribed: bool) -> bool {
        let mut state = self.lock();
        if subscribed {
            state.confirmed.insert(room.clone());
        } else {
            state.confirmed.remove(room);
        }
        state.rooms.contains(room) == subscribed
    }

    /// Some of them may have missed something before they were subscribed.
    pub(super) fn subscribed_again(&self) {
        self.again.store(true, Ordering::Relaxed);
    }

    /// Everything wanted, for a new connection.
    fn all(&self) -> Vec<Room> {
        let mut state = self.lock();
        state.changed = HashSet::default();
        state.confirmed = HashSet::default();
        state.rooms.iter().cloned().collect()
    }
}

/// The supervisor.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) settings: RedisSettings,
    pub(super) shared: Arc<Shared>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) hearing: Arc<Hearing>,
    pub(super) commands: Commands,
    /// The channel of the pulse that is subscribed.
    pub(super) pulse: Option<Arc<str>>,
}

/// Why there are no subscriptions, or no longer.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connection(#[from] RedisError),
    #[error("it hears no pulse of this node")]
    Deaf,
    #[error("it is not on the server that commands go to")]
    Elsewhere,
}

impl Subscriber {
    /// Starts it; it ends with the token.
    pub(super) fn spawn(mut self, lifecycle: &Lifecycle, end: CancellationToken) {
        let drivers = Drivers { lifecycle: lifecycle.clone(), end };
        lifecycle.spawn_vital_until(drivers.end.clone(), async move { self.supervise(&drivers).await });
    }

    async fn supervise(&mut self, drivers: &Drivers) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut failing = false;
        loop {
            let lost = match self.subscribe_all(drivers).await {
                Ok(connection) => {
                    self.shared.metrics.reconnected_subscriber.inc();
                    tracing::info!(server = %connection.server, "subscribed");
                    backoff.reset();
                    failing = false;
                    self.subscriptions.connected.store(true, Ordering::Relaxed);
                    self.shared.events.reset();
                    let lost = self.follow(&connection).await;
                    self.subscriptions.connected.store(false, Ordering::Relaxed);
                    connection.cut();
                    lost
                }
                Err(lost) => lost,
            };
            if drivers.end.is_cancelled() {
                return;
            }
            match lost {
                Lost::Connection(_) => self.shared.metrics.subscriber_lost.inc(),
                Lost::Deaf => self.shared.metrics.subscriber_deaf.inc(),
                Lost::Elsewhere => self.shared.metrics.subscriber_elsewhere.inc(),
            };
            if !std::mem::replace(&mut failing, true) {
                let error = lost;
                tracing::warn!(redis = %self.settings.address, %error, "no subscriptions: trying until there are");
            }
            let delay = backoff.next_delay(&mut rand::rng());
            tokio::time::sleep(delay).await;
        }
    }

    async fn subscribe_all(&mut self, drivers: &Drivers) -> Result<Connection, Lost> {
        let (shared, hearing, subscriptions) =
            (Arc::clone(&self.shared), Arc::clone(&self.hearing), Arc::clone(&self.subscriptions));
        let on_push: OnPush = Arc::new(move |push| heard(push, &shared, &hearing, &subscriptions));
        let connection = connect(&self.settings, Some(on_push), drivers).await?;
        self.check_server(&connection).await?;
        self.pulse = None;
        self.subscribe_pulse(&connection).await?;
        self.subscribe(&connection, &self.subscriptions.all()).await?;
        self.hearing.listens();
        Ok(connection)
    }

    /// What is announced on one server is not heard on another, or only as long as that is its replica. Without a
    /// connection for commands there is nothing to compare with, and nothing is announced; it is compared when there is
    /// one.
    async fn check_server(&self, connection: &Connection) -> Result<(), Lost> {
        let Some(commands) = self.commands.connection() else { return Ok(()) };
        let here = connection.replication().await?;
        // Without an answer there the pulse will tell.
        match commands.replication().await {
            Ok(there) if there.id != here.id || !here.primary => Err(Lost::Elsewhere),
            _ => Ok(()),
        }
    }

    /// Keeps the subscriptions in step until the connection is of no use any more.
    async fn follow(&mut self, connection: &Connection) -> Lost {
        let mut ping = tokio::time::interval(PING_PERIOD);
        let mut reconcile = tokio::time::interval(RECONCILE_PERIOD);
        loop {
            let result = tokio::select! {
                () = connection.dead() => Err(lost().into()),
                _ = ping.tick() => self.try_out(connection).await,
                () = self.subscriptions.changed.notified() => self.keep_in_step(connection).await.map_err(Lost::from),
                _ = reconcile.tick(), if self.settings.cluster => {
                    self.subscriptions.reconcile();
                    self.keep_in_step(connection).await.map_err(Lost::from)
                }
                () = self.commands.changed() => self.check_server(connection).await,
            };
            if let Err(lost) = result {
                return lost;
            }
        }
    }

    async fn try_out(&self, connection: &Connection) -> Result<(), Lost> {
        connection.ping().await?;
        if self.hearing.is_deaf() { Err(Lost::Deaf) } else { Ok(()) }
    }

    async fn keep_in_step(&mut self, connection: &Connection) -> RedisResult<()> {
        self.subscribe_pulse(connection).await?;
        let (wanted, unwanted) = self.subscriptions.changes();
        for rooms in unwanted.chunks(CHUNK) {
            if self.settings.cluster {
                self.one_by_one("SUNSUBSCRIBE", connection, self.channels(rooms)).await?;
            } else {
                connection.redis.clone().unsubscribe(self.channels(rooms)).await?;
            }
        }
        self.subscribe(connection, &wanted).await?;
        if self.subscriptions.again.swap(false, Ordering::Relaxed) {
            self.shared.events.reset();
        }
        Ok(())
    }

    async fn subscribe_pulse(&mut self, connection: &Connection) -> RedisResult<()> {
        let channel = self.hearing.channel();
        if let Some(channel) = channel.as_deref().filter(|channel| Some(*channel) != self.pulse.as_deref()) {
            if self.settings.cluster {
                self.one_by_one("SSUBSCRIBE", connection, vec![channel.to_owned()]).await?;
            } else {
                connection.redis.clone().subscribe(channel).await?;
            }
            self.hearing.listens();
        }
        self.pulse = channel;
        Ok(())
    }

    /// In a Cluster, where channels of one command must be of one slot. What an answer says of a room is taken from what
    /// the server pushes, by its name: a server also unsubscribes unasked, and then answers are not each to what was said.
    async fn one_by_one(&self, verb: &str, connection: &Connection, channels: Vec<String>) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        let count = channels.len();
        for channel in channels {
            pipeline.cmd(verb).arg(channel);
        }
        let answers = connection.redis.clone().send_packed_commands(&pipeline, 0, count).await?;
        if answers.iter().any(|answer| matches!(answer, Value::ServerError(_))) {
            // The slot is on another server.
            self.shared.moved.notify_one();
        }
        Ok(())
    }

    /// Subscribes; each room is reported once the server has confirmed it.
    async fn subscribe(&self, connection: &Connection, rooms: &[Room]) -> RedisResult<()> {
        for rooms in rooms.chunks(CHUNK) {
            if self.settings.cluster {
                self.one_by_one("SSUBSCRIBE", connection, self.channels(rooms)).await?;
                continue;
            }
            connection.redis.clone().subscribe(self.channels(rooms)).await?;
            for room in rooms {
                self.shared.events.subscribed(room.clone());
            }
        }
        Ok(())
    }

    fn channels(&self, rooms: &[Room]) -> Vec<String> {
        rooms.iter().map(|room| self.shared.keys.channel(room)).collect()
    }
}

/// Takes a push, in the connection's driver: parses it and hands it over.
fn heard(push: PushInfo, shared: &Shared, hearing: &Hearing, subscriptions: &Subscriptions) {
    match push.kind {
        PushKind::Message | PushKind::SMessage => {}
        PushKind::SSubscribe | PushKind::SUnsubscribe => return confirmed(&push, shared, subscriptions),
        _ => return,
    }
    let pulse = |channel: &[u8]| hearing.channel().is_some_and(|pulse| channel == pulse.as_bytes());
    if matches!(push.data.first(), Some(Value::BulkString(channel)) if pulse(channel)) {
        hearing.heard();
    } else if let Some(announcement) = announcement(push, shared) {
        shared.seen(&announcement.position);
        shared.events.announced(announcement);
    } else {
        tracing::warn!("an announcement was not understood");
    }
}

/// A server of a Cluster says what it has subscribed, and what no more.
fn confirmed(push: &PushInfo, shared: &Shared, subscriptions: &Subscriptions) {
    let Some(Value::BulkString(channel)) = push.data.first() else { return };
    let Some(room) = std::str::from_utf8(channel).ok().and_then(|channel| shared.keys.room_of(channel)) else { return };
    let subscribed = push.kind == PushKind::SSubscribe;
    let asked = subscriptions.confirmed(&room, subscribed);
    if subscribed {
        shared.events.subscribed(room);
    } else if !asked {
        // Its slot has moved away; whoever has it now is asked to announce it, and what was missed is read.
        shared.metrics.unsubscribed.inc();
        subscriptions.subscribed_again();
        shared.moved.notify_one();
    }
}

/// `<epoch> <seq>`, and the entry after a space unless a duplicate made it.
fn announcement(push: PushInfo, shared: &Shared) -> Option<Announcement> {
    let [Value::BulkString(channel), Value::BulkString(payload)] = <[Value; 2]>::try_from(push.data).ok()? else {
        return None;
    };
    let room = shared.keys.room_of(std::str::from_utf8(&channel).ok()?)?;
    let payload = Bytes::from(payload);
    let space = |from: usize| payload.iter().skip(from).position(|byte| *byte == b' ').map(|at| from + at);
    let first = space(0)?;
    let second = space(first + 1);
    let epoch = std::str::from_utf8(&payload[..first]).ok()?;
    let seq = std::str::from_utf8(&payload[first + 1..second.unwrap_or(payload.len())]).ok()?.parse().ok()?;
    Some(Announcement { room, position: Position::new(epoch, seq), entry: second.map(|at| payload.slice(at + 1..)) })
}
