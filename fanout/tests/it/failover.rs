//! A replica that lags is promoted: what was acknowledged and is not there must be named lost, to everybody, and no
//! number may mean two things.

use fanout::config::Config;
use proto::wire::{LostReason, Position, fanout_message::Kind as Out};

use crate::{
    proxy::Proxy,
    redis_node::{publish, ready},
    redis_server::RedisServer,
    support::{Edge, Node, eventually},
};

async fn node(address: &str) -> Node {
    let mut config = Config::for_development();
    config.redis_addr = Some(address.parse().unwrap());
    let node = Node::start(config).await;
    ready(&node).await;
    node
}

fn at(epoch: &str, seq: u64) -> Position {
    Position { epoch: epoch.to_owned(), seq }
}

/// A node on a primary whose replica has been cut off, without either knowing.
struct Lagging {
    primary: RedisServer,
    replica: RedisServer,
    replication: Proxy,
    way: Proxy,
    node: Node,
    edge: Edge,
    old: String,
}

impl Lagging {
    /// Of room `a` the replica has 5 publications, the primary 8, all acknowledged and delivered.
    async fn start() -> Self {
        let primary = RedisServer::start().await;
        let replication = Proxy::start(primary.port).await;
        let replica = RedisServer::start_replica(replication.port()).await;
        let way = Proxy::start(primary.port).await;
        let node = node(&way.address()).await;
        let mut edge = node.edge().await;
        edge.keep_alive(&node.lifecycle);
        edge.want("a", None).await;
        edge.state("a").await;
        let mut lagging = Self { primary, replica, replication, way, node, edge, old: String::new() };
        lagging.old = lagging.publish(1..=5).await;
        assert_eq!(lagging.primary.ask::<u64>(&["WAIT", "1", "5000"]).await, 1);
        lagging.replication.swallow();
        lagging.publish(6..=8).await;
        let got = lagging.edge.publications("a", 8).await;
        assert!(got.iter().all(|(epoch, ..)| *epoch == lagging.old));
        lagging
    }

    /// Over the node, in this numbering; its epoch.
    async fn publish(&self, seqs: std::ops::RangeInclusive<u64>) -> String {
        let mut publisher = self.node.publisher().await;
        let mut epoch = String::new();
        for seq in seqs {
            let position = publish(&mut publisher, "a", &seq.to_string()).await.unwrap();
            assert_eq!(position.seq, seq);
            epoch = position.epoch;
        }
        epoch
    }

    async fn promote(&mut self) {
        self.replica.ask::<String>(&["REPLICAOF", "NO", "ONE"]).await;
        self.way.lead_to(self.replica.port);
    }

    async fn finish(self) {
        self.edge.detach();
        self.node.finish().await;
        self.way.finish().await;
        self.replication.finish().await;
    }
}

fn lost(message: Option<Out>) -> (Position, LostReason) {
    match message {
        Some(Out::Lost(lost)) => (lost.position.clone().unwrap(), lost.reason()),
        other => panic!("not a loss: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_acknowledged_and_dropped_is_named_lost() {
    let mut lagging = Lagging::start().await;
    lagging.primary.kill();
    lagging.promote().await;
    let (position, reason) = lost(lagging.edge.next().await);
    let new = position.epoch.clone();
    assert_eq!((position, reason), (at(&new, 5), LostReason::Failover));
    assert_ne!(new, lagging.old);
    ready(&lagging.node).await;
    assert_eq!(lagging.publish(6..=7).await, new);
    let got = lagging.edge.publications("a", 2).await;
    assert!(got.iter().all(|(epoch, ..)| *epoch == new));

    // Who comes back with less than is there gets it first; who has seen what was dropped is only told.
    for (since, rest) in [(2, 3), (5, 0), (8, 0)] {
        let mut late = lagging.node.edge().await;
        late.want("a", Some((&lagging.old, since))).await;
        assert_eq!(late.state("a").await, (at(&lagging.old, since), true));
        if rest > 0 {
            let got = late.publications("a", rest).await;
            assert_eq!((&got[0].0, got[0].1, got[rest - 1].1), (&lagging.old, since + 1, 5));
        }
        assert_eq!(lost(late.next().await), (at(&new, 5), LostReason::Failover), "since {since}");
        assert_eq!(late.publications("a", 2).await[0].1, 6);
        late.detach();
    }
    lagging.finish().await;
}

#[tokio::test]
async fn an_epoch_left_is_not_taken_up_again_at_the_old_primary() {
    let mut lagging = Lagging::start().await;
    // It lives on, and another node stays with it.
    let stays = node(&lagging.primary.address()).await;
    lagging.promote().await;
    let cut = async |server: &RedisServer| {
        for kind in ["pubsub", "normal"] {
            server.ask::<u64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
    };
    cut(&lagging.primary).await;
    let (position, _) = lost(lagging.edge.next().await);
    let new = position.epoch;
    ready(&lagging.node).await;
    lagging.publish(6..=6).await;
    assert_eq!(lagging.edge.publications("a", 1).await[0].0, new);

    // Back at the old primary, which goes on in its own epoch: nothing of that is delivered any more.
    lagging.way.lead_to(lagging.primary.port);
    cut(&lagging.replica).await;
    eventually("the old primary", async || lagging.primary.subscribers().await == 2).await;
    ready(&stays).await;
    let mut publisher = stays.publisher().await;
    let past = publish(&mut publisher, "a", "0").await.unwrap();
    assert_eq!(past, at(&lagging.old, 9));
    eventually("that it is not believed", async || lagging.node.metric::<u64>("answers_from_the_past_total").await > 0)
        .await;

    lagging.way.lead_to(lagging.replica.port);
    cut(&lagging.primary).await;
    eventually("the new primary", async || lagging.replica.subscribers().await == 1).await;
    ready(&lagging.node).await;
    assert_eq!(lagging.publish(7..=7).await, new);
    let got = lagging.edge.publications("a", 1).await;
    assert_eq!((&got[0].0, got[0].1), (&new, 7));
    drop(publisher);
    stays.finish().await;
    lagging.finish().await;
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_left() {
    let lagging = Lagging::start().await;
    let other = RedisServer::start().await;
    lagging.way.lead_to(other.port);
    // Its connections stay: that it refuses to write must be seen by whoever is connected.
    lagging.primary.ask::<String>(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]).await;
    eventually("the other", async || other.subscribers().await == 1).await;
    lagging.finish().await;
}
