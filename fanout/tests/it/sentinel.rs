//! What Sentinels do: planned and forced failovers, and a primary that they have given up but that is still there.

use fanout::broker::StoreError;
use proto::Position;
use tokio::time::{Duration, sleep};

use crate::{
    redis_server::RedisServer,
    sentinels::Sentinels,
    subject::{Event, Subject, after, keep, publication},
    support::soon,
};

/// A primary with a replica under three Sentinels.
struct Cast {
    subject: Subject,
    replica: RedisServer,
    sentinels: Sentinels,
}

impl Cast {
    async fn start() -> Self {
        let primary = RedisServer::start().await;
        let replica = RedisServer::start_replica(primary.port).await;
        let sentinels = Sentinels::start(3, primary.port).await;
        let subject = Subject::redis_behind(&sentinels.address(), primary, keep()).await;
        Self { subject, replica, sentinels }
    }

    /// Publishes until it is stored, as a backend would.
    async fn publish(&self, room: &str) -> Position {
        soon("a receipt", async {
            loop {
                match self.subject.broker.publish(publication(room, "x")).unwrap().await {
                    Ok(receipt) => return receipt.position,
                    Err(StoreError::Unavailable | StoreError::Unknown) => sleep(Duration::from_millis(50)).await,
                    Err(StoreError::Busy) => panic!("busy"),
                }
            }
        })
        .await
    }

    /// The broker goes on with the replica, in a later epoch whose numbers follow on.
    async fn goes_on_after(&self, before: Position) {
        assert_eq!(self.sentinels.another_primary(self.subject.server().port).await, self.replica.port);
        self.subject.events.until(Event::Reset).await;
        self.subject.ready().await;
        let next = self.publish("a").await;
        assert!(next.epoch.generation() > before.epoch.generation());
        assert_eq!(next.seq, before.seq + 1);
        let page = self.subject.read("a", after(&before.epoch, before.seq)).await;
        assert_eq!((page.prev, page.complete), (Some(before), true));
        while self.subject.events.announced().await.position != next {}
        let subscribed: (String, u64) = self.replica.ask(&["PUBSUB", "NUMSUB", "rt:0:{a}"]).await;
        assert_eq!(subscribed.1, 1);
    }

    async fn replicated(&self) {
        assert_eq!(self.subject.server().ask::<u64>(&["WAIT", "1", "5000"]).await, 1);
    }
}

#[tokio::test]
async fn a_planned_failover_is_followed() {
    let cast = Cast::start().await;
    cast.subject.subscribe("a").await;
    let before = cast.publish("a").await;
    cast.replicated().await;
    cast.sentinels.ask::<String>(&["SENTINEL", "FAILOVER", "main"]).await;
    cast.goes_on_after(before).await;
    cast.subject.finish().await;
}

#[tokio::test]
async fn a_killed_primary_is_replaced() {
    let mut cast = Cast::start().await;
    cast.subject.subscribe("a").await;
    let before = cast.publish("a").await;
    cast.replicated().await;
    cast.subject.server.as_mut().unwrap().kill();
    cast.goes_on_after(before).await;
    cast.subject.finish().await;
}

#[tokio::test]
async fn a_primary_that_is_none_any_more_is_left_though_it_works() {
    let mut old = RedisServer::start().await;
    let new = RedisServer::start().await;
    old.company.push(Box::new(Sentinels::start(1, old.port).await));
    let sentinels = Sentinels::start(1, old.port).await;
    let subject = Subject::redis_behind(&sentinels.address(), old, keep()).await;
    subject.subscribe("a").await;
    let before = subject.publish("a", "1").await.position;
    sentinels.ask::<String>(&["SENTINEL", "REMOVE", "main"]).await;
    sentinels.ask::<String>(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &new.port.to_string(), "1"]).await;
    subject.events.until(Event::Reset).await;
    subject.ready().await;
    let next = subject.publish("a", "1").await.position;
    assert!(next.epoch.generation() > before.epoch.generation());
    assert_eq!(new.ask::<u64>(&["EXISTS", "rt:{a}:meta"]).await, 1);
    subject.finish().await;
}

#[tokio::test]
async fn of_two_sentinels_the_one_that_knows_the_latest_failover_is_believed() {
    // It has missed a failover, and is asked first.
    let stranger = RedisServer::start().await;
    let late = Sentinels::start(1, stranger.port).await;
    let cast = Cast::start().await;
    cast.sentinels.ask::<String>(&["SENTINEL", "FAILOVER", "main"]).await;
    cast.sentinels.another_primary(cast.subject.server().port).await;
    let address = format!("redis+sentinel://{},{}/main", late.hosts(), cast.sentinels.hosts());
    let other = Subject::redis_behind(&address, RedisServer::start().await, keep()).await;
    other.publish("b", "1").await;
    assert_eq!(cast.replica.ask::<u64>(&["EXISTS", "rt:{b}:meta"]).await, 1);
    assert_eq!(stranger.ask::<u64>(&["DBSIZE"]).await, 0);
    other.finish().await;
    cast.subject.finish().await;
}
