//! The links' near ends: a registry of attachments, each with a bounded queue of what its edge is to be told.

mod queue;
mod traced;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use proto::wire;
use service::{limit, traces::Traces};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::queue::{Control, Message, Queue, Space};
use crate::{defaults::LINK_PUBLISHES, dispatcher::Dispatcher, metrics::Metrics};

/// One attachment of this process. Never given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttachmentId(pub(crate) u64);

/// Why an attachment ends, when it is not the edge that ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The edge said nothing for too long.
    Silent,
    /// It broke the protocol, in this way.
    Protocol(&'static str),
    /// It asked on without reading the answers.
    Overrun,
    /// The node stops.
    Stopping,
}

/// What an edge last said about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct EdgeReport {
    /// Name of the edge; empty before its hello.
    pub(crate) edge: String,
    pub(crate) boot: u64,
    pub(crate) stats: Arc<wire::Stats>,
}

/// One link's near end. Shards and the link's tasks share it.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) queue: Queue,
    /// Rooms it is joined to.
    rooms: AtomicI64,
    /// The edge takes runs of several rooms in one message.
    batches: AtomicBool,
    /// Places for broadcasts whose receipts are not yet on their way.
    pub(crate) publishes: Arc<Semaphore>,
    report: Mutex<EdgeReport>,
    closed: CancellationToken,
}

impl Attachment {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Resolves when either end is gone.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Ends it; the first reason counts. What is queued is still sent, unless it is an overrun.
    pub(crate) fn close(&self, reason: Option<End>) {
        self.queue.end(reason);
        self.closed.cancel();
    }

    /// Queues what must not be dropped; an edge that lets too much of it pile up is cut off.
    pub(crate) fn control(&self, kind: wire::fanout_message::Kind) {
        self.control_with(Control { kind, permit: None });
    }

    pub(crate) fn control_with(&self, control: Control) {
        if !self.queue.push_control(control) && !self.is_closed() {
            tracing::warn!(edge = self.report().edge, "an edge asks on without reading the answers: ending its link");
            self.close(Some(End::Overrun));
        }
    }

    pub(crate) fn rooms_changed(&self, by: i64) {
        self.rooms.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn rooms(&self) -> u64 {
        u64::try_from(self.rooms.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn accepts_batches(&self, accepts: bool) {
        self.batches.store(accepts, Ordering::Relaxed);
    }

    pub(crate) fn takes_batches(&self) -> bool {
        self.batches.load(Ordering::Relaxed)
    }

    /// Nothing would be missed without it: its edge wants no room here, and waits for no receipt.
    pub(crate) fn is_idle(&self) -> bool {
        self.rooms() == 0 && self.publishes.available_permits() == limit(LINK_PUBLISHES)
    }

    pub(crate) fn report(&self) -> MutexGuard<'_, EdgeReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All attachments of the node.
#[derive(Debug, Clone)]
pub(crate) struct Attachments(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    next: AtomicU64,
    all: Mutex<BTreeMap<AttachmentId, Arc<Attachment>>>,
    dispatcher: Dispatcher,
    metrics: Arc<Metrics>,
    traces: Traces,
}

impl Attachments {
    pub(crate) fn new(dispatcher: Dispatcher, metrics: Arc<Metrics>, traces: Traces) -> Self {
        Self(Arc::new(Inner { next: AtomicU64::new(1), all: Mutex::default(), dispatcher, metrics, traces }))
    }

    /// Adds one. It is gone, from every room too, when the guard is dropped.
    pub(crate) fn attach(&self) -> Guard {
        let id = AttachmentId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let attachment = Arc::new(Attachment {
            id,
            queue: Queue::new(Arc::clone(&self.0.metrics), self.0.traces.clone()),
            rooms: AtomicI64::new(0),
            batches: AtomicBool::new(false),
            publishes: Arc::new(Semaphore::new(limit(LINK_PUBLISHES))),
            report: Mutex::default(),
            closed: CancellationToken::new(),
        });
        self.lock().insert(id, Arc::clone(&attachment));
        self.0.metrics.attachments.inc();
        Guard { attachment, all: self.clone() }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Attachment>> {
        self.lock().values().cloned().collect()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttachmentId, Arc<Attachment>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an attachment registered.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) attachment: Arc<Attachment>,
    all: Attachments,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // First closed, then gone: a shard that sees it open will still hear that it went.
        self.attachment.close(None);
        self.all.lock().remove(&self.attachment.id);
        self.all.0.metrics.attachments.dec();
        self.all.0.dispatcher.gone(self.attachment.id);
    }
}
