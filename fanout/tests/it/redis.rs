//! What only Redis can show: wipes, failovers, restarts, refusals, silence.

use std::{sync::Arc, time::Duration};

use fanout::broker::{Events, Pending, ReadFrom, StoreError};
use futures_util::future::join_all;
use proto::Position;
use service::Lifecycle;
use tokio_util::sync::CancellationToken;

use crate::{
    brokers::redis,
    proxy::Proxy,
    redis_server::RedisServer,
    subject::{Event, PAGE, Recorder, Subject, after, keep, name, publication},
    support::{PATIENCE, eventually, finish, soon},
};

#[tokio::test]
async fn keys_and_channels_are_named_and_expire_as_written() {
    let subject = Subject::redis(keep()).await;
    subject.publish_as("a{b", "u:1", "k", None).await;
    let server = subject.server();
    let mut keys: Vec<String> = server.ask(&["KEYS", "*"]).await;
    keys.sort();
    assert_eq!(keys, ["rt:identity", "rt:{a%7Bb}:history", "rt:{a%7Bb}:key:u%3A1:k", "rt:{a%7Bb}:meta"]);
    for (key, seconds) in [("history", 60), ("key:u%3A1:k", 60), ("meta", 60 + 24 * 3600)] {
        let ttl: i64 = server.ask(&["TTL", &format!("rt:{{a%7Bb}}:{key}")]).await;
        assert!((seconds - 5..=seconds).contains(&ttl), "{key}: {ttl}");
    }
    subject.subscribe("a{b").await;
    let mut channels: Vec<String> = server.ask(&["PUBSUB", "CHANNELS"]).await;
    channels.sort();
    assert!(channels[0].starts_with("rt:0:pulse:"), "{channels:?}");
    assert_eq!(channels[1..], ["rt:0:{a%7Bb}"]);
    subject.finish().await;
}

#[tokio::test]
async fn a_wipe_begins_a_later_epoch_at_one() {
    let subject = Subject::redis(keep()).await;
    subject.publish("a", "1").await;
    let before = subject.publish("a", "2").await.position;
    subject.server().ask::<String>(&["FLUSHALL"]).await;
    assert_eq!(subject.read("a", after(&before.epoch, 2)).await.position, Position::default());
    let after = subject.publish("a", "1").await.position;
    assert_eq!(after.seq, 1);
    assert!(after.epoch.generation() > before.epoch.generation());
    subject.finish().await;
}

#[tokio::test]
async fn another_replication_id_begins_an_epoch_that_numbers_on() {
    let subject = Subject::redis(keep()).await;
    for room in ["published", "read"] {
        for body in ["1", "2", "3"] {
            subject.publish(room, body).await;
        }
    }
    let old = subject.read("read", ReadFrom::Last(0)).await.position;
    let old_published = subject.read("published", ReadFrom::Last(0)).await.position;
    subject.server().ask::<String>(&["DEBUG", "CHANGE-REPL-ID"]).await;
    let rooms = vec![name("read"), name("never")];
    assert_eq!(subject.broker.positions(rooms).await.unwrap(), [None, Some(Position::default())]);

    // By a publication.
    let next = subject.publish("published", "4").await.position;
    assert_eq!(next.seq, 4);
    assert!(next.epoch.generation() > old_published.epoch.generation());
    // By a read: after a position of the epoch that ended, what is left of it and what follows.
    let page = subject.read("read", after(&old.epoch, 1)).await;
    assert!(page.position.epoch.generation() > old.epoch.generation());
    assert_eq!((page.position.seq, &page.prev), (3, &Some(old.clone())));
    assert_eq!((page.first_seq, page.entries.len(), page.complete), (2, 2, true));
    assert_eq!(subject.read("read", ReadFrom::Last(0)).await.position, page.position, "once");
    let page = subject.read("published", after(&old_published.epoch, 2)).await;
    assert_eq!((page.prev, page.first_seq, page.entries.len(), page.complete), (Some(old_published), 3, 2, true));
    // Neither this epoch nor the one before.
    let page = subject.read("published", after("1-x", 2)).await;
    assert_eq!((page.first_seq, page.entries.len(), page.complete), (4, 1, false));
    subject.finish().await;
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again_in_order() {
    let subject = Subject::redis(keep()).await;
    subject.publish("a", "1").await;
    for round in 0..5 {
        subject.server().ask::<String>(&["SCRIPT", "FLUSH"]).await;
        let pending: Vec<_> = (0..700).map(|_| subject.broker.publish(publication("a", "x")).unwrap()).collect();
        for (number, pending) in pending.into_iter().enumerate() {
            let receipt = soon("a receipt", pending).await.unwrap();
            assert_eq!(receipt.position.seq, 2 + round * 700 + number as u64);
        }
    }
    subject.server().ask::<String>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(subject.read("a", ReadFrom::Last(1)).await.position.seq, 3501);
    subject.finish().await;
}

#[tokio::test]
async fn refusals_before_the_first_write_are_not_stored() {
    let subject = Subject::redis(keep()).await;
    subject.publish("a", "1").await;
    let server = subject.server();
    let refused = async || soon("a receipt", subject.broker.publish(publication("a", "x")).unwrap()).await;
    server.ask::<String>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(refused().await, Err(StoreError::Unavailable), "OOM");
    server.ask::<String>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    server.ask::<String>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert_eq!(refused().await, Err(StoreError::Unavailable), "NOREPLICAS");
    server.ask::<String>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    server.ask::<String>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(refused().await, Err(StoreError::Unavailable), "READONLY");
    server.ask::<String>(&["REPLICAOF", "NO", "ONE"]).await;
    // A server that is no primary may have been left.
    subject.ready().await;
    assert_eq!(subject.publish("a", "2").await.position.seq, 2);
    // A key of another kind in our place: nobody knows.
    server.ask::<String>(&["SET", "rt:{b}:meta", "x"]).await;
    let odd = soon("a receipt", subject.broker.publish(publication("b", "x")).unwrap()).await;
    assert_eq!(odd, Err(StoreError::Unknown));
    subject.finish().await;
}

#[tokio::test]
async fn a_restart_is_noticed_and_there_is_one_subscriber_again() {
    let mut subject = Subject::redis(keep()).await;
    subject.subscribe("a").await;
    subject.subscribe("b").await;
    assert_eq!(subject.server().subscribers().await, 1);
    let before = subject.publish("a", "1").await.position;
    let store = subject.broker.health().store.unwrap();
    subject.server.as_mut().unwrap().kill();
    eventually("unreadiness", async || !subject.broker.health().ready).await;
    assert_eq!(
        soon("a refusal", subject.broker.publish(publication("a", "x")).unwrap()).await,
        Err(StoreError::Unavailable)
    );
    assert!(subject.broker.read(name("a"), ReadFrom::Oldest, PAGE).await.is_err());
    subject.server.as_mut().unwrap().restart().await;
    subject.ready().await;
    subject.events.until(Event::Reset).await;
    let again = subject.publish("a", "1").await.position;
    assert_eq!(again.seq, 1);
    assert!(again.epoch.generation() > before.epoch.generation());
    let announcement = subject.events.announced().await;
    assert_eq!(announcement.position, again);
    assert_ne!(subject.broker.health().store.unwrap(), store, "a wiped store is another store");
    assert_eq!(subject.server().subscribers().await, 1);
    let channels: Vec<String> = subject.server().ask(&["PUBSUB", "CHANNELS"]).await;
    assert_eq!(channels.len(), 3, "with the pulse");
    subject.finish().await;
}

#[tokio::test]
async fn a_silent_redis_is_found_and_what_was_sent_is_unknown() {
    let subject = Subject::redis(keep()).await;
    subject.publish("a", "1").await;
    subject.server().signal("-STOP");
    let sent = subject.broker.publish(publication("a", "2")).unwrap();
    assert_eq!(soon("an end", sent).await, Err(StoreError::Unknown));
    eventually("unreadiness", async || !subject.broker.health().ready).await;
    assert!(subject.broker.health().heard_ms_ago >= 1000);
    subject.server().signal("-CONT");
    subject.ready().await;
    subject.publish("a", "3").await;
    subject.finish().await;
}

#[tokio::test]
async fn a_publication_does_not_wait_behind_all_histories_being_read() {
    let (rooms, bodies) = (64, 16);
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port).await;
    let subject = Subject::redis_behind(&proxy.address(), server, keep()).await;
    let room = |number: usize| format!("room-{number}");
    for room in (0..rooms).map(room) {
        for _ in 0..bodies {
            // Pages as large as they get.
            subject.publish(&room, vec![b'x'; 64 << 10]).await;
        }
    }
    // The pages take 4 s in all, twice as long as an answer may; a publication waits only behind a few of them.
    proxy.slow_down();
    let pages = join_all((0..rooms).map(|number| subject.broker.read(name(&room(number)), ReadFrom::Oldest, PAGE)));
    let publications = async {
        // Once the reads are on their way.
        tokio::time::sleep(Duration::from_millis(100)).await;
        subject.publish("another", "1").await.position.seq
    };
    let (pages, seq) = tokio::join!(pages, publications);
    assert_eq!(seq, 1);
    assert!(pages.into_iter().all(|page| page.is_ok_and(|page| !page.entries.is_empty())));
    subject.finish().await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let subject = Subject::redis(keep()).await;
    subject.server().signal("-STOP");
    let mut pending: Vec<Pending> = Vec::new();
    let refused = loop {
        match subject.broker.publish(publication("a", vec![b'x'; 16 << 10])) {
            Ok(receipt) => pending.push(receipt),
            Err(error) => break error,
        }
        assert!(pending.len() < 20_000, "no limit");
    };
    assert_eq!(refused, StoreError::Busy);
    assert!(pending.len() > 3000, "{}", pending.len());
    subject.server().signal("-CONT");
    // Each has an answer, whichever; and then there is place again.
    for receipt in pending {
        let _ = soon("an answer", receipt).await;
    }
    subject.ready().await;
    subject.publish("a", "1").await;
    subject.finish().await;
}

#[tokio::test]
async fn a_publication_past_its_deadline_is_not_sent() {
    let subject = Subject::redis(keep()).await;
    let mut late = publication("a", "x");
    late.deadline = tokio::time::Instant::now();
    assert_eq!(soon("a refusal", subject.broker.publish(late).unwrap()).await, Err(StoreError::Unavailable));
    assert_eq!(subject.publish("a", "1").await.position.seq, 1);
    subject.finish().await;
}

#[tokio::test]
async fn two_nodes_share_a_store() {
    let subject = Subject::redis(keep()).await;
    let (events, lifecycle, end) = (Arc::<Recorder>::default(), Lifecycle::new(), CancellationToken::new());
    let other = redis(subject.server(), keep(), Arc::clone(&events) as Arc<dyn Events>, &lifecycle, &end);
    eventually("the other node", async || other.health().ready).await;
    assert_eq!(other.health().store, subject.broker.health().store);
    other.subscribe(&name("a"));
    events.until(Event::Subscribed(name("a"))).await;
    let position = subject.publish("a", "1").await.position;
    assert_eq!(events.announced().await.position, position);
    end.cancel();
    finish(&lifecycle).await;
    eventually("one node less", async || subject.server().subscribers().await == 1).await;
    assert!(Duration::from_millis(subject.broker.health().heard_ms_ago) < PATIENCE);
    subject.finish().await;
}

#[tokio::test]
async fn a_live_room_is_kept_and_none_is_made() {
    let subject = Subject::redis(keep()).await;
    subject.publish("a", "1").await;
    let server = subject.server();
    server.ask::<u64>(&["EXPIRE", "rt:{a}:meta", "5"]).await;
    subject.broker.renew(vec![name("a"), name("never")]).await.unwrap();
    assert!(server.ask::<i64>(&["TTL", "rt:{a}:meta"]).await > 24 * 3600);
    assert_eq!(server.ask::<u64>(&["EXISTS", "rt:{never}:meta"]).await, 0);
    subject.finish().await;
}
