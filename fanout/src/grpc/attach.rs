//! The link service: for each attachment one task that takes in what the edge says, and the stream that answers.

mod publishes;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use proto::{
    PAGE_BYTES, Position, Room, VERSION,
    wire::{
        EdgeMessage, FanoutHello, FanoutMessage, HeldRoom, Read, ReadResult, RoomInterest, Stats, edge_message::Kind,
        fanout_message::Kind as Out, link_server::Link, read::From,
    },
};
use service::{Lifecycle, accept::Speaker, limit};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tonic::{Request, Response, Status, Streaming};

use self::publishes::{Answer, Publishes};
use super::{outbound::Outbound, status};
use crate::{
    attachments::{Attachment, Attachments, Control, End, Guard},
    auth::LinkToken,
    broker::{PageLimit, ReadFrom},
    defaults::{HOLD_CHUNK, LINK_READS, LINK_SILENCE, PAGE_ITEMS, TOP_ROOMS},
    dispatcher::{Dispatcher, Wish},
    publishing::Publishing,
};

/// Longest epoch taken from an edge.
const MAX_EPOCH_BYTES: usize = 128;

/// Classes of ages that are kept: the last one would begin at 35 years.
const MAX_AGES: usize = 40;

/// Longest name of an edge that is kept.
const MAX_EDGE_CHARS: usize = 200;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct LinkService {
    pub(crate) token: LinkToken,
    pub(crate) hello: FanoutHello,
    pub(crate) attachments: Attachments,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) publishing: Publishing,
    pub(crate) lifecycle: Lifecycle,
}

#[tonic::async_trait]
impl Link for LinkService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FanoutMessage, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<EdgeMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        if !self.token.allows(status::authorization(request.metadata())) {
            tracing::warn!("a link without a valid token was refused");
            return Err(status::bad_link_token());
        }
        if let Some(speaker) = request.extensions().get::<Speaker>() {
            speaker.spoke();
        }
        self.open(request.into_inner()).map(Response::new)
    }
}

impl LinkService {
    /// Attaches an edge: what it says comes in, and what it is told goes out by the stream returned.
    pub(crate) fn open(
        &self,
        said: impl Stream<Item = Result<EdgeMessage, Status>> + Send + Unpin + 'static,
    ) -> Result<<Self as Link>::AttachStream, Status> {
        if self.lifecycle.is_draining() {
            return Err(status::draining());
        }
        let guard = self.attachments.attach();
        let attachment = Arc::clone(&guard.attachment);
        let mut hello = self.hello.clone();
        let health = self.publishing.broker.health();
        health.store.as_deref().unwrap_or_default().clone_into(&mut hello.store);
        attachment.control(Out::Hello(hello));
        let inbound = Inbound {
            guard,
            dispatcher: self.dispatcher.clone(),
            publishing: self.publishing.clone(),
            publishes: Publishes::new(self.publishing.clone(), Arc::clone(&attachment.publishes)),
            reads: Arc::new(Semaphore::new(limit(LINK_READS))),
            answers: FuturesUnordered::new(),
        };
        self.lifecycle.spawn(inbound.run(said));
        let (broker, metrics) = (Arc::clone(&self.publishing.broker), Arc::clone(&self.publishing.metrics));
        let removals = self.publishing.removals.clone();
        let outbound = Outbound::new(attachment, self.dispatcher.clone(), broker, removals, metrics);
        Ok(Box::pin(outbound.stream()))
    }
}

/// What one edge says.
struct Inbound {
    guard: Guard,
    dispatcher: Dispatcher,
    publishing: Publishing,
    publishes: Publishes,
    reads: Arc<Semaphore>,
    /// Receipts and pages to come.
    answers: FuturesUnordered<BoxFuture<'static, Control>>,
}

impl Inbound {
    async fn run(mut self, mut said: impl Stream<Item = Result<EdgeMessage, Status>> + Unpin) {
        let attachment = Arc::clone(&self.guard.attachment);
        let end = tokio::select! {
            () = attachment.closed() => None,
            end = self.listen(&mut said) => end,
        };
        let edge = attachment.report().edge.clone();
        tracing::info!(edge, rooms = attachment.rooms(), ?end, "link closed");
        attachment.close(end);
    }

    async fn listen(&mut self, said: &mut (impl Stream<Item = Result<EdgeMessage, Status>> + Unpin)) -> Option<End> {
        let mut heard = Instant::now();
        loop {
            let message = tokio::select! {
                Some(control) = self.answers.next() => {
                    self.guard.attachment.control_with(control);
                    continue;
                }
                () = sleep_until(self.publishes.again_at()), if self.publishes.is_waiting() => {
                    for answer in self.publishes.again() {
                        self.answer(answer);
                    }
                    continue;
                }
                message = timeout_at(heard + LINK_SILENCE, said.next()) => message,
            };
            let message = match message {
                Ok(Some(Ok(message))) => message,
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "read from a link");
                    return None;
                }
                Err(_) => return Some(End::Silent),
            };
            heard = Instant::now();
            if let Err(end) = self.handle(message).await {
                return Some(end);
            }
        }
    }

    async fn handle(&mut self, message: EdgeMessage) -> Result<(), End> {
        let greeted = !self.guard.attachment.report().edge.is_empty();
        match message.kind {
            Some(Kind::Hello(hello)) => {
                // Version 0 is no version. A newer one speaks ours as its last but one.
                if hello.version == 0 || hello.version.abs_diff(VERSION) > 1 {
                    return Err(End::Protocol("link version not supported"));
                }
                tracing::info!(edge = hello.edge, version = hello.version, "link open");
                let mut report = self.guard.attachment.report();
                report.edge = hello.edge.chars().take(MAX_EDGE_CHARS).collect();
                if report.edge.is_empty() {
                    "?".clone_into(&mut report.edge);
                }
                report.boot = hello.boot;
            }
            _ if !greeted => return Err(End::Protocol("the first message must be a hello")),
            Some(Kind::Interest(interest)) => {
                let wishes = interest.rooms.iter().filter_map(|wish| self.wish(wish)).collect();
                self.dispatcher.interest(&self.guard.attachment, wishes).await;
            }
            Some(Kind::Read(read)) => self.read(read),
            Some(Kind::Publish(publish)) => {
                if let Some(answer) = self.publishes.take(publish) {
                    self.answer(answer);
                }
            }
            Some(Kind::Stats(stats)) => self.guard.attachment.report().stats = Arc::new(bounded(stats)),
            Some(Kind::Accepts(accepts)) => self.guard.attachment.accepts_batches(accepts.publications_batch),
            Some(Kind::HoldBack(held)) => {
                for HeldRoom { room, ms } in held.rooms.iter().take(HOLD_CHUNK) {
                    let Some(room) = self.room(room) else { continue };
                    self.publishing.metrics.hold_backs.inc();
                    self.dispatcher.hold_back(self.guard.attachment.id, &room, Duration::from_millis((*ms).into()));
                }
            }
            Some(Kind::Beat(_)) => {}
            None => {
                self.publishing.metrics.unknown_messages.inc();
                tracing::debug!("a message of a link was not understood");
            }
        }
        Ok(())
    }

    fn wish(&self, wish: &RoomInterest) -> Option<Wish> {
        let room = self.room(&wish.room)?;
        Some(Wish { room, wanted: wish.wanted, position: wish.position.as_ref().map(position) })
    }

    fn room(&self, name: &str) -> Option<Room> {
        Room::try_new(name)
            .inspect_err(|error| {
                self.publishing.metrics.unknown_messages.inc();
                tracing::warn!(%error, "an edge names a room that cannot be");
            })
            .ok()
    }

    fn answer(&self, answer: Answer) {
        match answer {
            Answer::Now(control) => self.guard.attachment.control_with(control),
            Answer::Later(answer) => self.answers.push(answer),
        }
    }

    fn read(&self, read: Read) {
        let refuse = |error| {
            let result =
                ReadResult { id: read.id, room: read.room.clone(), error: Some(error), ..ReadResult::default() };
            self.guard.attachment.control(Out::ReadResult(result));
        };
        let Ok(permit) = Arc::clone(&self.reads).try_acquire_owned() else {
            self.publishing.metrics.link_reads_full.inc();
            return refuse(status::link_busy());
        };
        let room = match Room::try_new(&read.room) {
            Ok(room) => room,
            Err(error) => return refuse(status::link_invalid(error.to_string())),
        };
        let from = match read.from {
            Some(From::After(after)) => ReadFrom::After(position(&after)),
            Some(From::Last(count)) => ReadFrom::Last(count.into()),
            None => return refuse(status::link_invalid("a read needs `after` or `last`")),
        };
        let most = limit(PAGE_ITEMS);
        let items = if read.limit == 0 { most } else { usize::try_from(read.limit).unwrap_or(most) };
        let limit = PageLimit { items: items.min(most), bytes: limit(PAGE_BYTES) };
        let publishing = self.publishing.clone();
        let answer = async move {
            let mut result = ReadResult { id: read.id, room: read.room, ..ReadResult::default() };
            match publishing.read(room, from, limit).await {
                Ok(page) => {
                    result.position = Some(page.position.into());
                    result.prev = page.prev.map(Into::into);
                    result.complete = page.complete;
                    result.first_seq = page.first_seq;
                    result.entries = page.entries;
                }
                Err(error) => result.error = Some(status::link_read_error(error)),
            }
            held(Out::ReadResult(result), permit)
        };
        self.answers.push(answer.boxed());
    }
}

/// What is kept of a report, whatever an edge sends.
fn bounded(mut stats: Stats) -> Stats {
    let is_room = |name: &str| Room::try_new(name).is_ok();
    stats.top.retain(|room| is_room(&room.room));
    stats.top.truncate(TOP_ROOMS);
    stats.busiest.retain(|room| is_room(&room.room));
    stats.busiest.truncate(TOP_ROOMS);
    stats.ages.truncate(MAX_AGES);
    stats
}

fn held(kind: Out, permit: OwnedSemaphorePermit) -> Control {
    Control { kind, permit: Some(permit) }
}

fn position(wire: &proto::wire::Position) -> Position {
    // No broker makes such an epoch; it need not be kept to be known as another one.
    let epoch = if wire.epoch.len() > MAX_EPOCH_BYTES { "?" } else { &wire.epoch };
    Position::new(epoch, wire.seq)
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").field("attachment", &self.guard.attachment.id).finish_non_exhaustive()
    }
}

impl Attachment {
    /// Tells the edge that the node is about to stop.
    pub(crate) fn say_drain(&self) {
        self.control(Out::Drain(proto::wire::Drain {}));
    }
}
