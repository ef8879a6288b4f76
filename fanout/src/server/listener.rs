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
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceExt as _};

use super::{
    counted::Counted,
    guests::{Guest, Guests},
    talk::{HEAD_TIMEOUT, Talk},
};
use crate::{
    broker::Broker,
    grpc::{door::GrpcService, publish::PublisherService},
    http::JsonService,
    metrics::Metrics,
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

/// How often the broker is looked at for the health service.
const HEALTH_CHECK: Duration = Duration::from_secs(1);

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
    guests: Guests,
    builder: Builder<Tasks>,
    writes: &Counter,
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
    let writes = writes.clone();
    lifecycle.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => return,
                accepted = accept::accept(&listener) => accepted,
            };
            let (stream, peer) = accepted;
            // Without a place it is closed at once.
            let Some(guest) = guests.enter().await else { continue };
            let begin = begin(stream, tls.clone(), writes.clone(), guest.talk.clone());
            let connection = serve(begin, builder.clone(), service.clone(), guest, closing.clone());
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

/// A connection that has said something, which is still to be read; `None` if it said nothing.
async fn begin(
    stream: TcpStream,
    tls: Option<Arc<ServerTls>>,
    writes: Counter,
    talk: Talk,
) -> io::Result<Option<Counted>> {
    let mut socket = accept::secured(stream, tls.as_deref()).await?;
    // hyper waits without limit for the bytes that tell the protocol.
    match timeout(HEAD_TIMEOUT, socket.first_byte()).await {
        Ok(first) => first.map(|()| Some(Counted { socket, writes, talk })),
        Err(_) => Ok(None),
    }
}

/// Serves one connection as long as it may stay.
async fn serve(
    begin: impl Future<Output = io::Result<Option<Counted>>>,
    builder: Builder<Tasks>,
    service: impl Serve,
    guest: Guest,
    closing: CancellationToken,
) -> Result<(), BoxError> {
    tokio::select! {
        result = answer(begin, builder, service, &guest, closing) => result.inspect_err(|error| guest.failed(error)),
        () = guest.makes_room() => Err("others needed its place".into()),
    }
}

async fn answer(
    begin: impl Future<Output = io::Result<Option<Counted>>>,
    builder: Builder<Tasks>,
    service: impl Serve,
    guest: &Guest,
    closing: CancellationToken,
) -> Result<(), BoxError> {
    let Some(said) = closing.run_until_cancelled(begin).await.transpose()? else { return Ok(()) };
    let Some(socket) = said else {
        guest.was_silent();
        return Err("it said nothing".into());
    };
    let (asked, answered, speaker) = (socket.talk.clone(), socket.talk.clone(), guest.speaker());
    let service = service.map_request(move |mut request: Request<Incoming>| {
        asked.asked();
        // Whoever finds a key or token in it lets it speak.
        if !speaker.has_spoken() {
            request.extensions_mut().insert(speaker.clone());
        }
        request
    });
    let service = TowerToHyperService::new(service.map_response(move |response: Response| {
        answered.answered();
        response
    }));
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = guest.overdue() => return Err("quiet, or slow, for too long".into()),
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// How backends are spoken to.
pub(super) fn for_backends(lifecycle: &Lifecycle) -> Builder<Tasks> {
    let mut builder = builder(lifecycle);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    builder.http2().keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// How edges are spoken to. Links have beats, and so need no pings.
pub(super) fn for_edges(lifecycle: &Lifecycle) -> Builder<Tasks> {
    builder(lifecycle).http2_only()
}

fn builder(lifecycle: &Lifecycle) -> Builder<Tasks> {
    let mut builder = Builder::new(Tasks(lifecycle.clone()));
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// Has hyper's own tasks, one for each HTTP/2 stream, tracked too.
#[derive(Debug, Clone)]
pub(super) struct Tasks(Lifecycle);

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

#[cfg(test)]
mod tests;
