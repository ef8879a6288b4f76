use std::time::Duration;

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Spans by what became of them.
#[derive(Debug)]
pub(super) struct Outcomes {
    exported: Counter,
    failed: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Outcomes {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let spans = Family::<Outcome, Counter>::default();
        registry.register("spans", "Spans of traces, by what became of them", spans.clone());
        let outcome = |outcome| spans.get_or_create_owned(&Outcome { outcome });
        Self { exported: outcome("exported"), failed: outcome("failed") }
    }
}

/// An exporter that is counted.
#[derive(Debug)]
pub(super) struct Counted<E> {
    exporter: E,
    outcomes: Outcomes,
}

impl<E> Counted<E> {
    pub(super) fn new(exporter: E, outcomes: Outcomes) -> Self {
        Self { exporter, outcomes }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        let outcome = if result.is_ok() { &self.outcomes.exported } else { &self.outcomes.failed };
        outcome.inc_by(count);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
