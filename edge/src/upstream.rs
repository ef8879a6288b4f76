//! The edge's view of the fanout tier: which nodes there are, a link to each, which link serves which room.
//!
//! - [`discovery`]: the addresses, from a list or a DNS name.
//! - `link`: one attachment to one node, made again whenever it is lost.
//! - `routes`: the links that are up; the hub is told whenever they change.

pub mod discovery;
mod link;
mod one_store;
mod publishes;
mod report;
mod routes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::Room;
use service::Lifecycle;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::UserId,
    connections::Connections,
    hub::Hub,
    interest::LinkId,
    keys::Keys,
    metrics::{Metrics, Outcome},
    protocol::ErrorCode,
    removals::Removals,
    session::{Failure, Forward, Receipt},
};
use discovery::Discovery;
pub use link::{Grpc, Incoming, LinkError, Transport};
use one_store::OneStore;
use publishes::Broadcast;
use routes::Routes;

/// Between the failure of a broadcast and its repeat.
const REPEAT_PAUSE: Duration = Duration::from_millis(50);

/// The handle to the fanout tier. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Shared>);

/// What the links share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// The links that are up. The hub follows it.
    routes: watch::Sender<Arc<Routes>>,
    ever_linked: AtomicBool,
    dedup_ms: AtomicU64,
    one_store: OneStore,
    next_link: AtomicU64,
    metrics: Arc<Metrics>,
}

/// How the edge meets the fanout tier.
#[derive(Debug, Clone)]
pub struct Settings {
    pub discovery: Discovery,
    /// Have what proves the edge to the nodes.
    pub keys: Keys,
    /// The edge's name, for the nodes' logs and status.
    pub name: String,
    /// Random per start.
    pub boot: u64,
    pub transport: Arc<dyn Transport>,
}

impl Upstream {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            settings,
            routes: watch::Sender::new(Arc::default()),
            ever_linked: AtomicBool::new(false),
            // Until a node has said what it is, its default.
            dedup_ms: AtomicU64::new(300_000),
            one_store: OneStore::default(),
            next_link: AtomicU64::new(1),
            metrics,
        }))
    }

    /// Spawns discovery, the links, and the task that keeps the hub informed. All run until `end`.
    pub fn spawn(
        &self,
        hub: &Hub,
        connections: &Arc<Connections>,
        removals: &Arc<Removals>,
        lifecycle: &Lifecycle,
        end: &CancellationToken,
    ) {
        let (mut routes, informed) = (self.0.routes.subscribe(), hub.clone());
        let until = end.clone();
        lifecycle.spawn(async move {
            let inform = async {
                while routes.changed().await.is_ok() {
                    let placement = routes.borrow_and_update().placement();
                    informed.place(placement).await;
                }
            };
            until.run_until_cancelled(inform).await;
        });
        let (sender, reports) = watch::channel(proto::wire::Stats::default());
        let reporting = report::run(hub.clone(), connections.clone(), self.0.metrics.clone(), sender);
        let until = end.clone();
        lifecycle.spawn(async move { until.run_until_cancelled(reporting).await });
        let links = link::Links {
            shared: self.0.clone(),
            hub: hub.clone(),
            removals: removals.clone(),
            reports,
            lifecycle: lifecycle.clone(),
            end: end.clone(),
        };
        lifecycle.spawn(discovery::run(links));
    }

    /// Forwards a broadcast over its room's link. Those of one caller to one room keep the order of the calls; the
    /// receipt comes later. One that goes alone waits for a link if there is none. Tells the link, if it is in its queue.
    pub fn publish(
        &self,
        room: &Room,
        from: &UserId,
        forward: Forward,
    ) -> (Option<LinkId>, impl Future<Output = Receipt> + Send + use<>) {
        let deadline = forward.deadline;
        let first = if forward.alone { None } else { Some(self.enqueue(room, from, forward.clone())) };
        let via = first.as_ref().and_then(|first| first.as_ref().ok()).map(|(via, _)| *via);
        let (upstream, room, from) = (self.clone(), room.clone(), from.clone());
        let receipt = async move {
            let waiting = async {
                let enqueued = match first {
                    Some(enqueued) => enqueued,
                    None => upstream.enqueue_when_linked(&room, &from, forward).await,
                };
                match enqueued {
                    Ok((_, receipt)) => receipt.await.unwrap_or_else(|_| Err(Failure::no_receipt())),
                    Err(failure) => Err(failure),
                }
            };
            let receipt = timeout_at(deadline, waiting).await.unwrap_or_else(|_| Err(Failure::no_receipt()));
            upstream.0.metrics.broadcast(match &receipt {
                Ok(_) => Outcome::Stored,
                Err(failure) if failure.again => Outcome::Repeated,
                Err(failure) => match failure.code {
                    ErrorCode::Unavailable => Outcome::Unavailable,
                    ErrorCode::Unknown => Outcome::Unknown,
                    _ => Outcome::Refused,
                },
            });
            receipt
        };
        (via, receipt)
    }

    /// How long the tier remembers an idempotency key, in milliseconds.
    pub fn dedup_ms(&self) -> u64 {
        self.0.dedup_ms.load(Ordering::Relaxed)
    }

    /// Whether the nodes share one store, as far as they say. False once they have not for a while.
    pub fn has_one_store(&self) -> bool {
        self.0.one_store.is_well()
    }

    /// Whether there has ever been a link. Losing all of them later does not count: the sockets are worth more.
    pub fn ever_linked(&self) -> bool {
        self.0.ever_linked.load(Ordering::Relaxed)
    }

    /// After a short pause, as what went wrong just now may go wrong again.
    async fn enqueue_when_linked(&self, room: &Room, from: &UserId, forward: Forward) -> Enqueued {
        sleep(REPEAT_PAUSE).await;
        let mut routes = self.0.routes.subscribe();
        // Fails only when we are gone ourselves.
        let _ = routes.wait_for(|routes| routes.broadcasts_of(room).is_some()).await;
        self.enqueue(room, from, forward)
    }

    fn enqueue(&self, room: &Room, from: &UserId, forward: Forward) -> Enqueued {
        let routes = self.0.routes.borrow().clone();
        let Some((via, broadcasts)) = routes.broadcasts_of(room) else {
            return Err(Failure::unavailable("no fanout node answers", forward.via.is_some()));
        };
        if forward.via.is_some_and(|other| other != via) {
            return Err(Failure::unavailable("the room moved to another fanout node", true));
        }
        let (broadcast, receipt) = Broadcast::new(room.clone(), from.clone(), forward);
        match broadcasts.try_send(broadcast) {
            Ok(()) => Ok((via, receipt)),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(Failure::unavailable("the link to the fanout node was lost", true))
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.0.metrics.link_broadcasts_full.inc();
                Err(Failure::unavailable("the link to the fanout node is busy", false))
            }
        }
    }
}

/// The link, and the receipt to come, or why there will be none.
type Enqueued = Result<(LinkId, oneshot::Receiver<Receipt>), Failure>;

impl Failure {
    /// Certainly not stored.
    fn unavailable(text: &str, again: bool) -> Self {
        Self { code: ErrorCode::Unavailable, text: text.to_owned(), again }
    }

    fn no_receipt() -> Self {
        let text = "no receipt came: it may have been stored".to_owned();
        Self { code: ErrorCode::Unknown, text, again: false }
    }
}
