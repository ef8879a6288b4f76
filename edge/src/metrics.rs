//! What an edge counts. Handles are made once; to count is one atomic addition. Labels take few values, never a room's
//! or a user's name.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Metric, Registry},
};

use service::latency::{Latency, Stages};

use crate::close::CloseReason;

/// Cached handles. The default counts into nothing that is shown.
#[derive(Debug)]
pub struct Metrics {
    pub connections: Gauge,
    pub accepted: Counter,
    pub tls_failures: Counter,
    refused: Family<CodeLabel, Counter>,
    closed: Family<ReasonLabel, Counter>,
    pub rooms: Gauge,
    pub members: Gauge,
    pub requests: Counter,
    pub malformed: Counter,
    errors: Family<CodeLabel, Counter>,
    pub publications: Counter,
    pub duplicates: Counter,
    pub gaps: Counter,
    pub pages: Counter,
    pub pages_failed: Counter,
    pub deliveries: Counter,
    pub hold_backs: Counter,
    pub frames_written: Counter,
    pub bytes_written: Counter,
    pub writes: Counter,
    pub outbox_full: Counter,
    pub shard_full: Counter,
    pub room_full: Counter,
    pub link_broadcasts_full: Counter,
    pub link_inflight_full: Counter,
    pub session_full: Counter,
    pub outbox_frames: Gauge,
    pub outbox_bytes: Gauge,
    links: Family<StateLabel, Gauge>,
    pub removals_full: Counter,
    pub removals: Gauge,
    pub removed: Counter,
    pub stores: Gauge,
    pub link_attempts: Counter,
    pub link_losses: Counter,
    pub link_unknown_messages: Counter,
    broadcasts: Family<OutcomeLabel, Counter>,
    /// From the time a publication carries until the shard of its room has it.
    pub received: Latency,
    /// From the first frame to be written until a pass over all pumps that were due is done.
    pub written: Latency,
}

/// A queue, and what becomes of what it cannot take.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FullLabel {
    queue: &'static str,
    rule: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The first reason why a link has less than its share of the rooms, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Draining,
    /// The node does not hear what it publishes itself.
    Deaf,
    /// It was lost, and is not up long enough yet.
    Settling,
    Well,
}

impl LinkState {
    pub const ALL: [Self; 4] = [Self::Draining, Self::Deaf, Self::Settling, Self::Well];

    fn label(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Deaf => "deaf",
            Self::Settling => "settling",
            Self::Well => "well",
        }
    }
}

/// What became of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// Not yet: it goes over another link.
    Repeated,
    Refused,
    Unavailable,
    Unknown,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Repeated => "repeated",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&mut Registry::default())
    }
}

impl Metrics {
    /// Registers all of them under `espigon_edge_`.
    pub fn new(root: &mut Registry) -> Self {
        let r = root.sub_registry_with_prefix("espigon_edge");
        let queues: Family<FullLabel, Counter> =
            add(r, "queue_full", "What a queue could not take, and by which rule it went");
        let full = |queue, rule| queues.get_or_create_owned(&FullLabel { queue, rule });
        let stages = Stages::register(r);
        let metrics = Self {
            received: stages.stage("received"),
            written: stages.stage("written"),
            connections: add(r, "connections", "Sockets open"),
            accepted: add(r, "accepted", "Sockets that got a welcome"),
            tls_failures: add(r, "tls_failures", "TLS handshakes that failed"),
            refused: add(r, "refused", "Sockets refused, by code"),
            closed: add(r, "closed", "Connections ended, by reason"),
            rooms: add(r, "rooms", "Rooms in the hub"),
            members: add(r, "members", "Members of all rooms"),
            requests: add(r, "requests", "Messages of clients that were understood"),
            malformed: add(r, "malformed", "Messages of clients that were not"),
            errors: add(r, "errors", "Errors told to clients, by code"),
            publications: add(r, "publications", "Publications received that were new"),
            duplicates: add(r, "duplicates", "Publications received again, dropped"),
            gaps: add(r, "gaps", "Runs of publications that did not follow on, asked for again"),
            pages: add(r, "pages", "Pages of history read for members that catch up"),
            pages_failed: add(r, "pages_failed", "Pages of history that could not be read"),
            deliveries: add(r, "deliveries", "Frames put into the outboxes of members"),
            hold_backs: add(
                r,
                "hold_backs",
                "Times that publishers were held back as members of a room did not keep up",
            ),
            frames_written: add(r, "frames_written", "Frames handed to the kernel"),
            bytes_written: add(r, "bytes_written", "Bytes handed to the kernel"),
            writes: add(r, "writes", "Write system calls that handed something to the kernel"),
            outbox_full: full("outbox", "close_4008"),
            shard_full: full("shard", "ask_again"),
            room_full: full("room", "ask_again"),
            link_broadcasts_full: full("link_broadcasts", "unavailable"),
            link_inflight_full: full("link_inflight", "unavailable"),
            session_full: full("session", "rate_limited"),
            outbox_frames: add(r, "outbox_frames", "Frames that waited in all outboxes at the last look"),
            outbox_bytes: add(r, "outbox_bytes", "Bytes of them"),
            links: add(r, "links", "Links that are up, by state"),
            removals_full: full("removals", "void_for_all"),
            removals: add(r, "removals", "Removals of users that are known"),
            removed: add(r, "removed", "Memberships ended by a removal"),
            stores: add(r, "stores", "Different stores that the nodes name; should be 1"),
            link_attempts: add(r, "link_attempts", "Attempts to make a link"),
            link_losses: add(r, "link_losses", "Links lost"),
            link_unknown_messages: add(r, "link_unknown_messages", "Messages of links that were not understood"),
            broadcasts: add(r, "broadcasts", "Broadcasts of clients, by outcome"),
        };
        // That there is none is to be seen, too.
        for state in LinkState::ALL {
            metrics.links(state, 0);
        }
        metrics
    }

    pub fn links(&self, state: LinkState, count: usize) {
        self.links.get_or_create(&StateLabel { state: state.label() }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn closed(&self, reason: CloseReason) {
        self.closed.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&CodeLabel { code }).inc();
    }

    pub fn error(&self, code: &'static str) {
        self.errors.get_or_create(&CodeLabel { code }).inc();
    }

    pub fn broadcast(&self, outcome: Outcome) {
        self.broadcasts.get_or_create(&OutcomeLabel { outcome: outcome.label() }).inc();
    }
}

/// A handle that the registry reads as well.
fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn each_queue_has_a_row_in_the_table_and_each_row_a_queue() {
        let mut registry = Registry::default();
        let _metrics = Metrics::new(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let label = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let lines = text.lines().filter(|line| line.starts_with("espigon_edge_queue_full_total{"));
        let shown: BTreeSet<_> = lines.map(|line| (label(line, "queue"), label(line, "rule"))).collect();

        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md")).unwrap();
        let (_, rest) = page.split_once("Of an edge, counted by `espigon_edge_queue_full`:\n\n").unwrap();
        let rows = rest.lines().take_while(|line| line.starts_with('|')).skip(2);
        let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
        let listed: BTreeSet<_> = rows
            .map(|row| {
                let cells: Vec<_> = row.split('|').collect();
                (cell(cells[1]), cell(cells[2]))
            })
            .collect();
        assert_eq!(shown, listed);
    }
}
