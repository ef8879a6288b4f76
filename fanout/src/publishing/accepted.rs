use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use service::traces::Span;
use tokio::time::Instant;

use super::Begun;
use crate::{
    broker::{Pending, Receipt, StoreError},
    metrics::Metrics,
};

/// A publication that has its place in the queue to the store. Ready with its receipt.
#[derive(Debug)]
pub(crate) struct Accepted {
    pending: Pending,
    since: Instant,
    begun: Begun,
    store: Option<Span>,
    metrics: Arc<Metrics>,
}

impl Accepted {
    pub(super) fn new(pending: Pending, since: Instant, begun: Begun, metrics: Arc<Metrics>) -> Self {
        Self { pending, since, store: begun.store(), begun, metrics }
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
        if let Some(mut store) = this.store.take() {
            if let Err(error) = &result {
                store.fail(error);
            }
            drop(store);
            this.begun.end(&result);
        }
        Poll::Ready(result)
    }
}
