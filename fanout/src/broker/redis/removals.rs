//! Removals of users in Redis: one sorted set for all, by time, which lives on one server of a Cluster. Rare, so the script
//! is sent whole, and asking twice does no harm.

use proto::{MAX_REMOVALS, Room};
use redis::{RedisResult, Value};

use super::{
    connect::Replication,
    primary::{Primary, failed},
    publish::batch::{ELSEWHERE, NOT_STORED},
    script::{millis, text},
};
use crate::broker::{
    ReadError, StoreError,
    removals::{KEPT, Removal, RemovalPage, Who},
};

const REMOVE: &str = include_str!("remove.lua");

/// Between user and room; neither has control characters.
const BETWEEN: char = '\n';

impl Primary {
    pub(super) async fn remove(&self, who: &Who) -> Result<i64, StoreError> {
        let connection = self.commands.connection().ok_or(StoreError::Unavailable)?;
        let mut call = redis::cmd("EVAL");
        call.arg(REMOVE).arg(1).arg(self.shared.keys.removals());
        call.arg(member(who)).arg(millis(KEPT)).arg(MAX_REMOVALS);
        let answer: RedisResult<i64> = call.query_async(&mut connection.redis.clone()).await;
        match answer {
            Ok(0) => Err(StoreError::Busy),
            Ok(at_ms) => Ok(at_ms),
            Err(error) => {
                tracing::warn!(%error, "store a removal in Redis");
                if error.is_timeout() {
                    connection.cut();
                }
                let not_stored = |code: &str| NOT_STORED.contains(&code) || ELSEWHERE.contains(&code);
                Err(if error.code().is_some_and(not_stored) { StoreError::Unavailable } else { StoreError::Unknown })
            }
        }
    }

    pub(super) async fn removals(&self, after_ms: i64, limit: usize) -> Result<RemovalPage, ReadError> {
        let _permit = self.place().await?;
        let connection = self.commands.connection().ok_or(ReadError)?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("replication");
        pipeline.cmd("ZRANGE").arg(self.shared.keys.removals()).arg(format!("({after_ms}")).arg("+inf");
        pipeline.arg("BYSCORE").arg("LIMIT").arg(0).arg(limit).arg("WITHSCORES");
        let values = connection.redis.clone().send_packed_commands(&pipeline, 0, 2).await;
        let mut values = values.map_err(|error| failed(&connection, &error))?.into_iter();
        let info = values.next().and_then(text).ok_or(ReadError)?;
        let server = Replication::read(&info).ok_or(ReadError)?.id;
        let removals = values.next().and_then(removals).ok_or(ReadError)?;
        Ok(RemovalPage { server, removals })
    }
}

fn member(who: &Who) -> String {
    format!("{}{BETWEEN}{}", who.user, who.room.as_ref().map_or("", Room::as_str))
}

/// Pairs of member and score; `None` if the answer is not understood.
fn removals(answer: Value) -> Option<Vec<Removal>> {
    let Value::Array(pairs) = answer else { return None };
    pairs.into_iter().map(removal).collect()
}

fn removal(pair: Value) -> Option<Removal> {
    let (member, score): (String, f64) = redis::from_redis_value(pair).ok()?;
    let (user, room) = member.split_once(BETWEEN)?;
    let room = if room.is_empty() { None } else { Some(Room::try_new(room).ok()?) };
    #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53: our script made it")]
    let at_ms = score as i64;
    Some(Removal { who: Who { user: user.into(), room }, at_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_was_written() {
        for room in [None, Some("a"), Some("a b:é{}")] {
            let who = Who { user: "é 7".into(), room: room.map(|room| Room::try_new(room).unwrap()) };
            let pair = Value::Array(vec![Value::BulkString(member(&who).into()), Value::Double(1_795_480_000_123.0)]);
            assert_eq!(removals(Value::Array(vec![pair])), Some(vec![Removal { who, at_ms: 1_795_480_000_123 }]));
        }
        let odd = Value::Array(vec![Value::BulkString(b"7".to_vec()), Value::Double(1.0)]);
        assert_eq!(removals(Value::Array(vec![odd])), None);
        assert_eq!(removals(Value::Nil), None);
    }
}
