//! Traces by OTLP over gRPC, of publications whose publisher samples them: with each comes a W3C `traceparent`, which goes
//! wherever the publication goes. Without an endpoint, or without such a parent, there are no spans, and nothing is done.
//!
//! Spans are made by hand, not from `tracing`'s: they begin in one task and end in another, and those of all other
//! publications must cost nothing.

mod endpoint;
mod exporter;
mod span;

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use prometheus_client::registry::Registry;

use self::exporter::{Counted, Outcomes};
pub use self::{
    endpoint::OtlpEndpoint,
    span::{Parent, Span},
};

/// Spans that wait to be sent; more are dropped, which the log says.
const QUEUE: usize = 4096;

/// Spans sent in one call.
const BATCH: usize = 512;

/// How often they are sent.
const PERIOD: Duration = Duration::from_secs(1);

/// How long the collector may take to answer, and what is left at the end to be taken.
const LIMIT: Duration = Duration::from_secs(5);

/// The way to the collector, if there is one. Cloning shares it; the default is off.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Who sends.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// As in `service.name`.
    pub service: &'static str,
    /// As in `service.instance.id`.
    pub instance: &'a str,
}

impl Traces {
    /// Registers what it counts, and starts to send if there is an endpoint. To be called on the runtime.
    pub fn start(
        endpoint: Option<&OtlpEndpoint>,
        origin: Origin<'_>,
        registry: &mut Registry,
    ) -> Result<Self, ExporterBuildError> {
        let outcomes = Outcomes::register(registry);
        let Some(endpoint) = endpoint else { return Ok(Self(None)) };
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(endpoint.as_str()).with_timeout(LIMIT).build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(PERIOD);
        let processor =
            BatchSpanProcessor::builder(Counted::new(exporter, outcomes)).with_batch_config(batches.build());
        let Origin { service, instance } = origin;
        let resource = Resource::builder().with_service_name(service).with_attributes([
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor.build())
            // It is the parent who decides.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .with_resource(resource.build())
            .build();
        Ok(Self(Some(Arc::new(Inner { tracer: provider.tracer(service), provider }))))
    }

    /// Whether there is anybody to send to.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where spans belong, if they are wanted: the `traceparent` is valid, and sampled.
    pub fn parent(&self, traceparent: &str) -> Option<Parent> {
        let inner = self.0.as_ref().filter(|_| has_the_form(traceparent))?;
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(traceparent));
        let sampled = context.span().span_context().is_sampled();
        sampled.then(|| Parent::new(inner.tracer.clone(), context))
    }

    /// Sends what is left, within a limit.
    pub async fn finish(&self) {
        let Some(inner) = self.0.clone() else { return };
        // It blocks, up to the limit.
        let finished = tokio::task::spawn_blocking(move || inner.provider.shutdown_with_timeout(LIMIT)).await;
        if !matches!(finished, Ok(Ok(()))) {
            tracing::warn!(?finished, "not all spans were sent");
        }
    }
}

/// Version, trace, span and flags, each as long as it is to be, which the library does not look at (W3C Trace Context,
/// section 3.2.2).
fn has_the_form(traceparent: &str) -> bool {
    traceparent.split('-').take(4).map(str::len).eq([2, 32, 16, 2])
}

/// The one header there is.
struct Header<'a>(&'a str);

impl Extractor for Header<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

#[cfg(test)]
mod tests;
