//! A link becomes a black hole: what that means for the broadcasts on it, and for members of a room with a short history.

use serde_json::{Value, json};

use crate::harness::{Client, Stage, Token, eventually, get, links, metric};

async fn join_apart(stage: &Stage, user: &str, room: &str) -> Client {
    let mut client = Client::connect_apart(stage.edge(0).ws, &Token::of(user).sign()).await;
    client.join(room).await;
    client
}

/// Two nodes, two members of one room, and which node serves it, and which does not.
async fn one_room() -> (Stage, Client, Client, (usize, usize)) {
    let stage = Stage::plan().redis().fanouts(2).proxied().start().await;
    eventually("both links", async || links(stage.edge(0).ops).await == 2).await;
    let (ana, bob) = (join_apart(&stage, "ana", "lobby").await, join_apart(&stage, "bob", "lobby").await);
    // The only room that anybody is in.
    let first_has_it = metric(stage.fanout(0).ops, "espigon_fanout_rooms").await == 1;
    (stage, ana, bob, if first_has_it { (0, 1) } else { (1, 0) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_send_that_the_edge_repeats_is_stored_once_and_no_duplicate() {
    let (stage, mut ana, mut bob, (serves, other)) = one_room().await;

    stage.link(0, serves).swallow_answers();
    let keyed = json!({"room": "lobby", "body": 2, "key": "mine"});
    let ids = [
        ana.request("broadcast", json!({"room": "lobby", "body": 1})).await,
        ana.request("broadcast", keyed.clone()).await,
        ana.request("broadcast", json!({"room": "lobby", "body": 3})).await,
    ];
    for (index, id) in ids.iter().enumerate() {
        let ack = ana.answer(id).await;
        assert!(ack.is("ack"), "{}", ack.text);
        assert_eq!(
            (&ack.json["payload"]["seq"], &ack.json["payload"]["duplicate"]),
            (&json!(index + 1), &json!(false))
        );
    }
    let (_, metrics) = get(&format!("http://{}/metrics", stage.fanout(other).ops)).await;
    let duplicates = "espigon_fanout_publications_total{outcome=\"duplicate\"} 3";
    assert!(metrics.contains(duplicates), "all had been stored over the link that was lost:\n{metrics}");

    // The sender's own repeat is one.
    assert_eq!(ana.ask("broadcast", keyed).await.json["payload"]["duplicate"], true);
    ana.broadcast("lobby", "4").await;
    for client in [&mut ana, &mut bob] {
        let got: Vec<_> = client.next_messages(4).await.iter().map(|message| message.json.clone()).collect();
        assert!(got.iter().map(|message| message["body"].clone()).eq((1..=4).map(Value::from)), "{got:?}");
        assert!(got.iter().map(|message| message["seq"].clone()).eq((1..=4).map(Value::from)), "{got:?}");
        assert!(got.iter().map(|message| &message["key"]).eq([
            &json!(null),
            &json!("mine"),
            &json!(null),
            &json!(null)
        ]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_refused_is_not_stored_behind_the_next_by_a_repeat() {
    let (mut stage, mut ana, mut bob, (serves, _)) = one_room().await;
    stage.link(0, serves).swallow_answers();
    stage.redis().has_place(false).await;
    let first = ana.request("broadcast", json!({"room": "lobby", "body": 1})).await;
    let ops = stage.fanout(serves).ops;
    eventually("the refusal", async || {
        metric(ops, "espigon_fanout_publications_total{outcome=\"unavailable\"}").await == 1
    })
    .await;
    stage.redis().has_place(true).await;
    let second = ana.request("broadcast", json!({"room": "lobby", "body": 2})).await;
    // Both are repeated: of neither came an answer.
    let (first, second) = (ana.answer(&first).await, ana.answer(&second).await);
    assert_eq!(first.json["payload"]["code"], "unknown", "{}", first.text);
    assert_eq!((second.json["type"].as_str(), second.json["payload"]["seq"].as_u64()), (Some("ack"), Some(1)));
    ana.broadcast("lobby", "3").await;
    for number in [2, 3] {
        let message = bob.next_message().await;
        assert_eq!((message.seq(), message.body()), (number - 1, &*number.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_misses_more_than_is_kept_is_told_so() {
    let stage = Stage::plan().with("HISTORY_SIZE", "10").proxied().start().await;
    let (mut ana, mut bob) = (join_apart(&stage, "ana", "lobby").await, join_apart(&stage, "bob", "other").await);
    for room in ["lobby", "other"] {
        stage.fanout(0).publish(room, "1").await.unwrap();
    }
    assert_eq!((ana.next_message().await.seq(), bob.next_message().await.seq()), (1, 1));

    stage.link(0, 0).swallow();
    for number in 2..=30 {
        stage.fanout(0).publish("lobby", &number.to_string()).await.unwrap();
    }
    for number in 2..=11 {
        stage.fanout(0).publish("other", &number.to_string()).await.unwrap();
    }
    eventually("the link is lost", async || links(stage.edge(0).ops).await == 0).await;
    stage.link(0, 0).heal();

    let lost = ana.next_of_all().await;
    assert!(lost.is("lost"), "{}", lost.text);
    let payload = &lost.json["payload"];
    assert_eq!(
        (&payload["room"], &payload["seq"], &payload["reason"]),
        (&json!("lobby"), &json!(20), &json!("history"))
    );
    assert!(payload["after_ms"].is_u64() && payload["epoch"].is_string(), "{}", lost.text);
    stage.fanout(0).publish("lobby", "31").await.unwrap();
    for number in 21..=31 {
        let message = ana.next_message().await;
        assert_eq!((message.seq(), message.body()), (number, &*number.to_string()));
    }
    // As much as is kept: nothing to be told.
    for number in 2..=11 {
        let message = bob.next_of_all().await;
        assert_eq!((message.seq(), message.body()), (number, &*number.to_string()));
    }
}
