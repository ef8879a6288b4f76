use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use crate::{
    broker::{Pending, Receipt, StoreError},
    metrics::Metrics,
};

/// A publication that has its place in the queue to the store. Ready with its receipt.
#[derive(Debug)]
pub(crate) struct Accepted {
    pending: Pending,
    since: Instant,
    metrics: Arc<Metrics>,
}

impl Accepted {
    pub(super) fn new(pending: Pending, since: Instant, metrics: Arc<Metrics>) -> Self {
        Self { pending, since, metrics }
    }
}

impl Future for Accepted {
    type Output = Result<Receipt, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = ready!(Pin::new(&mut this.pending).poll(cx));
        if result.is_ok() {
            this.metrics.took_to_store.observe(this.since.elapsed());
        }
        Poll::Ready(result)
    }
}
