//! Comparing positions with the store: after a reconnect, and though nothing happened.

use std::time::Duration;

use fanout::config::Config;
use prost::Message as _;
use proto::wire::{Entry, PublishManyRequest, fanout_message::Kind as Out};

use crate::{
    redis_node::ready,
    redis_server::RedisServer,
    support::{Edge, Node, eventually},
};

const ROOMS: usize = 1200;

/// A node whose edge is in many rooms with one publication each.
struct Many {
    server: RedisServer,
    node: Node,
    edge: Edge,
}

impl Many {
    async fn start(interval: Duration) -> Self {
        let server = RedisServer::start().await;
        let mut config = Config::for_development();
        config.redis_addr = Some(server.address().parse().unwrap());
        config.position_check_interval = interval;
        let node = Node::start(config).await;
        ready(&node).await;
        let mut publisher = node.publisher().await;
        let rooms: Vec<String> = (0..ROOMS).map(|number| format!("r{number}")).collect();
        for rooms in rooms.chunks(1000) {
            let many = PublishManyRequest { rooms: rooms.to_vec(), body: "1".into(), ..PublishManyRequest::default() };
            publisher.publish_many(many).await.unwrap();
        }
        // Receipts are announcements, too: said a little later, they are over once the rooms are wanted.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut edge = node.edge().await;
        edge.keep_alive(&node.lifecycle);
        for room in &rooms {
            edge.want(room, None).await;
        }
        for _ in &rooms {
            assert!(matches!(edge.next().await, Some(Out::State(_))));
        }
        Self { server, node, edge }
    }

    /// As the script does it, but without a word.
    async fn publish_silently(&self, room: &str) {
        let entry = Entry { from: "7".into(), body: "2".into(), ..Entry::default() }.encode_to_vec();
        let entry = String::from_utf8(entry).unwrap();
        let (history, meta) = (format!("rt:{{{room}}}:history"), format!("rt:{{{room}}}:meta"));
        self.server.ask::<String>(&["XADD", &history, "2-0", "e", &entry]).await;
        self.server.ask::<u64>(&["HSET", &meta, "seq", "2"]).await;
    }

    /// Times that Redis was called so.
    async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.server.ask(&["INFO", "commandstats"]).await;
        let start = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("0,");
        line.split(',').next().unwrap().parse().unwrap()
    }

    async fn finish(self) {
        self.edge.detach();
        self.node.finish().await;
    }
}

#[tokio::test]
async fn the_sweep_finds_a_room_whose_announcement_was_lost() {
    let mut many = Many::start(Duration::from_secs(2)).await;
    // A round in which all is as it should be reads no room.
    let (reads, swept) = (many.calls("evalsha").await, many.node.metric::<u64>("sweep_rooms_total").await);
    eventually("a round", async || many.node.metric::<u64>("sweep_rooms_total").await >= swept + ROOMS as u64).await;
    assert_eq!(many.calls("evalsha").await, reads);
    assert_eq!(many.node.metric::<u64>("sweep_behind_total").await, 0);
    many.publish_silently("r77").await;
    let start = tokio::time::Instant::now();
    let got = many.edge.publications("r77", 1).await;
    assert_eq!((got[0].1, &*got[0].2), (2, &b"2"[..]));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(many.calls("evalsha").await, reads + 1, "only the room that is behind is read");
    assert_eq!(many.node.metric::<u64>("sweep_behind_total").await, 1);
    many.finish().await;
}

#[tokio::test]
async fn a_sweep_asks_in_batches_and_never_while_rooms_speak() {
    let many = Many::start(Duration::from_secs(2)).await;
    let swept = many.node.metric::<u64>("sweep_rooms_total").await;
    eventually("a round", async || many.node.metric::<u64>("sweep_rooms_total").await >= swept + ROOMS as u64).await;
    let (infos, asked) = (many.calls("info").await, many.node.metric::<u64>("sweep_rooms_total").await);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (infos, asked) = (many.calls("info").await - infos, many.node.metric::<u64>("sweep_rooms_total").await - asked);
    // One INFO goes with each batch; two are this test's.
    assert!(asked >= ROOMS as u64 && asked <= 4 * ROOMS as u64, "{asked}");
    assert!(infos <= 4 * 8 + 2, "{infos} batches for {asked} rooms");
    many.finish().await;
}

#[tokio::test]
async fn a_reconnect_reads_only_the_rooms_that_are_behind() {
    let mut many = Many::start(Duration::from_hours(1)).await;
    for room in ["r1", "r500", "r1100"] {
        many.publish_silently(room).await;
    }
    let (reads, metas) = (many.calls("evalsha").await, many.calls("hmget").await);
    many.server.ask::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let mut rooms = Vec::new();
    while rooms.len() < 3 {
        match many.edge.next().await {
            Some(Out::Publications(run)) => rooms.push((run.room, run.first_seq)),
            other => panic!("{other:?}"),
        }
    }
    rooms.sort();
    assert_eq!(rooms, [("r1".into(), 2), ("r1100".into(), 2), ("r500".into(), 2)]);
    assert_eq!(many.calls("evalsha").await, reads + 3);
    assert_eq!(many.calls("hmget").await, metas + ROOMS as u64 + 3, "each room once, and once in each script");
    assert_eq!(many.node.metric::<u64>("gap_repairs_total").await, 3);
    many.finish().await;
}

#[tokio::test]
async fn a_live_room_does_not_lose_its_position() {
    let many = Many::start(Duration::from_secs(1)).await;
    let day: i64 = 24 * 3600;
    for room in ["r1", "r1199"] {
        let meta = format!("rt:{{{room}}}:meta");
        eventually("a longer life", async || {
            let ttl: i64 = many.server.ask(&["TTL", &meta]).await;
            ttl > day
        })
        .await;
    }
    // It is not told again and again.
    eventually("a few rounds", async || many.node.metric::<u64>("sweep_rooms_total").await >= 3 * ROOMS as u64).await;
    let told = many.calls("pexpire").await;
    assert_eq!(told, 2 * ROOMS as u64 + ROOMS as u64, "by the publication: meta and history; and once by the sweep");
    many.finish().await;
}
