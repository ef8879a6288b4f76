use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span as WireSpan, status::StatusCode},
};
use service::{Lifecycle, accept};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// What takes traces by OTLP, and keeps them.
#[derive(Debug)]
pub(crate) struct Collector {
    address: SocketAddr,
    spans: Spans,
    lifecycle: Lifecycle,
}

/// A span, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// Of its process.
    pub(crate) service: String,
    pub(crate) name: String,
    /// In hexadecimal, as in a `traceparent`.
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) began_ns: u64,
    pub(crate) ended_ns: u64,
    pub(crate) failed: bool,
    pub(crate) attributes: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Came>>);

#[derive(Debug, Default)]
struct Came {
    spans: Vec<Span>,
    told: String,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = accept::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let (address, spans, lifecycle) = (listener.local_addr().unwrap(), Spans::default(), Lifecycle::new());
        let service = TraceServiceServer::new(spans.clone());
        let drain = lifecycle.drain().clone();
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), drain.cancelled_owned());
        lifecycle.spawn(serving);
        Self { address, spans, lifecycle }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that came, with everything in it, in some words.
    pub(crate) fn told(&self) -> String {
        self.spans.0.lock().unwrap().told.clone()
    }

    /// All that came up to now.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.0.lock().unwrap().spans.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.lifecycle.drain().cancel();
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        write!(self.0.lock().unwrap().told, "{request:?}").unwrap();
        for of_process in request.resource_spans {
            let resource = attributes(of_process.resource.unwrap().attributes);
            let service = resource.into_iter().find(|(key, _)| key == "service.name").unwrap().1;
            for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.lock().unwrap().spans.push(taken(&service, span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn taken(service: &str, span: WireSpan) -> Span {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    Span {
        service: service.to_owned(),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        began_ns: span.start_time_unix_nano,
        ended_ns: span.end_time_unix_nano,
        failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
        attributes: attributes(span.attributes),
    }
}

fn attributes(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |attribute: KeyValue| {
        let value = match attribute.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            other => format!("{other:?}"),
        };
        (attribute.key, value)
    };
    attributes.into_iter().map(text).collect()
}
