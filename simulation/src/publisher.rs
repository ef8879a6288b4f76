//! A backend: publishes with and without keys, repeats what it must, and remembers what it was told.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanout::broker::StoreError;
use rand::Rng as _;
use tokio::time::{sleep, timeout};

use crate::{
    plan::Kind,
    world::{World, one_in, up_to},
};

/// Longest wait for a receipt; then it is unknown.
const PATIENCE: Duration = Duration::from_secs(15);

/// Publications in a row, now and then.
const BURST: usize = 40;

/// A body whose first word is its name.
pub(crate) fn body(name: &str, longest: usize) -> String {
    let filler = service::rng().random_range(0..=longest);
    format!("\"{name} {}\"", "x".repeat(filler))
}

pub(crate) async fn run(world: Arc<World>, number: usize) {
    let mut count = 0;
    while !world.is_settling() {
        let calm = matches!(world.plan.kind, Kind::Calm | Kind::Planned);
        let burst = if one_in(60) && !calm { BURST } else { 1 };
        for _ in 0..burst {
            count += 1;
            publish(&world, &format!("p:{number}:{count}")).await;
        }
        sleep(up_to(world.plan.pace * 2)).await;
    }
}

async fn publish(world: &World, name: &str) {
    let plan = &world.plan;
    let room = World::room(service::rng().random_range(0..plan.rooms));
    let body = Bytes::from(body(name, plan.body));
    let key = if one_in(3) { "" } else { name };
    for attempt in 0..6 {
        let Some((_, node)) = world.network.any_node() else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        world.truth().record.tries(name);
        let deadline = up_to(Duration::from_secs(3)) + Duration::from_millis(50);
        let published = timeout(PATIENCE, node.publish(room.as_str(), body.clone(), key, deadline)).await;
        match published.unwrap_or(Err(StoreError::Unknown)) {
            Ok(receipt) => {
                if receipt.duplicate {
                    world.count("publisher: duplicate");
                    if attempt == 0 {
                        world.fail(&format!("{name} is a duplicate the first time"));
                    }
                }
                world.truth().record.acked(&room, name, receipt.position);
                // A repeat of what is known to be stored.
                if key.is_empty() || !one_in(5) {
                    return;
                }
            }
            Err(StoreError::Unknown) => {
                world.count("publisher: unknown");
                if key.is_empty() {
                    return;
                }
            }
            Err(error) => {
                world.count(&format!("publisher: {error:?}"));
                // Only what was never unknown is known not to be there.
                if key.is_empty() {
                    world.truth().record.refused(name);
                }
                if one_in(3) {
                    return;
                }
            }
        }
        sleep(up_to(Duration::from_millis(300))).await;
    }
}
