//! Links: what an edge says, and what it is told.

use std::time::Duration;

use bytes::Bytes;
use fanout::config::Config;
use proto::wire::{
    Accepts, LinkErrorCode, LinkPublish, Position, PublishManyRequest, PublishRequest, Read, ReadResult, Receipt,
    Stored, edge_message::Kind, fanout_message::Kind as Out, publisher_client::PublisherClient, read::From, receipt,
};
use service::settings::Secret;
use tonic::{Code, transport::Channel};

use crate::support::{Edge, Node, eventually, http, soon};

async fn publish(publisher: &mut PublisherClient<Channel>, room: &str, body: &str) -> Position {
    let request = PublishRequest { room: room.into(), body: body.to_owned().into(), ..PublishRequest::default() };
    soon("a receipt", publisher.publish(request)).await.unwrap().into_inner().position.unwrap()
}

fn broadcast(id: u64, room: &str, body: &'static str, key: &str) -> LinkPublish {
    LinkPublish {
        id,
        room: room.into(),
        from: "7".into(),
        body: Bytes::from_static(body.as_bytes()),
        key: key.into(),
        deadline_ms: 5000,
        ..LinkPublish::default()
    }
}

async fn receipt(edge: &mut Edge) -> (u64, receipt::Result) {
    match edge.next().await {
        Some(Out::Receipt(Receipt { id, result })) => (id, result.unwrap()),
        other => panic!("not a receipt: {other:?}"),
    }
}

async fn read(edge: &mut Edge, read: Read) -> ReadResult {
    edge.send(Kind::Read(read)).await;
    match edge.next().await {
        Some(Out::ReadResult(result)) => result,
        other => panic!("not a read result: {other:?}"),
    }
}

#[tokio::test]
async fn a_wanted_room_is_live_from_its_position_on() {
    let node = Node::start(Config::for_development()).await;
    let mut publisher = node.publisher().await;
    publish(&mut publisher, "a", "0").await;
    let mut edge = node.edge().await;
    assert_eq!((edge.hello.version, edge.hello.dedup_ms), (1, 300_000));
    assert!(edge.hello.store.starts_with("memory-"));
    edge.want("a", None).await;
    let (position, complete) = edge.state("a").await;
    assert_eq!((position.seq, complete), (1, true));
    for body in ["1.0", "{\"a\":1,\"a\":2}", "\"\\u00e9🦀\""] {
        publish(&mut publisher, "a", body).await;
    }
    let got = edge.publications("a", 3).await;
    let bodies: Vec<_> = got.iter().map(|(_, _, body)| body.clone()).collect();
    assert_eq!(bodies, ["1.0", "{\"a\":1,\"a\":2}", "\"\\u00e9🦀\""]);
    assert_eq!(got[0].0, position.epoch);
    assert_eq!(got[0].1, 2);
    edge.unwant("a").await;
    edge.want("b", None).await;
    assert_eq!(edge.state("b").await, (Position::default(), true));
    publish(&mut publisher, "a", "4").await;
    publish(&mut publisher, "b", "5").await;
    assert_eq!(edge.publications("b", 1).await[0].1, 1, "of a nothing came");
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn a_room_wanted_from_a_position_is_caught_up_first() {
    let mut config = Config::for_development();
    config.history_size = 10;
    let node = Node::start(config).await;
    let mut publisher = node.publisher().await;
    let mut epoch = String::new();
    for number in 1..=20 {
        epoch = publish(&mut publisher, "a", &number.to_string()).await.epoch;
    }
    let mut edge = node.edge().await;
    edge.want("a", Some((&epoch, 12))).await;
    assert_eq!(edge.state("a").await, (Position { epoch: epoch.clone(), seq: 12 }, true));
    let got = edge.publications("a", 8).await;
    assert_eq!((got[0].1, &*got[0].2), (13, &b"13"[..]));

    // The same again, as by an edge that saw a gap, and then live.
    edge.want("a", Some((&epoch, 19))).await;
    assert_eq!(edge.state("a").await.0.seq, 19);
    publish(&mut publisher, "a", "21").await;
    assert_eq!(edge.publications("a", 2).await[1].1, 21);

    edge.want("a", Some((&epoch, 21))).await;
    assert_eq!(edge.state("a").await, (Position { epoch: epoch.clone(), seq: 21 }, true));

    // Further back than the history, of another epoch, and from the future.
    for (from, seq) in [(&*epoch, 3), ("1-other", 3), (&*epoch, 3000)] {
        edge.want("a", Some((from, seq))).await;
        let (position, complete) = edge.state("a").await;
        assert!(!complete);
        if seq == 3000 {
            assert_eq!(position.seq, 21);
        } else {
            assert_eq!(position, Position { epoch: epoch.clone(), seq: 11 });
            assert_eq!(edge.publications("a", 10).await[9].1, 21);
        }
    }
    // Never published to, and the history does reach back to 1.
    publish(&mut publisher, "b", "1").await;
    edge.want("b", Some(("", 0))).await;
    assert_eq!(edge.state("b").await, (Position::default(), true));
    assert_eq!(edge.publications("b", 1).await[0].1, 1);
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn an_edge_that_does_not_read_falls_behind_and_misses_nothing() {
    let mut config = Config::for_development();
    config.history_size = 100_000;
    let node = Node::start(config).await;
    let mut publisher = node.publisher().await;
    let mut edge = node.edge().await;
    edge.want("big", None).await;
    edge.want("small", None).await;
    edge.state("big").await;
    edge.state("small").await;
    // More than the queue and all windows hold, without a read in between.
    let body = format!("\"{}\"", "x".repeat(60_000));
    let sent: usize = 600;
    // It is alive, though: the publisher is held back for it, but not for ever.
    let mut another = publisher.clone();
    let publishing = async {
        for _ in 0..sent {
            publish(&mut another, "big", &body).await;
        }
        publish(&mut another, "small", "1").await;
    };
    tokio::pin!(publishing);
    while tokio::time::timeout(Duration::from_millis(500), publishing.as_mut()).await.is_err() {
        edge.beat().await;
    }
    let (mut big, mut small) = (0, 0);
    while big < sent as u64 || small < 1 {
        match edge.next().await {
            Some(Out::Publications(run)) => {
                let seen = if run.room == "big" { &mut big } else { &mut small };
                assert_eq!(run.first_seq, *seen + 1, "consecutive");
                *seen += run.entries.len() as u64;
            }
            other => panic!("not a publication: {other:?}"),
        }
    }
    let (_, metrics) = http(node.bound.ops, "GET /metrics", b"").await;
    let full = "espigon_fanout_queue_full_total{queue=\"link_room\",rule=\"behind\"} ";
    let refused = metrics.lines().find_map(|line| line.strip_prefix(full)).unwrap();
    assert_ne!(refused, "0", "the room fell behind");
    publish(&mut publisher, "big", "2").await;
    assert_eq!(edge.publications("big", 1).await[0].1, sent as u64 + 1, "live again");
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn a_broadcast_gets_its_receipt() {
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    edge.send(Kind::Publish(broadcast(1, "a", "1", "k"))).await;
    let (id, receipt::Result::Stored(first)) = receipt(&mut edge).await else { panic!("stored") };
    assert_eq!((id, first.duplicate), (1, false));
    edge.send(Kind::Publish(broadcast(2, "a", "1", "k"))).await;
    let (_, receipt::Result::Stored(again)) = receipt(&mut edge).await else { panic!("stored") };
    assert_eq!((again.position, again.duplicate), (first.position, true));

    let too_long = "k".repeat(129);
    let mut bad = [broadcast(3, " a", "1", ""), broadcast(3, "a", "1", &too_long)].to_vec();
    bad.push(LinkPublish { from: "@shop".into(), ..broadcast(3, "a", "1", "") });
    for unless in [vec!["k".to_owned(); 257], vec![too_long]] {
        bad.push(LinkPublish { unless, ..broadcast(3, "a", "1", "") });
    }
    for publish in bad {
        edge.send(Kind::Publish(publish)).await;
        let (3, receipt::Result::Error(error)) = receipt(&mut edge).await else { panic!("refused") };
        assert_eq!(error.code(), LinkErrorCode::Invalid, "{error:?}");
    }
    let mut large = broadcast(4, "a", "", "");
    large.body = vec![b'1'; (64 << 10) + 1].into();
    edge.send(Kind::Publish(large)).await;
    let (4, receipt::Result::Error(error)) = receipt(&mut edge).await else { panic!("refused") };
    assert_eq!(error.code(), LinkErrorCode::TooLarge);
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn broadcasts_of_one_link_to_one_room_are_stored_in_the_order_sent() {
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    edge.want("a", None).await;
    edge.state("a").await;
    // More at once than may wait for the room's shard, and others in between.
    for id in 0..3000 {
        edge.send(Kind::Publish(broadcast(id, ["a", "b"][usize::from(id % 3 == 2)], "1", ""))).await;
    }
    let mut seqs = std::collections::BTreeMap::new();
    while seqs.len() < 3000 {
        match edge.next().await {
            Some(Out::Receipt(Receipt { id, result: Some(receipt::Result::Stored(stored)) })) => {
                seqs.insert(id, stored.position.unwrap().seq);
            }
            Some(Out::Publications(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let of = |b: bool| seqs.iter().filter(move |(id, _)| (*id % 3 == 2) == b).map(|(_, seq)| *seq);
    assert!(of(false).eq(1..=2000) && of(true).eq(1..=1000));
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn a_repeat_is_not_stored_after_what_was_sent_later() {
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    for (id, key) in [(1, "k1"), (3, "k3")] {
        edge.send(Kind::Publish(broadcast(id, "a", "1", key))).await;
        receipt(&mut edge).await;
    }
    let unless = |keys: &[&str]| keys.iter().map(ToString::to_string).collect();
    edge.send(Kind::Publish(LinkPublish { unless: unless(&["k2", "k3"]), ..broadcast(4, "a", "1", "k1") })).await;
    assert!(matches!(receipt(&mut edge).await, (4, receipt::Result::Stored(Stored { duplicate: true, .. }))));
    edge.send(Kind::Publish(LinkPublish { unless: unless(&["k3"]), ..broadcast(5, "a", "1", "k2") })).await;
    let (5, receipt::Result::Error(error)) = receipt(&mut edge).await else { panic!("refused") };
    assert_eq!(error.code(), LinkErrorCode::Unavailable);
    edge.send(Kind::Publish(LinkPublish { unless: unless(&["k5"; 256]), ..broadcast(6, "a", "1", "k4") })).await;
    assert!(matches!(receipt(&mut edge).await, (6, receipt::Result::Stored(Stored { duplicate: false, .. }))));
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn the_edges_own_key_is_not_shown() {
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    for (id, key_is_ours) in [(1, true), (2, false)] {
        edge.send(Kind::Publish(LinkPublish { key_is_ours, ..broadcast(id, "a", "1", &format!("k{id}")) })).await;
        receipt(&mut edge).await;
    }
    let (status, body) = http(node.bound.api, "GET /v1/rooms/a/publications", b"").await;
    assert_eq!(status, 200);
    assert!(!body.contains("k1") && body.contains(r#""from":"7""#) && body.contains(r#""key":"k2""#), "{body}");
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn pages_are_read_by_position_or_from_the_end() {
    let node = Node::start(Config::for_development()).await;
    let mut publisher = node.publisher().await;
    let mut edge = node.edge().await;
    let nothing = read(&mut edge, Read { id: 1, room: "a".into(), from: Some(From::Last(5)), limit: 0 }).await;
    assert_eq!((nothing.position, nothing.complete, nothing.entries.len()), (Some(Position::default()), true, 0));
    let mut epoch = String::new();
    let body = format!("\"{}\"", "x".repeat(60_000));
    for _ in 0..30 {
        epoch = publish(&mut publisher, "a", &body).await.epoch;
    }
    let after = |seq| Some(From::After(Position { epoch: epoch.clone(), seq }));
    let page = read(&mut edge, Read { id: 2, room: "a".into(), from: after(0), limit: 0 }).await;
    assert!(page.complete);
    assert_eq!((page.first_seq, page.position.unwrap().seq), (1, 30));
    let bytes: usize = page.entries.iter().map(Bytes::len).sum();
    assert!(page.entries.len() == 17 && bytes <= 1 << 20, "a page of 1 MiB: {}", page.entries.len());
    let page = read(&mut edge, Read { id: 3, room: "a".into(), from: after(28), limit: 1 }).await;
    assert_eq!((page.first_seq, page.entries.len(), page.complete), (29, 1, true));
    let page = read(&mut edge, Read { id: 4, room: "a".into(), from: Some(From::Last(2)), limit: 0 }).await;
    assert_eq!((page.first_seq, page.entries.len()), (29, 2));
    let bad = read(&mut edge, Read { id: 5, room: "\n".into(), from: after(0), limit: 0 }).await;
    assert_eq!(bad.error.unwrap().code(), LinkErrorCode::Invalid);
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn a_link_needs_its_token_and_a_version() {
    let mut config = Config::for_development();
    config.secrets.link_token = Some(Secret::new("t0ken"));
    let node = Node::start(config).await;
    let mut client =
        proto::wire::link_client::LinkClient::connect(format!("http://{}", node.bound.link)).await.unwrap();
    let error = soon("an answer", client.attach(tokio_stream::pending())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    drop(client);
    let edge = Edge::attach_with(node.bound.link, 1, Some("t0ken")).await;
    edge.detach();
    for version in [0, 3] {
        let mut edge = Edge::attach_with(node.bound.link, version, Some("t0ken")).await;
        assert_eq!(edge.result().await.unwrap_err().code(), Code::FailedPrecondition, "version {version}");
    }
    Edge::attach_with(node.bound.link, 2, Some("t0ken")).await.detach();
    node.finish().await;
}

#[tokio::test]
async fn a_silent_edge_is_dead_and_leaves_its_rooms() {
    let node = Node::start(Config::for_development()).await;
    let mut client =
        proto::wire::link_client::LinkClient::connect(format!("http://{}", node.bound.link)).await.unwrap();
    let mut hear = client.attach(tokio_stream::pending()).await.unwrap().into_inner();
    let end = soon("the end of the link", async {
        loop {
            match hear.message().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    })
    .await;
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);
    eventually("its end in the metrics", async || {
        http(node.bound.ops, "GET /metrics", b"").await.1.contains("espigon_fanout_attachments 0")
    })
    .await;
    drop((client, hear));
    node.finish().await;
}

#[tokio::test]
async fn a_drain_is_announced_and_links_are_ended_in_time() {
    let node = Node::start(Config::for_development()).await;
    let (mut leaves, mut stays) = (node.edge().await, node.edge().await);
    node.lifecycle.drain().cancel();
    assert!(matches!(leaves.next().await, Some(Out::Drain(_))));
    assert!(matches!(stays.next().await, Some(Out::Drain(_))));
    let (status, body) = http(node.bound.ops, "GET /readyz", b"").await;
    assert_eq!((status, &*body), (503, "draining\n"));
    // The link goes on working meanwhile.
    leaves.send(Kind::Publish(broadcast(1, "a", "1", ""))).await;
    assert!(matches!(receipt(&mut leaves).await.1, receipt::Result::Stored(_)));
    leaves.detach();
    assert_eq!(stays.result().await.unwrap_err().code(), Code::Unavailable);
    node.finish().await;
}

#[tokio::test]
async fn runs_of_several_rooms_share_messages_for_an_edge_that_accepts_it() {
    let node = Node::start(Config::for_development()).await;
    let (mut older, mut newer) = (node.edge().await, node.edge().await);
    newer.send(Kind::Accepts(Accepts { publications_batch: true })).await;
    let rooms: Vec<String> = (0..1000).map(|number| format!("room-{number}")).collect();
    for edge in [&mut older, &mut newer] {
        for room in &rooms {
            edge.want(room, None).await;
        }
        for _ in &rooms {
            assert!(matches!(edge.next().await, Some(Out::State(_))));
        }
    }
    let mut publisher = node.publisher().await;
    for _ in 0..3 {
        let many = PublishManyRequest { rooms: rooms.clone(), body: "1".into(), ..PublishManyRequest::default() };
        publisher.publish_many(many).await.unwrap();
    }
    let count = async |edge: &mut Edge| {
        let (mut messages, mut seen) = (0, std::collections::HashMap::new());
        while seen.values().sum::<u64>() < 3000 {
            let runs = match edge.next().await {
                Some(Out::Publications(run)) => vec![run],
                Some(Out::PublicationsBatch(batch)) => batch.runs,
                other => panic!("not publications: {other:?}"),
            };
            messages += 1;
            for run in runs {
                let last = seen.entry(run.room).or_insert(0);
                assert_eq!(run.first_seq, *last + 1, "consecutive");
                *last += run.entries.len() as u64;
            }
        }
        messages
    };
    assert!(count(&mut newer).await <= 600, "0.2 messages for each publication");
    assert!(count(&mut older).await >= 1000, "nothing it does not know");
    older.detach();
    newer.detach();
    drop(publisher);
    node.finish().await;
}
