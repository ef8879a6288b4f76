//! What the node tells about itself, and its edges about themselves. What it takes to make depends on how many edges there
//! are, each of which reports 100 rooms of each kind, not on how many rooms there are.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use proto::wire::Stats;
use serde_json::{Value, json};

use super::Api;
use crate::{
    attachments::{Attachment, Attachments},
    defaults::TOP_ROOMS,
};

/// The latest report of each edge; one that came back has two links for a moment.
fn edges(attachments: &[Arc<Attachment>]) -> Vec<Arc<Stats>> {
    let reports = attachments.iter().map(|attachment| {
        let report = attachment.report();
        (report.edge.clone(), Arc::clone(&report.stats))
    });
    // Oldest first, so that the latest is what stays.
    reports.collect::<HashMap<_, _>>().into_values().collect()
}

/// Members of each room that is in some edge's top.
fn largest(edges: &[Arc<Stats>]) -> HashMap<&str, u64> {
    let mut rooms = HashMap::new();
    for room in edges.iter().flat_map(|stats| &stats.top) {
        let members: &mut u64 = rooms.entry(room.room.as_str()).or_default();
        *members = members.saturating_add(room.members);
    }
    rooms
}

/// Publications a second in each room that is among some edge's busiest. Each edge counts the same ones.
fn busiest(edges: &[Arc<Stats>]) -> HashMap<&str, f64> {
    let mut rooms = HashMap::new();
    for stats in edges.iter().filter(|stats| stats.window_ms > 0) {
        for room in &stats.busiest {
            let rate: &mut f64 = rooms.entry(room.room.as_str()).or_default();
            *rate = rate.max(per_second(room.publications, stats.window_ms));
        }
    }
    rooms
}

#[expect(clippy::cast_precision_loss, reason = "it is shown to people")]
fn per_second(count: u64, window_ms: u64) -> f64 {
    let rate = count as f64 * 1000.0 / window_ms as f64;
    (rate * 10.0).round() / 10.0
}

/// Most first, those with as much by name.
fn top<T: Copy>(
    rooms: HashMap<&str, T>,
    compare: impl Fn(&T, &T) -> Ordering,
    told: impl Fn(&str, T) -> Value,
) -> Vec<Value> {
    let mut rooms: Vec<_> = rooms.into_iter().collect();
    rooms.sort_unstable_by(|a, b| compare(&b.1, &a.1).then(a.0.cmp(b.0)));
    rooms.truncate(TOP_ROOMS);
    rooms.into_iter().map(|(room, value)| told(room, value)).collect()
}

/// How long publications take to the edges: half of them, and 99 %, under so many milliseconds. Null when none came.
fn latency(edges: &[Arc<Stats>]) -> Value {
    let mut ages = Vec::new();
    for stats in edges {
        ages.resize(ages.len().max(stats.ages.len()), 0_u64);
        for (sum, count) in ages.iter_mut().zip(&stats.ages) {
            *sum = sum.saturating_add(*count);
        }
    }
    let all = ages.iter().copied().fold(0, u64::saturating_add);
    if all == 0 {
        return Value::Null;
    }
    let under = |percent: u64| {
        // Rounded up: the publication that so many are not slower than.
        let wanted = u64::try_from((u128::from(all) * u128::from(percent)).div_ceil(100)).unwrap_or(u64::MAX);
        let mut seen = 0_u64;
        let class = ages.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= wanted
        });
        1_u64 << class.unwrap_or(0)
    };
    json!({"p50_ms": under(50), "p99_ms": under(99)})
}

pub(super) fn members(attachments: &Attachments, room: &str) -> Option<u64> {
    largest(&edges(&attachments.all())).get(room).copied()
}

pub(super) fn status(api: &Api) -> Value {
    let health = api.publishing.broker.health();
    let attachments = api.attachments.all();
    let edges = edges(&attachments);
    let sum = |of: fn(&Stats) -> u64| edges.iter().map(|stats| of(stats)).fold(0, u64::saturating_add);
    let told = edges.iter().filter(|stats| stats.window_ms > 0);
    let member_deliveries = told.map(|stats| per_second(stats.deliveries, stats.window_ms)).reduce(|a, b| a + b);
    let (publications, deliveries) = api.rates.now();
    json!({
        "node": &*api.node,
        "version": env!("CARGO_PKG_VERSION"),
        "broker": {
            "kind": health.kind,
            "store": health.store.as_deref(),
            "ready": health.ready,
            "heard_ms_ago": health.heard_ms_ago,
        },
        "links": attachments.iter().map(|attachment| link(attachment)).collect::<Vec<_>>(),
        "rooms": api.publishing.metrics.rooms.get(),
        "connections": sum(|stats| stats.connections),
        "members": sum(|stats| stats.members),
        "slow_consumers": sum(|stats| stats.slow_consumers),
        "top_rooms": top(largest(&edges), u64::cmp, |room, members| json!({"room": room, "members": members})),
        "busiest_rooms": top(busiest(&edges), f64::total_cmp, |room, rate| json!({"room": room, "publications": rate})),
        "rates": {
            "publications": publications,
            "deliveries": deliveries,
            "member_deliveries": member_deliveries,
        },
        "latency": latency(&edges),
    })
}

fn link(attachment: &Attachment) -> Value {
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

#[cfg(test)]
mod tests {
    use proto::wire::{RoomMembers, RoomPublications};

    use super::*;

    fn edge(top: &[(&str, u64)], busiest: &[(&str, u64)], ages: &[u64]) -> Arc<Stats> {
        let members = |(room, members): &(&str, u64)| RoomMembers { room: (*room).into(), members: *members };
        let rates = |(room, count): &(&str, u64)| RoomPublications { room: (*room).into(), publications: *count };
        Arc::new(Stats {
            window_ms: 5000,
            top: top.iter().map(members).collect(),
            busiest: busiest.iter().map(rates).collect(),
            ages: ages.to_vec(),
            ..Stats::default()
        })
    }

    #[test]
    fn members_of_edges_add_up_and_their_rates_do_not() {
        let edges = [
            edge(&[("a", 3), ("b", 2)], &[("a", 10), ("b", 1)], &[]),
            edge(&[("b", 4), ("c", 3)], &[("a", 12)], &[]),
            // Of before there were rates.
            Arc::new(Stats { window_ms: 0, ..Stats::clone(&edge(&[("c", 1)], &[("z", 9)], &[])) }),
        ];
        let rooms = top(largest(&edges), u64::cmp, |room, members| json!([room, members]));
        assert_eq!(Value::from(rooms), json!([["b", 6], ["c", 4], ["a", 3]]));
        let rooms = top(busiest(&edges), f64::total_cmp, |room, rate| json!([room, rate]));
        assert_eq!(Value::from(rooms), json!([["a", 2.4], ["b", 0.2]]));
    }

    #[test]
    fn latency_is_of_all_edges_together() {
        assert_eq!(latency(&[edge(&[], &[], &[0, 0, 0])]), Value::Null);
        let edges = [edge(&[], &[], &[40, 10]), edge(&[], &[], &[0, 0, 49, 0, 1])];
        assert_eq!(latency(&edges), json!({"p50_ms": 2, "p99_ms": 4}));
        assert_eq!(latency(&edges[1..]), json!({"p50_ms": 4, "p99_ms": 16}));
        let many = edge(&[], &[], &[u64::MAX, u64::MAX]);
        assert_eq!(latency(&[many.clone(), many]), json!({"p50_ms": 1, "p99_ms": 1}), "no overflow");
    }

    #[test]
    fn only_so_many_rooms_are_told() {
        let names: Vec<_> = (0..3 * TOP_ROOMS).map(|number| format!("{number:05}")).collect();
        let rooms = names.iter().map(|name| (name.as_str(), 1_u64)).collect();
        let told = top(rooms, u64::cmp, |room, _| room.into());
        assert_eq!((told.len(), &told[0]), (TOP_ROOMS, &"00000".into()));
    }
}
