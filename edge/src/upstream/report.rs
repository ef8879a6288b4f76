use std::sync::Arc;

use proto::{Room, wire};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    connections::Connections,
    defaults::{STATS_INTERVAL, STATS_TOP},
    hub::{Census, Hub},
    metrics::Metrics,
};

/// Makes the report that every link sends: how many connections, rooms and members there are, the largest and the busiest
/// rooms, what was delivered. Made once, apart from the links, which never wait for a room. Runs until dropped.
pub(super) async fn run(
    hub: Hub,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<wire::Stats>,
) {
    let mut ticks = interval(STATS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut delivered) = (Instant::now(), metrics.deliveries.get());
    loop {
        ticks.tick().await;
        let Some(Census { largest, busiest, ages }) = hub.census(STATS_TOP).await else { return };
        let held = connections.held().await;
        metrics.outbox_frames.set(i64::try_from(held.frames).unwrap_or(i64::MAX));
        metrics.outbox_bytes.set(i64::try_from(held.bytes).unwrap_or(i64::MAX));
        let (now, deliveries) = (Instant::now(), metrics.deliveries.get());
        let members = |(room, members): (Room, u64)| wire::RoomMembers { room: room.to_string(), members };
        let publications =
            |(room, count): (Room, u64)| wire::RoomPublications { room: room.to_string(), publications: count };
        reports.send_replace(wire::Stats {
            connections: connections.count() as u64,
            rooms: u64::try_from(metrics.rooms.get()).unwrap_or(0),
            members: u64::try_from(metrics.members.get()).unwrap_or(0),
            top: largest.into_rooms().map(members).collect(),
            slow_consumers: metrics.outbox_full.get(),
            window_ms: u64::try_from((now - before).as_millis()).unwrap_or(u64::MAX).max(1),
            deliveries: deliveries - delivered,
            busiest: busiest.into_rooms().map(publications).collect(),
            ages: ages.to_vec(),
        });
        (before, delivered) = (now, deliveries);
    }
}
