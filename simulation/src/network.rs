//! The network between edges and nodes: each link a pipe both ways, ordered, with a latency and a window. It is slow, it
//! stalls without a word (a black hole), it breaks.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use edge::upstream::{Incoming, LinkError, Transport};
use fanout::simulation::Node;
use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use proto::wire::{self, EdgeMessage, FanoutMessage, edge_message, fanout_message};
use rand::seq::IteratorRandom as _;
use service::settings::Secret;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    record::word_of,
    world::{World, lock, one_in, up_to},
};

/// Messages under way in one direction; then the sender waits.
const WINDOW: usize = 8;

/// How long an attempt to connect to nowhere takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct Network {
    nodes: Mutex<Vec<Option<Node>>>,
    links: Mutex<Vec<Weak<Pipe>>>,
    /// Pairs that do not reach each other until then.
    apart: Mutex<BTreeMap<(usize, usize), Instant>>,
}

/// The state of one link.
#[derive(Debug)]
struct Pipe {
    edge: usize,
    node: usize,
    /// Nothing arrives before then.
    stalled_until: Mutex<Instant>,
    /// Each message takes so much longer.
    slow: Mutex<Duration>,
    broken: CancellationToken,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Self {
        let nodes = Mutex::new((0..nodes).map(|_| None).collect());
        Self { nodes, links: Mutex::default(), apart: Mutex::default() }
    }

    /// Where the node is found by all edges.
    pub fn address(node: usize) -> String {
        format!("10.0.0.{node}:7000")
    }

    pub(crate) fn connect_node(&self, number: usize, node: Option<Node>) {
        lock(&self.nodes)[number] = node;
    }

    /// A node that is up.
    pub(crate) fn any_node(&self) -> Option<(usize, Node)> {
        let nodes = lock(&self.nodes);
        let up = nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.clone()?)));
        up.choose(&mut service::rng())
    }

    pub(crate) fn node(&self, number: usize) -> Option<Node> {
        lock(&self.nodes)[number].clone()
    }

    fn any_link(&self) -> Option<Arc<Pipe>> {
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        let up = links.iter().filter_map(Weak::upgrade).filter(|link| !link.broken.is_cancelled());
        up.choose(&mut service::rng())
    }

    /// One link ends, and both ends learn it. Which one.
    pub(crate) fn break_one(&self) -> Option<(usize, usize)> {
        let link = self.any_link()?;
        link.broken.cancel();
        Some((link.edge, link.node))
    }

    /// Nothing arrives on one link for a while, nor is a new one to be had.
    pub(crate) fn stall_one(&self, long: Duration) -> Option<(usize, usize)> {
        let link = self.any_link()?;
        let until = Instant::now() + long;
        *lock(&link.stalled_until) = until;
        lock(&self.apart).insert((link.edge, link.node), until);
        Some((link.edge, link.node))
    }

    /// Everything on one link takes longer from now on, until it is made anew, or things settle.
    pub(crate) fn slow_one(&self, by: Duration) -> Option<(usize, usize)> {
        let link = self.any_link()?;
        *lock(&link.slow) = by;
        Some((link.edge, link.node))
    }

    /// Nothing is slow or stalled any more.
    pub(crate) fn heal(&self) {
        lock(&self.apart).clear();
        for link in lock(&self.links).iter().filter_map(Weak::upgrade) {
            *lock(&link.slow) = Duration::ZERO;
        }
    }

    fn are_apart(&self, edge: usize, node: usize) -> bool {
        lock(&self.apart).get(&(edge, node)).is_some_and(|until| *until > Instant::now())
    }
}

/// An edge's way to the nodes.
pub(crate) struct Wire {
    pub(crate) world: Weak<World>,
    pub(crate) edge: usize,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("edge", &self.edge).finish_non_exhaustive()
    }
}

impl Transport for Wire {
    fn attach(
        &self,
        address: &str,
        _: Option<&Secret>,
        outgoing: mpsc::Receiver<EdgeMessage>,
    ) -> BoxFuture<'static, Result<Incoming, LinkError>> {
        let node = address.trim_start_matches("10.0.0.").trim_end_matches(":7000").parse().unwrap_or(0);
        let (world, edge) = (self.world.clone(), self.edge);
        async move {
            let Some(world) = world.upgrade() else { return Err(LinkError::Ended) };
            world.attach(edge, node, outgoing).await
        }
        .boxed()
    }
}

impl World {
    async fn attach(
        self: &Arc<Self>,
        edge: usize,
        node: usize,
        outgoing: mpsc::Receiver<EdgeMessage>,
    ) -> Result<Incoming, LinkError> {
        let latency = self.plan.link_latency;
        sleep(up_to(latency)).await;
        if self.network.are_apart(edge, node) {
            sleep(CONNECT_TIMEOUT).await;
            return Err(LinkError::Silent);
        }
        let Some(process) = self.network.node(node) else {
            return Err(Status::unavailable("no such node").into());
        };
        let pipe = Arc::new(Pipe {
            edge,
            node,
            stalled_until: Mutex::new(Instant::now()),
            slow: Mutex::default(),
            broken: CancellationToken::new(),
        });
        lock(&self.network.links).push(Arc::downgrade(&pipe));
        let said = self.carry(ReceiverStream::new(outgoing).map(Ok).boxed(), &pipe);
        let told = process.attach(said)?;
        self.say(|| format!("link of edge {edge} to node {node}"));
        Ok(self.carry(told, &pipe).boxed())
    }

    /// Takes what comes out at one end, and makes it arrive at the other.
    fn carry<T: Spoken + Send + 'static>(
        self: &Arc<Self>,
        mut from: Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>,
        pipe: &Arc<Pipe>,
    ) -> Arriving<T> {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let (link, latency, world) = (Arc::clone(pipe), self.plan.link_latency, Arc::clone(self));
        self.tasks.spawn(async move {
            let mut arrives = Instant::now();
            loop {
                let item = tokio::select! {
                    biased;
                    () = link.broken.cancelled() => return,
                    () = sender.closed() => break,
                    item = from.next() => item,
                };
                let Some(item) = item else { return };
                if let Some(said) = item.as_ref().ok().and_then(Spoken::text) {
                    world.say(|| format!("edge {} node {}: {said}", link.edge, link.node));
                }
                let slow = *lock(&link.slow);
                arrives = arrives.max(Instant::now() + up_to(latency)) + slow;
                if sender.send((arrives, item)).await.is_err() {
                    break;
                }
            }
            // The other end is gone: this one learns it when word of that arrives.
            sleep(up_to(latency)).await;
            let stalled = *lock(&link.stalled_until);
            sleep_until(stalled).await;
        });
        Arriving { receiver, pipe: Arc::clone(pipe), next: None, timer: None, broken: None }
    }
}

/// A message as the trace shows it; beats and the like are left out.
trait Spoken {
    fn text(&self) -> Option<String>;
}

impl Spoken for EdgeMessage {
    fn text(&self) -> Option<String> {
        match self.kind.as_ref()? {
            edge_message::Kind::Interest(interest) => Some(format!("wants {:?}", interest.rooms)),
            edge_message::Kind::Read(read) => Some(format!("asks {} {} {:?}", read.id, read.room, read.from)),
            edge_message::Kind::Publish(publish) => {
                let body = String::from_utf8_lossy(&publish.body);
                Some(format!("publishes {} {} {}", publish.id, publish.room, word_of(&body)))
            }
            _ => None,
        }
    }
}

impl Spoken for FanoutMessage {
    fn text(&self) -> Option<String> {
        let run = |run: &wire::Publications| {
            let last = run.first_seq + run.entries.len() as u64 - 1;
            format!("{} {}/{}-{last}", run.room, run.epoch, run.first_seq)
        };
        match self.kind.as_ref()? {
            fanout_message::Kind::Publications(publications) => Some(format!("sends {}", run(publications))),
            fanout_message::Kind::PublicationsBatch(batch) => {
                Some(format!("sends {:?}", batch.runs.iter().map(run).collect::<Vec<_>>()))
            }
            fanout_message::Kind::ReadResult(result) => Some(format!(
                "answers {} {}: {} from {}, at {:?}, prev {:?}, complete {}, {:?}",
                result.id,
                result.room,
                result.entries.len(),
                result.first_seq,
                result.position,
                result.prev,
                result.complete,
                result.error
            )),
            fanout_message::Kind::Beat(_) => None,
            other => Some(format!("says {other:?}")),
        }
    }
}

/// The far end of a pipe.
struct Arriving<T> {
    receiver: mpsc::Receiver<(Instant, Result<T, Status>)>,
    pipe: Arc<Pipe>,
    /// The first that is under way; `None` within: the end.
    next: Option<(Instant, Option<Result<T, Status>>)>,
    timer: Option<Pin<Box<Sleep>>>,
    broken: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<T: Unpin> Stream for Arriving<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let me = self.get_mut();
        let broken = me.broken.get_or_insert_with(|| me.pipe.broken.clone().cancelled_owned().boxed());
        if me.pipe.broken.is_cancelled() || broken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Status::unavailable("the connection broke"))));
        }
        loop {
            if me.next.is_none() {
                me.next = Some(match ready!(me.receiver.poll_recv(cx)) {
                    Some((at, item)) => (at, Some(item)),
                    None => (Instant::now(), None),
                });
            }
            let Some((at, _)) = &me.next else { return Poll::Pending };
            let due = (*at).max(*lock(&me.pipe.stalled_until));
            if due <= Instant::now() {
                return Poll::Ready(me.next.take().and_then(|(_, item)| item));
            }
            let timer = me.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// Some of what goes wrong with a link, by name.
pub(crate) fn slowness() -> Duration {
    if one_in(3) { Duration::from_millis(400) } else { up_to(Duration::from_millis(60)) }
}
