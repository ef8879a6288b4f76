//! Nothing lost, nothing doubled, whatever dies: one fault after the other, under publishing that never stops.

mod checker;
mod client;
mod cluster;
mod faults;
mod seeded;
mod sentinels;
mod stage;
mod store;

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    harness::{Backend, Edge, Fanout, Proxy, RedisServer, Reply, eventually, links, metric, serial, tell},
    swarm::{Plan, Swarm},
};

/// How much is published after each fault.
const PUBLICATIONS: u64 = 500;

/// How long it may take until everybody has everything, with time for what is found out by silence.
const LIMIT: Duration = Duration::from_mins(1);

const CLIENTS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn one_fault_after_the_other() {
    let _serial = serial().await;
    let mut cast = Cast::start().await;
    let plan = Plan {
        name: "chaos".to_owned(),
        clients: CLIENTS,
        rooms: 50,
        rooms_each: 4,
        every: Duration::from_millis(250),
        broadcaster: Some(10),
        cut_after: None,
        offline: Duration::ZERO,
        pace: Duration::from_millis(2),
    };
    let mut swarm = Swarm::start(&plan, cast.edge_addresses(), &cast.apis());
    swarm.caught_up(LIMIT).await;
    let asked = cast.backend.asked();
    swarm.publish();
    cast.nobody_notices("nothing yet", &swarm).await;

    cast.fanouts.remove(0).process.kill();
    swarm.set_apis(&cast.apis());
    cast.nobody_notices("a fanout node is killed", &swarm).await;
    cast.all_have_links(2).await;

    let added = Fanout::start(&cast.settings);
    for links in &cast.links {
        links[3].lead_to(added.link);
    }
    cast.all_have_links(3).await;
    eventually("the new node has rooms", async || metric(added.ops, "espigon_fanout_rooms").await > 0).await;
    cast.fanouts.push(added);
    swarm.set_apis(&cast.apis());
    cast.nobody_notices("a fanout node is added", &swarm).await;

    // Its API is used to the end, as a backend would that learns of it late.
    cast.fanouts.remove(0).process.ends_well().await;
    swarm.set_apis(&cast.apis());
    cast.nobody_notices("a fanout node drains", &swarm).await;
    cast.all_have_links(2).await;

    assert!(cast.redis.kill_subscribers().await >= cast.fanouts.len());
    cast.nobody_notices("the subscriptions are cut", &swarm).await;

    cast.redis.process().pause();
    sleep(Duration::from_secs(2)).await;
    cast.redis.process().resume();
    cast.nobody_notices("Redis stood still", &swarm).await;

    // Of one edge, by turns to the two nodes that are left, as a link that was lost gets its rooms back later.
    let links = &cast.links[1];
    for (what, link, swallow) in [
        ("a link is a black hole", &links[2], Proxy::swallow as fn(&Proxy)),
        ("what a node sends vanishes", &links[3], Proxy::swallow_answers),
        ("what an edge sends vanishes", &links[2], Proxy::swallow_requests),
    ] {
        swallow(link);
        cast.nobody_notices(what, &swarm).await;
        cast.has_links(&cast.edges[1], 1).await;
        link.heal();
        cast.all_have_links(2).await;
        cast.nobody_notices("the link is back", &swarm).await;
    }

    let killed = cast.edges.remove(0);
    let before = connections(&swarm);
    killed.process.kill();
    cast.goes_on("an edge is killed", &swarm).await;
    for (before, now) in before.into_iter().zip(connections(&swarm)) {
        if before.edge == Some(killed.ws) {
            assert!(now.count > before.count && now.edge == Some(cast.edges[0].ws), "{before:?}, then {now:?}");
        } else {
            assert_eq!(now, before, "only those of the edge that died come back");
        }
    }
    assert_eq!(cast.backend.asked(), asked, "grants spare the backend all questions");

    tell(format_args!("chaos: {}", swarm.finish(LIMIT).await.line()));
}

/// Where a client is, and how often it has connected.
#[derive(Debug, PartialEq)]
struct Connection {
    edge: Option<SocketAddr>,
    count: u32,
}

fn connections(swarm: &Swarm) -> Vec<Connection> {
    swarm.clients().iter().map(|client| Connection { edge: client.edge(), count: client.connections() }).collect()
}

/// What is to be broken. Each edge has links of its own to each place where a fanout node may be.
struct Cast {
    redis: RedisServer,
    backend: Backend,
    settings: Vec<(String, String)>,
    fanouts: Vec<Fanout>,
    edges: Vec<Edge>,
    /// By edge, then by place.
    links: Vec<Vec<Proxy>>,
}

impl Cast {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let backend = Backend::answering(|_| Reply::Yes);
        let settings = [("REDIS_ADDR", redis.address()), ("BACKEND_URL", backend.url())];
        let settings: Vec<_> = settings.map(|(name, value)| (name.to_owned(), value)).into();
        let fanouts: Vec<_> = (0..3).map(|_| Fanout::start(&settings)).collect();
        // One place more, for the one that is added.
        let places = || fanouts.iter().map(|fanout| Some(fanout.link)).chain([None]);
        let links: Vec<Vec<_>> = (0..2).map(|_| places().map(Proxy::to).collect()).collect();
        let edges = links.iter().map(|links| {
            let addresses: Vec<_> = links.iter().map(|link| link.address).collect();
            Edge::start(&addresses, &settings)
        });
        let edges = edges.collect();
        let cast = Self { redis, backend, settings, fanouts, edges, links };
        cast.all_have_links(3).await;
        cast
    }

    fn edge_addresses(&self) -> Vec<SocketAddr> {
        self.edges.iter().map(|edge| edge.ws).collect()
    }

    fn apis(&self) -> Vec<SocketAddr> {
        self.fanouts.iter().map(|fanout| fanout.api).collect()
    }

    async fn all_have_links(&self, count: u64) {
        for edge in &self.edges {
            self.has_links(edge, count).await;
        }
    }

    /// Waits until an edge has so many links.
    async fn has_links(&self, edge: &Edge, count: u64) {
        let all_up = async || links(edge.ops).await == count;
        eventually(&format!("{count} links"), all_up).await;
    }

    /// Publishing goes on, and everybody gets everything.
    async fn goes_on(&self, what: &str, swarm: &Swarm) {
        let (began, enough) = (Instant::now(), swarm.published() + PUBLICATIONS);
        eventually("publications", async || swarm.published() >= enough).await;
        let published = began.elapsed();
        swarm.caught_up(LIMIT).await;
        println!(
            "chaos: {what}: {PUBLICATIONS} published after {published:.1?}, all caught up after {:.1?}",
            began.elapsed()
        );
    }

    /// The same, and no client is disconnected.
    async fn nobody_notices(&self, what: &str, swarm: &Swarm) {
        let before = connections(swarm);
        self.goes_on(what, swarm).await;
        assert_eq!(connections(swarm), before, "{what}");
    }
}
