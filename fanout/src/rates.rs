//! What happened in the last second, for the status.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use service::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Publications stored and deliveries to links, each second. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    publications: AtomicU64,
    deliveries: AtomicU64,
}

impl Rates {
    /// Counts until the token is cancelled.
    pub(crate) fn spawn(metrics: Arc<Metrics>, lifecycle: &Lifecycle, end: CancellationToken) -> Self {
        let rates = Self::default();
        let inner = Arc::clone(&rates.0);
        lifecycle.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            let (mut stored, mut delivered) = (metrics.stored.get(), metrics.delivered.get());
            loop {
                tokio::select! {
                    () = end.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let (now_stored, now_delivered) = (metrics.stored.get(), metrics.delivered.get());
                inner.publications.store(now_stored - stored, Ordering::Relaxed);
                inner.deliveries.store(now_delivered - delivered, Ordering::Relaxed);
                (stored, delivered) = (now_stored, now_delivered);
            }
        });
        rates
    }

    /// Publications and deliveries, per second.
    pub(crate) fn now(&self) -> (u64, u64) {
        (self.0.publications.load(Ordering::Relaxed), self.0.deliveries.load(Ordering::Relaxed))
    }
}
