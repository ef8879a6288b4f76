//! The edge's view of the fanout tier: which nodes there are, a link to each, which link serves which room.
//!
//! - [`discovery`]: the addresses, from a list or a DNS name.
//! - `link`: one attachment to one node, made again whenever it is lost.
//! - `routes`: the links that are up; the hub is told whenever they change.

pub mod discovery;
mod link;
mod publishes;
mod routes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::{Key, Room};
use service::{Lifecycle, settings::Secret};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::UserId,
    connections::Connections,
    hub::Hub,
    metrics::{Metrics, Outcome},
    protocol::ErrorCode,
    session::Receipt,
};
use discovery::Discovery;
use publishes::Broadcast;
use routes::Routes;

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
    next_link: AtomicU64,
    metrics: Arc<Metrics>,
}

/// How the edge meets the fanout tier.
#[derive(Debug, Clone)]
pub struct Settings {
    pub discovery: Discovery,
    /// Proves the edge to the nodes.
    pub link_token: Option<Secret>,
    pub publish_timeout: Duration,
    /// The edge's name, for the nodes' logs and status.
    pub name: String,
    /// Random per start.
    pub boot: u64,
}

impl Upstream {
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            settings,
            routes: watch::Sender::new(Arc::default()),
            ever_linked: AtomicBool::new(false),
            // Until a node has said what it is, its default.
            dedup_ms: AtomicU64::new(300_000),
            next_link: AtomicU64::new(1),
            metrics,
        }))
    }

    /// Spawns discovery, the links, and the task that keeps the hub informed. All run until `end`.
    pub fn spawn(&self, hub: &Hub, connections: &Arc<Connections>, lifecycle: &Lifecycle, end: &CancellationToken) {
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
        let links = link::Links {
            shared: self.0.clone(),
            hub: hub.clone(),
            connections: connections.clone(),
            lifecycle: lifecycle.clone(),
            end: end.clone(),
        };
        lifecycle.spawn(discovery::run(links));
    }

    /// Forwards a broadcast over its room's link. Those of one caller to one room keep the order of the calls; the
    /// receipt comes later.
    pub fn publish(
        &self,
        room: &Room,
        from: &UserId,
        body: Box<str>,
        key: Option<Key>,
    ) -> impl Future<Output = Receipt> + Send + use<> {
        let waiting = self.enqueue(room, from, body, key);
        let (limit, metrics) = (self.0.settings.publish_timeout, self.0.metrics.clone());
        async move {
            let receipt = match waiting {
                Ok(receipt) => match timeout(limit, receipt).await {
                    Ok(Ok(receipt)) => receipt,
                    Ok(Err(_)) | Err(_) => {
                        Err((ErrorCode::Unknown, "no receipt came: it may have been stored".to_owned()))
                    }
                },
                Err(refused) => Err(refused),
            };
            let outcome = match &receipt {
                Ok(_) => Outcome::Stored,
                Err((ErrorCode::Unavailable, _)) => Outcome::Unavailable,
                Err((ErrorCode::Unknown, _)) => Outcome::Unknown,
                Err(_) => Outcome::Refused,
            };
            metrics.broadcast(outcome);
            receipt
        }
    }

    /// How long the tier remembers an idempotency key, in milliseconds.
    pub fn dedup_ms(&self) -> u64 {
        self.0.dedup_ms.load(Ordering::Relaxed)
    }

    /// Whether there has ever been a link. Losing all of them later does not count: the sockets are worth more.
    pub fn ever_linked(&self) -> bool {
        self.0.ever_linked.load(Ordering::Relaxed)
    }

    fn enqueue(
        &self,
        room: &Room,
        from: &UserId,
        body: Box<str>,
        key: Option<Key>,
    ) -> Result<tokio::sync::oneshot::Receiver<Receipt>, (ErrorCode, String)> {
        let routes = self.0.routes.borrow().clone();
        let Some(broadcasts) = routes.broadcasts_of(room) else {
            return Err((ErrorCode::Unavailable, "no fanout node answers".to_owned()));
        };
        let (broadcast, receipt) =
            Broadcast::new(room.clone(), from.clone(), body, key, self.0.settings.publish_timeout);
        broadcasts.try_send(broadcast).map_err(|error| {
            if matches!(error, mpsc::error::TrySendError::Full(_)) {
                self.0.metrics.link_broadcasts_full.inc();
            }
            (ErrorCode::Unavailable, "the link to the fanout node is busy".to_owned())
        })?;
        Ok(receipt)
    }
}
