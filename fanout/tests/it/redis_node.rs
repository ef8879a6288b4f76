//! Whole nodes on Redis.

use fanout::config::Config;
use proto::wire::{
    LostReason, Position, PublishRequest, Read, edge_message::Kind, fanout_message::Kind as Out,
    publisher_client::PublisherClient, read::From,
};
use tonic::{Code, transport::Channel};

use crate::{
    redis_server::RedisServer,
    support::{Node, eventually, http, soon},
};

pub(crate) fn config(server: &RedisServer) -> Config {
    let mut config = Config::for_development();
    config.redis_addr = Some(server.address().parse().unwrap());
    config
}

pub(crate) async fn ready(node: &Node) {
    eventually("readiness", async || http(node.bound.ops, "GET /readyz", b"").await.0 == 200).await;
}

pub(crate) async fn publish(
    publisher: &mut PublisherClient<Channel>,
    room: &str,
    body: &str,
) -> Result<Position, tonic::Status> {
    let request = PublishRequest { room: room.into(), body: body.to_owned().into(), ..PublishRequest::default() };
    Ok(soon("a receipt", publisher.publish(request)).await?.into_inner().position.unwrap())
}

#[tokio::test]
async fn what_one_node_publishes_another_delivers() {
    let server = RedisServer::start().await;
    let (one, two) = (Node::start(config(&server)).await, Node::start(config(&server)).await);
    ready(&one).await;
    ready(&two).await;
    let mut edge = two.edge().await;
    assert!(edge.hello.store.starts_with("redis-"));
    edge.want("a", None).await;
    edge.state("a").await;
    let mut publisher = one.publisher().await;
    for number in 1..=50 {
        publish(&mut publisher, "a", &number.to_string()).await.unwrap();
    }
    let got = edge.publications("a", 50).await;
    assert_eq!((got[0].1, got[49].1, &*got[49].2), (1, 50, &b"50"[..]));
    edge.detach();
    drop(publisher);
    one.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn a_wiped_store_is_named_lost_and_service_resumes() {
    let mut server = RedisServer::start().await;
    let node = Node::start(config(&server)).await;
    ready(&node).await;
    let mut edge = node.edge().await;
    let mut publisher = node.publisher().await;
    let before = publish(&mut publisher, "a", "1").await.unwrap();
    edge.want("a", None).await;
    assert_eq!(edge.state("a").await, (before.clone(), true));
    server.kill();
    eventually("unreadiness", async || http(node.bound.ops, "GET /readyz", b"").await.0 == 503).await;
    let refused = publish(&mut publisher, "a", "2").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.metadata().get("realtime-stored").unwrap(), "no");
    assert_eq!(http(node.bound.api, "POST /v1/rooms/a/publications", b"{\"body\":1}").await.0, 503);
    server.restart().await;
    match edge.next().await {
        Some(Out::Lost(lost)) => {
            assert_eq!((lost.room.as_str(), lost.reason()), ("a", LostReason::Failover));
            assert_eq!(lost.position, Some(Position::default()));
        }
        other => panic!("not a loss: {other:?}"),
    }
    ready(&node).await;
    let again = publish(&mut publisher, "a", "1").await.unwrap();
    let got = edge.publications("a", 1).await;
    assert_eq!((&got[0].0, got[0].1), (&again.epoch, 1));
    assert_ne!(again.epoch, before.epoch);
    assert_eq!(server.subscribers().await, 1);
    edge.detach();
    drop(publisher);
    node.finish().await;
}

#[tokio::test]
async fn what_was_missed_while_deaf_is_read() {
    let server = RedisServer::start().await;
    let node = Node::start(config(&server)).await;
    ready(&node).await;
    let mut edge = node.edge().await;
    let mut publisher = node.publisher().await;
    for room in ["a", "b"] {
        edge.want(room, None).await;
        edge.state(room).await;
    }
    publish(&mut publisher, "a", "1").await.unwrap();
    edge.publications("a", 1).await;
    for round in 0..5u64 {
        // Only the subscriber's connection is cut: what is published meanwhile is not heard.
        server.ask::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        for number in 0..20 {
            publish(&mut publisher, "a", &number.to_string()).await.unwrap();
        }
        let got = edge.publications("a", 20).await;
        assert_eq!((got[0].1, got[19].1), (2 + round * 20, 21 + round * 20));
        eventually("one subscriber", async || server.subscribers().await == 1).await;
    }
    edge.detach();
    drop(publisher);
    node.finish().await;
}

#[tokio::test]
async fn a_failover_is_named_after_what_the_old_epoch_left() {
    let server = RedisServer::start().await;
    let node = Node::start(config(&server)).await;
    ready(&node).await;
    let (mut live, mut late) = (node.edge().await, node.edge().await);
    let mut publisher = node.publisher().await;
    let mut old = Position::default();
    for number in 1..=5 {
        old = publish(&mut publisher, "a", &number.to_string()).await.unwrap();
    }
    live.want("a", None).await;
    live.state("a").await;
    server.ask::<String>(&["DEBUG", "CHANGE-REPL-ID"]).await;
    let new = publish(&mut publisher, "a", "6").await.unwrap();
    assert_ne!(new.epoch, old.epoch);
    let lost = |message| match message {
        Some(Out::Lost(lost)) => (lost.position.clone().unwrap(), lost.reason()),
        other => panic!("not a loss: {other:?}"),
    };
    let expected = (Position { epoch: new.epoch.clone(), seq: 5 }, LostReason::Failover);
    assert_eq!(lost(live.next().await), expected);
    assert_eq!(live.publications("a", 1).await[0].1, 6);
    // One that comes with a position of the epoch before gets what is left of it first.
    late.want("a", Some((&old.epoch, 2))).await;
    assert_eq!(late.state("a").await, (Position { epoch: old.epoch.clone(), seq: 2 }, true));
    let rest = late.publications("a", 3).await;
    assert_eq!((&rest[0].0, rest[0].1, rest[2].1), (&old.epoch, 3, 5));
    assert_eq!(lost(late.next().await), expected);
    assert_eq!(late.publications("a", 1).await[0].0, new.epoch);
    late.want("a", Some((&old.epoch, 5))).await;
    assert_eq!(late.state("a").await, (old.clone(), true));
    assert_eq!(lost(late.next().await), expected);
    assert_eq!(late.publications("a", 1).await[0].1, 6);
    // A page across the two says where the first ended.
    let from = Some(From::After(Position { epoch: old.epoch.clone(), seq: 3 }));
    late.send(Kind::Read(Read { id: 1, room: "a".into(), from, limit: 0 })).await;
    match late.next().await {
        Some(Out::ReadResult(page)) => {
            assert_eq!((page.prev, page.position), (Some(old), Some(new)));
            assert_eq!((page.first_seq, page.entries.len(), page.complete), (4, 3, true));
        }
        other => panic!("not a page: {other:?}"),
    }
    live.detach();
    late.detach();
    drop(publisher);
    node.finish().await;
}

#[tokio::test]
async fn a_node_starts_before_its_redis() {
    let mut server = RedisServer::start().await;
    server.kill();
    let node = Node::start(config(&server)).await;
    assert_eq!(http(node.bound.ops, "GET /readyz", b"").await.0, 503);
    assert_eq!(http(node.bound.ops, "GET /livez", b"").await.0, 200);
    let mut edge = node.edge().await;
    edge.want("a", None).await;
    server.restart().await;
    assert_eq!(edge.state("a").await, (Position::default(), true));
    edge.detach();
    node.finish().await;
}
