//! Members walked between two yields, counted from a task that runs in between.

use service::Clock;
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    connections::Connections,
    deliveries::Deliveries,
    hub::{Hub, Settings},
    metrics::Metrics,
};

const MEMBERS: usize = 5000;

/// The budget.
const MOST: u64 = 1024;

#[tokio::test]
async fn no_more_than_1024_members_are_walked_between_two_yields() {
    let metrics = Arc::new(Metrics::default());
    let connections = Connections::new(usize::MAX, usize::MAX, metrics.clone());
    let settings = Settings {
        shards: 1,
        linger: LINGER,
        join_timeout: Duration::from_mins(1),
        tail_bytes: 1 << 20,
        send_queue: 256,
    };
    let end = CancellationToken::new();
    let (hub, shards) =
        Hub::new(&settings, &connections.spread(), &Clock::system(), &Deliveries::default(), &metrics, &end);
    let lifecycle = service::Lifecycle::new();
    for shard in shards {
        lifecycle.spawn(shard);
    }
    let link = PlacedLink::new(LINK, "node:7000", Arc::default(), Arc::default(), Arc::default(), true);
    hub.place(Arc::new(Placement::new(vec![link], false))).await;

    let room = Room::try_new("room").unwrap();
    let members: Vec<_> = (0..MEMBERS).map(|_| test_support::outbox()).collect();
    let mut outcomes = Vec::new();
    for member in &members {
        outcomes.push(hub.join(room.clone(), member.clone(), None, true, None, None).await);
    }
    let position = Some(Position::new("1-a", 0).into());
    hub.state(LINK, proto::wire::State { room: "room".into(), position, complete: true, after: None });
    for outcome in outcomes {
        assert_eq!(outcome.await.unwrap(), JoinOutcome::Joined);
    }

    for seq in 1..=3 {
        let entries = vec![Entry { body: "1".into(), ..Entry::default() }.encode_to_vec().into()];
        let run = proto::wire::Publications { room: "room".into(), epoch: "1-a".into(), first_seq: seq, entries };
        hub.publications(run);
        let (mut most, mut delivered) = (0, metrics.deliveries.get());
        while delivered < seq * MEMBERS as u64 {
            yield_now().await;
            let now = metrics.deliveries.get();
            most = most.max(now - delivered);
            delivered = now;
        }
        assert_eq!(most, MOST, "as many as may be, and no more");
    }
    end.cancel();
    assert!(lifecycle.finish(Duration::from_secs(10)).await);
}
