//! Rooms in Redis (≥ 7) or Valkey: what is published is stored and announced by one script, and heard by a connection
//! that carries nothing else.
//!
//! - `address`, `sentinel`, `tls`, `connect`: where the primary is, and how to talk to it.
//! - `primary`: all that there is to one server: `commands`, the connection for them; `subscriber`, the one that hears;
//!   `hearing`, whether it does.
//! - `publish`: the queue of publications and its task. [`cluster`]: the same with several primaries.
//! - `removals`, `remove.lua`: who was removed by a backend.
//! - `fence.lua`, `publish.lua`, `read.lua`, and `script`, their other side; `keys`: all names.

mod address;
pub mod cluster;
mod commands;
mod connect;
mod hearing;
mod keys;
mod primary;
mod publish;
mod removals;
mod safety;
mod script;
mod sentinel;
mod subscriber;
mod tls;

use std::{path::PathBuf, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use proto::{Position, Room};
use redis::RedisConnectionInfo;
use service::{Lifecycle, settings::Secret};
use tokio_util::sync::CancellationToken;

pub use self::address::{Place, RedisAddress, Server};
pub(crate) use self::tls::authorities;
use self::{
    keys::Keys,
    primary::Primary,
    publish::{Pump, Queue, Shared},
};
use super::{
    Broker, Events, Health, Keep, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, StoreError,
    removals::{RemovalPage, Who},
};
use crate::metrics::Metrics;

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
    /// The address is that of a server of a Cluster.
    pub cluster: bool,
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
    primary: Primary,
    queue: Queue,
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
        let shared = Arc::new(Shared::new(keys, keep, events, Arc::clone(metrics), false));
        let pulse = shared.keys.pulse(shared.boot);
        let primary = Primary::spawn(settings, Arc::clone(&shared), Some(&pulse), lifecycle, end);
        let (queue, jobs) = Queue::new(Arc::clone(&shared));
        let pump = Pump { shared, commands: primary.commands.clone(), jobs };
        lifecycle.spawn_vital_until(end.clone(), pump.run());
        Self(Arc::new(Inner { primary, queue }))
    }
}

impl Broker for Redis {
    fn publish(&self, publication: NewPublication) -> Result<Pending, StoreError> {
        self.0.queue.push(publication)
    }

    fn subscribe(&self, room: &Room) {
        self.0.primary.subscriptions.set(room, true);
    }

    fn unsubscribe(&self, room: &Room) {
        self.0.primary.subscriptions.set(room, false);
    }

    fn read(&self, room: Room, from: ReadFrom, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.primary.read(&room, &from, limit).await }.boxed()
    }

    fn positions(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.primary.positions(&rooms).await }.boxed()
    }

    fn renew(&self, rooms: Vec<Room>) -> BoxFuture<'static, Result<(), ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.primary.renew(&rooms).await }.boxed()
    }

    fn remove(&self, who: Who) -> BoxFuture<'static, Result<i64, StoreError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.primary.remove(&who).await }.boxed()
    }

    fn removals(&self, after_ms: i64, limit: usize) -> BoxFuture<'static, Result<RemovalPage, ReadError>> {
        let inner = Arc::clone(&self.0);
        async move { inner.primary.removals(after_ms, limit).await }.boxed()
    }

    fn health(&self) -> Health {
        let primary = &self.0.primary;
        Health {
            kind: "redis",
            ready: primary.is_ready(),
            store: primary.commands.connected().map(|connected| connected.store),
            heard_ms_ago: primary.hearing.heard_ms_ago(),
        }
    }
}
