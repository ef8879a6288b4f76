//! Keeps up with an issuer's keys (`JWKS_URL`): fetched at start, every few minutes, and when a token names a key that
//! is not known, though not at anybody's pace. While the issuer cannot be reached, the keys it had last stand.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use rand::Rng as _;
use reqwest::{Client, StatusCode, Url};
use service::Backoff;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::Keys;
use crate::{
    auth::{DocumentError, IssuerKeys},
    outbound::{self, ClientError},
};

/// How often they are fetched when all is well, before a tenth of jitter: a key that the issuer drops is good for so long.
const REFRESH: Duration = Duration::from_mins(5);

/// Between failures.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Tokens with keys that nobody knows cost the issuer one question in this time.
const PAUSE: Duration = Duration::from_secs(10);

const TIMEOUT: Duration = Duration::from_secs(3);

/// A hundred keys with certificates.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// `JWKS_URL`.
#[derive(Debug, Clone)]
pub struct JwksUrl(Url);

impl JwksUrl {
    pub fn try_new(text: &str) -> Result<Self, String> {
        outbound::parse_url(text).map(Self)
    }

    /// Whether somebody on the way could put in keys of his own.
    pub(crate) fn is_open(&self) -> bool {
        self.0.scheme() == "http"
            && !self.0.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
    }
}

/// The task that fetches.
#[derive(Debug)]
pub struct Issuer {
    client: Client,
    url: JwksUrl,
    wanted: Arc<Notify>,
    last: watch::Sender<Option<Fetch>>,
    metrics: Metrics,
}

/// The last time that it fetched.
#[derive(Debug, Clone, Copy)]
struct Fetch {
    at: Instant,
    succeeded: bool,
}

/// What those who meet an unknown key hold of it.
#[derive(Debug)]
pub(super) struct Questions {
    wanted: Arc<Notify>,
    last: watch::Receiver<Option<Fetch>>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer in time")]
    Timeout,
    #[error("{}", outbound::causes(.0))]
    Transport(#[from] reqwest::Error),
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("the document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl Questions {
    /// Has the keys fetched, unless that was just done. True: what is unknown now is unknown to the issuer.
    pub(super) async fn ask(&self) -> bool {
        let mut last = self.last.clone();
        if last.borrow_and_update().is_some_and(|fetch| fetch.at.elapsed() < PAUSE) {
            return false;
        }
        self.wanted.notify_one();
        // A fetch under way may be near its end without having seen what we are after; then there is the next time.
        let fetched = timeout(2 * TIMEOUT, last.changed()).await;
        fetched.is_ok_and(|open| open.is_ok()) && last.borrow().is_some_and(|fetch| fetch.succeeded)
    }
}

impl Issuer {
    pub(super) fn new(url: JwksUrl) -> Result<(Self, Questions), ClientError> {
        let (wanted, (last, seen)) = (Arc::new(Notify::new()), watch::channel(None));
        let questions = Questions { wanted: wanted.clone(), last: seen };
        // Minutes pass between two fetches: a connection that was kept would often be closed as it is used.
        let client = outbound::client().pool_max_idle_per_host(0).build()?;
        Ok((Self { client, url, wanted, last, metrics: Metrics::default() }, questions))
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Never ends by itself.
    pub async fn keep(self, keys: Keys) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let fetched = self.fetch().await;
            self.metrics.count(&fetched);
            let succeeded = fetched.is_ok();
            let pause = match fetched {
                Ok(found) => {
                    keys.issued(found);
                    backoff.reset();
                    REFRESH.mul_f64(service::rng().random_range(0.9..1.1))
                }
                Err(error) => {
                    tracing::warn!(%error, "fetch the issuer's keys");
                    backoff.next_delay(&mut service::rng())
                }
            };
            let at = Instant::now();
            self.last.send_replace(Some(Fetch { at, succeeded }));
            tokio::select! {
                () = sleep_until(at + pause) => {}
                () = self.asked(at + PAUSE) => {}
            }
        }
    }

    /// Ends when somebody asks, but not before the time given: who asked during the last fetch has got its answer.
    async fn asked(&self, after: Instant) {
        loop {
            self.wanted.notified().await;
            if Instant::now() >= after {
                return;
            }
        }
    }

    async fn fetch(&self) -> Result<IssuerKeys, FetchError> {
        let exchange = async {
            let response = self.client.get(self.url.0.clone()).send().await.map_err(reqwest::Error::without_url)?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            let document = outbound::body(response, MAX_DOCUMENT_BYTES).await.map_err(reqwest::Error::without_url)?;
            Ok(IssuerKeys::parse(&document.ok_or(FetchError::TooLong)?)?)
        };
        timeout(TIMEOUT, exchange).await.unwrap_or(Err(FetchError::Timeout))
    }
}

/// What is counted of an issuer's keys. Cloning shares the counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    fetches: Family<OutcomeLabel, Counter>,
    keys: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("jwks");
        r.register("fetches", "Fetches of the issuer's keys, by outcome", self.fetches.clone());
        r.register("keys", "Keys of the issuer that verify tokens", self.keys.clone());
    }

    fn count(&self, fetched: &Result<IssuerKeys, FetchError>) {
        let outcome = match fetched {
            Ok(keys) => {
                self.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
                "fetched"
            }
            Err(FetchError::Timeout) => "timeout",
            Err(FetchError::Transport(_)) => "transport",
            Err(FetchError::Status(_)) => "status",
            Err(FetchError::TooLong) => "too_long",
            Err(FetchError::Document(_)) => "malformed",
        };
        self.fetches.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

#[cfg(test)]
mod tests;
