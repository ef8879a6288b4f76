//! The command connection under its supervisor: connect, load the scripts, learn who the store is; send the pulse over
//! it, which also shows whether it works; again.

use std::{sync::Arc, time::Duration};

use redis::{RedisError, RedisResult, aio::MultiplexedConnection};
use service::{Backoff, Lifecycle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    connect::{Connection, Drivers, connect, lost},
    hearing::Hearing,
    publish::Shared,
    script::Scripts,
};
use crate::defaults::RETRY;

/// How often the pulse is sent.
const PULSE_PERIOD: Duration = Duration::from_secs(1);

/// A connection at work, and the store behind it.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) store: Arc<str>,
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

    /// Resolves when there is another connection, or none any more, or it is known to be another store's.
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
                    tracing::info!(redis = %self.settings.address, store = &*connected.store, "connected for commands");
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
        let mut redis = connection.redis.clone();
        let _: Vec<String> = Scripts::load().query_async(&mut redis).await?;
        let store = self.identify(redis.clone()).await?;
        warn_of_eviction(redis).await;
        Ok(Connected { connection, store })
    }

    /// Who the store is; it is named here if it has no name yet.
    async fn identify(&self, mut redis: MultiplexedConnection) -> RedisResult<Arc<str>> {
        let mine = format!("redis-{:016x}", rand::random::<u64>());
        let key = self.shared.keys.identity();
        let mut identity = redis::pipe();
        identity.cmd("SET").arg(&key).arg(mine).arg("NX").ignore();
        identity.cmd("GET").arg(&key);
        let (store,): (String,) = identity.query_async(&mut redis).await?;
        Ok(store.into())
    }

    /// Sends the pulse until the connection is of no use any more.
    async fn pulse(&self, connection: &Connection) -> RedisError {
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
    }

    async fn beat(&self, connection: &Connection) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("PUBLISH").arg(&self.shared.pulse).arg("").ignore();
        pipeline.cmd("GET").arg(self.shared.keys.identity());
        let mut redis = connection.redis.clone();
        let (store,): (Option<String>,) = pipeline.query_async(&mut redis).await?;
        self.hearing.pulsed();
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

/// A store that evicts keys loses histories and positions as it likes.
async fn warn_of_eviction(mut redis: MultiplexedConnection) {
    let Ok(info) = redis::cmd("INFO").arg("memory").query_async::<String>(&mut redis).await else { return };
    if let Some(policy) = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"))
        && policy != "noeviction"
    {
        tracing::warn!(policy, "Redis may evict rooms: set maxmemory-policy to noeviction");
    }
}
