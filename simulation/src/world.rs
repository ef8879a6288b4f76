//! What all parts of one run share.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use proto::Room;
use rand::Rng as _;
use service::{Clock, Lifecycle};
use tokio::{sync::Notify, time::Instant};

use crate::{
    broker::ModelBroker, edge_process::EdgeProcess, network::Network, plan::Plan, record::Record, store::Store,
};

/// Unix time at which every run begins.
const BEGIN_MS: u64 = 1_750_000_000_000;

pub(crate) struct World {
    pub(crate) plan: Plan,
    start: Instant,
    pub(crate) truth: Mutex<Truth>,
    pub(crate) network: Network,
    pub(crate) edges: Mutex<Vec<Option<Arc<EdgeProcess>>>>,
    pub(crate) brokers: Mutex<Vec<Option<Arc<ModelBroker>>>>,
    /// Clients, publishers, the network: what is no process of ours.
    pub(crate) tasks: Lifecycle,
    /// Nothing goes wrong any more, and nobody publishes.
    settling: AtomicBool,
    failure: Mutex<Option<String>>,
    failed: Notify,
    counts: Mutex<BTreeMap<String, u64>>,
    /// The trace is printed.
    prints: bool,
    /// Of all lines of the trace.
    hash: AtomicU64,
}

/// The store, and what is known of it. Under one lock, so that what is recorded is what was stored.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) store: Store,
    pub(crate) record: Record,
}

impl Truth {
    /// To be called after every change of the room.
    pub(crate) fn observe(&mut self, room: &Room) {
        let standing = self.store.standing(room);
        self.record.observe(room, standing.as_ref());
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A time between nothing and the most.
pub(crate) fn up_to(most: Duration) -> Duration {
    most.mul_f64(service::rng().random::<f64>())
}

/// One in so many; never for 0.
pub(crate) fn one_in(many: u32) -> bool {
    many > 0 && service::rng().random_ratio(1, many)
}

impl World {
    pub(crate) fn new(plan: Plan, trace: bool) -> Arc<Self> {
        let truth = Truth { store: Store::new(plan.keep), record: Record::default() };
        Arc::new(Self {
            start: Instant::now(),
            truth: Mutex::new(truth),
            network: Network::new(plan.nodes),
            edges: Mutex::new((0..plan.edges).map(|_| None).collect()),
            brokers: Mutex::new((0..plan.nodes).map(|_| None).collect()),
            tasks: Lifecycle::new(),
            settling: AtomicBool::new(false),
            failure: Mutex::default(),
            failed: Notify::new(),
            counts: Mutex::default(),
            prints: trace,
            hash: AtomicU64::new(0),
            plan,
        })
    }

    pub(crate) fn clock(&self) -> Clock {
        let start = self.start;
        Clock::of(move || UNIX_EPOCH + Duration::from_millis(BEGIN_MS) + start.elapsed())
    }

    pub(crate) fn unix_ms(&self) -> i64 {
        self.clock().unix_ms()
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    pub(crate) fn settle(&self) {
        self.settling.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.settling.load(Ordering::Relaxed)
    }

    /// Something that must never be. The first counts; the run ends.
    pub(crate) fn fail(&self, what: &str) {
        self.say(|| format!("VIOLATION {what}"));
        lock(&self.failure).get_or_insert_with(|| what.to_owned());
        self.failed.notify_one();
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Resolves when something failed.
    pub(crate) async fn failed(&self) {
        while self.failure().is_none() {
            self.failed.notified().await;
        }
    }

    /// Something worth knowing whether it ever happens.
    pub(crate) fn count(&self, what: &str) {
        self.count_by(what, 1);
    }

    pub(crate) fn count_by(&self, what: &str, by: u64) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(what) {
            *count += by;
        } else {
            counts.insert(what.to_owned(), by);
        }
    }

    pub(crate) fn take_counts(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *lock(&self.counts))
    }

    /// A line of the trace.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        let mut line = String::new();
        let at = self.start.elapsed();
        let _ = write!(line, "{:>7.3} {}", at.as_secs_f64(), what());
        let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        // FNV-1a: the same everywhere.
        self.hash.store(line.bytes().fold(self.hash(), add), Ordering::Relaxed);
        if self.prints {
            println!("{line}");
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.load(Ordering::Relaxed)
    }

    pub(crate) fn room(number: usize) -> Room {
        Room::try_new(&format!("room-{number}")).unwrap_or_else(|error| panic!("{error}"))
    }
}
