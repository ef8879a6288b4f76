//! Rooms in Redis (≥ 7) or Valkey: what is published is stored and announced by one script, and heard by a connection
//! that carries nothing else.
//!
//! - `address`, `sentinel`, `tls`, `connect`: where the primary is, and how to talk to it.
//! - `publish`: the queue of publications and its task; `commands`: the connection they go over.
//! - `subscriber`: the connection that hears; `hearing`: whether it does.
//! - `fence.lua`, `publish.lua`, `read.lua`, and `script`, their other side; `keys`: all names.

mod address;
mod commands;
mod connect;
mod hearing;
mod keys;
mod publish;
mod safety;
mod script;
mod sentinel;
mod subscriber;
mod tls;

use std::{path::PathBuf, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use proto::{Position, Room};
use redis::{RedisConnectionInfo, RedisError, RedisResult, Value};
use service::{Lifecycle, settings::Secret};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

pub use self::address::{Place, RedisAddress, Server};
pub(crate) use self::tls::authorities;
use self::{
    commands::Commands,
    connect::{Connection, Replication},
    hearing::Hearing,
    keys::Keys,
    publish::{Queue, Shared},
    script::Scripts,
    subscriber::{Subscriber, Subscriptions},
};
use super::{Broker, Events, Health, Keep, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, StoreError};
use crate::metrics::Metrics;

/// Reads under way. Each may hold a page of 1 MiB, and Redis does one at a time anyway. Publications go over the same
/// connection, and wait behind these: few enough that a rush of clients coming back delays no receipt noticeably, and
/// that no answer is late only because of those before it.
const READS: usize = 8;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub address: RedisAddress,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Certificates that are trusted, if not the system's.
    pub ca: Option<PathBuf>,
    /// What all names begin with.
    pub prefix: String,
}

impl RedisSettings {
    /// Adds who we are.
    fn identify(&self, mut info: RedisConnectionInfo) -> RedisConnectionInfo {
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password.expose());
        }
        info
    }
}

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    commands: Commands,
    queue: Queue,
    subscriptions: Arc<Subscriptions>,
    hearing: Arc<Hearing>,
    reads: Semaphore,
}

impl Redis {
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
        let shared = Arc::new(Shared::new(keys, keep, events, Arc::clone(metrics)));
        let subscriptions = Arc::new(Subscriptions::new());
        let hearing = Arc::new(Hearing::new());
        let commands =
            Commands::spawn(settings.clone(), Arc::clone(&shared), Arc::clone(&hearing), lifecycle, end.clone());
        let (queue, pump) = Queue::new(Arc::clone(&shared), commands.clone());
        let until = end.clone();
        lifecycle.spawn_vital(async move {
            until.run_until_cancelled(pump.run()).await;
        });
        Subscriber {
            settings,
            shared: Arc::clone(&shared),
            subscriptions: Arc::clone(&subscriptions),
            hearing: Arc::clone(&hearing),
            commands: commands.clone(),
        }
        .spawn(lifecycle, end.clone());
        Self(Arc::new(Inner { shared, commands, queue, subscriptions, hearing, reads: Semaphore::new(READS) }))
    }
}

impl Inner {
    /// A place among the reads under way.
    async fn place(&self) -> Result<SemaphorePermit<'_>, ReadError> {
        if self.reads.available_permits() == 0 {
            self.shared.metrics.reads_full.inc();
        }
        self.reads.acquire().await.map_err(|_| ReadError)
    }

    async fn read(&self, room: &Room, from: &ReadFrom, limit: PageLimit) -> Result<Page, ReadError> {
        let _permit = self.place().await?;
        let connection = self.commands.connection().ok_or(ReadError)?;
        let (meta, history) = (self.shared.keys.meta(room), self.shared.keys.history(room));
        let call = self.shared.scripts.read(&meta, &history, from, limit, self.shared.floor());
        let mut redis = connection.redis.clone();
        let mut answer: RedisResult<Value> = call.query_async(&mut redis).await;
        if answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT")) {
            let loaded: RedisResult<Vec<String>> = Scripts::load().query_async(&mut redis).await;
            loaded.map_err(|error| failed(&connection, &error))?;
            answer = call.query_async(&mut redis).await;
        }
        let page = script::page(answer.map_err(|error| failed(&connection, &error))?).ok_or(ReadError)?;
        self.shared.seen(&page.position);
        Ok(page)
    }

    async fn positions(&self, rooms: &[Room]) -> Result<Vec<Option<Position>>, ReadError> {
        let _permit = self.place().await?;
        let connection = self.commands.connection().ok_or(ReadError)?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("replication");
        for room in rooms {
            pipeline.cmd("HMGET").arg(self.shared.keys.meta(room)).arg("epoch").arg("seq").arg("replid");
        }
        let mut redis = connection.redis.clone();
        let values = redis.send_packed_commands(&pipeline, 0, rooms.len() + 1).await;
        let mut values = values.map_err(|error| failed(&connection, &error))?.into_iter();
        let info = values.next().and_then(script::text).ok_or(ReadError)?;
        let here = Replication::read(&info).ok_or(ReadError)?;
        let positions: Vec<_> = values.map(|value| position(value, &here.id)).collect::<Result<_, _>>()?;
        if positions.len() == rooms.len() { Ok(positions) } else { Err(ReadError) }
    }

    async fn renew(&self, rooms: &[Room]) -> Result<(), ReadError> {
        let _permit = self.place().await?;
        let connection = self.commands.connection().ok_or(ReadError)?;
        let ttl = script::millis(self.shared.keep.meta_ttl());
        let mut pipeline = redis::pipe();
        for room in rooms {
            // Does nothing for a room that is not there.
            pipeline.cmd("PEXPIRE").arg(self.shared.keys.meta(room)).arg(ttl);
        }
        let mut redis = connection.redis.clone();
        let answer = redis.send_packed_commands(&pipeline, 0, rooms.len()).await;
        answer.map(drop).map_err(|error| failed(&connection, &error))
    }
}

/// A room's position from its meta; `None` if it was numbered by another server, and so only a read may tell.
fn position(meta: Value, replid: &str) -> Result<Option<Position>, ReadError> {
    let (epoch, seq, of): (Option<String>, Option<u64>, Option<String>) =
        redis::from_redis_value(meta).map_err(|_| ReadError)?;
    Ok(match (epoch, seq, of) {
        (None, ..) => Some(Position::default()),
        (Some(epoch), Some(seq), Some(of)) if of == replid => Some(Position::new(&epoch, seq)),
        _ => None,
    })
}

/// Tells of a read that failed. One without an answer in time takes the connection with it.
fn failed(connection: &Connection, error: &RedisError) -> ReadError {
    tracing::warn!(%error, "read from Redis");
    if error.is_timeout() {
        connection.cut();
    }
    ReadError
}

impl Broker for Redis {
    fn publish(&self, publication: NewPublication) -> Result<Pending, StoreError> {
        self.0.queue.push(publication)
    }

    fn subscribe(&self, room: &Room) {
        self.0.subscriptions.set(room, true);
    }

    fn unsubscribe(&self, room: &Room) {
        self.0.subscriptions.set(room, false);
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

    fn health(&self) -> Health {
        let connected = self.0.commands.connected();
        Health {
            kind: "redis",
            ready: connected.is_some() && self.0.subscriptions.is_connected() && !self.0.hearing.is_deaf(),
            store: connected.map(|connected| connected.store),
            heard_ms_ago: self.0.hearing.heard_ms_ago(),
        }
    }
}
