//! An edge and a fanout node as processes: started, connected to, drained, killed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use edge::{
    auth::{Claims, RoomClaims, UserId},
    authorize::Authorizer,
    connection::{self, Context, Guest, Pumps},
    connections::Connections,
    deliveries::Deliveries,
    hub::{self, Hub},
    keys::{self, Keys},
    metrics::Metrics,
    outbox::{Outbox, Rules},
    removals::Removals,
    session,
    upstream::{self, Upstream, discovery::Discovery},
};
use fanout::simulation::Node;
use prometheus_client::{encoding::text::encode, registry::Registry};
use queues::Limits;
use rand::Rng as _;
use service::{Lifecycle, settings::Secret};
use tokio::io::{DuplexStream, WriteHalf, duplex, split};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::ModelBroker,
    network::{Network, Wire},
    world::{World, lock},
};

/// What a client's socket holds in each direction.
const SOCKET: usize = 4096;

/// How long a drained process may take.
const SHUTDOWN: Duration = Duration::from_secs(40);

/// How long a draining edge takes to send its clients away.
const DRAIN_WINDOW: Duration = Duration::from_secs(2);

pub(crate) struct EdgeProcess {
    context: Arc<Context>,
    pumps: Pumps<WriteHalf<DuplexStream>>,
    lifecycle: Lifecycle,
    sockets: TaskTracker,
    registry: Registry,
    limits: Limits,
    outboxes: Mutex<Vec<std::sync::Weak<Outbox>>>,
}

impl EdgeProcess {
    pub(crate) fn start(world: &Arc<World>, number: usize) -> Self {
        let plan = &world.plan;
        let (lifecycle, end) = (Lifecycle::new(), CancellationToken::new());
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::new(&mut registry));
        let connections = Connections::new(usize::MAX, usize::MAX, metrics.clone());
        let settings = hub::Settings {
            shards: plan.shards,
            linger: plan.linger,
            join_timeout: plan.publish_timeout,
            tail_bytes: plan.tail_bytes,
            send_queue: plan.send_queue,
        };
        let (hub, shards) =
            Hub::new(&settings, &connections.spread(), &world.clock(), &Deliveries::default(), &metrics, &end);
        for shard in shards {
            lifecycle.spawn_vital(shard);
        }
        let (pumps, drivers) = Pumps::new(plan.shards, &metrics.written, &end);
        for driver in drivers {
            lifecycle.spawn_vital(driver);
        }
        let jwt = vec![Secret::new("secret")];
        let keys = Keys::new(keys::Settings::default(), keys::Secrets { jwt, ..keys::Secrets::default() });
        let upstream = upstream::Settings {
            discovery: Discovery::List((0..plan.nodes).map(Network::address).collect()),
            keys: keys.clone(),
            name: format!("edge-{number}"),
            boot: service::rng().random(),
            transport: Arc::new(Wire { world: Arc::downgrade(world), edge: number }),
        };
        let upstream = Upstream::new(upstream, metrics.clone());
        let removals = Arc::new(Removals::new(connections.clone(), metrics.clone()));
        upstream.spawn(&hub, &connections, &removals, &lifecycle, &end);
        let limits = Limits { frames: plan.send_queue, bytes: 1 << 20 };
        let context = Arc::new(Context {
            settings: connection::Settings {
                ping_period: Duration::from_secs(54),
                pong_wait: Duration::from_mins(10),
                write_wait: Duration::from_secs(10),
                max_age: None,
                max_message_bytes: 16 << 10,
                session: Arc::new(session::Settings {
                    max_rooms: 100,
                    publish_timeout: plan.publish_timeout,
                    rate: 10_000,
                    burst: 10_000,
                }),
            },
            hub,
            upstream,
            keys,
            authorizer: Authorizer::Claims,
            connections: connections.clone(),
            removals,
            outbox_rules: Arc::new(Rules { limits, metrics: metrics.clone() }),
            metrics,
            clock: world.clock(),
        });
        let sockets = TaskTracker::new();
        let drain = edge::simulation::drain(lifecycle.clone(), connections, DRAIN_WINDOW, sockets.clone(), end);
        lifecycle.spawn(drain);
        Self { context, pumps, lifecycle, sockets, registry, limits, outboxes: Mutex::default() }
    }

    /// A socket, unless the edge does not take any: the client's end.
    pub(crate) fn connect(&self, user: &str, id: &str) -> Option<DuplexStream> {
        if self.lifecycle.is_draining() || !self.context.upstream.ever_linked() {
            return None;
        }
        let mut place = self.context.connections.reserve()?;
        let (near, far) = duplex(SOCKET);
        let (reader, writer) = split(near);
        let claims = Claims {
            user: UserId::try_new(user).ok()?,
            expires: i64::MAX / 2000,
            rooms: RoomClaims::All,
            auto_join: Box::default(),
        };
        let guest = Guest {
            id: id.into(),
            claims: Arc::new(claims),
            token: "t".into(),
            auto_join: false,
            arrival: self.context.arrival(),
        };
        let outbox = Arc::new(Outbox::new(guest.claims.user.clone(), self.context.outbox_rules.clone()));
        place.fill(outbox.clone());
        lock(&self.outboxes).push(Arc::downgrade(&outbox));
        self.pumps.start(writer, outbox.clone(), self.context.settings.write_wait);
        let (context, token) = (self.context.clone(), self.sockets.token());
        self.lifecycle.spawn(async move {
            connection::run(reader, &[], &[], guest, outbox, context).await;
            drop((place, token));
        });
        Some(far)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lifecycle.is_draining()
    }

    /// Whether an outbox holds more than it may.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut outboxes = lock(&self.outboxes);
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        for outbox in outboxes.iter().filter_map(std::sync::Weak::upgrade) {
            let held = outbox.queue().held();
            if held.frames > self.limits.frames || held.bytes > self.limits.bytes {
                return Err(format!("an outbox holds {held:?} of {:?}", self.limits));
            }
        }
        Ok(())
    }

    /// SIGTERM, up to the end.
    pub(crate) async fn drain(&self) -> bool {
        self.lifecycle.finish(SHUTDOWN).await
    }

    /// SIGKILL.
    pub(crate) async fn kill(&self) {
        self.lifecycle.stop().await;
    }

    pub(crate) fn count(&self, world: &World) {
        count(world, &self.registry);
    }
}

/// A fanout node.
pub(crate) struct NodeProcess {
    pub(crate) node: Node,
    pub(crate) broker: Arc<ModelBroker>,
    lifecycle: Lifecycle,
    registry: Registry,
}

impl NodeProcess {
    pub(crate) fn start(world: &Arc<World>, number: usize) -> Self {
        let lifecycle = Lifecycle::new();
        let mut registry = Registry::default();
        let plan = &world.plan;
        let settings = fanout::simulation::Settings {
            name: format!("fanout-{number}"),
            shards: plan.shards,
            sweep: plan.sweep,
            dedup_window: plan.keep.dedup_window,
        };
        let mut model = None;
        let broker = |events, end| {
            let broker = ModelBroker::start(world, events, &lifecycle, end);
            model = Some(broker.clone());
            broker as _
        };
        let node = Node::start(&settings, &mut registry, world.clock(), broker, &lifecycle);
        let broker = model.unwrap_or_else(|| unreachable!("a node starts its broker"));
        Self { node, broker, lifecycle, registry }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lifecycle.is_draining()
    }

    pub(crate) async fn drain(&self) -> bool {
        self.lifecycle.finish(SHUTDOWN).await
    }

    pub(crate) async fn kill(&self) {
        self.lifecycle.stop().await;
    }

    /// Whether a link's queue holds more than it may: its limit, or one run.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (most, queued) = (service::limit(8 << 20) + (64 << 10), self.node.queued());
        if queued > most { Err(format!("a link's queue holds {queued} bytes of {most}")) } else { Ok(()) }
    }

    pub(crate) fn count(&self, world: &World) {
        count(world, &self.registry);
    }
}

/// Adds what a process counted.
fn count(world: &World, registry: &Registry) {
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        return;
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.rsplit_once(' ')
            && name.contains("_total")
            && let Ok(value) = value.parse::<u64>()
        {
            world.count_by(name, value);
        }
    }
}
