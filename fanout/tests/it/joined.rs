//! What publications share: messages and writes on a link, round trips to Redis. Counted, as fast as they are taken.

use fanout::config::Config;
use proto::wire::{Accepts, PublishRequest, edge_message::Kind, fanout_message::Kind as Out};

use crate::{
    redis_node::{config, ready},
    redis_server::RedisServer,
    support::{Node, soon},
};

const ROOMS: u32 = 100;
const PUBLICATIONS: u32 = 20_000;

/// Per publication, at 10,000 a second (`bench/RESULTS.md` has that rate).
const LINK_BUDGET: f64 = 0.2;
const REDIS_BUDGET: f64 = 0.1;

#[tokio::test(flavor = "multi_thread")]
async fn publications_share_messages_writes_and_round_trips() {
    let server = RedisServer::start().await;
    let node = Node::start(Config { history_size: 1000, ..config(&server) }).await;
    ready(&node).await;
    let mut edge = node.edge().await;
    edge.send(Kind::Accepts(Accepts { publications_batch: true })).await;
    let name = |number: u32| format!("room-{}", number % ROOMS);
    for room in 0..ROOMS {
        edge.want(&name(room), None).await;
        edge.state(&name(room)).await;
    }
    let request = move |number| PublishRequest { room: name(number), body: "1".into(), ..PublishRequest::default() };
    let requests = tokio_stream::iter((0..PUBLICATIONS).map(request));
    let mut publisher = node.publisher().await;
    let publishing = async {
        let mut results = publisher.publish_stream(requests).await.unwrap().into_inner();
        while results.message().await.unwrap().is_some() {}
    };
    let hearing = async {
        let mut heard = 0;
        while heard < PUBLICATIONS as usize {
            heard += match edge.next().await.unwrap() {
                Out::Publications(run) => run.entries.len(),
                Out::PublicationsBatch(batch) => batch.runs.iter().map(|run| run.entries.len()).sum(),
                other => panic!("{other:?}"),
            };
        }
        heard
    };
    let ((), heard) = soon("all of them", async { tokio::join!(publishing, hearing) }).await;
    assert_eq!(heard, PUBLICATIONS as usize);
    for (series, budget) in [
        ("link_messages_total", LINK_BUDGET),
        ("writes_total{listener=\"link\"}", LINK_BUDGET),
        ("redis_roundtrip_seconds_count", REDIS_BUDGET),
    ] {
        let each = node.metric::<f64>(series).await / f64::from(PUBLICATIONS);
        println!("{series}: {each:.4} a publication");
        assert!(each > 0.0 && each <= budget, "{series}: {each} a publication, not {budget}");
    }
    edge.detach();
    drop(publisher);
    node.finish().await;
}
