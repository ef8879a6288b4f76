//! One link: a gRPC stream to one fanout node, made again with jittered backoff whenever it is lost. What it brings is
//! only parsed and handed over; it never waits for a room.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::{
    MAX_LINK_MESSAGE_BYTES, Room, VERSION,
    wire::{self, edge_message, fanout_message, link_client::LinkClient},
};
use service::{Backoff, Lifecycle};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    Settings, Shared,
    publishes::{Broadcast, Inflight},
    routes::{Route, Routes},
};
use crate::{
    connections::Connections,
    defaults::{BEAT, INTEREST_CHUNK, LINK_BACKOFF, LINK_QUEUE, LINK_READS, SILENCE, STATS_INTERVAL, STATS_TOP},
    hub::Hub,
    interest::{Interest, LinkId, ReadFrom, Reads, Wish},
};

/// Messages between the link task and HTTP/2. Few: what waits belongs in the interest and the broadcast queue.
const OUTGOING: usize = 16;

/// HTTP/2 windows: what a slow edge may have under way unread, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What each link task needs.
#[derive(Clone)]
pub(super) struct Links {
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Hub,
    pub(super) connections: Arc<Connections>,
    pub(super) lifecycle: Lifecycle,
    pub(super) end: CancellationToken,
}

impl Links {
    pub(super) fn settings(&self) -> &Settings {
        &self.shared.settings
    }
}

/// Why there is no link, or no longer.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("attach: {0}")]
    Attach(#[from] Status),
    #[error("the node was silent for {SILENCE:?}")]
    Silent,
    #[error("the node ended the stream")]
    Ended,
    #[error("the node did not begin with its hello")]
    NoHello,
    #[error("the node speaks version {0} of the link, we speak {VERSION}")]
    Version(u32),
    #[error("the link token is not a header's value")]
    Token,
}

/// Keeps a link to one node, until the end, or until the node is no longer listed and its link is down.
pub(super) async fn supervise(address: String, listed: Arc<AtomicBool>, links: Links) {
    let keep = async {
        let mut backoff = Backoff::new(LINK_BACKOFF.0, LINK_BACKOFF.1);
        while listed.load(Ordering::Relaxed) {
            links.shared.metrics.link_attempts.inc();
            let error = match connect(&address, &links).await {
                Ok(link) => {
                    backoff.reset();
                    tracing::info!(address, node = link.node, "link is up");
                    let error = link.run(&links).await;
                    links.shared.metrics.link_losses.inc();
                    error
                }
                Err(error) => error,
            };
            tracing::warn!(address, %error, "link is down");
            let delay = backoff.next_delay(&mut rand::rng());
            sleep(delay).await;
        }
        tracing::info!(address, "gave up a fanout node that is no longer listed");
    };
    links.end.run_until_cancelled(keep).await;
}

/// A link that is up: both sides have said hello.
struct Link {
    address: String,
    node: String,
    outgoing: mpsc::Sender<wire::EdgeMessage>,
    incoming: Streaming<wire::FanoutMessage>,
}

async fn connect(address: &str, links: &Links) -> Result<Link, LinkError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(SILENCE)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_adaptive_window(false);
    let mut client: LinkClient<Channel> = LinkClient::new(endpoint.connect().await?)
        .max_decoding_message_size(MAX_LINK_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_LINK_MESSAGE_BYTES);
    let (outgoing, stream) = mpsc::channel(OUTGOING);
    let Settings { name, boot, link_token, .. } = links.settings();
    let hello = wire::EdgeHello { version: VERSION, edge: name.clone(), boot: *boot };
    // Fits: the channel is empty. The node answers the call before it reads.
    let _ = outgoing.try_send(message(edge_message::Kind::Hello(hello)));
    let mut request = Request::new(ReceiverStream::new(stream));
    if let Some(token) = link_token {
        let bearer: MetadataValue<Ascii> =
            format!("Bearer {}", token.expose()).parse().map_err(|_| LinkError::Token)?;
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut incoming = in_time(client.attach(request)).await??.into_inner();
    let first = in_time(incoming.message()).await??.ok_or(LinkError::Ended)?;
    let Some(fanout_message::Kind::Hello(hello)) = first.kind else { return Err(LinkError::NoHello) };
    // Neighbours work together: the newer side speaks the older's language.
    if hello.version == 0 || hello.version.abs_diff(VERSION) > 1 {
        return Err(LinkError::Version(hello.version));
    }
    links.shared.dedup_ms.store(hello.dedup_ms, Ordering::Relaxed);
    Ok(Link { address: address.to_owned(), node: hello.node, outgoing, incoming })
}

async fn in_time<F: Future>(future: F) -> Result<F::Output, LinkError> {
    timeout(SILENCE, future).await.map_err(|_| LinkError::Silent)
}

fn message(kind: edge_message::Kind) -> wire::EdgeMessage {
    wire::EdgeMessage { kind: Some(kind) }
}

impl Link {
    async fn run(self, links: &Links) -> LinkError {
        let Self { address, outgoing, incoming, .. } = self;
        let (broadcasts, waiting) = mpsc::channel(LINK_QUEUE);
        let interest = Arc::new(Interest::new());
        let reads = Arc::new(Reads::new());
        let route = Route { address, interest: interest.clone(), reads: reads.clone(), broadcasts, draining: false };
        let up = Up::register(route, links.shared.clone());
        let inflight = Mutex::new(Inflight::new(links.shared.metrics.link_inflight_full.clone()));
        let reading = Reading::default();
        let mut sender = Sender { links, outgoing, interest, reads, waiting, inflight: &inflight, reading: &reading };
        let error = tokio::select! {
            error = receive(incoming, &up, links, &inflight, &reading) => error,
            error = sender.run() => error,
        };
        drop(up);
        sender.waiting.close();
        while let Some(broadcast) = sender.waiting.recv().await {
            broadcast.refuse("the link to the fanout node was lost");
        }
        error
    }
}

/// The link among the routes; taken out when dropped.
struct Up {
    id: LinkId,
    shared: Arc<Shared>,
}

impl Up {
    fn register(route: Route, shared: Arc<Shared>) -> Self {
        let id = LinkId(shared.next_link.fetch_add(1, Ordering::Relaxed));
        shared.ever_linked.store(true, Ordering::Relaxed);
        let up = Self { id, shared };
        up.change(|routes| {
            routes.with(|links| {
                links.insert(id, route);
            })
        });
        up
    }

    /// The node is about to stop: its rooms go elsewhere while it still serves them.
    fn drains(&self) {
        self.change(|routes| {
            routes.with(|links| {
                if let Some(route) = links.get_mut(&self.id) {
                    route.draining = true;
                }
            })
        });
    }

    fn change(&self, change: impl FnOnce(&Routes) -> Routes) {
        self.shared.routes.send_modify(|routes| *routes = Arc::new(change(routes)));
        let count = self.shared.routes.borrow().len();
        self.shared.metrics.links.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.change(|routes| {
            routes.with(|links| {
                links.remove(&self.id);
            })
        });
    }
}

async fn receive(
    mut incoming: Streaming<wire::FanoutMessage>,
    up: &Up,
    links: &Links,
    inflight: &Mutex<Inflight>,
    reading: &Reading,
) -> LinkError {
    loop {
        let message = match in_time(incoming.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return LinkError::Ended,
            Ok(Err(status)) => return status.into(),
            Err(silent) => return silent,
        };
        match message.kind {
            Some(fanout_message::Kind::Publications(publications)) => links.hub.publications(publications),
            Some(fanout_message::Kind::State(state)) => links.hub.state(up.id, state),
            Some(fanout_message::Kind::Lost(lost)) => links.hub.lost(lost),
            Some(fanout_message::Kind::Receipt(receipt)) => {
                inflight.lock().unwrap_or_else(PoisonError::into_inner).receipt(receipt);
            }
            Some(fanout_message::Kind::ReadResult(result)) => {
                reading.answered();
                links.hub.page(result);
            }
            Some(fanout_message::Kind::Drain(_)) => {
                tracing::info!(address = links.address_of(up.id), "fanout node drains: moving its rooms");
                up.drains();
            }
            // That it came is all a beat says so far.
            Some(fanout_message::Kind::Beat(_)) => {}
            // Of a newer node, or an answer to what we never ask.
            _ => {
                links.shared.metrics.link_unknown_messages.inc();
            }
        }
    }
}

impl Links {
    fn address_of(&self, id: LinkId) -> String {
        self.shared.routes.borrow().address_of(id).unwrap_or_default().to_owned()
    }
}

/// The only writer of the link's stream.
struct Sender<'a> {
    links: &'a Links,
    outgoing: mpsc::Sender<wire::EdgeMessage>,
    interest: Arc<Interest>,
    reads: Arc<Reads>,
    waiting: mpsc::Receiver<Broadcast>,
    inflight: &'a Mutex<Inflight>,
    reading: &'a Reading,
}

/// How many pages are asked for and not yet answered.
#[derive(Debug, Default)]
struct Reading {
    pages: AtomicUsize,
    fewer: Notify,
}

impl Reading {
    /// Waits until one more may be asked for.
    async fn may_ask(&self) {
        while self.pages.load(Ordering::Relaxed) >= LINK_READS {
            self.fewer.notified().await;
        }
    }

    fn answered(&self) {
        self.pages.fetch_sub(1, Ordering::Relaxed);
        self.fewer.notify_one();
    }
}

impl Sender<'_> {
    async fn run(&mut self) -> LinkError {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first report soon, so that a node that just started knows us.
        let mut stats = interval_at(Instant::now() + Duration::from_millis(500), STATS_INTERVAL);
        let mut number = 0;
        let (mut wishes, mut pages) = (Vec::new(), Vec::new());
        let mut next_read = 0;
        loop {
            let kind = tokio::select! {
                biased;
                _ = beats.tick() => {
                    number += 1;
                    edge_message::Kind::Beat(wire::EdgeBeat { number })
                }
                // Rooms before broadcasts, which need them.
                () = next_wishes(&self.interest, &mut wishes) => interest_message(wishes.drain(..)),
                Some(broadcast) = self.waiting.recv() => {
                    let mut inflight = self.inflight.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(publish) = inflight.start(broadcast) else { continue };
                    edge_message::Kind::Publish(publish)
                }
                () = next_page(&self.reads, self.reading, &mut pages) => {
                    let Some((room, from)) = pages.pop() else { continue };
                    self.reading.pages.fetch_add(1, Ordering::Relaxed);
                    next_read += 1;
                    read_message(next_read, &room, from)
                }
                _ = stats.tick() => edge_message::Kind::Stats(self.stats().await),
            };
            if self.outgoing.send(message(kind)).await.is_err() {
                return LinkError::Ended;
            }
        }
    }

    async fn stats(&self) -> wire::Stats {
        let top = self.links.hub.top(STATS_TOP).await;
        let top = top.into_iter().map(|(room, members)| room_members(&room, members)).collect();
        let metrics = &self.links.shared.metrics;
        wire::Stats {
            connections: self.links.connections.count() as u64,
            rooms: u64::try_from(metrics.rooms.get()).unwrap_or(0),
            members: u64::try_from(metrics.members.get()).unwrap_or(0),
            top,
        }
    }
}

fn room_members(room: &Room, members: usize) -> wire::RoomMembers {
    wire::RoomMembers { room: room.as_str().to_owned(), members: members as u64 }
}

async fn next_wishes(interest: &Interest, into: &mut Vec<(Room, Wish)>) {
    std::future::poll_fn(|cx| interest.poll_drain(cx, INTEREST_CHUNK, into)).await;
}

async fn next_page(reads: &Reads, reading: &Reading, into: &mut Vec<(Room, ReadFrom)>) {
    reading.may_ask().await;
    std::future::poll_fn(|cx| reads.poll_drain(cx, 1, into)).await;
}

fn read_message(id: u64, room: &Room, from: ReadFrom) -> edge_message::Kind {
    let from = match from {
        ReadFrom::After(position) => wire::read::From::After(position.into()),
        ReadFrom::Last(count) => wire::read::From::Last(count),
    };
    edge_message::Kind::Read(wire::Read { id, room: room.as_str().to_owned(), from: Some(from), limit: 0 })
}

fn interest_message(wishes: impl Iterator<Item = (Room, Wish)>) -> edge_message::Kind {
    let rooms = wishes.map(|(room, Wish { wanted, position })| wire::RoomInterest {
        room: room.as_str().to_owned(),
        wanted,
        position: position.map(wire::Position::from),
    });
    edge_message::Kind::Interest(wire::Interest { rooms: rooms.collect() })
}
