//! What an edge counts. Handles are made once; to count is one atomic addition. Never a room or user as a label.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::close::CloseReason;

#[derive(Debug, Default)]
pub struct Metrics {
    pub connections: Gauge,
    pub accepted: Counter,
    pub refused: Family<CodeLabel, Counter>,
    pub closed: Family<ReasonLabel, Counter>,
    pub rooms: Gauge,
    pub members: Gauge,
    pub requests: Counter,
    pub malformed: Counter,
    pub publications: Counter,
    pub duplicates: Counter,
    pub gaps: Counter,
    pub malformed_entries: Counter,
    pub deliveries: Counter,
    pub frames_written: Counter,
    pub bytes_written: Counter,
    pub writes: Counter,
    pub outboxes_full: Counter,
    pub hub_queue_full: Counter,
    pub link_queue_full: Counter,
    pub links: Gauge,
    pub link_attempts: Counter,
    pub link_losses: Counter,
    pub link_unknown_messages: Counter,
    pub broadcasts: Family<OutcomeLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    Stored,
    Refused,
    Unavailable,
    Unknown,
}

impl Metrics {
    pub fn closed(&self, reason: CloseReason) {
        self.closed.get_or_create(&ReasonLabel { reason: reason.label() }).inc();
    }

    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&CodeLabel { code }).inc();
    }

    /// Registers all of them under `espigon_edge_`. Handles are shared: the registry reads what we count.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("espigon_edge");
        r.register("connections", "Sockets open", self.connections.clone());
        r.register("accepted", "Sockets upgraded", self.accepted.clone());
        r.register("refused", "Sockets refused before or instead of the welcome, by code", self.refused.clone());
        r.register("closed", "Connections ended, by reason", self.closed.clone());
        r.register("rooms", "Rooms in the hub", self.rooms.clone());
        r.register("members", "Members of all rooms", self.members.clone());
        r.register("requests", "Messages of clients that were understood", self.requests.clone());
        r.register("malformed", "Messages of clients that were not", self.malformed.clone());
        r.register("publications", "Publications received that were new", self.publications.clone());
        r.register("duplicates", "Publications received again, dropped", self.duplicates.clone());
        r.register("gaps", "Runs of publications that did not follow on, asked for again", self.gaps.clone());
        r.register("malformed_entries", "Publications that could not be decoded", self.malformed_entries.clone());
        r.register("deliveries", "Frames put into the outboxes of members", self.deliveries.clone());
        r.register("frames_written", "Frames handed to the kernel", self.frames_written.clone());
        r.register("bytes_written", "Bytes handed to the kernel", self.bytes_written.clone());
        r.register("writes", "Write system calls that handed something to the kernel", self.writes.clone());
        r.register("outboxes_full", "Outboxes cut because they were full", self.outboxes_full.clone());
        r.register(
            "hub_queue_full",
            "Messages of links dropped at a full shard, and asked for again",
            self.hub_queue_full.clone(),
        );
        r.register("link_queue_full", "Broadcasts refused at a full link queue", self.link_queue_full.clone());
        r.register("links", "Links that are up", self.links.clone());
        r.register("link_attempts", "Attempts to make a link", self.link_attempts.clone());
        r.register("link_losses", "Links lost", self.link_losses.clone());
        r.register(
            "link_unknown_messages",
            "Messages of a link that were not understood",
            self.link_unknown_messages.clone(),
        );
        r.register("broadcasts", "Broadcasts of clients, by outcome", self.broadcasts.clone());
    }
}
