//! The command connection under its supervisor: connect, load the scripts, learn who the store is; watch it; again.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection};
use service::{Backoff, Lifecycle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    connect::{Connection, Drivers, connect},
    keys::Keys,
    script::Scripts,
};
use crate::{defaults::RETRY, metrics::Metrics};

/// How often the connection is tried.
const PING_PERIOD: Duration = Duration::from_secs(1);

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
        keys: Keys,
        metrics: Arc<Metrics>,
        lifecycle: &Lifecycle,
        end: CancellationToken,
    ) -> Self {
        let (sender, receiver) = watch::channel(None);
        let drivers = Drivers { lifecycle: lifecycle.clone(), end };
        lifecycle.spawn_vital(async move {
            let supervisor = supervise(&settings, &keys, &metrics, &drivers, &sender);
            drivers.end.run_until_cancelled(supervisor).await;
        });
        Self(receiver)
    }

    pub(super) fn connected(&self) -> Option<Connected> {
        self.0.borrow().clone().filter(|connected| !connected.connection.is_dead())
    }

    pub(super) fn connection(&self) -> Option<Connection> {
        self.connected().map(|connected| connected.connection)
    }
}

async fn supervise(
    settings: &RedisSettings,
    keys: &Keys,
    metrics: &Metrics,
    drivers: &Drivers,
    sender: &watch::Sender<Option<Connected>>,
) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut failing = false;
    loop {
        let error = match prepare(settings, keys, drivers).await {
            Ok(connected) => {
                metrics.reconnected_commands.inc();
                tracing::info!(redis = %settings.address, store = &*connected.store, "connected for commands");
                backoff.reset();
                failing = false;
                let connection = connected.connection.clone();
                sender.send_replace(Some(connected));
                let error = watch(&connection).await;
                connection.cut();
                sender.send_replace(None);
                error
            }
            Err(error) => error,
        };
        if drivers.end.is_cancelled() {
            return;
        }
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(redis = %settings.address, %error, "no connection for commands: trying until there is");
        }
        let delay = backoff.next_delay(&mut rand::rng());
        tokio::time::sleep(delay).await;
    }
}

async fn prepare(settings: &RedisSettings, keys: &Keys, drivers: &Drivers) -> RedisResult<Connected> {
    let connection = connect(settings, None, drivers).await?;
    let mut redis = connection.redis.clone();
    let _: Vec<String> = Scripts::load().query_async(&mut redis).await?;
    let mine = format!("redis-{:016x}", rand::random::<u64>());
    let mut identity = redis::pipe();
    identity.cmd("SET").arg(keys.identity()).arg(mine).arg("NX").ignore();
    identity.cmd("GET").arg(keys.identity());
    let (store,): (String,) = identity.query_async(&mut redis).await?;
    warn_of_eviction(redis).await;
    Ok(Connected { connection, store: store.into() })
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

/// Returns once the connection is of no use any more.
async fn watch(connection: &Connection) -> RedisError {
    loop {
        tokio::select! {
            () = connection.dead() => return RedisError::from((ErrorKind::Io, "the connection was lost")),
            () = tokio::time::sleep(PING_PERIOD) => {}
        }
        if let Err(error) = connection.ping().await {
            return error;
        }
    }
}
