//! A fanout node that knows every room to be at the beginning of an epoch, and brings what it is given.

use std::{net::SocketAddr, pin::Pin, sync::Mutex, thread, time::Duration};

use futures_util::{Stream, StreamExt as _};
use proto::{
    VERSION,
    wire::{
        EdgeMessage, FanoutBeat, FanoutHello, FanoutMessage, Position, State,
        edge_message::Kind,
        fanout_message::Kind as Out,
        link_server::{Link, LinkServer},
    },
};
use service::Lifecycle;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub(crate) const EPOCH: &str = "1-0000000000000000";

/// Messages to the edge that wait.
const QUEUE: usize = 16 << 10;

pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    messages: mpsc::Sender<Result<FanoutMessage, Status>>,
    linked: Option<oneshot::Receiver<()>>,
    thread: thread::JoinHandle<()>,
    end: DropGuard,
}

impl Node {
    pub(crate) fn start() -> Self {
        let (told, bound) = std::sync::mpsc::channel();
        let (messages, stream) = mpsc::channel(QUEUE);
        let (up, linked) = oneshot::channel();
        let end = CancellationToken::new();
        let (guard, out) = (end.clone().drop_guard(), messages.clone());
        let thread = thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                let service = Service { out, once: Mutex::new(Some((stream, up))), lifecycle: Lifecycle::new() };
                let server = Server::builder().add_service(LinkServer::new(service));
                let serving = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), end.cancelled());
                serving.await.unwrap();
            });
        });
        Self { address: bound.recv().unwrap(), messages, linked: Some(linked), thread, end: guard }
    }

    /// Resolves when the edge has its link.
    pub(crate) fn linked(&mut self) -> oneshot::Receiver<()> {
        self.linked.take().unwrap()
    }

    /// To be called from where one may block.
    pub(crate) fn sender(&self) -> impl Fn(Out) + Send + use<> {
        let messages = self.messages.clone();
        move |kind| messages.blocking_send(Ok(FanoutMessage { kind: Some(kind) })).unwrap()
    }

    pub(crate) fn finish(self) {
        drop((self.end, self.messages));
        self.thread.join().unwrap();
    }
}

/// What the one link brings, and whom to tell that it is up.
type Once = (mpsc::Receiver<Result<FanoutMessage, Status>>, oneshot::Sender<()>);

struct Service {
    out: mpsc::Sender<Result<FanoutMessage, Status>>,
    once: Mutex<Option<Once>>,
    lifecycle: Lifecycle,
}

#[tonic::async_trait]
impl Link for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FanoutMessage, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<EdgeMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        let (stream, up) = self.once.lock().unwrap().take().expect("one link");
        let (out, mut said) = (self.out.clone(), request.into_inner());
        let hello = FanoutHello { version: VERSION, node: "node".into(), store: "store".into(), ..Default::default() };
        say(&out, Out::Hello(hello)).await;
        self.lifecycle.spawn(async move {
            let mut beats = tokio::time::interval(Duration::from_secs(1));
            let mut up = Some(up);
            loop {
                tokio::select! {
                    _ = beats.tick() => {
                        let beat = FanoutBeat { heard_ms_ago: 0, store: "store".into(), ..Default::default() };
                        say(&out, Out::Beat(beat)).await;
                    }
                    message = said.next() => {
                        let Some(Ok(message)) = message else { return };
                        if let Some(Kind::Interest(interest)) = message.kind {
                            for wish in interest.rooms.into_iter().filter(|wish| wish.wanted) {
                                let position = Some(Position { epoch: EPOCH.into(), seq: 0 });
                                say(&out, Out::State(State { room: wish.room, position, complete: true, after: None })).await;
                            }
                        }
                        if let Some(up) = up.take() {
                            // It has said hello, and soon will have heard ours.
                            sleep(Duration::from_millis(200)).await;
                            let _ = up.send(());
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn say(out: &mpsc::Sender<Result<FanoutMessage, Status>>, kind: Out) {
    let _ = out.send(Ok(FanoutMessage { kind: Some(kind) })).await;
}
