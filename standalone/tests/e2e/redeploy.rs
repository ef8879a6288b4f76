//! Edges are replaced one after the other: their clients go when they are told to, and are back where they were.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    harness::{Backend, Edge, Fanout, RedisServer, Reply, eventually, metric, readyz, serial, tell},
    swarm::{Plan, Workers},
};

const EDGES: usize = 2;

const LIMIT: Duration = Duration::from_mins(2);

/// What is left of a drain besides its window.
const GRACE: Duration = Duration::from_secs(30);

struct Cast {
    redis: RedisServer,
    backend: Backend,
    fanouts: Vec<Fanout>,
    edges: Vec<Edge>,
    settings: Vec<(String, String)>,
}

impl Cast {
    async fn start(window: Duration) -> Self {
        let redis = RedisServer::start().await;
        let backend = Backend::answering(|_| Reply::Yes);
        let settings = [
            ("REDIS_ADDR", redis.address()),
            ("BACKEND_URL", backend.url()),
            ("DRAIN_WINDOW", format!("{}ms", window.as_millis())),
        ];
        let settings: Vec<_> = settings.map(|(name, value)| (name.to_owned(), value)).into();
        let fanouts: Vec<_> = (0..2).map(|_| Fanout::start(&settings)).collect();
        let mut cast = Self { redis, backend, fanouts, edges: Vec::new(), settings };
        for _ in 0..EDGES {
            cast.edges.push(cast.start_edge().await);
        }
        cast
    }

    async fn start_edge(&self) -> Edge {
        let links: Vec<_> = self.fanouts.iter().map(|fanout| fanout.link).collect();
        let edge = Edge::start(&links, &self.settings);
        eventually("ready", async || readyz(edge.ops).await.0 == 200).await;
        edge
    }

    fn edge_addresses(&self) -> Vec<SocketAddr> {
        self.edges.iter().map(|edge| edge.ws).collect()
    }

    fn apis(&self) -> Vec<SocketAddr> {
        self.fanouts.iter().map(|fanout| fanout.api).collect()
    }
}

/// So many clients, in rooms of 20 with one message a second, in so many processes. All edges are replaced.
async fn all_edges_are_replaced(clients: usize, processes: usize, window: Duration) {
    let mut cast = Cast::start(window).await;
    let plan = |process: usize| Plan {
        name: format!("redeploy-{process}"),
        clients: clients / processes,
        rooms: clients / processes / 20,
        rooms_each: 1,
        every: Duration::from_secs(1),
        broadcaster: None,
        cut_after: None,
        offline: Duration::ZERO,
        pace: Duration::from_millis(1),
    };
    let (edges, apis) = (cast.edge_addresses(), cast.apis());
    let mut workers = Workers::start((0..processes).map(plan).collect(), &edges, &apis).await;
    workers.caught_up(LIMIT).await;
    workers.publish().await;
    workers.caught_up(LIMIT).await;
    let (asked, reads) = (cast.backend.asked(), cast.redis.histories_read().await);
    let began = Instant::now();
    for _ in 0..EDGES {
        // As in a rolling update: the old one goes while the new one starts. It is no longer given to new clients.
        let old = cast.edges.remove(0);
        workers.set_edges(cast.edge_addresses()).await;
        old.process.terminate();
        let new = cast.start_edge().await;
        cast.edges.push(new);
        workers.set_edges(cast.edge_addresses()).await;
        old.process.ends_within(window + GRACE).await;
        workers.caught_up(LIMIT).await;
    }
    let (took, reads) = (began.elapsed(), cast.redis.histories_read().await - reads);
    let asked = cast.backend.asked() - asked;
    let mut pages = 0;
    for edge in &cast.edges {
        pages += metric(edge.ops, "espigon_edge_pages_total").await;
    }
    let report = workers.finish(LIMIT).await;
    tell(format_args!(
        "redeploy: {clients} clients, {EDGES} edges, window {window:?}: all back after {took:.1?}; {asked} questions to \
         the backend; {reads} reads of histories from Redis, {pages} pages asked for by the new edges ({} rooms); {}",
        clients / 20,
        report.line()
    ));
    assert_eq!(asked, 0, "grants spare the backend all questions");
    assert!(reads <= (clients / 20) as u64, "what all missed of a room is read once, not by each: {reads} reads");
    assert!(report.returns.replays_ms.len() >= clients, "each client moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_move_on() {
    let _serial = serial().await;
    all_edges_are_replaced(1000, 1, Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "deep: 10,000 clients"]
async fn deep_ten_thousand_clients_move_on() {
    let _serial = serial().await;
    // The default of `DRAIN_WINDOW`.
    all_edges_are_replaced(10_000, 4, Duration::from_secs(20)).await;
}
