use std::sync::Arc;

use proto::wire;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    connections::Connections,
    defaults::{STATS_INTERVAL, STATS_TOP},
    hub::Hub,
    metrics::Metrics,
};

/// Makes the report that every link sends: how many connections, rooms and members there are, and the largest rooms. Made
/// once, apart from the links, which never wait for a room. Runs until dropped.
pub(super) async fn run(
    hub: Hub,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    reports: watch::Sender<wire::Stats>,
) {
    let mut ticks = interval(STATS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let top = hub.top(STATS_TOP).await.into_iter();
        reports.send_replace(wire::Stats {
            connections: connections.count() as u64,
            rooms: u64::try_from(metrics.rooms.get()).unwrap_or(0),
            members: u64::try_from(metrics.members.get()).unwrap_or(0),
            top: top
                .map(|(room, members)| wire::RoomMembers { room: room.to_string(), members: members as u64 })
                .collect(),
        });
    }
}
