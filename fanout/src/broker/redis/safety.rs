//! Settings of Redis that break what is promised to members and senders: warned of at each connection.

use std::collections::HashMap;

use redis::{RedisResult, aio::MultiplexedConnection};

use super::{RedisSettings, address::Place, connect::Replication};

pub(super) async fn warn(mut redis: MultiplexedConnection, replication: &Replication, settings: &RedisSettings) {
    if let Some(policy) = eviction(&mut redis).await
        && policy != "noeviction"
    {
        tracing::warn!(policy, "Redis may evict rooms: set maxmemory-policy to noeviction");
    }
    // A backlog that is given up takes the replication ID with it: every room would begin a new epoch for nothing.
    match backlog_ttl(&mut redis).await {
        Ok(ttl) if ttl.as_deref().is_some_and(|ttl| ttl != "0") => {
            tracing::warn!(ttl, "Redis may change its replication ID without need: set repl-backlog-ttl to 0");
        }
        Ok(_) => {}
        Err(error) => tracing::info!(%error, "CONFIG GET is refused: see that repl-backlog-ttl is 0"),
    }
    if matches!(settings.address.place, Place::Sentinels { .. }) && !replication.min_replicas {
        tracing::warn!(
            "a primary that is cut off goes on acknowledging what will be dropped: set min-replicas-to-write to 1"
        );
    }
}

async fn eviction(redis: &mut MultiplexedConnection) -> Option<String> {
    let info: String = redis::cmd("INFO").arg("memory").query_async(redis).await.ok()?;
    info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::to_owned)
}

async fn backlog_ttl(redis: &mut MultiplexedConnection) -> RedisResult<Option<String>> {
    let answer: HashMap<String, String> =
        redis::cmd("CONFIG").arg("GET").arg("repl-backlog-ttl").query_async(redis).await?;
    Ok(answer.into_values().next())
}
