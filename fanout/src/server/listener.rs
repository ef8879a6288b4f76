//! The accept loop of both listeners. Our own, because tonic's waits without limit for open streams when it shuts down,
//! and because every connection and every stream is to be a task of the lifecycle.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    BoxError,
    body::{Bytes, HttpBody},
    response::Response,
};
use futures_util::{FutureExt as _, future::Either};
use http::{Request, header};
use hyper::{body::Incoming, rt::Executor};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use prometheus_client::metrics::counter::Counter;
use proto::wire::publisher_server::PublisherServer;
use service::{Lifecycle, accept, tls::ServerTls};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceExt as _};

use super::{
    counted::Counted,
    talk::{HEAD_TIMEOUT, Overdue, Talk},
};
use crate::{
    broker::Broker,
    grpc::{door::GrpcService, publish::PublisherService},
    http::JsonService,
    metrics::{Cut, Metrics},
};

/// Largest head of a request, and so hyper's read buffer for HTTP/1.1.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// HTTP/2 flow control: what a peer may have under way in one stream and in all; hidden queues, so not large.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Large frames spare reads of batches.
const FRAME_BYTES: u32 = 64 << 10;

/// Streams of one connection.
const MAX_STREAMS: u32 = 1024;

/// An HTTP/2 connection of a backend that answers no ping for so long is closed. Links have beats of their own.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connections of backends that may be quiet for longer than a few seconds: an idle one holds some 20 KiB.
const QUIET_PLACES: usize = 1024;

/// How often the broker is looked at for the health service.
const HEALTH_CHECK: Duration = Duration::from_secs(1);

/// Whom a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Edges: HTTP/2 only.
    Link,
    /// Backends: HTTP/1.1 and HTTP/2.
    Api,
}

/// A listener at work.
#[derive(Debug)]
pub(super) struct Listening {
    closing: CancellationToken,
    aborting: CancellationToken,
    connections: TaskTracker,
}

impl Listening {
    /// Stops accepting, lets requests under way finish up to the limit, then cuts what is left.
    pub(super) async fn finish(self, limit: Duration) {
        self.closing.cancel();
        self.connections.close();
        if timeout(limit, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections took too long to finish: cutting them");
            self.aborting.cancel();
        }
    }
}

/// What answers requests.
pub(crate) trait Serve<B = Incoming>:
    Service<Request<B>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S, B> Serve<B> for S where
    S: Service<Request<B>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// Serves every connection until [`Listening::finish`].
pub(super) fn spawn(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    service: impl Serve,
    kind: Kind,
    metrics: &Metrics,
    lifecycle: &Lifecycle,
) -> Listening {
    let listening = Listening {
        closing: CancellationToken::new(),
        aborting: CancellationToken::new(),
        connections: TaskTracker::new(),
    };
    let (closing, aborting) = (listening.closing.clone(), listening.aborting.clone());
    let connections = listening.connections.clone();
    let tasks = lifecycle.clone();
    let builder = builder(kind, lifecycle.clone());
    let writes = match kind {
        Kind::Link => metrics.writes.link.clone(),
        Kind::Api => metrics.writes.api.clone(),
    };
    let patience = Patience { places: Arc::new(Semaphore::new(QUIET_PLACES)), cut: metrics.cut.clone() };
    lifecycle.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => return,
                accepted = accept::accept(&listener) => accepted,
            };
            let (stream, peer) = accepted;
            // Links have beats.
            let talk = (kind == Kind::Api).then(Talk::new);
            let begin = begin(stream, tls.clone(), writes.clone(), talk, patience.cut.head.clone());
            let connection = serve(begin, builder.clone(), service.clone(), patience.clone(), closing.clone());
            let connection = aborting.clone().run_until_cancelled_owned(connection);
            let connection = connection.map(move |result| {
                if let Some(Err(error)) = result {
                    tracing::debug!(%peer, %error, "serve a connection");
                }
            });
            tasks.spawn(connections.track_future(connection));
        }
    });
    listening
}

/// What connections of backends share.
#[derive(Debug, Clone)]
struct Patience {
    /// For those that are quiet for longer.
    places: Arc<Semaphore>,
    cut: Cut,
}

impl Patience {
    fn count(&self, overdue: Overdue) {
        let cut = match overdue {
            Overdue::Head => &self.cut.head,
            Overdue::Answer => &self.cut.answer,
            Overdue::Quiet => &self.cut.quiet,
            Overdue::Crowded => &self.cut.crowded,
        };
        cut.inc();
    }
}

/// A connection that has said something, which is still to be read.
async fn begin(
    stream: TcpStream,
    tls: Option<Arc<ServerTls>>,
    writes: Counter,
    talk: Option<Talk>,
    cut: Counter,
) -> io::Result<Counted> {
    let mut socket = accept::secured(stream, tls.as_deref()).await?;
    // hyper waits without limit for the bytes that tell the protocol.
    let first = timeout(HEAD_TIMEOUT, socket.first_byte()).await;
    if first.is_err() && talk.is_some() {
        cut.inc();
    }
    first??;
    Ok(Counted { socket, writes, talk })
}

async fn serve(
    begin: impl Future<Output = io::Result<Counted>>,
    builder: Builder<Tasks>,
    service: impl Serve,
    patience: Patience,
    closing: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Some(socket) = closing.run_until_cancelled(begin).await.transpose()? else { return Ok(()) };
    let talk = socket.talk.clone();
    let (asked, answered) = (talk.clone(), talk.clone());
    let service = service.map_request(move |request: Request<Incoming>| {
        asked.iter().for_each(Talk::asked);
        request
    });
    let service = TowerToHyperService::new(service.map_response(move |response: Response| {
        answered.iter().for_each(Talk::answered);
        response
    }));
    let overdue = async {
        match talk {
            Some(talk) => patience.count(talk.overdue(Arc::clone(&patience.places)).await),
            None => std::future::pending().await,
        }
    };
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = overdue => return Err("quiet, or slow, for too long".into()),
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

fn builder(kind: Kind, lifecycle: Lifecycle) -> Builder<Tasks> {
    let mut builder = Builder::new(Tasks(lifecycle));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    match kind {
        Kind::Link => builder.http2_only(),
        Kind::Api => {
            builder.http2().keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
            builder
        }
    }
}

/// Has hyper's own tasks, one for each HTTP/2 stream, tracked too.
#[derive(Debug, Clone)]
struct Tasks(Lifecycle);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// gRPC and JSON on one port.
pub(super) fn by_content_type<B>(grpc: GrpcService, json: JsonService) -> impl Serve<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    tower::service_fn(move |request: Request<B>| {
        let content_type = request.headers().get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        let is_grpc = content_type.is_some_and(|value| value.starts_with(b"application/grpc"));
        let answer = if is_grpc { Either::Left(grpc.call(request)) } else { Either::Right(json.call(request)) };
        answer.map(Ok)
    })
}

/// Keeps the gRPC health service, and the metric, in step with the broker and the drain.
pub(super) async fn report_health(
    reporter: HealthReporter,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    lifecycle: &Lifecycle,
) {
    let drain = lifecycle.drain().clone();
    let report = async move |ready: bool| {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", <PublisherServer<PublisherService> as NamedService>::NAME] {
            reporter.set_service_status(service, status).await;
        }
    };
    report(broker.health().ready).await;
    lifecycle.spawn(async move {
        while !drain.is_cancelled() {
            let ready = broker.health().ready;
            metrics.broker_up.set(ready.into());
            report(ready).await;
            let _ = timeout(HEALTH_CHECK, drain.cancelled()).await;
        }
        report(false).await;
    });
}
