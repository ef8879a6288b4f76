//! The contract of a broker. Where it is to be kept is for `contract!` to say, which each suite has its own of.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use fanout::broker::{
    Announcement, Keep, PageLimit, ReadFrom, Receipt, StoreError,
    removals::{Removal, Who},
};
use proto::Position;

use crate::{
    patience::{eventually, soon},
    subject::{Event, PAGE, Subject, after, keep, name, publication},
};

contract! {
    each_room_is_numbered_from_one(crate::subject::keep());
    publications_are_stored_and_announced_in_the_order_of_calls(crate::subject::keep());
    the_history_is_exact(fanout::broker::Keep { history_size: 5, ..crate::subject::keep() });
    the_history_expires_but_not_the_position(fanout::broker::Keep {
        history_ttl: std::time::Duration::from_millis(300),
        ..crate::subject::keep()
    });
    a_key_is_remembered_for_its_room_and_sender(fanout::broker::Keep {
        dedup_window: std::time::Duration::from_millis(400),
        ..crate::subject::keep()
    });
    one_that_comes_after_its_later_ones_is_refused(fanout::broker::Keep {
        dedup_window: std::time::Duration::from_millis(400),
        ..crate::subject::keep()
    });
    a_duplicate_announces_its_position_again(crate::subject::keep());
    entries_pass_byte_for_byte(crate::subject::keep());
    reads_say_what_they_have(crate::subject::keep());
    pages_are_limited(crate::subject::keep());
    only_what_is_subscribed_is_announced(crate::subject::keep());
    odd_names_do_not_meet(crate::subject::keep());
    positions_come_in_the_order_asked(crate::subject::keep());
    the_store_has_an_identity(crate::subject::keep());
    removals_are_kept_in_their_order(crate::subject::keep());
    of_each_user_and_room_the_last_removal_is_kept(crate::subject::keep());
}

async fn each_room_is_numbered_from_one(subject: &Subject) {
    let first = subject.publish("a", "1").await;
    assert_eq!((first.position.seq, first.duplicate), (1, false));
    let epoch = first.position.epoch;
    assert!(epoch.generation() > 1_700_000_000_000, "a generation is a time: {epoch}");
    assert!(epoch.split_once('-').unwrap().1.len() >= 16, "64 random bits: {epoch}");
    assert_eq!(subject.publish("a", "2").await.position, Position { epoch: epoch.clone(), seq: 2 });
    let other = subject.publish("b", "1").await.position;
    assert_eq!(other.seq, 1);
    assert_ne!(other.epoch, epoch);
}

async fn publications_are_stored_and_announced_in_the_order_of_calls(subject: &Subject) {
    let rooms = ["a", "b", "c"];
    for room in rooms {
        subject.subscribe(room).await;
    }
    let mut pending = Vec::new();
    for number in 0..900usize {
        pending.push(subject.broker.publish(publication(rooms[number % 3], number.to_string())).unwrap());
    }
    for (number, pending) in pending.into_iter().enumerate() {
        let receipt = soon("a receipt", pending).await.unwrap();
        assert_eq!(receipt.position.seq, number as u64 / 3 + 1);
    }
    let mut next: HashMap<_, _> = rooms.iter().map(|room| (name(room), 1)).collect();
    while next.values().any(|seq| *seq <= 300) {
        let Announcement { room, position, entry } = subject.events.announced().await;
        let seq = next.get_mut(&room).unwrap();
        assert_eq!(position.seq, *seq, "each once, in order");
        *seq += 1;
        let index = rooms.iter().zip(0..).find(|(known, _)| **known == room.as_str()).unwrap().1;
        let number: u64 = (position.seq - 1) * 3 + index;
        assert_eq!(entry.unwrap(), number.to_string());
    }
}

async fn the_history_is_exact(subject: &Subject) {
    let mut epoch = String::new();
    for number in 1..=12 {
        epoch = subject.publish("a", number.to_string()).await.position.epoch.to_string();
    }
    let page = subject.read("a", ReadFrom::Oldest).await;
    assert_eq!((page.first_seq, page.entries.len(), page.position.seq), (8, 5, 12));
    assert_eq!(page.entries[0], "8");
    assert!(subject.read("a", after(&epoch, 7)).await.complete);
    let cut = subject.read("a", after(&epoch, 6)).await;
    assert_eq!((cut.complete, cut.first_seq), (false, 8));
}

async fn the_history_expires_but_not_the_position(subject: &Subject) {
    subject.publish("a", "1").await;
    let position = subject.publish("a", "2").await.position;
    eventually("the expiry", async || subject.read("a", ReadFrom::Oldest).await.entries.is_empty()).await;
    let page = subject.read("a", after(&position.epoch, 1)).await;
    assert_eq!((page.complete, &page.position), (false, &position));
    assert!(subject.read("a", after(&position.epoch, 2)).await.complete, "nothing was to come");
    assert_eq!(subject.publish("a", "3").await.position, Position { seq: 3, ..position });
}

async fn a_key_is_remembered_for_its_room_and_sender(subject: &Subject) {
    let first = subject.publish_as("a", "7", "k", None).await;
    let again = subject.publish_as("a", "7", "k", None).await;
    assert_eq!(again, Receipt { position: first.position.clone(), duplicate: true });
    assert!(!subject.publish_as("a", "8", "k", None).await.duplicate);
    assert!(!subject.publish_as("b", "7", "k", None).await.duplicate);
    assert!(!subject.publish_as("a", "7", "other", None).await.duplicate);
    assert_eq!(subject.read("a", ReadFrom::Oldest).await.entries.len(), 3);
    // A time of its own outlives the window, which ends.
    subject.publish_as("long", "7", "k", Some(Duration::from_mins(1))).await;
    eventually("the window's end", async || !subject.publish_as("c", "7", "k", None).await.duplicate).await;
    eventually("the window's end", async || !subject.publish_as("c", "7", "k", None).await.duplicate).await;
    assert!(subject.publish_as("long", "7", "k", None).await.duplicate);

    // Within one batch, too.
    let key = proto::Key::try_new("same").unwrap();
    let twice = [0, 1].map(|_| {
        let publication = fanout::broker::NewPublication { key: key.clone(), ..publication("d", "x") };
        subject.broker.publish(publication).unwrap()
    });
    let mut receipts = Vec::new();
    for pending in twice {
        receipts.push(soon("a receipt", pending).await.unwrap());
    }
    assert_eq!((receipts[0].duplicate, receipts[1].duplicate), (false, true));
    assert_eq!(receipts[0].position, receipts[1].position);
}

async fn one_that_comes_after_its_later_ones_is_refused(subject: &Subject) {
    let key = |key: &str| proto::Key::try_new(key).unwrap();
    let publish = |room: &str, own: &str, unless: &[&str]| {
        let unless = unless.iter().filter_map(|later| key(later)).collect();
        let publication = fanout::broker::NewPublication { key: key(own), unless, ..publication(room, own.to_owned()) };
        let pending = subject.broker.publish(publication).unwrap();
        async { soon("a receipt", pending).await.map(|receipt| receipt.duplicate) }
    };
    assert_eq!(publish("a", "1", &["2", "3"]).await, Ok(false), "neither is known");
    assert_eq!(publish("a", "3", &[]).await, Ok(false));
    assert_eq!(publish("a", "2", &["4", "3", "5"]).await, Err(StoreError::Unavailable));
    assert_eq!(publish("a", "1", &["2", "3"]).await, Ok(true), "stored before");
    assert_eq!(publish("a", "3", &["2"]).await, Ok(true));
    assert_eq!(publish("a", "3", &["4", "1"]).await, Err(StoreError::Unknown), "stored, and behind");
    assert_eq!(publish("b", "2", &["3"]).await, Ok(false), "another room's");
    subject.publish_as("a", "8", "9", None).await;
    assert_eq!(publish("a", "4", &["9"]).await, Ok(false), "another sender's");
    // Many in one batch: each has its own.
    let batch = [("5", &["7"][..]), ("6", &["5", "7"]), ("7", &[]), ("6", &["7"]), ("8", &[]), ("9", &["6"])]
        .map(|(own, unless)| publish("a", own, unless));
    let mut receipts = Vec::new();
    for receipt in batch {
        receipts.push(receipt.await);
    }
    let refused = Err(StoreError::Unavailable);
    assert_eq!(receipts, [Ok(false), refused, Ok(false), refused, Ok(false), Ok(false)]);
    let entries = subject.read("a", ReadFrom::Oldest).await.entries;
    assert_eq!(entries, ["1", "3", "x", "4", "5", "7", "8", "9"]);
    eventually("the window's end", async || publish("a", "2", &["3"]).await == Ok(false)).await;
}

async fn a_duplicate_announces_its_position_again(subject: &Subject) {
    let first = subject.publish_as("a", "7", "k", None).await;
    subject.publish("a", "2").await;
    subject.subscribe("a").await;
    assert!(subject.publish_as("a", "7", "k", None).await.duplicate);
    let again = Announcement { room: name("a"), position: first.position, entry: None };
    subject.events.until(Event::Announced(again)).await;
}

async fn entries_pass_byte_for_byte(subject: &Subject) {
    subject.subscribe("a").await;
    let all: Vec<u8> = (0..=255).collect();
    let large = Bytes::from(vec![0xf5; 64 << 10]);
    let entries = [Bytes::from(all), Bytes::from_static(b" 1 2 "), Bytes::from_static(b"\r\n\0"), large];
    for entry in &entries {
        subject.publish("a", entry.clone()).await;
        assert_eq!(subject.events.announced().await.entry.as_ref(), Some(entry));
    }
    assert_eq!(subject.read("a", ReadFrom::Oldest).await.entries, entries);
}

async fn reads_say_what_they_have(subject: &Subject) {
    // Never published to: reads create nothing.
    let nothing = subject.read("a", ReadFrom::Last(3)).await;
    assert_eq!((nothing.position, nothing.complete, nothing.entries.len()), (Position::default(), true, 0));
    assert!(subject.read("a", after("", 0)).await.complete);
    assert!(!subject.read("a", after("1-x", 3)).await.complete);
    if let Some(server) = &subject.server {
        assert_eq!(server.ask::<u64>(&["DBSIZE"]).await, 1, "the identity alone");
    }
    let mut position = Position::default();
    for number in 1..=10 {
        position = subject.publish("a", number.to_string()).await.position;
    }
    let epoch = position.epoch.as_str();
    for (from, first, count, complete) in [
        (after(epoch, 4), 5, 6, true),
        (after(epoch, 10), 0, 0, true),
        (after(epoch, 0), 1, 10, true),
        (after("", 0), 1, 10, true),
        (after(epoch, 11), 0, 0, false),
        (after("1-x", 4), 1, 10, false),
        (ReadFrom::Oldest, 1, 10, true),
        (ReadFrom::Last(3), 8, 3, true),
        (ReadFrom::Last(0), 0, 0, true),
        (ReadFrom::Last(100), 1, 10, true),
    ] {
        let page = subject.read("a", from.clone()).await;
        assert_eq!((page.first_seq, page.entries.len(), page.complete), (first, count, complete), "{from:?}");
        assert_eq!((&page.position, &page.prev), (&position, &None), "{from:?}");
        for (seq, entry) in (page.first_seq..).zip(&page.entries) {
            assert_eq!(*entry, seq.to_string());
        }
    }
}

async fn pages_are_limited(subject: &Subject) {
    let mut epoch = String::new();
    for _ in 0..100 {
        epoch = subject.publish("a", vec![b'x'; 1000]).await.position.epoch.to_string();
    }
    let page = subject.read_page("a", after(&epoch, 10), PageLimit { items: 70, ..PAGE }).await;
    assert_eq!((page.first_seq, page.entries.len(), page.complete, page.position.seq), (11, 70, true, 100));
    let page = subject.read_page("a", after(&epoch, 10), PageLimit { bytes: 5500, ..PAGE }).await;
    assert_eq!((page.first_seq, page.entries.len(), page.complete), (11, 5, true));
    let page = subject.read_page("a", after(&epoch, 10), PageLimit { bytes: 1, ..PAGE }).await;
    assert_eq!(page.entries.len(), 1, "at least one");
}

async fn only_what_is_subscribed_is_announced(subject: &Subject) {
    subject.publish("a", "before").await;
    subject.subscribe("a").await;
    subject.subscribe("fence").await;
    subject.publish("a", "1").await;
    assert_eq!(subject.events.announced().await.entry.unwrap(), "1");
    subject.broker.unsubscribe(&name("a"));
    // Once the change has reached the store, a is silent.
    eventually("silence", async || {
        subject.publish("a", "2").await;
        subject.publish("fence", "f").await;
        let mut heard = false;
        loop {
            let announcement = subject.events.announced().await;
            if announcement.room == name("fence") {
                return !heard;
            }
            heard = true;
        }
    })
    .await;
    subject.subscribe("a").await;
    subject.publish("a", "3").await;
    assert_eq!(subject.events.announced().await.entry.unwrap(), "3");
}

async fn odd_names_do_not_meet(subject: &Subject) {
    let rooms = ["a{b}c", "}{", "{a}", "a", "%7Ba%7D", "100%", "é 🦀", "a:b:meta", &"x".repeat(200)];
    for room in rooms {
        subject.subscribe(room).await;
        let receipt = subject.publish(room, room.to_owned()).await;
        assert_eq!(receipt.position.seq, 1, "{room}");
        let announcement = subject.events.announced().await;
        assert_eq!((announcement.room, announcement.entry.unwrap()), (name(room), Bytes::from(room.to_owned())));
        assert_eq!(subject.read(room, ReadFrom::Oldest).await.entries, [room.to_owned()]);
    }
    for (sender, key) in
        [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a", "b%3Ac"), ("a b", "c"), ("@a", "b c"), ("é", "é")]
    {
        assert!(!subject.publish_as("r", sender, key, None).await.duplicate, "{sender} {key}");
        assert!(subject.publish_as("r", sender, key, None).await.duplicate, "{sender} {key}");
    }
}

async fn positions_come_in_the_order_asked(subject: &Subject) {
    let a = subject.publish("a", "1").await.position;
    let b = subject.publish("b", "1").await.position;
    let rooms = ["b", "never", "a"].map(name).to_vec();
    let positions = soon("positions", subject.broker.positions(rooms)).await.unwrap();
    assert_eq!(positions, [Some(b), Some(Position::default()), Some(a)]);
}

async fn the_store_has_an_identity(subject: &Subject) {
    let health = subject.broker.health();
    assert!(health.ready);
    assert!(health.store.as_ref().is_some_and(|store| store.starts_with(health.kind)), "{health:?}");
    assert_eq!(subject.broker.health().store, health.store);
    let _: Keep = keep();
}

fn who(user: &str, room: Option<&str>) -> Who {
    Who { user: user.into(), room: room.map(name) }
}

async fn removals_are_kept_in_their_order(subject: &Subject) {
    assert_eq!(subject.removals(0, 9).await, []);
    let all =
        [who("7", Some("a{b}%c")), who("é 8:", None), who("9", Some("é 🦀")), who("7", None), who("7", Some("b"))];
    let mut expected = Vec::new();
    for who in all {
        let at_ms = soon("a removal", subject.broker.remove(who.clone())).await.unwrap();
        assert!(at_ms > 1_700_000_000_000, "{at_ms}");
        assert!(expected.last().is_none_or(|last: &Removal| last.at_ms < at_ms), "no two at the same time");
        expected.push(Removal { who, at_ms });
    }
    assert_eq!(subject.removals(0, 9).await, expected);
    assert_eq!(subject.removals(0, 2).await, expected[..2]);
    assert_eq!(subject.removals(expected[1].at_ms, 2).await, expected[2..4]);
    assert_eq!(subject.removals(expected[4].at_ms, 9).await, []);
}

async fn of_each_user_and_room_the_last_removal_is_kept(subject: &Subject) {
    let mut last = 0;
    for _ in 0..3 {
        last = soon("a removal", subject.broker.remove(who("7", Some("a")))).await.unwrap();
    }
    let other = soon("a removal", subject.broker.remove(who("7", None))).await.unwrap();
    let expected = [Removal { who: who("7", Some("a")), at_ms: last }, Removal { who: who("7", None), at_ms: other }];
    assert_eq!(subject.removals(0, 9).await, expected);
}
