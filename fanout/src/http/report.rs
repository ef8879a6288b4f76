//! What the node tells about itself.

use std::{collections::HashMap, sync::Arc};

use proto::wire::Stats;
use serde_json::{Value, json};

use super::Api;
use crate::attachments::{Attachment, Attachments};

/// Rooms shown in `top_rooms`.
const TOP: usize = 100;

/// The latest report of each edge; one that came back has two links for a moment.
fn edges(attachments: &Attachments) -> Vec<Stats> {
    let mut all = attachments.all();
    all.sort_by_key(|attachment| attachment.id);
    let reports = all.iter().map(|attachment| {
        let report = attachment.report();
        (report.edge.clone(), report.stats.clone())
    });
    reports.collect::<HashMap<_, _>>().into_values().collect()
}

/// Members of each room that is in some edge's top.
fn top(edges: &[Stats]) -> HashMap<&str, u64> {
    let mut rooms = HashMap::new();
    for room in edges.iter().flat_map(|stats| &stats.top) {
        let members: &mut u64 = rooms.entry(room.room.as_str()).or_default();
        *members = members.saturating_add(room.members);
    }
    rooms
}

pub(super) fn members(attachments: &Attachments, room: &str) -> Option<u64> {
    top(&edges(attachments)).get(room).copied()
}

pub(super) fn status(api: &Api) -> Value {
    let health = api.publishing.broker.health();
    let edges = edges(&api.attachments);
    let mut rooms: Vec<_> = top(&edges).into_iter().collect();
    rooms.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    rooms.truncate(TOP);
    let top: Vec<_> = rooms.into_iter().map(|(room, members)| json!({"room": room, "members": members})).collect();
    json!({
        "node": &*api.node,
        "version": env!("CARGO_PKG_VERSION"),
        "broker": {
            "kind": health.kind,
            "store": health.store.as_deref(),
            "ready": health.ready,
            "heard_ms_ago": health.heard_ms_ago,
        },
        "links": api.attachments.all().iter().map(link).collect::<Vec<_>>(),
        "rooms": api.publishing.metrics.rooms.get(),
        "members": edges.iter().map(|stats| stats.members).fold(0, u64::saturating_add),
        "top_rooms": top,
        "rates": api.rates.report(),
    })
}

fn link(attachment: &Arc<Attachment>) -> Value {
    let (edge, connections) = {
        let report = attachment.report();
        (report.edge.clone(), report.stats.connections)
    };
    json!({
        "edge": edge,
        "rooms": attachment.rooms(),
        "connections": connections,
        "queued_bytes": attachment.queue.bytes(),
    })
}
