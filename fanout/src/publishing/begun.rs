use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::Room;
use service::traces::{Parent, Span, Traces};
use tokio::time::Instant;

use crate::broker::{Receipt, StoreError};

/// When a publication was offered first, and its span, if it is traced. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) since: Instant,
    trace: Option<Arc<Trace>>,
}

#[derive(Debug)]
struct Trace {
    parent: Parent,
    traceparent: String,
    /// Until its end.
    span: Mutex<Option<Span>>,
}

impl Trace {
    fn span(&self) -> MutexGuard<'_, Option<Span>> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    pub(super) fn new(traces: &Traces, traceparent: &str) -> Self {
        let trace = traces.parent(traceparent).map(|parent| {
            let span = parent.span("publish");
            Arc::new(Trace { parent: span.parent(), traceparent: span.traceparent(), span: Mutex::new(Some(span)) })
        });
        Self { since: Instant::now(), trace }
    }

    /// What goes with the publication from here on; empty if it is not traced.
    pub(super) fn traceparent(&self) -> String {
        self.trace.as_ref().map_or_else(String::new, |trace| trace.traceparent.clone())
    }

    /// It is for this room.
    pub(super) fn named(&self, room: &Room) {
        if let Some(trace) = &self.trace
            && let Some(span) = &mut *trace.span()
        {
            span.set("room", room.to_string());
        }
    }

    /// It has its place in the queue to the store.
    pub(super) fn store(&self) -> Option<Span> {
        self.trace.as_ref().map(|trace| trace.parent.span("store"))
    }

    /// It has its receipt, or never will.
    pub(super) fn end(&self, result: &Result<Receipt, StoreError>) {
        let Some(trace) = &self.trace else { return };
        let Some(mut span) = trace.span().take() else { return };
        match result {
            Ok(Receipt { position, duplicate }) => {
                span.set("epoch", position.epoch.to_string());
                span.set("seq", i64::try_from(position.seq).unwrap_or(i64::MAX));
                span.set("duplicate", *duplicate);
            }
            Err(error) => span.fail(error),
        }
    }
}
