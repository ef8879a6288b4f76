//! One API key that floods the store has half of its queue, and others go on.

use std::time::Duration;

use fanout::{auth::ApiKeys, config::Config};
use proto::wire::{PublishManyRequest, PublishManyResponse, publish_result, publisher_client::PublisherClient};
use tokio::{task::JoinSet, time::Instant};
use tonic::Status;

use crate::{
    publish_api::{request, with},
    redis_server::RedisServer,
    support::{Node, eventually, soon},
};

/// Rooms of a call, and what a key may have in the queue.
const ROOMS: usize = 1000;
const SHARE: usize = 8192;

/// After 2 s without an answer what is under way is given up, and the queue empties: with less than this of it left, how
/// things stood cannot be told.
const STALL: Duration = Duration::from_millis(1800);

/// Calls with more publications than one key may have waiting.
fn flood(calls: &mut JoinSet<Result<tonic::Response<PublishManyResponse>, Status>>, node: &Node) {
    for _ in 0..SHARE.div_ceil(ROOMS) + 3 {
        let to = format!("http://{}", node.bound.api);
        calls.spawn(async move {
            let rooms = (0..ROOMS).map(|room| format!("room-{room}")).collect();
            let many = PublishManyRequest { rooms, body: "1".into(), ..PublishManyRequest::default() };
            let mut client = PublisherClient::connect(to).await.unwrap();
            client.publish_many(with("one", many)).await
        });
    }
}

/// Whether it was told before the store was given up.
async fn one_floods(node: &Node, server: &RedisServer) -> bool {
    let waiting = async || node.metric::<usize>("broker_queue_items").await;
    let refused = async || node.metric::<u64>("queue_full_total{queue=\"broker_key\",rule=\"busy\"}").await;
    let before = refused().await;
    let mut shop = node.publisher().await;
    eventually("the store", async || shop.publish(with("two", request("shop", "1"))).await.is_ok()).await;
    server.signal("-STOP");
    let stalled = Instant::now();
    let mut calls = JoinSet::new();
    flood(&mut calls, node);
    let or_late = |so_far: bool| so_far || stalled.elapsed() > STALL;
    eventually("the flood", async || or_late(waiting().await == SHARE && refused().await > before)).await;
    // Whoever goes away takes nothing back: its publications still wait.
    calls.abort_all();
    flood(&mut calls, node);
    let again = refused().await;
    eventually("the second wave", async || or_late(refused().await > again)).await;
    let most = waiting().await;
    let goes_on = async {
        eventually("the other's", async || or_late(waiting().await == SHARE + 1)).await;
        let told = stalled.elapsed() < STALL;
        server.signal("-CONT");
        told
    };
    let (answer, told) = tokio::join!(shop.publish(with("two", request("shop", "2"))), goes_on);
    if told {
        assert_eq!(most, SHARE, "one has its share and no more");
        assert_eq!(answer.map(|_| ()).map_err(|status| status.code()), Ok(()), "and the other is served");
    }
    while let Some(result) = soon("the rest", calls.join_next()).await {
        let Ok(result) = result else { continue };
        let results = result.unwrap().into_inner().results;
        let stored = |result| matches!(result, Some(publish_result::Result::Ok(_)));
        assert!(!told || results.into_iter().all(|result| stored(result.result)), "who is held back goes on, too");
    }
    eventually("the end of the queue", async || waiting().await == 0).await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_floods_and_another_goes_on() {
    let server = RedisServer::start().await;
    let mut config = Config::for_development();
    config.redis_addr = Some(server.address().parse().unwrap());
    config.secrets.api_keys = ApiKeys::parse("flood:one,shop:two").unwrap();
    let node = Node::start(config).await;
    let mut told = false;
    for _ in 0..5 {
        told = told || one_floods(&node, &server).await;
    }
    assert!(told, "the machine is too slow to tell");
    node.finish().await;
}
