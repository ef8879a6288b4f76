//! Two backends publish to a large room over two nodes, as fast as is accepted, which is faster than it can be delivered.

use futures_util::{StreamExt as _, future::join_all};
use proto::wire::publish_result::Result as Outcome;

use crate::harness::{Client, Stage, metric, publish_body, serial};

const MEMBERS: usize = 64;
/// Of each backend.
const PUBLICATIONS: usize = 2500;
/// More than what sockets take at a time: by so much may equals differ.
const SEND_QUEUE: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "deep: who reads for all members must be given a core"]
async fn deep_publishers_are_held_back_rather_than_members_closed() {
    let _serial = serial().await;
    let stage = Stage::plan().redis().fanouts(2).with("SEND_QUEUE", SEND_QUEUE.to_string()).start().await;
    let mut members = Vec::new();
    for user in 0..MEMBERS {
        let mut member = stage.edge(0).connect(&format!("member-{user}")).await;
        member.join("crowd").await;
        members.push(member);
    }
    let mut neighbour = stage.edge(0).connect("neighbour").await;
    neighbour.join("next door").await;

    let publishing = join_all([0, 1].map(|node| publish(&stage, node)));
    let meanwhile = async {
        // Other rooms are not held back.
        for number in 0..20 {
            stage.fanout(0).publish("next door", &number.to_string()).await.unwrap();
            assert_eq!(neighbour.next_message().await.body(), number.to_string());
        }
    };
    let (last, accepted, ()): (_, Vec<usize>, ()) = tokio::join!(read(members), publishing, meanwhile);
    let accepted: usize = accepted.into_iter().sum();
    let ops = stage.edge(0).ops;
    let held_back = metric(ops, "espigon_edge_hold_backs_total").await;
    assert_eq!((accepted, last), (2 * PUBLICATIONS, 2 * PUBLICATIONS as u64));
    assert!(held_back > 0);
    for node in [0, 1] {
        assert!(metric(stage.fanout(node).ops, "espigon_fanout_hold_backs_total").await > 0, "both are told");
    }
    assert_eq!(metric(ops, "espigon_edge_queue_full_total{queue=\"outbox\",rule=\"close_4008\"}").await, 0);
}

/// All read all, in order, and none is faster than others. The last `seq`.
async fn read(mut members: Vec<Client>) -> u64 {
    let last = 2 * PUBLICATIONS as u64;
    for seq in 1..=last {
        for member in &mut members {
            assert_eq!(member.next_message().await.seq(), seq);
        }
    }
    last
}

/// Over one stream, which is held back where need be. How many were stored.
async fn publish(stage: &Stage, node: usize) -> usize {
    let requests = (0..PUBLICATIONS).map(|number| publish_body("crowd", &number.to_string()));
    let mut publisher = stage.fanout(node).grpc().await;
    let results = publisher.publish_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    results
        .filter(|result| std::future::ready(matches!(result.as_ref().unwrap().result, Some(Outcome::Ok(_)))))
        .count()
        .await
}
