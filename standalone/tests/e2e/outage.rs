//! Redis goes, and comes back with nothing in it.

use http::StatusCode;
use serde_json::json;

use crate::harness::{Message, Stage, eventually, readyz};

#[tokio::test(flavor = "multi_thread")]
async fn service_resumes_by_itself_when_redis_is_back() {
    let mut stage = Stage::plan().redis().start().await;
    let (edge, fanout) = (stage.edge(0).ops, stage.fanout(0).ops);
    let mut ana = stage.edge(0).connect("ana").await;
    let mut idle = stage.edge(0).connect("bob").await;
    for room in ["lobby", "other"] {
        ana.join(room).await;
    }
    idle.join("lobby").await;
    for number in 1..=3 {
        ana.broadcast("lobby", &number.to_string()).await;
        assert_eq!(ana.next_message().await.seq(), number);
    }
    let old = idle.next_messages(3).await[0].json["epoch"].clone();
    assert_eq!(stage.redis().subscribers().await, 1);

    stage.redis().stop().await;
    eventually("the fanout node is not ready", async || readyz(fanout).await.0 == StatusCode::SERVICE_UNAVAILABLE)
        .await;
    assert_eq!(readyz(edge).await.0, StatusCode::OK, "an edge's sockets are worth more than the probe");
    ana.request("broadcast", json!({"room": "lobby", "body": "lost in transit"})).await;
    let error = ana.expect("error").await;
    assert!(["unavailable", "unknown"].contains(&error["code"].as_str().unwrap()), "{error}");
    assert!(error["retry_ms"].is_u64(), "{error}");

    stage.redis().start_again().await;
    eventually("the fanout node is ready", async || readyz(fanout).await.0 == StatusCode::OK).await;
    stage.fanout(0).publish("lobby", r#""first""#).await.unwrap();
    let mut next = Vec::new();
    for client in [&mut ana, &mut idle] {
        let lost = client.expect("lost").await;
        assert_eq!(lost["room"], "lobby");
        assert_ne!(lost["epoch"], old);
        assert!(lost["after_ms"].is_u64(), "{lost}");
        next.push(lost["seq"].as_u64().unwrap() + 1);
    }
    stage.fanout(0).publish("lobby", r#""last""#).await.unwrap();
    for (client, next) in [&mut ana, &mut idle].into_iter().zip(next) {
        let mut got = vec![client.next_message().await];
        while got.last().is_some_and(|message| message.body() != r#""last""#) {
            got.push(client.next_message().await);
        }
        assert!(got.iter().map(Message::seq).eq(next..next + got.len() as u64), "goes on after the position told");
        assert!(got.iter().all(|message| message.json["room"] == "lobby"));
    }

    // A room that nothing was published to while Redis was away.
    ana.broadcast("other", "1").await;
    assert_eq!(ana.next_message().await.json["room"], "other");
    assert_eq!(stage.redis().subscribers().await, 1);
}
