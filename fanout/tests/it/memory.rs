//! What only the memory broker can show: long times, on a paused clock.

use std::time::Duration;

use fanout::broker::ReadFrom;
use proto::Position;

use crate::subject::{Subject, keep, name};

#[tokio::test(start_paused = true)]
async fn everything_expires_in_its_time() {
    let subject = Subject::memory(keep());
    let position = subject.publish_as("a", "7", "k", Some(Duration::from_hours(1))).await.position;
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(subject.read("a", ReadFrom::Oldest).await.entries.len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    let page = subject.read("a", ReadFrom::Oldest).await;
    assert_eq!((page.entries.len(), page.position), (0, position.clone()));
    assert!(subject.publish_as("a", "7", "k", None).await.duplicate, "a key's time is its own");
    tokio::time::advance(Duration::from_mins(1441)).await;
    assert_eq!(subject.read("a", ReadFrom::Oldest).await.position, Position::default());
    let new = subject.publish("a", "1").await.position;
    assert_eq!(new.seq, 1);
    assert_ne!(new.epoch, position.epoch);
    subject.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_live_room_is_kept_and_none_is_made() {
    let subject = Subject::memory(keep());
    let position = subject.publish("a", "1").await.position;
    for _ in 0..3 {
        tokio::time::advance(Duration::from_hours(20)).await;
        subject.broker.renew(vec![name("a"), name("never")]).await.unwrap();
    }
    assert_eq!(subject.read("a", ReadFrom::Oldest).await.position, position);
    assert_eq!(subject.read("never", ReadFrom::Oldest).await.position, Position::default());
    subject.finish().await;
}
