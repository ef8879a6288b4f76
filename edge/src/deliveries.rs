//! The spans of a traced publication at the edge: `deliver`, from the shard of its room until all members' outboxes have
//! it, and below it `write`, until the pumps have written what was due by then. Nothing is done for a member.

use std::{fmt, sync::Arc};

use proto::Stamp;
use service::traces::{Parent, Span, Traces};

/// Takes a span that ends with the pass over all pumps that are due now.
type Written = Arc<dyn Fn(Arc<Span>) + Send + Sync>;

/// Makes them. Cloning shares it; the default makes none.
#[derive(Clone, Default)]
pub struct Deliveries {
    traces: Traces,
    written: Option<Written>,
}

/// One of them under way.
#[derive(Debug)]
pub(crate) struct Delivery {
    parent: Parent,
    span: Span,
}

impl Deliveries {
    pub fn new(traces: Traces, written: impl Fn(Arc<Span>) + Send + Sync + 'static) -> Self {
        Self { traces, written: Some(Arc::new(written)) }
    }

    /// The publication, encoded as stored, is about to be handed out.
    pub(crate) fn begin(&self, entry: &[u8]) -> Option<Box<Delivery>> {
        if !self.traces.is_on() {
            return None;
        }
        let span = self.traces.parent(Stamp::of(entry)?.traceparent)?.span("deliver");
        Some(Box::new(Delivery { parent: span.parent(), span }))
    }

    /// It is in all outboxes.
    pub(crate) fn handed_out(&self, delivery: Box<Delivery>) {
        let Delivery { parent, span } = *delivery;
        drop(span);
        if let Some(written) = &self.written {
            written(Arc::new(parent.span("write")));
        }
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("traces", &self.traces).finish_non_exhaustive()
    }
}
