//! Delivery under drops: connections that are cut all the time, and clients that come back to where they were.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::{
    harness::{Backend, Reply, Stage, serial, tell},
    swarm::{Plan, Swarm, Workers},
};

/// Three cuts of each client.
const LENGTH: Duration = Duration::from_secs(50);

const LIMIT: Duration = Duration::from_mins(1);

/// Each is cut about every 15 s, and is 2 s offline.
fn plan(name: String, clients: usize, rooms: usize, every: Duration) -> Plan {
    Plan {
        name,
        clients,
        rooms,
        rooms_each: 1,
        every,
        broadcaster: None,
        cut_after: Some(Duration::from_secs(15)),
        offline: Duration::from_secs(2),
        pace: Duration::from_millis(1),
    }
}

async fn stage(backend: &Backend) -> Stage {
    Stage::plan().redis().fanouts(2).edges(2).with("BACKEND_URL", backend.url()).start().await
}

fn addresses(stage: &Stage) -> ([SocketAddr; 2], [SocketAddr; 2]) {
    ([0, 1].map(|edge| stage.edge(edge).ws), [0, 1].map(|fanout| stage.fanout(fanout).api))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_get_everything() {
    let _serial = serial().await;
    let backend = Backend::answering(|_| Reply::Yes);
    let stage = stage(&backend).await;
    let (edges, apis) = addresses(&stage);
    let plan = plan("drops".to_owned(), 1000, 50, Duration::from_millis(100));
    let mut swarm = Swarm::start(&plan, edges.to_vec(), &apis);
    swarm.caught_up(LIMIT).await;
    let asked = backend.asked();
    swarm.publish();
    sleep(LENGTH).await;
    let report = swarm.finish(LIMIT).await;
    tell(format_args!("drops: {}", report.line()));
    assert!(report.returns.replays_ms.len() > 2000, "each is cut more than twice");
    assert_eq!(backend.asked(), asked, "grants spare the backend all questions");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "deep: 10,000 clients"]
async fn deep_ten_thousand_clients_get_everything() {
    let _serial = serial().await;
    let backend = Backend::answering(|_| Reply::Yes);
    let stage = stage(&backend).await;
    let (edges, apis) = addresses(&stage);
    let plans = (0..4).map(|worker| plan(format!("drops-{worker}"), 2500, 125, Duration::from_secs(1)));
    let mut workers = Workers::start(plans.collect(), &edges, &apis).await;
    workers.caught_up(LIMIT).await;
    let asked = backend.asked();
    workers.publish().await;
    sleep(LENGTH).await;
    let report = workers.finish(LIMIT).await;
    tell(format_args!("drops, 10,000 clients: {}", report.line()));
    assert!(report.returns.replays_ms.len() > 20_000, "each is cut more than twice");
    assert_eq!(backend.asked(), asked, "grants spare the backend all questions");
}
