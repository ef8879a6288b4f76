//! Asks the backend. An answer is kept for a short time; equal questions under way are one; so many questions are under
//! way at most, and so many wait.
//!
//! - `question`: what is asked, and one exchange over HTTP.
//! - `routes`: the path that a question about a room takes.
//! - `answer`: what an answer means.
//! - `places`: the limits.
//! - `pending`: the questions under way, shared by their askers.

mod answer;
mod metrics;
mod pending;
mod places;
mod question;
mod routes;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use moka::future::Cache;
use proto::Room;
use tokio::time::Instant;

use self::{
    answer::Answer,
    pending::Pending,
    places::Places,
    question::{Asker, Failure, Question, TokenHash},
};
pub use self::{metrics::Metrics, question::BackendUrl, routes::JoinRoutes};
use super::Decision;
use crate::{auth::UserId, outbound::ClientError};

/// Answers kept at most: some 30 MB with names of usual length.
const CACHED_ANSWERS: u64 = 100_000;

/// Failures are logged once in this time, with the number of those in between: a backend that is down fails each join.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// The settings `BACKEND_…` and `JOIN_ROUTES`.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    pub url: BackendUrl,
    pub routes: JoinRoutes,
    /// Whether the backend sees the client's token.
    pub forward_token: bool,
    /// From the sending of a question to the last byte of its answer.
    pub timeout: Duration,
    /// How long an answer is kept; zero: not at all.
    pub cache_ttl: Duration,
    pub max_inflight: usize,
    /// Questions that may wait for those under way.
    pub queue: usize,
}

/// The backend, as one edge asks it. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Backend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    asker: Asker,
    forward_token: bool,
    places: Places,
    cache: Option<Cache<Question, Answer>>,
    pending: Arc<Pending<Question, Option<Answer>>>,
    complaints: Complaints,
    metrics: Metrics,
}

impl Backend {
    pub fn new(config: BackendConfig) -> Result<Self, ClientError> {
        let cache = (!config.cache_ttl.is_zero())
            .then(|| Cache::builder().max_capacity(CACHED_ANSWERS).time_to_live(config.cache_ttl).build());
        Ok(Self(Arc::new(Inner {
            places: Places::new(config.max_inflight, config.queue),
            forward_token: config.forward_token,
            asker: Asker::new(config)?,
            cache,
            pending: Arc::default(),
            complaints: Complaints::default(),
            metrics: Metrics::default(),
        })))
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether it wants to see clients' tokens.
    pub(super) fn shows_tokens(&self) -> bool {
        self.0.forward_token
    }

    /// `removed`: number of the last removal of this user; answers from before it are not for those after it.
    pub(super) async fn decide(&self, room: &Room, user: &UserId, token: &str, removed: u64) -> Decision {
        let token = self.shows_tokens().then_some(token);
        let question = Question { room: room.clone(), user: user.clone(), token: token.map(TokenHash::of), removed };
        match self.answer(question, token).await {
            Some(Answer::Yes { publish }) => Decision::Allowed { publish },
            Some(Answer::No) => Decision::Denied,
            None => Decision::Unavailable,
        }
    }

    async fn answer(&self, question: Question, token: Option<&str>) -> Option<Answer> {
        if let Some(cache) = &self.0.cache
            && let Some(answer) = cache.get(&question).await
        {
            self.0.metrics.cached.inc();
            return Some(answer);
        }
        let ask = |question: Question| {
            let (inner, token) = (self.0.clone(), token.map(str::to_owned));
            async move { inner.ask(question, token.as_deref()).await }.boxed()
        };
        self.0.pending.join(question, ask).await
    }
}

impl Inner {
    /// One question, once. `None`, which is not kept: no proper answer.
    async fn ask(&self, question: Question, token: Option<&str>) -> Option<Answer> {
        let result = self.exchange(&question, token).await;
        self.metrics.count(&result);
        match result {
            Ok(answer) => {
                if let Some(cache) = &self.cache {
                    cache.insert(question, answer).await;
                }
                Some(answer)
            }
            Err(failure) => {
                if let Some(others) = self.complaints.due() {
                    tracing::warn!(error = %failure, others, "ask the backend");
                }
                None
            }
        }
    }

    async fn exchange(&self, question: &Question, token: Option<&str>) -> Result<Answer, Failure> {
        let _place = self.places.take().await?;
        let start = Instant::now();
        let result = self.asker.ask(question, token).await;
        self.metrics.seconds.observe(start.elapsed().as_secs_f64());
        result
    }
}

/// Decides which failures are logged.
#[derive(Debug, Default)]
struct Complaints {
    last: Mutex<Option<Instant>>,
    skipped: AtomicU64,
}

impl Complaints {
    /// How many were passed over since the last one, if it is time for another.
    fn due(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(Instant::now());
        Some(self.skipped.swap(0, Ordering::Relaxed))
    }
}
