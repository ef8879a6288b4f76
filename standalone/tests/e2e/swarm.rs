//! Many clients that come back to where they were, publishers that repeat what was not acknowledged, and one ledger of
//! what has its place where. Whatever a client sees is held against the ledger at once: each room's publications one by
//! one, in order, once, as they were published. In this process, or by [`Workers`] in several.

mod client;
mod ledger;
mod publisher;
mod socket;
mod status;
mod worker;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::{client::Client, ledger::Ledger, publisher::Apis};
pub(crate) use self::{
    socket::{Incoming, Socket},
    status::Status,
    worker::Workers,
};

const CHECK: Duration = Duration::from_millis(20);

/// Between the rooms of a client; prime, so that its rooms differ and their members too.
const SPREAD: usize = 13;

/// How large a swarm is, and what it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Begins the names of rooms and users, so that swarms keep apart.
    pub(crate) name: String,
    pub(crate) clients: usize,
    pub(crate) rooms: usize,
    /// Each client is in so many of them.
    pub(crate) rooms_each: usize,
    /// Between two publications of a room.
    pub(crate) every: Duration,
    /// One client in so many broadcasts too, as often.
    pub(crate) broadcaster: Option<usize>,
    /// About how long a client is connected until it is cut, while there is publishing; then it is offline for `offline`.
    pub(crate) cut_after: Option<Duration>,
    pub(crate) offline: Duration,
    /// Between the starts of two clients.
    pub(crate) pace: Duration,
}

/// What the tasks share.
#[derive(Debug)]
struct World {
    plan: Plan,
    edges: watch::Sender<Vec<SocketAddr>>,
    apis: Apis,
    publishing: watch::Sender<bool>,
    ledger: Ledger,
    clients: Vec<Status>,
    returns: Mutex<Returns>,
}

/// What coming back took, and what else is worth telling.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Returns {
    /// From the attempt to connect until caught up, of each return, in milliseconds.
    pub(crate) replays_ms: Vec<u32>,
    /// Each return from a connection that ended.
    pub(crate) offline: Vec<Offline>,
    /// Publications missed and read back.
    pub(crate) missed: u64,
    /// Returns that were cut before they had caught up.
    pub(crate) unfinished: u64,
    /// Attempts that found no edge, or one that refused.
    pub(crate) refused: u64,
    /// Joins and broadcasts that were answered with an error to be repeated.
    pub(crate) repeated: u64,
}

/// A client without a connection, until it was back with all that it had missed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Offline {
    /// When its connection ended, in Unix milliseconds.
    pub(crate) since_ms: i64,
    pub(crate) for_ms: u32,
}

/// How it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How long there was publishing, and how much the rooms' publishers would have published, had nothing held them up.
    pub(crate) publishing: Duration,
    pub(crate) planned: u64,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) returns: Returns,
}

#[derive(Debug)]
pub(crate) struct Swarm {
    world: Arc<World>,
    clients: JoinSet<()>,
    publishers: JoinSet<()>,
    publishing_since: Option<Instant>,
}

impl Swarm {
    /// Starts the clients, which connect to any of these edges, and join. Nothing is published yet.
    pub(crate) fn start(plan: &Plan, edges: Vec<SocketAddr>, apis: &[SocketAddr]) -> Self {
        // A socket each, and shells often allow 1,024 files.
        service::files::raise_limit().unwrap();
        let seats = |client: usize| (0..plan.rooms_each).map(move |index| (client + index * SPREAD) % plan.rooms);
        let world = Arc::new(World {
            edges: watch::Sender::new(edges),
            apis: Apis::new(apis),
            publishing: watch::Sender::new(false),
            ledger: Ledger::new(plan.rooms),
            clients: (0..plan.clients).map(|client| Status::new(seats(client))).collect(),
            returns: Mutex::default(),
            plan: plan.clone(),
        });
        let mut clients = JoinSet::new();
        for number in 0..plan.clients {
            let client = Client::new(number, world.clone());
            let delay = plan.pace * u32::try_from(number).unwrap();
            clients.spawn(async move {
                sleep(delay).await;
                client.run().await;
            });
        }
        Self { world, clients, publishers: JoinSet::new(), publishing_since: None }
    }

    /// Begins to publish, and to broadcast.
    pub(crate) fn publish(&mut self) {
        self.publishing_since = Some(Instant::now());
        self.world.publishing.send_replace(true);
        for room in 0..self.world.plan.rooms {
            self.publishers.spawn(publisher::run(room, self.world.clone()));
        }
    }

    /// The edges that there are from now on.
    pub(crate) fn set_edges(&self, edges: Vec<SocketAddr>) {
        self.world.edges.send_replace(edges);
    }

    /// The publish APIs that there are from now on.
    pub(crate) fn set_apis(&self, apis: &[SocketAddr]) {
        self.world.apis.set(apis);
    }

    pub(crate) fn clients(&self) -> &[Status] {
        &self.world.clients
    }

    /// Publications that have a place.
    pub(crate) fn published(&self) -> u64 {
        self.world.ledger.published()
    }

    /// Waits until all that was published up to now is acknowledged and has reached every client, each of which is
    /// where it wants to be. Nothing may be wrong up to then.
    pub(crate) async fn caught_up(&self, limit: Duration) {
        let World { ledger, clients, .. } = &*self.world;
        let issued = ledger.issued();
        let mut lasts = None;
        let began = Instant::now();
        let waiting = async {
            loop {
                ledger.assert_well();
                if lasts.is_none() && ledger.has_acknowledged(&issued) {
                    lasts = Some(ledger.lasts());
                }
                if lasts.as_ref().is_some_and(|lasts| clients.iter().all(|client| client.has(lasts))) {
                    return;
                }
                sleep(CHECK).await;
            }
        };
        if timeout(limit, waiting).await.is_err() {
            let open = ledger.open(&issued);
            let lasts = ledger.lasts();
            let late = clients.iter().enumerate().filter(|(_, client)| !client.has(&lasts));
            let late: Vec<_> =
                late.map(|(number, client)| format!("client {number}: {}", client.tell(&lasts))).collect();
            let waited = began.elapsed();
            panic!(
                "after {waited:?}: not acknowledged: {open:?}; {} late:\n{}",
                late.len(),
                late[..late.len().min(20)].join("\n")
            );
        }
    }

    /// Ends publishing and cutting, waits for everybody, and holds all against the ledger.
    pub(crate) async fn finish(mut self, limit: Duration) -> Report {
        let publishing = self.publishing_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.world.publishing.send_replace(false);
        let ended = timeout(limit, async { while self.publishers.join_next().await.is_some() {} }).await;
        assert!(ended.is_ok(), "publishers wait in vain for {:?}", self.world.ledger.open(&self.world.ledger.issued()));
        self.caught_up(limit).await;
        self.clients.shutdown().await;
        self.world.ledger.assert_complete();
        let delivered = self.world.clients.iter().map(Status::delivered).sum();
        let returns = self.world.returns.lock().unwrap().clone();
        let Plan { rooms, every, .. } = self.world.plan;
        let planned = rooms as u64 * u64::try_from(publishing.as_millis() / every.as_millis()).unwrap();
        Report { publishing, planned, published: self.published(), delivered, returns }
    }
}

impl Report {
    pub(crate) fn add(&mut self, other: Self) {
        self.publishing = self.publishing.max(other.publishing);
        self.planned += other.planned;
        self.published += other.published;
        self.delivered += other.delivered;
        let (ours, theirs) = (&mut self.returns, other.returns);
        ours.replays_ms.extend(theirs.replays_ms);
        ours.offline.extend(theirs.offline);
        ours.missed += theirs.missed;
        ours.unfinished += theirs.unfinished;
        ours.refused += theirs.refused;
        ours.repeated += theirs.repeated;
    }

    /// One line of it.
    pub(crate) fn line(&self) -> String {
        let Self { publishing, planned, published, delivered, returns } = self;
        let Returns { missed, unfinished, refused, repeated, .. } = returns;
        let mut replays = returns.replays_ms.clone();
        replays.sort_unstable();
        let quantile = |share: usize| replays.get((replays.len().max(1) - 1) * share / 1000).copied().unwrap_or(0);
        let (p50, p99, max) = (quantile(500), quantile(990), quantile(1000));
        format!(
            "{published} published in {publishing:.0?} (planned: {planned}), {delivered} delivered: 100 %, each once and in order; {} returns ({unfinished} cut \
             again before) read back {missed}: replay p50 {p50} ms, p99 {p99} ms, max {max} ms; {refused} connections \
             refused, {repeated} requests repeated",
            replays.len(),
        )
    }
}
