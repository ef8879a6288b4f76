//! The command connection under its supervisor: connect to what is a primary, load the scripts, learn who the store is;
//! send the pulse over it, which also shows whether it works and still leads to the primary; again.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use service::{Backoff, Lifecycle};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    address::Place,
    connect::{Connection, Drivers, Replication, connect, lost},
    hearing::Hearing,
    publish::Shared,
    safety, script, sentinel,
};
use crate::defaults::RETRY;

/// How often the pulse is sent.
const PULSE_PERIOD: Duration = Duration::from_secs(1);

/// How often Sentinels are asked whether the primary is still the one. One that is replaced hears of it, unless it is cut
/// off from them; then it is talked to for so long.
const SENTINEL_PERIOD: Duration = Duration::from_secs(2);

/// A connection at work, and the store behind it.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) store: Arc<str>,
    /// The server's replication ID, as the last pulse found it.
    pub(super) replid: Arc<str>,
}

/// Gives out the connection there is.
#[derive(Debug, Clone)]
pub(super) struct Commands(watch::Receiver<Option<Connected>>);

impl Commands {
    /// Starts the supervisor, which ends with the token.
    pub(super) fn spawn(
        settings: RedisSettings,
        shared: Arc<Shared>,
        hearing: Arc<Hearing>,
        lifecycle: &Lifecycle,
        end: CancellationToken,
    ) -> Self {
        let (sender, receiver) = watch::channel(None);
        let drivers = Drivers { lifecycle: lifecycle.clone(), end };
        let supervisor = Supervisor { settings, shared, hearing, sender };
        lifecycle.spawn_vital_until(drivers.end.clone(), async move { supervisor.run(&drivers).await });
        Self(receiver)
    }

    /// Resolves when there is another connection, or none any more, or it is known to lead to another store, or its server
    /// has another replication ID.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The supervisor is gone, and with it soon all else.
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn connected(&self) -> Option<Connected> {
        self.0.borrow().clone().filter(|connected| !connected.connection.is_dead())
    }

    pub(super) fn connection(&self) -> Option<Connection> {
        self.connected().map(|connected| connected.connection)
    }
}

#[derive(Debug)]
struct Supervisor {
    settings: RedisSettings,
    shared: Arc<Shared>,
    hearing: Arc<Hearing>,
    sender: watch::Sender<Option<Connected>>,
}

impl Supervisor {
    async fn run(&self, drivers: &Drivers) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut failing = false;
        loop {
            let error = match self.prepare(drivers).await {
                Ok(connected) => {
                    self.shared.metrics.reconnected_commands.inc();
                    let server = &connected.connection.server;
                    tracing::info!(%server, store = &*connected.store, "connected to Redis for commands");
                    backoff.reset();
                    failing = false;
                    let connection = connected.connection.clone();
                    self.sender.send_replace(Some(connected));
                    let error = self.pulse(&connection).await;
                    connection.cut();
                    self.sender.send_replace(None);
                    error
                }
                Err(error) => error,
            };
            if drivers.end.is_cancelled() {
                return;
            }
            self.shared.moved.notify_one();
            if !std::mem::replace(&mut failing, true) {
                tracing::warn!(redis = %self.settings.address, %error, "no connection for commands: trying until there is");
            }
            let delay = backoff.next_delay(&mut rand::rng());
            tokio::time::sleep(delay).await;
        }
    }

    async fn prepare(&self, drivers: &Drivers) -> RedisResult<Connected> {
        let connection = connect(&self.settings, None, drivers).await?;
        let replication = connection.replication().await?;
        if !replication.primary {
            return Err(demoted());
        }
        let mut redis = connection.redis.clone();
        let _: Vec<String> = self.shared.scripts.load().query_async(&mut redis).await?;
        // A Cluster keeps the name in one place, where it is asked for by itself.
        let store = if self.settings.cluster { "".into() } else { self.identify(redis.clone()).await? };
        safety::warn(redis, &replication, &self.settings).await;
        Ok(Connected { connection, store, replid: replication.id })
    }

    /// Who the store is; it is named here if it has no name yet.
    async fn identify(&self, mut redis: MultiplexedConnection) -> RedisResult<Arc<str>> {
        let key = self.shared.keys.identity();
        let known: Option<String> = redis::cmd("GET").arg(&key).query_async(&mut redis).await?;
        if let Some(store) = known {
            // Read first: for want of replicas it may refuse all writes, and can be read all the same.
            return Ok(store.into());
        }
        let mine = format!("redis-{:016x}", rand::random::<u64>());
        let mut identity = redis::pipe();
        identity.cmd("SET").arg(&key).arg(mine).arg("NX").ignore();
        identity.cmd("GET").arg(&key);
        let (store,): (String,) = identity.query_async(&mut redis).await?;
        Ok(store.into())
    }

    /// Sends the pulse until the connection is of no use any more.
    async fn pulse(&self, connection: &Connection) -> RedisError {
        let beats = async {
            loop {
                if let Err(error) = self.beat(connection).await {
                    return error;
                }
                tokio::select! {
                    () = connection.dead() => return lost(),
                    () = self.hearing.wants_pulse() => {}
                    () = tokio::time::sleep(PULSE_PERIOD) => {}
                }
            }
        };
        tokio::select! {
            error = beats => error,
            () = self.replaced(connection) => demoted(),
        }
    }

    /// Resolves when Sentinels name another primary.
    async fn replaced(&self, connection: &Connection) {
        if matches!(self.settings.address.place, Place::At(_)) {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(SENTINEL_PERIOD).await;
            match sentinel::primary(&self.settings).await {
                Ok(primary) if primary != connection.server => {
                    tracing::warn!(%primary, before = %connection.server, "Sentinels name another primary");
                    return;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "ask the Sentinels"),
            }
        }
    }

    async fn beat(&self, connection: &Connection) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("replication");
        let channel = self.hearing.channel();
        if let Some(channel) = &channel {
            pipeline.cmd(if self.settings.cluster { "SPUBLISH" } else { "PUBLISH" }).arg(&**channel).arg("");
        }
        let mut redis = connection.redis.clone();
        let sent = Instant::now();
        let mut values =
            redis.send_packed_commands(&pipeline, 0, 1 + usize::from(channel.is_some())).await?.into_iter();
        self.shared.metrics.redis_roundtrip.observe(sent.elapsed());
        let info = values.next();
        match values.next() {
            Some(Value::ServerError(error)) if !self.settings.cluster => return Err(error.into()),
            // The slot has moved, and the pulse must follow.
            Some(Value::ServerError(_)) => self.shared.moved.notify_one(),
            Some(_) => self.hearing.pulsed(),
            None => {}
        }
        if let Some(replication) = info.and_then(script::text).and_then(|info| Replication::read(&info)) {
            if !replication.primary {
                return Err(demoted());
            }
            self.sender.send_if_modified(|connected| match connected {
                Some(connected) if connected.replid != replication.id => {
                    tracing::warn!(server = %connection.server, "the replication ID has changed: all rooms begin new epochs");
                    connected.replid = replication.id;
                    true
                }
                _ => false,
            });
        }
        if self.settings.cluster { Ok(()) } else { self.check_store(redis).await }
    }

    async fn check_store(&self, mut redis: MultiplexedConnection) -> RedisResult<()> {
        let store: Option<String> = redis::cmd("GET").arg(self.shared.keys.identity()).query_async(&mut redis).await?;
        let known = self.sender.borrow().as_ref().map(|connected| Arc::clone(&connected.store));
        if store.as_deref() == known.as_deref() {
            return Ok(());
        }
        // Wiped, or replaced behind our back. While it cannot be written, it keeps the name that we know.
        match self.identify(redis).await {
            Ok(store) => {
                tracing::warn!(store = &*store, before = known.as_deref(), "Redis has become another store");
                self.sender.send_modify(|connected| {
                    if let Some(connected) = connected {
                        connected.store = store;
                    }
                });
            }
            Err(error) => tracing::debug!(%error, "name the store"),
        }
        Ok(())
    }
}

fn demoted() -> RedisError {
    RedisError::from((ErrorKind::Io, "the server is not the primary"))
}
