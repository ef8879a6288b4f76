//! A deploy that nobody notices: all fanout nodes and all edges are replaced, one after the other, a new one first, while
//! everybody publishes. Nothing is lost; no connection ends but those of the edges that go, and these spread over the
//! drain's window.

mod figures;
mod plot;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use service::Clock;

use self::figures::{Figures, Phase};
use crate::{
    harness::{
        Backend, Edge, Fanout, Proxy, RedisServer, Reply, eventually, links, readyz, serial, tell, workspace_binary,
    },
    swarm::{Plan, Workers},
};

const FANOUTS: usize = 2;

const LIMIT: Duration = Duration::from_mins(2);

/// What is left of a drain besides its window.
const GRACE: Duration = Duration::from_secs(30);

/// Members of a room, which has a publication a second.
const MEMBERS: usize = 20;

/// How large it is.
struct Scale {
    clients: usize,
    /// That the clients are in.
    processes: usize,
    edges: usize,
    /// `DRAIN_WINDOW`.
    window: Duration,
}

const SMALL: Scale = Scale { clients: 400, processes: 1, edges: 2, window: Duration::from_secs(4) };

/// Whose processes are replaced, by whose.
struct Builds {
    old: Build,
    new: Build,
}

/// The folder with its binaries.
#[derive(Clone)]
struct Build(PathBuf);

impl Build {
    fn ours() -> Self {
        Self(workspace_binary("edge").parent().unwrap().to_owned())
    }

    fn edge(&self, places: &[SocketAddr], settings: &[(String, String)]) -> Edge {
        Edge::run(&self.0.join("edge"), places, settings)
    }

    fn fanout(&self, settings: &[(String, String)]) -> Fanout {
        Fanout::run(&self.0.join("fanout"), settings)
    }
}

struct Cast {
    redis: RedisServer,
    backend: Backend,
    settings: Vec<(String, String)>,
    fanouts: Vec<Fanout>,
    edges: Vec<Edge>,
    /// Where edges look for nodes: one more place than there are nodes, as a new one comes before an old one goes.
    places: Vec<Proxy>,
}

impl Cast {
    async fn start(scale: &Scale, build: &Build) -> Self {
        let redis = RedisServer::start().await;
        let backend = Backend::answering(|_| Reply::Yes);
        let window = format!("{}ms", scale.window.as_millis());
        let settings = [("REDIS_ADDR", redis.address()), ("BACKEND_URL", backend.url()), ("DRAIN_WINDOW", window)];
        let settings: Vec<_> = settings.map(|(name, value)| (name.to_owned(), value)).into();
        let fanouts: Vec<_> = (0..FANOUTS).map(|_| build.fanout(&settings)).collect();
        let places = fanouts.iter().map(|fanout| Some(fanout.link)).chain([None]).map(Proxy::to).collect();
        let mut cast = Self { redis, backend, settings, fanouts, edges: Vec::new(), places };
        for _ in 0..scale.edges {
            cast.start_edge(build).await;
        }
        cast
    }

    async fn start_edge(&mut self, build: &Build) {
        let places: Vec<_> = self.places.iter().map(|place| place.address).collect();
        let edge = build.edge(&places, &self.settings);
        eventually("ready", async || readyz(edge.ops).await.0 == 200).await;
        self.edges.push(edge);
    }

    fn edge_addresses(&self) -> Vec<SocketAddr> {
        self.edges.iter().map(|edge| edge.ws).collect()
    }

    fn apis(&self) -> Vec<SocketAddr> {
        self.fanouts.iter().map(|fanout| fanout.api).collect()
    }

    /// A new node comes in the free place, and the oldest goes.
    async fn replace_fanout(&mut self, build: &Build, workers: &mut Workers) {
        let new = build.fanout(&self.settings);
        eventually("ready", async || readyz(new.ops).await.0 == 200).await;
        self.places[FANOUTS].lead_to(new.link);
        for edge in &self.edges {
            eventually("a link more", async || links(edge.ops).await == FANOUTS as u64 + 1).await;
        }
        let old = self.fanouts.remove(0);
        self.fanouts.push(new);
        workers.set_apis(self.apis()).await;
        old.process.terminate();
        old.process.ends_within(GRACE).await;
        // Its place is the free one now.
        let free = self.places.remove(0);
        self.places.push(free);
    }

    /// A new edge comes, and the oldest goes, which is no longer given to clients.
    async fn replace_edge(&mut self, build: &Build, window: Duration, workers: &mut Workers) {
        self.start_edge(build).await;
        let old = self.edges.remove(0);
        workers.set_edges(self.edge_addresses()).await;
        old.process.terminate();
        old.process.ends_within(window + GRACE).await;
    }
}

async fn replace_all(scale: Scale, Builds { old, new }: Builds) {
    let Scale { clients, processes, edges, window } = scale;
    let mut cast = Cast::start(&scale, &old).await;
    let plan = |process: usize| Plan {
        name: format!("rollout-{process}"),
        clients: clients / processes,
        rooms: clients / processes / MEMBERS,
        rooms_each: 1,
        every: Duration::from_secs(1),
        broadcaster: None,
        cut_after: None,
        offline: Duration::ZERO,
        pace: Duration::from_millis(1),
    };
    let (ws, apis) = (cast.edge_addresses(), cast.apis());
    let mut workers = Workers::start((0..processes).map(plan).collect(), &ws, &apis).await;
    workers.caught_up(LIMIT).await;
    workers.publish().await;
    workers.caught_up(LIMIT).await;
    let asked = cast.backend.asked();

    let (clock, mut phases) = (Clock::system(), Vec::new());
    let began_ms = clock.unix_ms();
    for number in 1..=FANOUTS {
        let from_ms = clock.unix_ms();
        cast.replace_fanout(&new, &mut workers).await;
        workers.caught_up(LIMIT).await;
        phases.push(Phase {
            name: format!("fanout {number}"),
            from_ms,
            to_ms: clock.unix_ms(),
            moves: false,
            moved: 0,
        });
    }
    for number in 1..=edges {
        let from_ms = clock.unix_ms();
        cast.replace_edge(&new, window, &mut workers).await;
        workers.caught_up(LIMIT).await;
        phases.push(Phase { name: format!("edge {number}"), from_ms, to_ms: clock.unix_ms(), moves: true, moved: 0 });
    }
    let asked = cast.backend.asked() - asked;
    // Asserts that each client has everything, once and in order.
    let report = workers.finish(LIMIT).await;
    let figures = Figures::new(clients, window, began_ms, phases, &report);
    tell(format_args!("rollout: {}; {asked} questions to the backend; {}", figures.line(), report.line()));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    figures.save(directory, &format!("rollout-{clients}"));

    assert_eq!(asked, 0, "grants spare the backend all questions");
    figures.assert_unnoticed();
    assert!(cast.redis.process().try_ended().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_clients_do_not_notice() {
    let _serial = serial().await;
    replace_all(SMALL, Builds { old: Build::ours(), new: Build::ours() }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "by hand: make test-upgrade FROM=<revision>"]
async fn four_hundred_clients_do_not_notice_an_upgrade_nor_the_way_back() {
    let _serial = serial().await;
    #[expect(clippy::disallowed_methods, reason = "how make says where the other revision was built")]
    let other = Build(std::env::var_os("FROM_BUILD").expect("FROM_BUILD=<folder of binaries>").into());
    replace_all(SMALL, Builds { old: other.clone(), new: Build::ours() }).await;
    replace_all(SMALL, Builds { old: Build::ours(), new: other }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "deep: 5,000 clients"]
async fn deep_five_thousand_clients_do_not_notice() {
    let _serial = serial().await;
    // The default of `DRAIN_WINDOW`.
    let scale = Scale { clients: 5000, processes: 2, edges: 3, window: Duration::from_secs(20) };
    replace_all(scale, Builds { old: Build::ours(), new: Build::ours() }).await;
}
