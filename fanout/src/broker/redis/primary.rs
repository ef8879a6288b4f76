//! One server that takes writes: the connections to it, what is asked of it, and whether it is heard.

use std::sync::Arc;

use proto::{Position, Room};
use redis::{RedisError, RedisResult, Value};
use service::Lifecycle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::{
    RedisSettings,
    commands::Commands,
    connect::{Connection, Replication},
    hearing::Hearing,
    publish::{Shared, batch::ELSEWHERE},
    script,
    subscriber::{Subscriber, Subscriptions},
};
use crate::broker::{Page, PageLimit, ReadError, ReadFrom};

/// Reads under way. Each may hold a page of 1 MiB, and Redis does one at a time anyway. Publications go over the same
/// connection, and wait behind these: few enough that a rush of clients coming back delays no receipt noticeably, and
/// that no answer is late only because of those before it.
const READS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Primary {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Commands,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) hearing: Arc<Hearing>,
    reads: Semaphore,
}

impl Primary {
    /// Starts its tasks, which end with the token. `pulse`: the channel of it, once known.
    pub(super) fn spawn(
        settings: RedisSettings,
        shared: Arc<Shared>,
        pulse: Option<&str>,
        lifecycle: &Lifecycle,
        end: &CancellationToken,
    ) -> Self {
        let subscriptions = Arc::new(Subscriptions::new());
        let hearing = Arc::new(Hearing::new(pulse));
        let commands =
            Commands::spawn(settings.clone(), Arc::clone(&shared), Arc::clone(&hearing), lifecycle, end.clone());
        Subscriber {
            settings,
            shared: Arc::clone(&shared),
            subscriptions: Arc::clone(&subscriptions),
            hearing: Arc::clone(&hearing),
            commands: commands.clone(),
            pulse: None,
        }
        .spawn(lifecycle, end.clone());
        Self { shared, commands, subscriptions, hearing, reads: Semaphore::new(READS) }
    }

    /// It can store, read and hear.
    pub(super) fn is_ready(&self) -> bool {
        self.commands.connected().is_some() && self.subscriptions.is_connected() && !self.hearing.is_deaf()
    }

    /// A place among the reads under way.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, ReadError> {
        if self.reads.available_permits() == 0 {
            self.shared.metrics.reads_full.inc();
        }
        self.reads.acquire().await.map_err(|_| ReadError)
    }

    pub(super) async fn read(&self, room: &Room, from: &ReadFrom, limit: PageLimit) -> Result<Page, ReadError> {
        let _permit = self.place().await?;
        let connection = self.commands.connection().ok_or(ReadError)?;
        let (meta, history) = (self.shared.keys.meta(room), self.shared.keys.history(room));
        let call = self.shared.scripts.read(&meta, &history, from, limit, self.shared.floor());
        let mut redis = connection.redis.clone();
        let mut answer: RedisResult<Value> = call.query_async(&mut redis).await;
        if answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT")) {
            let loaded: RedisResult<Vec<String>> = self.shared.scripts.load().query_async(&mut redis).await;
            loaded.map_err(|error| failed(&connection, &error))?;
            answer = call.query_async(&mut redis).await;
        }
        let page = script::page(answer.map_err(|error| failed(&connection, &error))?).ok_or(ReadError)?;
        self.shared.seen(&page.position);
        Ok(page)
    }

    pub(super) async fn positions(&self, rooms: &[Room]) -> Result<Vec<Option<Position>>, ReadError> {
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

    pub(super) async fn renew(&self, rooms: &[Room]) -> Result<(), ReadError> {
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

/// A room's position from its meta; `None` if it was numbered by another server or is not here, and so only a read may
/// tell.
fn position(meta: Value, replid: &str) -> Result<Option<Position>, ReadError> {
    if matches!(meta, Value::ServerError(_)) {
        return Ok(None);
    }
    let (epoch, seq, of): (Option<String>, Option<u64>, Option<String>) =
        redis::from_redis_value(meta).map_err(|_| ReadError)?;
    Ok(match (epoch, seq, of) {
        (None, ..) => Some(Position::default()),
        (Some(epoch), Some(seq), Some(of)) if of == replid => Some(Position::new(&epoch, seq)),
        _ => None,
    })
}

/// Tells of a read that failed. One without an answer in time takes the connection with it.
pub(super) fn failed(connection: &Connection, error: &RedisError) -> ReadError {
    if error.code().is_some_and(|code| ELSEWHERE.contains(&code)) {
        tracing::debug!(%error, "read from Redis");
        return ReadError;
    }
    tracing::warn!(%error, "read from Redis");
    if error.is_timeout() {
        connection.cut();
    }
    ReadError
}
