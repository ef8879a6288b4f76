//! The way of publications to Redis: one bounded queue, one task, which sends what waits in batches, several under way.
//! Order is that of the queue: batches go over one connection, and what was refused unread goes again before anything
//! newer.

pub(super) mod batch;
pub(super) mod pace;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use hashbrown::HashMap;
use proto::{Position, Room};
use service::Seldom;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, interval, sleep_until},
};

use self::{
    batch::{Batch, Batches},
    pace::Pace,
};
use super::{commands::Commands, keys::Keys, script::Scripts};
use crate::{
    broker::{Announcement, Events, Keep, NewPublication, Pending, Receipt, StoreError},
    defaults::{STORE_BYTES, STORE_ITEMS},
    metrics::Metrics,
};

/// Announcements that may wait for the room's shard before its publishers here are held back.
const MAX_BACKLOG: usize = 8 << 10;

/// Publications of one call of the script: longer calls would hold Redis up for everybody.
pub(super) const CALL: usize = 32;

/// Publications of one batch, which is one pipeline: one round trip.
pub(super) const BATCH: usize = 8 * CALL;

/// Batches under way: while Redis works on one, the next is made and the last one's receipts are handed out.
pub(super) const DEPTH: usize = 4;

/// How long receipts wait before they are said as announcements; the real ones should be there by then.
pub(super) const SAY_RECEIPTS: Duration = Duration::from_millis(250);

/// One publication and who waits for its receipt.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) publication: NewPublication,
    receipt: oneshot::Sender<Result<Receipt, StoreError>>,
}

/// Whether a call of the script takes no more. One that must not come behind others has a row for each: it is the last.
pub(super) fn is_full(call: &[Job]) -> bool {
    call.len() >= CALL || call.last().is_some_and(|last| !last.publication.unless.is_empty())
}

/// How many of these, from the first on, are one call.
pub(super) fn first_call(jobs: &[Job]) -> usize {
    (1..jobs.len()).find(|count| is_full(&jobs[..*count])).unwrap_or(jobs.len())
}

/// What the queue's two ends share.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    pub(super) keys: Keys,
    /// Random per start: what tells this node's pulses from others'.
    pub(super) boot: u64,
    /// A Cluster: something was not where it was looked for.
    pub(super) moved: Notify,
    pub(super) keep: Keep,
    pub(super) scripts: Scripts,
    pub(super) events: Arc<dyn Events>,
    pub(super) metrics: Arc<Metrics>,
    /// Highest generation ever seen: a new epoch is above it, even on a server whose clock is behind.
    floor: AtomicU64,
    items: AtomicUsize,
    bytes: AtomicUsize,
    /// While Redis takes nothing it refuses every call.
    pub(super) refusals: Seldom,
    /// The last of each room since they were said.
    receipts: Mutex<HashMap<Room, Position, RandomState>>,
}

impl Shared {
    pub(super) fn new(keys: Keys, keep: Keep, events: Arc<dyn Events>, metrics: Arc<Metrics>, sharded: bool) -> Self {
        let (items, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (scripts, floor, receipts) = (Scripts::new(sharded), AtomicU64::new(0), Mutex::default());
        let (boot, moved, refusals) = (rand::random(), Notify::new(), Seldom::default());
        let start = Instant::now();
        Self { start, keys, boot, moved, keep, scripts, events, metrics, floor, items, bytes, refusals, receipts }
    }

    /// Of this process' broker.
    pub(super) fn age_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    /// Takes note of an epoch.
    pub(super) fn seen(&self, position: &Position) {
        self.floor.fetch_max(position.epoch.generation(), Ordering::Relaxed);
    }

    fn receipts(&self) -> MutexGuard<'_, HashMap<Room, Position, RandomState>> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receipt is an announcement for the node that got it: should Redis's own have been lost, the room is read.
    /// Said a little later, since that one is on another connection, and a gap is not to be seen where none is.
    pub(super) fn say_receipts(&self) {
        let receipts = std::mem::take(&mut *self.receipts());
        for (room, position) in receipts {
            self.events.announced(Announcement { room, position, entry: None });
        }
    }

    /// Hands a receipt to who waits for it.
    pub(super) fn settle(&self, job: Job, result: Result<Receipt, StoreError>) {
        self.items.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(job.publication.bytes(), Ordering::Relaxed);
        self.metrics.broker_queue_items.dec();
        if let Ok(Receipt { position, .. }) = &result {
            self.seen(position);
            self.receipts().insert(job.publication.room, position.clone());
        }
        // Who waited may have gone.
        let _ = job.receipt.send(result);
    }
}

/// The near end.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Job>,
}

impl Queue {
    /// With its far end.
    pub(super) fn new(shared: Arc<Shared>) -> (Self, mpsc::Receiver<Job>) {
        let (sender, jobs) = mpsc::channel(STORE_ITEMS);
        (Self { shared, sender }, jobs)
    }

    pub(super) fn push(&self, publication: NewPublication) -> Result<Pending, StoreError> {
        let shared = &self.shared;
        let bytes = publication.bytes();
        let backlog = shared.events.backlog(&publication.room);
        let full = backlog > MAX_BACKLOG
            || shared.items.load(Ordering::Relaxed) >= STORE_ITEMS
            || shared.bytes.load(Ordering::Relaxed) + bytes > STORE_BYTES;
        let (receipt, pending) = oneshot::channel();
        if full {
            // A room that is held back is no queue that is full.
            shared.metrics.broker_full.inc_by((backlog < usize::MAX).into());
            return Err(StoreError::Busy);
        }
        shared.items.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        shared.metrics.broker_queue_items.inc();
        match self.sender.try_send(Job { publication, receipt }) {
            Ok(()) => Ok(Pending::Waiting(pending)),
            Err(error) => {
                let error = match error {
                    mpsc::error::TrySendError::Full(_) => StoreError::Busy,
                    mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable,
                };
                shared.items.fetch_sub(1, Ordering::Relaxed);
                shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
                shared.metrics.broker_queue_items.dec();
                shared.metrics.broker_full.inc();
                Err(error)
            }
        }
    }
}

/// The far end: the task.
#[derive(Debug)]
pub(super) struct Pump {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Commands,
    pub(super) jobs: mpsc::Receiver<Job>,
}

impl Pump {
    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut waiting: Vec<Job> = Vec::new();
        let mut batches = Batches::default();
        let mut pace = Pace::new(Instant::now());
        let mut say = interval(SAY_RECEIPTS);
        loop {
            let has_place = batches.len() < DEPTH;
            let room = BATCH - waiting.len();
            let idle = waiting.is_empty();
            tokio::select! {
                biased;
                answer = batches.first_answer(), if !batches.is_empty() => batches.finish_first(answer, &self.shared).await,
                _ = say.tick() => self.shared.say_receipts(),
                count = self.jobs.recv_many(&mut waiting, room), if room > 0 => {
                    if count == 0 {
                        return;
                    }
                    pace.came(Instant::now());
                }
                () = sleep_until(pace.due()), if !idle && has_place => {}
            }
            let now = Instant::now();
            if batches.len() < DEPTH && !waiting.is_empty() && pace.is_due(waiting.len(), now) {
                pace.sent(waiting.len(), now);
                self.send(std::mem::take(&mut waiting), &mut batches).await;
            }
        }
    }

    async fn send(&self, jobs: Vec<Job>, batches: &mut Batches) {
        let now = Instant::now();
        let (jobs, late): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.publication.deadline > now);
        self.refuse(late);
        match self.commands.connection() {
            Some(connection) => batches.push(Batch::new(jobs, connection), &self.shared).await,
            None => self.refuse(jobs),
        }
    }

    /// They were not sent.
    fn refuse(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.shared.settle(job, Err(StoreError::Unavailable));
        }
    }
}
