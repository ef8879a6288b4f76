//! Whether a node hears what is announced, and what it does when it does not.

use std::time::Duration;

use fanout::config::Config;
use proto::wire::PublishRequest;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::{
    proxy::Proxy,
    redis_node::{publish, ready},
    redis_server::RedisServer,
    support::{Edge, Node, eventually, http, soon},
};

/// A node on the store at the address, which is to repair itself without a sweep.
async fn node(address: &str) -> Node {
    let mut config = Config::for_development();
    config.redis_addr = Some(address.parse().unwrap());
    config.position_check_interval = Duration::from_hours(1);
    let node = Node::start(config).await;
    ready(&node).await;
    node
}

fn losses(reason: &str) -> String {
    format!("redis_subscriber_losses_total{{reason=\"{reason}\"}}")
}

/// One node behind a proxy with an edge in room `a`, one that publishes.
struct Pair {
    server: RedisServer,
    proxy: Proxy,
    hears: Node,
    says: Node,
    edge: Edge,
    said: u64,
}

impl Pair {
    async fn start() -> Self {
        let server = RedisServer::start().await;
        let proxy = Proxy::start(server.port).await;
        let (hears, says) = (node(&proxy.address()).await, node(&server.address()).await);
        let mut edge = hears.edge().await;
        edge.keep_alive(&hears.lifecycle);
        edge.want("a", None).await;
        edge.state("a").await;
        Self { server, proxy, hears, says, edge, said: 0 }
    }

    async fn say(&mut self, count: u64) {
        let mut publisher = self.says.publisher().await;
        for _ in 0..count {
            self.said += 1;
            publish(&mut publisher, "a", &self.said.to_string()).await.unwrap();
        }
    }

    /// What was said since comes, in order.
    async fn hear(&mut self, count: usize) {
        let got = self.edge.publications("a", count).await;
        assert_eq!(got.last().unwrap().1, self.said);
    }

    async fn finish(self) {
        self.edge.detach();
        self.hears.finish().await;
        self.says.finish().await;
        self.proxy.finish().await;
    }
}

#[tokio::test]
async fn every_beat_tells_when_the_node_last_heard_itself() {
    let mut pair = Pair::start().await;
    let beat = pair.edge.heard_beat().await;
    assert!(beat.heard_ms_ago < 2000, "{beat:?}");
    assert!(beat.store.starts_with("redis-"));
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    let beat = edge.heard_beat().await;
    assert_eq!((beat.heard_ms_ago, beat.store), (0, edge.hello.store.clone()));
    edge.detach();
    node.finish().await;
    pair.finish().await;
}

#[tokio::test]
async fn a_deaf_subscriber_is_rebuilt_and_nothing_is_missed() {
    let mut pair = Pair::start().await;
    pair.say(1).await;
    pair.hear(1).await;
    pair.proxy.mute();
    pair.say(20).await;
    // Meanwhile the edge is told how old the last pulse is.
    let (mut oldest, mut shown) = (0, 0.0_f64);
    soon("that it is found deaf", async {
        while pair.hears.metric::<u64>(&losses("deaf")).await == 0 {
            oldest = oldest.max(pair.edge.heard_beat().await.heard_ms_ago);
            shown = shown.max(pair.hears.metric("hearing_age_seconds").await);
        }
    })
    .await;
    assert!((3000..9000).contains(&oldest), "{oldest}");
    assert!((3.0..9.0).contains(&shown), "{shown}");
    pair.hear(20).await;
    let age = async |edge: &mut Edge| edge.heard_beat().await.heard_ms_ago;
    while age(&mut pair.edge).await > 2000 {}
    pair.say(1).await;
    pair.hear(1).await;
    assert_eq!(pair.hears.metric::<u64>(&losses("deaf")).await, 1);
    assert_eq!(pair.server.subscribers().await, 2);
    pair.finish().await;
}

#[tokio::test]
async fn a_black_holed_subscriber_is_rebuilt_and_nothing_is_missed() {
    let mut pair = Pair::start().await;
    pair.say(1).await;
    pair.hear(1).await;
    pair.proxy.black_hole();
    let start = Instant::now();
    pair.say(20).await;
    pair.hear(20).await;
    assert!(start.elapsed() > Duration::from_secs(1));
    assert_eq!(pair.hears.metric::<u64>(&losses("connection")).await, 1);
    pair.finish().await;
}

#[tokio::test]
async fn a_subscriber_on_another_server_than_commands_is_not_taken() {
    let mut pair = Pair::start().await;
    let other = RedisServer::start().await;
    pair.say(1).await;
    pair.hear(1).await;
    pair.proxy.lead_to(other.port);
    pair.server.ask::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("the other server to be refused", async || pair.hears.metric::<u64>(&losses("other_server")).await > 0)
        .await;
    assert_eq!(http(pair.hears.bound.ops, "GET /readyz", b"").await.0, 503, "it does not hear");
    pair.say(20).await;
    pair.proxy.lead_to(pair.server.port);
    pair.hear(20).await;
    assert_eq!(other.subscribers().await, 0);
    pair.finish().await;
}

#[tokio::test]
async fn a_killed_subscriber_misses_nothing_while_publications_go_on() {
    let mut pair = Pair::start().await;
    for _ in 0..5 {
        let kill = pair.server.port;
        pair.say(50).await;
        RedisServer::ask_at::<u64>(kill, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        pair.say(100).await;
        pair.hear(150).await;
    }
    assert!(pair.hears.metric::<u64>("gap_repairs_total").await > 0);
    assert_eq!(pair.hears.metric::<u64>("lost_total{reason=\"history\"}").await, 0);
    assert_eq!(pair.hears.metric::<u64>("lost_total{reason=\"failover\"}").await, 0);
    pair.finish().await;
}

#[tokio::test]
async fn a_redis_that_stops_for_two_seconds_loses_and_doubles_nothing() {
    let mut pair = Pair::start().await;
    pair.say(10).await;
    let mut publisher = pair.says.publisher().await;
    pair.server.signal("-STOP");
    let server = &pair.server;
    let publishing = async {
        let mut duplicates = 0;
        for number in 0..100 {
            let request = PublishRequest {
                room: "a".into(),
                body: number.to_string().into(),
                key: format!("k{number}"),
                ..PublishRequest::default()
            };
            // As a backend should: the same again, by its key, until it is stored.
            while let Err(error) = soon("an answer", publisher.publish(request.clone()))
                .await
                .map(|answer| duplicates += u32::from(answer.into_inner().duplicate))
            {
                let passing: fn(&Status) -> bool = |error| matches!(error.code(), Code::Unknown | Code::Unavailable);
                assert!(passing(&error), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        duplicates
    };
    let waking = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.signal("-CONT");
    };
    tokio::join!(publishing, waking);
    pair.said += 100;
    pair.hear(110).await;
    pair.say(1).await;
    pair.hear(1).await;
    pair.finish().await;
}

#[tokio::test]
async fn edges_learn_which_store_it_is_when_it_is_known_and_when_it_changes() {
    let mut server = RedisServer::start().await;
    server.kill();
    let mut config = Config::for_development();
    config.redis_addr = Some(server.address().parse().unwrap());
    let node = Node::start(config).await;
    let mut edge = node.edge().await;
    assert_eq!(edge.hello.store, "");
    assert_eq!(edge.heard_beat().await.store, "");
    server.restart().await;
    let known = async |edge: &mut Edge, not: &str| {
        soon("a store", async {
            loop {
                let store = edge.heard_beat().await.store;
                if !store.is_empty() && store != not {
                    return store;
                }
            }
        })
        .await
    };
    let first = known(&mut edge, "").await;
    // Wiped without a connection lost: another store.
    server.ask::<String>(&["FLUSHALL"]).await;
    let second = known(&mut edge, &first).await;
    assert_eq!(server.ask::<String>(&["GET", "rt:identity"]).await, second);
    edge.detach();
    node.finish().await;
}
