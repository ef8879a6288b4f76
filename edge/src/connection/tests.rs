//! Connections over in-memory pipes with a paused clock; the test plays the client, and the fanout tier.

use std::{
    collections::HashSet,
    io::{self, IoSlice},
    pin::Pin,
    sync::Mutex,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use proto::wire;
use serde_json::{Value, json};
use service::{Clock, Lifecycle};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, WriteHalf, duplex, split},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    auth::{Claims, RoomClaims, UserId},
    authorize::Authorizer,
    connections::Connections,
    deliveries::Deliveries,
    hub::{self, Hub},
    interest::{LinkId, PlacedLink, Placement},
    keys::{self, Keys},
    metrics::Metrics,
    outbox::Rules,
    removals::Removals,
    test_support::{self, LIMITS},
    upstream::{self, Upstream, discovery::Discovery},
};

const LINK: LinkId = LinkId(1);

/// An edge without listener and links.
struct Edge {
    context: Arc<Context>,
    /// Those of in-memory pipes.
    pumps: Pumps<WriteHalf<DuplexStream>>,
    lifecycle: Lifecycle,
}

impl Edge {
    async fn start() -> Self {
        let lifecycle = Lifecycle::new();
        let metrics = Arc::new(Metrics::default());
        let connections = Connections::new(usize::MAX, usize::MAX, metrics.clone());
        let settings = hub::Settings {
            shards: 1,
            linger: Duration::from_secs(5),
            join_timeout: Duration::from_secs(5),
            tail_bytes: 1 << 20,
            send_queue: 256,
        };
        let (hub, shards) = Hub::new(
            &settings,
            &connections.spread(),
            &Clock::system(),
            &Deliveries::default(),
            &metrics,
            &CancellationToken::new(),
        );
        for shard in shards {
            lifecycle.spawn(shard);
        }
        let links = vec![PlacedLink::new(LINK, "a:1", Arc::default(), Arc::default(), Arc::default(), true)];
        hub.place(Arc::new(Placement::new(links, false))).await;
        let jwt = vec![service::settings::Secret::new("secret")];
        let keys = Keys::new(keys::Settings::default(), keys::Secrets { jwt, ..keys::Secrets::default() });
        let discovery = Discovery::List(Vec::new());
        let transport = Arc::new(upstream::Grpc::new(&discovery, None));
        let name = "edge-test".to_owned();
        let upstream = upstream::Settings { discovery, keys: keys.clone(), name, boot: 1, transport };
        let (pumps, drivers) = Pumps::new(1, &service::latency::Latency::default(), &CancellationToken::new());
        for driver in drivers {
            lifecycle.spawn(driver);
        }
        let context = Context {
            settings: Settings {
                ping_period: Duration::from_secs(54),
                pong_wait: Duration::from_mins(1),
                write_wait: Duration::from_secs(10),
                max_age: Some(Duration::from_hours(1)),
                max_message_bytes: 1000,
                session: Arc::new(crate::session::Settings {
                    max_rooms: 10,
                    publish_timeout: Duration::from_secs(5),
                    rate: 50,
                    burst: 100,
                }),
            },
            hub,
            upstream: Upstream::new(upstream, metrics.clone()),
            keys,
            authorizer: Authorizer::Claims,
            removals: Arc::new(Removals::new(connections.clone(), metrics.clone())),
            connections,
            outbox_rules: Arc::new(Rules { limits: LIMITS, metrics: metrics.clone() }),
            metrics,
            clock: Clock::of(|| std::time::UNIX_EPOCH + Duration::from_secs(1000)),
        };
        Self { context: Arc::new(context), pumps, lifecycle }
    }

    /// A client whose token is good for an hour, and may join all rooms.
    fn connect(&self) -> Client {
        self.connect_with(64 << 10, 3600)
    }

    fn connect_with(&self, pipe: usize, token_s: i64) -> Client {
        self.connect_since(pipe, token_s, self.context.arrival())
    }

    fn connect_since(&self, pipe: usize, token_s: i64, arrival: Arrival) -> Client {
        let (near, far) = duplex(pipe);
        let (reader, writer) = split(near);
        let guest = Self::guest(token_s, arrival);
        let outbox = Arc::new(Outbox::new(guest.claims.user.clone(), self.context.outbox_rules.clone()));
        let mut place = self.context.connections.reserve().unwrap();
        assert!(place.belong_to(&guest.claims.user));
        place.fill(outbox.clone());
        self.pumps.start(writer, outbox.clone(), self.context.settings.write_wait);
        let connection = run(reader, &[], &[], guest, outbox.clone(), self.context.clone());
        let task = self.lifecycle.spawn(async move {
            connection.await;
            drop(place);
        });
        Client { far, outbox, task }
    }

    fn guest(token_s: i64, arrival: Arrival) -> Guest {
        let claims = Claims {
            user: UserId::try_new("7").unwrap(),
            expires: 1000 + token_s,
            rooms: RoomClaims::All,
            auto_join: Box::default(),
        };
        Guest { id: "c".into(), claims: Arc::new(claims), token: "t".into(), auto_join: true, arrival }
    }

    fn state(&self, room: &str, seq: u64) {
        let position = Some(wire::Position { epoch: "e".to_owned(), seq });
        self.context.hub.state(LINK, wire::State { room: room.to_owned(), position, complete: true, after: None });
    }

    fn publish(&self, room: &str, seq: u64, body: &'static str) {
        let body = Bytes::from_static(body.as_bytes());
        let entry = wire::Entry { from: "8".to_owned(), body, ..wire::Entry::default() };
        let entries = vec![entry.encode_to_vec().into()];
        let (room, epoch) = (room.to_owned(), "e".to_owned());
        self.context.hub.publications(wire::Publications { room, epoch, first_seq: seq, entries });
    }

    async fn members(&self) -> u64 {
        self.context.hub.census(100).await.unwrap().largest.into_rooms().map(|(_, members)| members).sum()
    }
}

/// The far end of a connection.
struct Client {
    far: DuplexStream,
    outbox: Arc<Outbox>,
    task: JoinHandle<Option<()>>,
}

impl Client {
    async fn open(self) -> Socket {
        let websocket = WebSocketStream::from_raw_socket(self.far, Role::Client, None).await;
        Socket { websocket, outbox: self.outbox, task: self.task }
    }
}

struct Socket {
    websocket: WebSocketStream<DuplexStream>,
    outbox: Arc<Outbox>,
    task: JoinHandle<Option<()>>,
}

impl Socket {
    async fn send(&mut self, message: Value) {
        self.websocket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next text message.
    async fn next(&mut self) -> Value {
        loop {
            match self.websocket.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Reads on to the close, and answers it.
    async fn closed(mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.websocket.next().await.unwrap().unwrap() {
                let frame = frame.unwrap();
                while self.websocket.next().await.is_some() {}
                self.task.await.unwrap();
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation() {
    let edge = Edge::start().await;
    let mut client = edge.connect().open().await;
    let welcome = client.expect("welcome").await;
    assert_eq!(welcome["payload"]["rooms"], json!(["user:7"]));
    assert_eq!(welcome["payload"]["expires"], 4600);
    edge.state("user:7", 0);
    assert_eq!(client.expect("joined").await["payload"]["publish"], false);

    client.send(json!({"type": "join", "id": "1", "payload": {"room": "r"}})).await;
    client.send(json!({"type": "ping", "id": "2"})).await;
    assert_eq!(client.expect("pong").await["id"], "2", "rooms do not hold up the rest");
    edge.state("r", 3);
    assert_eq!(
        client.expect("joined").await["payload"],
        json!({"room": "r", "epoch": "e", "seq": 3, "recovered": false, "publish": true})
    );
    edge.publish("r", 4, "[1.0]");
    assert_eq!(client.expect("message").await["body"].to_string(), "[1.0]");

    client.send(json!({"type": "broadcast", "id": "3", "payload": {"room": "r", "body": 1}})).await;
    let refused = client.expect("error").await;
    assert_eq!(refused["payload"]["code"], "unavailable", "there is no fanout node");
    client.send(json!({"type": "leave", "id": "4", "payload": {"room": "r"}})).await;
    assert_eq!(client.expect("left").await["id"], "4");
    client.websocket.close(None).await.unwrap();
    while client.websocket.next().await.is_some() {}
    client.task.await.unwrap();
    assert_eq!(edge.members().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_join_without_a_fanout_node_is_unavailable_in_time() {
    let edge = Edge::start().await;
    let mut client = edge.connect().open().await;
    client.expect("welcome").await;
    let start = Instant::now();
    let error = client.expect("error").await;
    assert_eq!(
        (error["payload"]["code"].as_str(), error["payload"]["room"].as_str()),
        (Some("unavailable"), Some("user:7"))
    );
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_with_4009() {
    let edge = Edge::start().await;
    let Client { mut far, task, .. } = edge.connect();
    let start = Instant::now();
    // Never read by a WebSocket, so no ping is answered.
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    task.await.unwrap();
    // 60 s of silence, then 10 s for the close frame's answer.
    assert_eq!(start.elapsed().as_secs(), 70);
    assert!(got.ends_with(&[&[0x88, 14, 0x0f, 0xa9], &b"ping_timeout"[..]].concat()));
    assert!(got.windows(2).any(|bytes| bytes == [0x89, 0]), "it was pinged");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays() {
    let edge = Edge::start().await;
    let mut client = edge.connect().open().await;
    let reading = async {
        while let Some(Ok(message)) = client.websocket.next().await {
            assert!(!message.is_close());
        }
    };
    tokio::select! {
        () = reading => panic!("closed"),
        () = sleep(Duration::from_mins(30)) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_token_closes_with_4001_unless_a_newer_one_came() {
    let edge = Edge::start().await;
    let start = Instant::now();
    let (code, reason) = edge.connect_with(64 << 10, 30).open().await.closed().await;
    assert_eq!((code, &*reason, start.elapsed().as_secs()), (4001, "token_expired", 30));

    let mut client = edge.connect_with(64 << 10, 30).open().await;
    client.expect("welcome").await;
    let token = |user: &str| {
        let claims = json!({"sub": user, "exp": 1000 + 50});
        let key = jsonwebtoken::EncodingKey::from_secret(b"secret");
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    client.send(json!({"type": "auth", "id": "1", "payload": {"token": token("8")}})).await;
    assert_eq!(client.expect("error").await["payload"]["code"], "token_invalid");
    client.send(json!({"type": "auth", "id": "2", "payload": {"token": token("7")}})).await;
    assert_eq!(client.expect("authenticated").await["payload"]["expires"], 1050);
    let start = Instant::now();
    assert_eq!(client.closed().await.0, 4001);
    assert_eq!(start.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_rules_is_closed_with_its_code() {
    let edge = Edge::start().await;
    let mask = [0, 0, 0, 0];
    let too_long = [&[0x81, 0xfe, 0x04, 0x00][..], &mask, &[b'x'; 1024]].concat();
    for (bytes, code, word) in [
        (&[0x82, 0x80, 0, 0, 0, 0][..], 1003u16, "binary"),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007, "bad_utf8"),
        (&too_long, 1009, "message_too_large"),
        (&[0x81, 0x01, b'x'], 1002, "protocol_error"),
        (&[0xf1, 0x80, 0, 0, 0, 0], 1002, "protocol_error"),
    ] {
        let Client { mut far, task, .. } = edge.connect();
        far.write_all(bytes).await.unwrap();
        let close = [&[0x88, u8::try_from(2 + word.len()).unwrap()][..], &code.to_be_bytes(), word.as_bytes()].concat();
        let mut got = Vec::new();
        while !got.ends_with(&close) {
            assert_ne!(far.read_buf(&mut got).await.unwrap(), 0, "{word}: {got:x?}");
        }
        drop(far);
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_peers_close_is_echoed_with_its_code() {
    let edge = Edge::start().await;
    for (payload, echo) in
        [(&[0x03, 0xe8][..], &[0x88, 2, 0x03, 0xe8][..]), (&[], &[0x88, 0]), (&[0x0f, 0xa0], &[0x88, 2, 0x0f, 0xa0])]
    {
        let Client { mut far, task, .. } = edge.connect();
        let header = [0x88, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        far.write_all(&[&header, payload].concat()).await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert!(got.ends_with(echo), "{got:x?}");
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_the_client_gets_its_pong_through_the_outbox() {
    let edge = Edge::start().await;
    let mut client = edge.connect().open().await;
    client.expect("welcome").await;
    client.websocket.send(Message::Ping(Bytes::from_static(b"hello"))).await.unwrap();
    assert_eq!(client.websocket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"hello")));
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_is_closed_and_delays_nobody() {
    let edge = Edge::start().await;
    let mut fast = edge.connect().open().await;
    let slow = edge.connect_with(512, 3600);
    fast.expect("welcome").await;
    edge.state("user:7", 0);
    fast.expect("joined").await;
    // The slow one reads nothing; its personal room is the same.
    for seq in 1..=1000 {
        edge.publish("user:7", seq, "1");
        assert_eq!(fast.expect("message").await["seq"], seq);
    }
    assert!(slow.outbox.queue().is_closed());
    assert_eq!(edge.context.metrics.outbox_full.get(), 1);
    // It reads at last: the frame under way in full, then why.
    let (code, reason) = slow.open().await.closed().await;
    assert_eq!((code, &*reason), (4008, "slow_consumer"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_sends_what_is_queued_and_then_1012() {
    let edge = Edge::start().await;
    let mut client = edge.connect().open().await;
    client.expect("welcome").await;
    for _ in 0..100 {
        client.outbox.push(crate::protocol::frame::text(b"{\"type\":\"x\"}"));
    }
    client.outbox.finish(CloseReason::Restarting);
    for _ in 0..100 {
        client.expect("x").await;
    }
    assert_eq!(client.closed().await, (1012, "restarting".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_told_to_reconnect_and_works_until_it_goes() {
    let edge = Edge::start().await;
    let start = Instant::now();
    let mut client = edge.connect_with(64 << 10, 3 * 3600).open().await;
    client.expect("welcome").await;
    edge.state("user:7", 0);
    client.expect("joined").await;
    let told = client.expect("reconnect").await;
    assert_eq!(told["payload"]["reason"], "age");
    let age = start.elapsed().as_secs_f64() / 3600.0;
    assert!((0.89..1.11).contains(&age), "{age}");
    let after = Duration::from_millis(told["payload"]["after_ms"].as_u64().unwrap());
    let told_at = Instant::now();
    client.send(json!({"type": "ping", "id": "1"})).await;
    client.expect("pong").await;
    assert_eq!(client.closed().await, (1012, "restarting".to_owned()));
    assert!(told_at.elapsed() >= after && told_at.elapsed() < after + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_the_close_is_let_go() {
    let edge = Edge::start().await;
    let client = edge.connect();
    let start = Instant::now();
    client.outbox.finish(CloseReason::Restarting);
    client.task.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 10);
}

/// Counts write calls, and keeps the address of each written slice of the payload's length.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<(usize, HashSet<usize>)>>);

impl AsyncWrite for Counter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut counted = self.0.lock().unwrap();
        counted.0 += 1;
        counted.1.extend(slices.iter().map(|slice| slice.as_ptr().addr()));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_the_upgrade_leaves_with_the_welcome_by_one_write() {
    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let edge = Edge::start().await;
    let (near, mut far) = duplex(64 << 10);
    let (reader, writer) = split(near);
    let guest = Edge::guest(3600, edge.context.arrival());
    let outbox = Arc::new(Outbox::new(guest.claims.user.clone(), edge.context.outbox_rules.clone()));
    let connection = run(reader, ANSWER, &[], guest, outbox.clone(), edge.context.clone());
    edge.pumps.start(writer, outbox, edge.context.settings.write_wait);
    edge.lifecycle.spawn(connection);
    let mut got = vec![0; 64 << 10];
    let count = far.read(&mut got).await.unwrap();
    let welcome = got[..count].strip_prefix(ANSWER).unwrap();
    assert!(String::from_utf8_lossy(welcome).contains("\"type\":\"welcome\""));
    assert_eq!(edge.context.metrics.writes.get(), 1);
}

#[tokio::test]
async fn one_publication_to_a_thousand_members_is_one_encoding_and_a_thousand_writes() {
    const MEMBERS: usize = 1000;
    let edge = Edge::start().await;
    let room = proto::Room::try_new("r").unwrap();
    let mut joining = Vec::new();
    let members: Vec<_> = (0..MEMBERS).map(|_| test_support::outbox()).collect();
    for member in &members {
        joining.push(edge.context.hub.join(room.clone(), member.clone(), None, true, None, None).await);
    }
    edge.state("r", 0);
    for outcome in joining {
        outcome.await.unwrap();
    }
    // Away with `joined`, which is each member's own.
    let counter = Counter::default();
    let (pumps, drivers) = Pumps::new(1, &service::latency::Latency::default(), &CancellationToken::new());
    for driver in drivers {
        edge.lifecycle.spawn(driver);
    }
    for member in &members {
        pumps.start(counter.clone(), member.clone(), Duration::from_secs(10));
    }
    while counter.0.lock().unwrap().0 < MEMBERS {
        tokio::task::yield_now().await;
    }
    *counter.0.lock().unwrap() = (0, HashSet::new());

    edge.publish("r", 1, "{\"the\":\"body\"}");
    while edge.context.metrics.deliveries.get() < MEMBERS as u64 || counter.0.lock().unwrap().0 < MEMBERS {
        tokio::task::yield_now().await;
    }
    assert_eq!(edge.context.metrics.publications.get(), 1);
    let (writes, payloads) = counter.0.lock().unwrap().clone();
    assert_eq!(writes, MEMBERS);
    assert_eq!(payloads.len(), 1, "one frame, written by all from the same memory");
    for member in &members {
        member.finish(CloseReason::Gone);
        assert_eq!(member.ended().await, CloseReason::Gone);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_ends_a_membership_or_all_connections_of_its_user() {
    let edge = Edge::start().await;
    let user = UserId::try_new("7").unwrap();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = edge.connect().open().await;
        client.expect("welcome").await;
        edge.state("user:7", 0);
        client.expect("joined").await;
        client.send(json!({"type": "join", "payload": {"room": "r"}})).await;
        if clients.is_empty() {
            client.send(json!({"type": "ping"})).await;
            client.expect("pong").await;
            edge.state("r", 3);
        }
        client.expect("joined").await;
        clients.push(client);
    }
    assert_eq!(edge.members().await, 4);
    let removals = edge.context.removals.clone();
    let now = edge.context.clock.unix_ms();
    removals.learn(&UserId::try_new("8").unwrap(), None, now);
    removals.learn(&user, Some(&proto::Room::try_new("r").unwrap()), now);
    for client in &mut clients {
        // Nothing that the client does is waited for.
        assert_eq!(client.expect("left").await, json!({"type": "left", "payload": {"room": "r", "reason": "removed"}}));
    }
    assert_eq!((edge.members().await, edge.context.metrics.removed.get()), (2, 2));
    // No ban: who is let in again is in, and stays.
    clients[0].send(json!({"type": "join", "payload": {"room": "r"}})).await;
    clients[0].expect("joined").await;
    removals.learn(&user, Some(&proto::Room::try_new("other").unwrap()), now + 1);
    clients[0].send(json!({"type": "ping"})).await;
    clients[0].expect("pong").await;
    assert_eq!(edge.members().await, 3);

    // Heard late: these connections came long after it, but what they were given may be older.
    removals.learn(&user, None, now - 60_000);
    for room in ["user:7", "r"] {
        assert_eq!(clients[0].expect("left").await["payload"], json!({"room": room, "reason": "removed"}));
    }
    clients[0].send(json!({"type": "ping"})).await;
    clients[0].expect("pong").await;

    removals.learn(&user, None, now + 2);
    clients[1].expect("left").await;
    for client in clients {
        assert_eq!(client.closed().await, (4003, "removed".to_owned()));
    }
    assert!(edge.context.connections.of_user(&user).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_removal_between_token_and_socket_counts() {
    let edge = Edge::start().await;
    let arrival = edge.context.arrival();
    edge.context.removals.learn(&UserId::try_new("7").unwrap(), None, edge.context.clock.unix_ms());
    let late = edge.connect().open().await;
    let early = edge.connect_since(64 << 10, 3600, arrival).open().await;
    assert_eq!(early.closed().await, (4003, "removed".to_owned()));
    assert!(late.outbox.push(test_support::frame()), "who comes after it is not meant");
}
