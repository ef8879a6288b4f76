//! One link: a gRPC stream to one fanout node, made again with jittered backoff whenever it is lost. What it brings is
//! only parsed and handed over; it never waits for a room.

mod receive;
mod send;
mod transport;
mod up;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use proto::{
    VERSION,
    wire::{self, edge_message, fanout_message},
};
use service::{Backoff, Lifecycle, limit};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Settings, Shared, publishes::Inflight, routes::Route};
use crate::{
    defaults::{LINK_BACKOFF, LINK_QUEUE, SILENCE},
    hub::Hub,
    interest::{HeldBack, Interest, Reads},
    removals::Removals,
};
use receive::receive;
use send::{Reading, Sender};
pub use transport::{Grpc, Incoming, Transport};
use up::Up;

/// How long a link that was lost must be up again before it gets rooms, unless there is no other.
const SETTLING: Duration = Duration::from_secs(10);

/// Messages between the link task and HTTP/2. Few: what waits belongs in the interest and the broadcast queue.
const OUTGOING: usize = 16;

/// What each link task needs.
#[derive(Clone)]
pub(super) struct Links {
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Hub,
    pub(super) removals: Arc<Removals>,
    pub(super) reports: watch::Receiver<wire::Stats>,
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
pub enum LinkError {
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
        let mut first = true;
        while listed.load(Ordering::Relaxed) {
            links.shared.metrics.link_attempts.inc();
            let error = match connect(&address, &links).await {
                Ok(link) => {
                    tracing::info!(address, node = link.node, "link is up");
                    let began = Instant::now();
                    let error = link.run(&links, std::mem::take(&mut first)).await;
                    if began.elapsed() >= SETTLING {
                        backoff.reset();
                    }
                    links.shared.metrics.link_losses.inc();
                    error
                }
                Err(error) => error,
            };
            tracing::warn!(address, %error, "link is down");
            let delay = backoff.next_delay(&mut service::rng());
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
    store: String,
    outgoing: mpsc::Sender<wire::EdgeMessage>,
    incoming: Incoming,
}

async fn connect(address: &str, links: &Links) -> Result<Link, LinkError> {
    let (outgoing, stream) = mpsc::channel(OUTGOING);
    let Settings { name, boot, keys, transport, .. } = links.settings();
    let hello = wire::EdgeHello { version: VERSION, edge: name.clone(), boot: *boot };
    // Fits: the channel is empty. The node answers the call before it reads.
    let _ = outgoing.try_send(message(edge_message::Kind::Hello(hello)));
    let mut incoming = transport.attach(address, keys.link_token().as_deref(), stream).await?;
    let first = in_time(incoming.next()).await?.ok_or(LinkError::Ended)??;
    let Some(fanout_message::Kind::Hello(hello)) = first.kind else { return Err(LinkError::NoHello) };
    // Neighbours work together: the newer side speaks the older's language.
    if hello.version == 0 || hello.version.abs_diff(VERSION) > 1 {
        return Err(LinkError::Version(hello.version));
    }
    links.shared.dedup_ms.store(hello.dedup_ms, Ordering::Relaxed);
    // Fits as well. A node that does not know it yet passes over it.
    let accepts = wire::Accepts { publications_batch: true };
    let _ = outgoing.try_send(message(edge_message::Kind::Accepts(accepts)));
    Ok(Link { address: address.to_owned(), node: hello.node, store: hello.store, outgoing, incoming })
}

async fn in_time<F: Future>(future: F) -> Result<F::Output, LinkError> {
    timeout(SILENCE, future).await.map_err(|_| LinkError::Silent)
}

fn message(kind: edge_message::Kind) -> wire::EdgeMessage {
    wire::EdgeMessage { kind: Some(kind) }
}

impl Link {
    /// `first`: it was not lost before.
    async fn run(self, links: &Links, first: bool) -> LinkError {
        let Self { address, store, outgoing, incoming, .. } = self;
        let (broadcasts, waiting) = mpsc::channel(limit(LINK_QUEUE));
        let (interest, reads, held_back) =
            (Arc::<Interest>::default(), Arc::<Reads>::default(), Arc::<HeldBack>::default());
        let route = Route {
            address,
            interest: interest.clone(),
            reads: reads.clone(),
            held_back: held_back.clone(),
            broadcasts,
            draining: false,
            hears: true,
            settled: first,
            store,
        };
        let up = Up::register(route, links.shared.clone());
        let inflight = Mutex::new(Inflight::new(links.shared.metrics.link_inflight_full.clone()));
        let reading = Reading::default();
        let reports = links.reports.clone();
        let (inflight, reading) = (&inflight, &reading);
        let mut sender = Sender { reports, outgoing, interest, reads, held_back, waiting, inflight, reading };
        let settling = async {
            sleep(SETTLING).await;
            up.settles();
            std::future::pending().await
        };
        let error = tokio::select! {
            error = receive(incoming, &up, links, inflight, reading) => error,
            error = sender.run() => error,
            error = settling, if !first => error,
        };
        drop(up);
        sender.waiting.close();
        while let Some(broadcast) = sender.waiting.recv().await {
            broadcast.refuse("the link to the fanout node was lost", true);
        }
        error
    }
}
