//! A node in this process, and the ends of it that a test holds.

use std::{collections::VecDeque, fmt::Debug, net::SocketAddr, str::FromStr, time::Duration};

use bytes::Bytes;
use fanout::{Bound, config::Config};
use prost::Message as _;
use proto::wire::{
    EdgeBeat, EdgeHello, EdgeMessage, Entry, FanoutBeat, FanoutHello, FanoutMessage, Interest, Position, RoomInterest,
    edge_message::Kind, fanout_message::Kind as Out, link_client::LinkClient, publisher_client::PublisherClient,
};
use service::Lifecycle;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Streaming, transport::Channel};

pub(crate) use crate::patience::{PATIENCE, eventually, finish, soon};

/// A node that ends with the test.
pub(crate) struct Node {
    pub(crate) bound: Bound,
    pub(crate) lifecycle: Lifecycle,
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        let lifecycle = Lifecycle::new();
        let bound = fanout::serve(config, &lifecycle).await.unwrap();
        Self { bound, lifecycle }
    }

    pub(crate) async fn publisher(&self) -> PublisherClient<Channel> {
        PublisherClient::connect(format!("http://{}", self.bound.api)).await.unwrap()
    }

    pub(crate) async fn edge(&self) -> Edge {
        Edge::attach(self.bound.link).await
    }

    /// See [`metric`].
    pub(crate) async fn metric<T: FromStr<Err: Debug>>(&self, name: &str) -> T {
        metric(self.bound.ops, name).await
    }

    /// Ends the node; every task must end by itself.
    pub(crate) async fn finish(self) {
        finish(&self.lifecycle).await;
    }
}

/// The far end of a link.
pub(crate) struct Edge {
    pub(crate) hello: FanoutHello,
    say: mpsc::Sender<EdgeMessage>,
    hear: Streaming<FanoutMessage>,
    /// Messages that came before a beat that was waited for.
    kept: VecDeque<Out>,
    /// Ends what beats by itself.
    alive: Option<DropGuard>,
}

impl Edge {
    pub(crate) async fn attach(to: SocketAddr) -> Self {
        Self::attach_with(to, 1, None).await
    }

    pub(crate) async fn attach_with(to: SocketAddr, version: u32, token: Option<&str>) -> Self {
        let mut client = LinkClient::connect(format!("http://{to}")).await.unwrap().max_decoding_message_size(4 << 20);
        let (say, said) = mpsc::channel(1024);
        let mut request = tonic::Request::new(ReceiverStream::new(said));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let hear = soon("the stream", client.attach(request)).await.unwrap().into_inner();
        let mut edge = Self { hello: FanoutHello::default(), say, hear, kept: VecDeque::new(), alive: None };
        let hello = EdgeHello { version, edge: "test".into(), boot: 1 };
        edge.send(Kind::Hello(hello)).await;
        edge.hello = match edge.next().await {
            Some(Out::Hello(hello)) => hello,
            other => panic!("a hello comes first, not {other:?}"),
        };
        edge
    }

    pub(crate) async fn send(&self, kind: Kind) {
        self.say.send(EdgeMessage { kind: Some(kind) }).await.unwrap();
    }

    pub(crate) async fn beat(&self) {
        self.send(Kind::Beat(EdgeBeat { number: 1 })).await;
    }

    /// Beats by itself from now on, whatever the test does.
    pub(crate) fn keep_alive(&mut self, lifecycle: &Lifecycle) {
        let (say, end) = (self.say.clone(), CancellationToken::new());
        self.alive = Some(end.clone().drop_guard());
        let beats = async move {
            loop {
                let _ = say.try_send(EdgeMessage { kind: Some(Kind::Beat(EdgeBeat { number: 1 })) });
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        lifecycle.spawn(end.run_until_cancelled_owned(beats));
    }

    pub(crate) async fn want(&self, room: &str, position: Option<(&str, u64)>) {
        let position = position.map(|(epoch, seq)| Position { epoch: epoch.into(), seq });
        let rooms = vec![RoomInterest { room: room.into(), wanted: true, position }];
        self.send(Kind::Interest(Interest { rooms })).await;
    }

    pub(crate) async fn unwant(&self, room: &str) {
        let rooms = vec![RoomInterest { room: room.into(), wanted: false, position: None }];
        self.send(Kind::Interest(Interest { rooms })).await;
    }

    /// The next message that is no beat; `None` at the stream's end. Beats on meanwhile.
    pub(crate) async fn next(&mut self) -> Option<Out> {
        self.result().await.unwrap()
    }

    /// The next beat; what comes before it is kept.
    pub(crate) async fn heard_beat(&mut self) -> FanoutBeat {
        soon("a beat", async {
            loop {
                self.beat().await;
                match self.hear.message().await.unwrap().unwrap().kind.unwrap() {
                    Out::Beat(beat) => return beat,
                    other => self.kept.push_back(other),
                }
            }
        })
        .await
    }

    pub(crate) async fn result(&mut self) -> Result<Option<Out>, tonic::Status> {
        if let Some(kept) = self.kept.pop_front() {
            return Ok(Some(kept));
        }
        soon("a message", async {
            loop {
                let _ = self.say.try_send(EdgeMessage { kind: Some(Kind::Beat(EdgeBeat { number: 1 })) });
                let Ok(message) = timeout(Duration::from_millis(500), self.hear.message()).await else { continue };
                match message?.map(|message| message.kind.unwrap()) {
                    Some(Out::Beat(_)) => {}
                    other => return Ok(other),
                }
            }
        })
        .await
    }

    /// The next message, which must be the room's state.
    pub(crate) async fn state(&mut self, room: &str) -> (Position, bool) {
        match self.next().await {
            Some(Out::State(state)) if state.room == room => (state.position.unwrap(), state.complete),
            other => panic!("not a state of {room}: {other:?}"),
        }
    }

    /// Publications of the room until there are so many, as (epoch, seq, body). They must be consecutive.
    pub(crate) async fn publications(&mut self, room: &str, count: usize) -> Vec<(String, u64, Bytes)> {
        let mut all: Vec<(String, u64, Bytes)> = Vec::new();
        while all.len() < count {
            match self.next().await {
                Some(Out::Publications(run)) if run.room == room => {
                    for (seq, entry) in (run.first_seq..).zip(run.entries) {
                        if let Some((_, last, _)) = all.last() {
                            assert_eq!(seq, last + 1, "consecutive");
                        }
                        all.push((run.epoch.clone(), seq, Entry::decode(entry).unwrap().body));
                    }
                }
                other => panic!("not a publication of {room}: {other:?}"),
            }
        }
        assert_eq!(all.len(), count);
        all
    }

    /// Hears nothing more and says nothing more.
    pub(crate) fn detach(self) {
        drop(self);
    }
}

/// What a node shows of this series, by its name after the prefix.
pub(crate) async fn metric<T: FromStr<Err: Debug>>(ops: SocketAddr, name: &str) -> T {
    let (_, metrics) = http(ops, "GET /metrics", b"").await;
    let name = format!("espigon_fanout_{name} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// One HTTP/1.1 request: status and body.
pub(crate) async fn http(to: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
    let (status, _, body) = http_full(to, head, body).await;
    (status, body)
}

/// With the response's head.
pub(crate) async fn http_full(to: SocketAddr, head: &str, body: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    let request = format!(
        "{line} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut response = String::new();
    soon("the response", stream.read_to_string(&mut response)).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}
