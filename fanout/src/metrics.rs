//! What the node counts. Handles are made once; labels take few values, never a room's or a user's name.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};

use service::latency::{Latency, Stages};

use crate::broker::{Broker, Receipt, StoreError};

/// `outcome` of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    outcome: &'static str,
}

/// `method` and `code` of a call of the publish API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Call {
    method: &'static str,
    code: &'static str,
}

/// `queue` and what happened to what it could not take.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Full {
    queue: &'static str,
    rule: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connection {
    connection: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Listener {
    listener: &'static str,
}

/// Write system calls on the connections of each listener.
#[derive(Debug)]
pub(crate) struct Writes {
    pub(crate) link: Counter,
    pub(crate) api: Counter,
}

/// Connections of a listener that were cut. Some reasons are of HTTP/1.1, or of its pings, and links have none.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    /// They took too long for something.
    pub(crate) head: Counter,
    pub(crate) answer: Counter,
    pub(crate) quiet: Counter,
    pub(crate) crowded: Counter,
    /// Others needed their place, or there was none.
    pub(crate) stranger: Counter,
    pub(crate) full: Counter,
    /// No head of HTTP, or too much of it.
    pub(crate) bad_head: Counter,
    /// No answer to a ping.
    pub(crate) ping: Counter,
}

impl Cut {
    fn register(registry: &mut Registry, name: &str, help: &str, stranger: &'static str) -> Self {
        let cut = family::<Reason>(registry, name, help);
        let cut = |reason| cut.get_or_create_owned(&Reason { reason });
        Self {
            head: cut("slow_head"),
            answer: cut("slow_answer"),
            quiet: cut("quiet"),
            crowded: cut("crowded"),
            stranger: cut(stranger),
            full: cut("full"),
            bad_head: cut("bad_head"),
            ping: cut("ping_timeout"),
        }
    }
}

/// Cached handles. The default counts into nothing that is shown.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) attachments: Gauge,
    pub(crate) rooms: Gauge,
    pub(crate) removals: Gauge,
    pub(crate) stored: Counter,
    duplicate: Counter,
    pub(crate) busy: Counter,
    unavailable: Counter,
    unknown: Counter,
    pub(crate) refused: Counter,
    pub(crate) published_bytes: Counter,
    pub(crate) delivered: Counter,
    pub(crate) delivered_bytes: Counter,
    pub(crate) link_messages: Counter,
    pub(crate) unknown_messages: Counter,
    pub(crate) link_queue_items: Gauge,
    pub(crate) link_queue_bytes: Gauge,
    pub(crate) shard_queue_items: Gauge,
    pub(crate) broker_queue_items: Gauge,
    pub(crate) link_queue_full: Counter,
    pub(crate) link_room_full: Counter,
    pub(crate) link_controls_full: Counter,
    pub(crate) link_publishes_full: Counter,
    pub(crate) link_reads_full: Counter,
    pub(crate) shard_full: Counter,
    pub(crate) held_full: Counter,
    pub(crate) held_back_full: Counter,
    pub(crate) interests_full: Counter,
    pub(crate) stream_full: Counter,
    pub(crate) reads_full: Counter,
    pub(crate) broker_full: Counter,
    pub(crate) broker_key_full: Counter,
    pub(crate) removals_full: Counter,
    pub(crate) hold_backs: Counter,
    pub(crate) repairs: Counter,
    pub(crate) replays: Counter,
    /// Rooms behind on a link.
    pub(crate) behind: Gauge,
    pub(crate) swept: Counter,
    pub(crate) sweep_behind: Counter,
    pub(crate) lost_history: Counter,
    pub(crate) lost_failover: Counter,
    pub(crate) from_the_past: Counter,
    pub(crate) broker_up: Gauge,
    pub(crate) tls_failures: Counter,
    pub(crate) writes: Writes,
    pub(crate) api_cut: Cut,
    pub(crate) link_cut: Cut,
    pub(crate) reconnected_commands: Counter,
    pub(crate) reconnected_subscriber: Counter,
    pub(crate) subscriber_lost: Counter,
    pub(crate) subscriber_deaf: Counter,
    pub(crate) subscriber_elsewhere: Counter,
    pub(crate) unsubscribed: Counter,
    /// From sending a pipeline until its answer.
    pub(crate) redis_roundtrip: Latency,
    pub(crate) calls: Family<Call, Counter>,
    /// From the moment a publication was offered until it had its place in the queue to the store.
    pub(crate) accepted: Latency,
    /// From then until its receipt.
    pub(crate) took_to_store: Latency,
    /// From the time it carries until its announcement is handled, here.
    pub(crate) announced: Latency,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&mut Registry::default())
    }
}

impl Metrics {
    pub(crate) fn new(root: &mut Registry) -> Self {
        let registry = root.sub_registry_with_prefix("espigon_fanout");
        let publications = family::<Outcome>(registry, "publications", "Publications offered, by what became of them");
        let outcome = |outcome| publications.get_or_create_owned(&Outcome { outcome });
        let full = family::<Full>(registry, "queue_full", "What a queue could not take, and by which rule it went");
        let full = |queue, rule| full.get_or_create_owned(&Full { queue, rule });
        let lost = family::<Reason>(registry, "lost", "Times a room's continuity was broken here");
        let lost = |reason| lost.get_or_create_owned(&Reason { reason });
        let redis = family::<Connection>(registry, "redis_connects", "Connections to Redis made");
        let redis = |connection| redis.get_or_create_owned(&Connection { connection });
        let rebuilt = family::<Reason>(registry, "redis_subscriber_losses", "Why there were no subscriptions any more");
        let rebuilt = |reason| rebuilt.get_or_create_owned(&Reason { reason });
        let writes = family::<Listener>(registry, "writes", "Write system calls on connections, by who listens");
        let write = |listener| writes.get_or_create_owned(&Listener { listener });
        let calls = family::<Call>(registry, "api_requests", "Calls of the publish API");
        let stages = Stages::register(registry);
        Self {
            accepted: stages.stage("accepted"),
            took_to_store: stages.stage("stored"),
            announced: stages.stage("announced"),
            attachments: gauge(registry, "attachments", "Links of edges"),
            rooms: gauge(registry, "rooms", "Rooms subscribed"),
            removals: gauge(registry, "removals", "Removals of users that edges are told"),
            stored: outcome("stored"),
            duplicate: outcome("duplicate"),
            busy: outcome("busy"),
            unavailable: outcome("unavailable"),
            unknown: outcome("unknown"),
            refused: outcome("refused"),
            published_bytes: bytes(registry, "published", "Bodies stored"),
            delivered: counter(registry, "deliveries", "Publications handed to links"),
            delivered_bytes: bytes(registry, "delivered", "Entries handed to links"),
            link_messages: counter(registry, "link_messages", "Messages handed to links"),
            unknown_messages: counter(registry, "link_unknown_messages", "Messages of links that were not understood"),
            link_queue_items: gauge(registry, "link_queue_items", "Publications in the queues of all links"),
            link_queue_bytes: gauge(registry, "link_queue_bytes", "Bytes of entries in the queues of all links"),
            shard_queue_items: gauge(registry, "shard_queue_items", "Announcements that wait for the shards"),
            broker_queue_items: gauge(registry, "broker_queue_items", "Publications that wait for the store"),
            link_queue_full: full("link", "behind"),
            link_room_full: full("link_room", "behind"),
            link_controls_full: full("link_controls", "end_link"),
            link_publishes_full: full("link_publishes", "busy"),
            link_reads_full: full("link_reads", "busy"),
            shard_full: full("shard", "read_again"),
            held_full: full("room_held", "read_again"),
            held_back_full: full("held_back", "not_held"),
            interests_full: full("shard_interests", "link_waits"),
            stream_full: full("publish_stream", "held_back"),
            reads_full: full("broker_reads", "waits"),
            broker_full: full("broker", "busy"),
            broker_key_full: full("broker_key", "busy"),
            removals_full: full("removals", "busy"),
            hold_backs: counter(registry, "hold_backs", "Times an edge asked to hold publishers back, or no more"),
            repairs: counter(registry, "gap_repairs", "Reads of a room's history because announcements were missing"),
            replays: counter(registry, "replays", "Pages of history read for links that were behind"),
            behind: gauge(
                registry,
                "rooms_behind",
                "Rooms that links follow from the history, being behind, over all links",
            ),
            swept: counter(registry, "sweep_rooms", "Silent rooms whose positions were compared with the store"),
            sweep_behind: counter(registry, "sweep_behind", "Rooms among them that had missed something"),
            lost_history: lost("history"),
            lost_failover: lost("failover"),
            from_the_past: counter(
                registry,
                "answers_from_the_past",
                "Answers of the store from an epoch that was left",
            ),
            tls_failures: counter(registry, "tls_failures", "TLS handshakes that failed"),
            writes: Writes { link: write("link"), api: write("api") },
            api_cut: Cut::register(registry, "api_cut", "Connections of the publish API cut, by reason", "keyless"),
            link_cut: Cut::register(registry, "link_cut", "Connections for links cut, by reason", "tokenless"),
            broker_up: gauge(registry, "broker_up", "1 while the broker can store, read and hear"),
            reconnected_commands: redis("commands"),
            reconnected_subscriber: redis("subscriber"),
            subscriber_lost: rebuilt("connection"),
            subscriber_deaf: rebuilt("deaf"),
            subscriber_elsewhere: rebuilt("other_server"),
            unsubscribed: counter(
                registry,
                "redis_unsubscribed",
                "Rooms that a Cluster has unsubscribed unasked, as their slot moved",
            ),
            redis_roundtrip: seconds(
                registry,
                "redis_roundtrip",
                "From sending publications, or a pulse, to Redis until its answer",
            ),
            calls,
        }
    }

    /// Counts what became of a publication.
    pub(crate) fn published(&self, result: &Result<Receipt, StoreError>) {
        match result {
            Ok(receipt) if receipt.duplicate => self.duplicate.inc(),
            Ok(_) => self.stored.inc(),
            Err(StoreError::Busy) => self.busy.inc(),
            Err(StoreError::Unavailable) => self.unavailable.inc(),
            Err(StoreError::Unknown) => self.unknown.inc(),
        };
    }

    /// Counts a call of the publish API.
    pub(crate) fn called(&self, method: &'static str, code: &'static str) {
        self.calls.get_or_create(&Call { method, code }).inc();
    }
}

/// Shows how long ago the node heard its own pulse, as of the moment somebody asks.
#[derive(Debug)]
pub(crate) struct HearingAge(pub(crate) Arc<dyn Broker>);

impl Collector for HearingAge {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let age = ConstGauge::new(Duration::from_millis(self.0.health().heard_ms_ago).as_secs_f64());
        let help = "Age of the node's own last pulse that it heard through the broker";
        let metric =
            encoder.encode_descriptor("espigon_fanout_hearing_age", help, Some(&Unit::Seconds), age.metric_type())?;
        age.encode(metric)
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn bytes(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
    counter
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Latency {
    let latency = Latency::default();
    registry.register_with_unit(name, help, Unit::Seconds, latency.clone());
    latency
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn family<L>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Counter>
where
    L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}
