//! Subscriptions, on a connection of their own under one supervisor: connect, subscribe everything wanted, say that
//! announcements may have been missed; keep in step with what is wanted; find a dead connection by pings; again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashSet;
use proto::{Position, Room};
use redis::{ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value};
use service::{Backoff, Lifecycle};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    connect::{Connection, Drivers, OnPush, connect},
    publish::Shared,
};
use crate::{broker::Announcement, defaults::RETRY};

/// How often the connection is tried.
const PING_PERIOD: Duration = Duration::from_secs(1);

/// Channels of one command: each is answered, and the answers must come within the response time-out.
const CHUNK: usize = 256;

/// What is wanted, and how the connection is.
#[derive(Debug)]
pub(super) struct Subscriptions {
    wanted: Mutex<Wanted>,
    changed: Notify,
    connected: AtomicBool,
    start: Instant,
    /// Milliseconds after the start.
    heard: AtomicU64,
}

#[derive(Debug, Default)]
struct Wanted {
    rooms: HashSet<Room, RandomState>,
    /// Those that may differ from what is subscribed.
    changed: HashSet<Room, RandomState>,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self {
            wanted: Mutex::default(),
            changed: Notify::new(),
            connected: AtomicBool::new(false),
            start: Instant::now(),
            heard: AtomicU64::new(0),
        }
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

    /// Age of the last answer on the connection.
    pub(super) fn heard_ms_ago(&self) -> u64 {
        self.now().saturating_sub(self.heard.load(Ordering::Relaxed))
    }

    fn hear(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
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

    /// Everything wanted, for a new connection.
    fn all(&self) -> Vec<Room> {
        let mut state = self.lock();
        state.changed = HashSet::default();
        state.rooms.iter().cloned().collect()
    }
}

/// The supervisor.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) settings: RedisSettings,
    pub(super) shared: Arc<Shared>,
    pub(super) subscriptions: Arc<Subscriptions>,
}

impl Subscriber {
    /// Starts it; it ends with the token.
    pub(super) fn spawn(self, lifecycle: &Lifecycle, end: CancellationToken) {
        let drivers = Drivers { lifecycle: lifecycle.clone(), end };
        lifecycle.spawn_vital(async move {
            drivers.end.run_until_cancelled(self.supervise(&drivers)).await;
        });
    }

    async fn supervise(&self, drivers: &Drivers) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut failing = false;
        loop {
            let error = match self.subscribe_all(drivers).await {
                Ok(connection) => {
                    self.shared.metrics.reconnected_subscriber.inc();
                    tracing::info!(redis = %self.settings.address, "subscribed");
                    backoff.reset();
                    failing = false;
                    self.subscriptions.connected.store(true, Ordering::Relaxed);
                    self.shared.events.reset();
                    let error = self.follow(&connection).await;
                    self.subscriptions.connected.store(false, Ordering::Relaxed);
                    connection.cut();
                    error
                }
                Err(error) => error,
            };
            if drivers.end.is_cancelled() {
                return;
            }
            if !std::mem::replace(&mut failing, true) {
                tracing::warn!(redis = %self.settings.address, %error, "no subscriptions: trying until there are");
            }
            let delay = backoff.next_delay(&mut rand::rng());
            tokio::time::sleep(delay).await;
        }
    }

    async fn subscribe_all(&self, drivers: &Drivers) -> RedisResult<Connection> {
        let shared = Arc::clone(&self.shared);
        let on_push: OnPush = Arc::new(move |push| heard(push, &shared));
        let connection = connect(&self.settings, Some(on_push), drivers).await?;
        self.subscribe(&connection, &self.subscriptions.all()).await?;
        Ok(connection)
    }

    /// Keeps the subscriptions in step until the connection is of no use any more.
    async fn follow(&self, connection: &Connection) -> RedisError {
        let mut ping = tokio::time::interval(PING_PERIOD);
        loop {
            let result = tokio::select! {
                () = connection.dead() => Err(RedisError::from((ErrorKind::Io, "the connection was lost"))),
                _ = ping.tick() => connection.ping().await,
                () = self.subscriptions.changed.notified() => self.keep_in_step(connection).await,
            };
            match result {
                Ok(()) => self.subscriptions.hear(),
                Err(error) => return error,
            }
        }
    }

    async fn keep_in_step(&self, connection: &Connection) -> RedisResult<()> {
        let (wanted, unwanted) = self.subscriptions.changes();
        for rooms in unwanted.chunks(CHUNK) {
            connection.redis.clone().unsubscribe(self.channels(rooms)).await?;
        }
        self.subscribe(connection, &wanted).await
    }

    /// Subscribes; each room is reported once the server has confirmed it.
    async fn subscribe(&self, connection: &Connection, rooms: &[Room]) -> RedisResult<()> {
        for rooms in rooms.chunks(CHUNK) {
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
fn heard(push: PushInfo, shared: &Shared) {
    if push.kind != PushKind::Message {
        return;
    }
    if let Some(announcement) = announcement(push, shared) {
        shared.seen(&announcement.position);
        shared.events.announced(announcement);
    } else {
        tracing::warn!("an announcement was not understood");
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
