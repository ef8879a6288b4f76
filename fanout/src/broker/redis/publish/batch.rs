//! Batches under way, in the order they were sent, and what becomes of their publications.

use std::collections::VecDeque;

use ahash::RandomState;
use futures_util::{FutureExt as _, future::BoxFuture};
use hashbrown::HashSet;
use proto::Room;
use redis::{RedisResult, Value};
use service::Seldom;
use tokio::time::Instant;

use super::{Job, Shared, first_call};
use crate::broker::{
    StoreError,
    redis::{connect::Connection, script::receipts},
};

/// Publications for one pipeline.
#[derive(Debug)]
pub(super) struct Batch {
    jobs: Vec<Job>,
    connection: Connection,
}

impl Batch {
    pub(super) fn new(jobs: Vec<Job>, connection: Connection) -> Self {
        Self { jobs, connection }
    }
}

/// A batch and the answer to it.
struct UnderWay {
    batch: Batch,
    sent: Instant,
    answer: BoxFuture<'static, RedisResult<Vec<Value>>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Batches(VecDeque<UnderWay>);

impl Batches {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends a batch. When this returns it has its place in the connection's queue.
    pub(super) async fn push(&mut self, batch: Batch, shared: &Shared) {
        if batch.jobs.is_empty() {
            return;
        }
        let mut pipeline = redis::pipe();
        let (mut left, mut calls) = (&batch.jobs[..], 0);
        while !left.is_empty() {
            let (jobs, next) = left.split_at(first_call(left));
            shared.scripts.publish(&mut pipeline, jobs, &shared.keys, &shared.keep, shared.floor());
            (left, calls) = (next, calls + 1);
        }
        let mut redis = batch.connection.redis.clone();
        let mut answer = async move { redis.send_packed_commands(&pipeline, 0, calls).await }.boxed();
        // The client queues a command when its future is first polled: polled here, batches go in order.
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(answer.poll_unpin(cx))).await;
        let answer = match early {
            std::task::Poll::Ready(result) => std::future::ready(result).boxed(),
            std::task::Poll::Pending => answer,
        };
        self.0.push_back(UnderWay { batch, sent: Instant::now(), answer });
    }

    /// Waits for the answer to the oldest batch, which is then to be finished. Cancel-safe.
    pub(super) async fn first_answer(&mut self) -> RedisResult<Vec<Value>> {
        match self.0.front_mut() {
            Some(first) => (&mut first.answer).await,
            None => std::future::pending().await,
        }
    }

    /// Settles the oldest batch.
    pub(super) async fn finish_first(&mut self, answer: RedisResult<Vec<Value>>, shared: &Shared) {
        let Some(UnderWay { batch, sent, .. }) = self.0.pop_front() else { return };
        shared.metrics.redis_roundtrip.observe(sent.elapsed());
        if let Some(unread) = settle(batch, answer, shared) {
            self.again(unread, shared).await;
        }
    }

    /// Redis had forgotten the script. Waits for all that is under way, loads the script, and sends what was refused
    /// again, in order, before anything newer.
    async fn again(&mut self, first: Batch, shared: &Shared) {
        let connection = first.connection.clone();
        let mut unread = first.jobs;
        let mut stored: HashSet<Room, RandomState> = HashSet::default();
        while let Some(UnderWay { batch, answer, .. }) = self.0.pop_front() {
            let rooms: Vec<Room> = batch.jobs.iter().map(|job| job.publication.room.clone()).collect();
            let refused = settle(batch, answer.await, shared);
            let refused_count = refused.as_ref().map_or(0, |batch| batch.jobs.len());
            if refused_count < rooms.len() {
                stored.extend(rooms);
            }
            unread.extend(refused.into_iter().flat_map(|batch| batch.jobs));
        }
        // If somebody else loaded the script meanwhile, newer ones were stored: those before them are too late.
        let (late, unread): (Vec<_>, Vec<_>) =
            unread.into_iter().partition(|job| stored.contains(&job.publication.room));
        for job in late {
            shared.settle(job, Err(StoreError::Unavailable));
        }
        let mut redis = connection.redis.clone();
        let loaded: RedisResult<Vec<String>> = shared.scripts.load().query_async(&mut redis).await;
        if let Err(error) = loaded {
            tracing::warn!(%error, "load the scripts again");
            for job in unread {
                shared.settle(job, Err(StoreError::Unavailable));
            }
            return;
        }
        let mut jobs = unread.into_iter().peekable();
        while jobs.peek().is_some() {
            let batch = Batch::new(jobs.by_ref().take(super::BATCH).collect(), connection.clone());
            self.push(batch, shared).await;
        }
    }
}

/// Hands out what the answer says. Returns what the server refused because it did not know the script.
fn settle(batch: Batch, result: RedisResult<Vec<Value>>, shared: &Shared) -> Option<Batch> {
    let Batch { jobs, connection } = batch;
    let mut jobs = jobs.into_iter();
    let answers = match result {
        Ok(answers) => answers,
        Err(error) => {
            // Sent, perhaps done. A connection that failed one batch is not trusted with another.
            tracing::warn!(%error, publications = jobs.len(), "no answer to a batch: may have been stored");
            connection.cut();
            for job in jobs {
                shared.settle(job, Err(StoreError::Unknown));
            }
            return None;
        }
    };
    let mut unread = Vec::new();
    for answer in answers {
        let count = first_call(jobs.as_slice());
        let call: Vec<Job> = jobs.by_ref().take(count).collect();
        match outcome(answer, call.len(), &shared.refusals) {
            Outcome::Receipts(receipts) => {
                for (job, receipt) in call.into_iter().zip(receipts) {
                    shared.settle(job, receipt);
                }
            }
            Outcome::Unread => unread.extend(call),
            Outcome::Elsewhere => {
                for job in call {
                    shared.settle(job, Err(StoreError::Unavailable));
                }
            }
            Outcome::Failed(error) => {
                for job in call {
                    shared.settle(job, Err(error));
                }
            }
        }
    }
    for job in jobs {
        shared.settle(job, Err(StoreError::Unknown));
    }
    (!unread.is_empty()).then_some(Batch { jobs: unread, connection })
}

/// What a call came to.
pub(in crate::broker::redis) enum Outcome {
    Receipts(Vec<Result<crate::broker::Receipt, StoreError>>),
    /// The server does not know the script.
    Unread,
    /// The server has not, or not wholly, what it was asked for; another may.
    Elsewhere,
    Failed(StoreError),
}

/// Errors that come before the first write: certainly not stored. Anything else may have been.
pub(in crate::broker::redis) const NOT_STORED: [&str; 7] =
    ["NOREPLICAS", "LOADING", "OOM", "MISCONF", "CLUSTERDOWN", "MASTERDOWN", "NOAUTH"];

/// So do these, by which a server says that it is the wrong one.
pub(in crate::broker::redis) const ELSEWHERE: [&str; 4] = ["READONLY", "MOVED", "ASK", "TRYAGAIN"];

pub(in crate::broker::redis) fn outcome(answer: Value, count: usize, refusals: &Seldom) -> Outcome {
    match answer {
        Value::Array(values) => match receipts(values, count) {
            Some(receipts) => Outcome::Receipts(receipts),
            None => Outcome::Failed(StoreError::Unknown),
        },
        Value::ServerError(error) if error.code() == "NOSCRIPT" => Outcome::Unread,
        Value::ServerError(error) if ELSEWHERE.contains(&error.code()) => {
            tracing::debug!(code = error.code(), details = error.details(), "Redis refused publications");
            Outcome::Elsewhere
        }
        Value::ServerError(error) => {
            if let Some(left_out) = refusals.is_due() {
                tracing::warn!(code = error.code(), details = error.details(), left_out, "Redis refused publications");
            }
            let not_stored = NOT_STORED.contains(&error.code());
            Outcome::Failed(if not_stored { StoreError::Unavailable } else { StoreError::Unknown })
        }
        _ => Outcome::Failed(StoreError::Unknown),
    }
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Batches").field(&self.0.len()).finish()
    }
}
