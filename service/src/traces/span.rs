use std::{fmt, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::trace::SdkTracer;

/// Where spans belong: below a span of this process or of another.
#[derive(Clone)]
pub struct Parent {
    tracer: SdkTracer,
    context: Context,
}

/// A span under way. Ends when dropped.
#[derive(Debug)]
pub struct Span {
    span: opentelemetry_sdk::trace::Span,
    tracer: SdkTracer,
}

impl Parent {
    pub(super) fn new(tracer: SdkTracer, context: Context) -> Self {
        Self { tracer, context }
    }

    /// Begins a span now.
    pub fn span(&self, name: &'static str) -> Span {
        self.begin(name, None)
    }

    /// Begins a span at an earlier time.
    pub fn span_since(&self, name: &'static str, since: SystemTime) -> Span {
        self.begin(name, Some(since))
    }

    fn begin(&self, name: &'static str, since: Option<SystemTime>) -> Span {
        let mut span = self.tracer.span_builder(name).with_kind(SpanKind::Internal);
        if let Some(since) = since {
            span = span.with_start_time(since);
        }
        Span { span: self.tracer.build_with_context(span, &self.context), tracer: self.tracer.clone() }
    }
}

impl Span {
    /// For spans below this one.
    pub fn parent(&self) -> Parent {
        let context = Context::new().with_remote_span_context(self.span.span_context().clone());
        Parent { tracer: self.tracer.clone(), context }
    }

    /// To be sent to others, so that their spans are below this one.
    pub fn traceparent(&self) -> String {
        let context = self.span.span_context();
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
    }

    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    /// It ends in failure.
    pub fn fail(&mut self, error: &impl fmt::Display) {
        self.span.set_status(Status::error(error.to_string()));
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parent").field(self.context.span().span_context()).finish()
    }
}
