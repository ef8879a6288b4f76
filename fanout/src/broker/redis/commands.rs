//! The command connection under its supervisor: connect to what is a primary, load the scripts, learn who the store is;
//! send the pulse over it, which also shows whether it works and still leads to the primary; again.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection};
use service::{Backoff, Lifecycle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    address::Place,
    connect::{Connection, Drivers, Replication, connect, lost},
    hearing::Hearing,
    publish::Shared,
    safety,
    script::{self, Scripts},
    sentinel,
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
        lifecycle.spawn_vital(async move {
            drivers.end.run_until_cancelled(supervisor.run(&drivers)).await;
        });
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
        let _: Vec<String> = Scripts::load().query_async(&mut redis).await?;
        let store = self.identify(redis.clone()).await?;
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
        pipeline.cmd("PUBLISH").arg(&self.shared.pulse).arg("").ignore();
        pipeline.cmd("GET").arg(self.shared.keys.identity());
        pipeline.cmd("INFO").arg("replication");
        let mut redis = connection.redis.clone();
        let (store, info): (Option<String>, redis::Value) = pipeline.query_async(&mut redis).await?;
        self.hearing.pulsed();
        if let Some(replication) = script::text(info).and_then(|info| Replication::read(&info)) {
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
