//! Reading a room's history, in both forms of the publish API.

use fanout::config::Config;
use proto::wire::{HistoryRequest, Position};
use serde_json::{Value, json};

use crate::{
    publish_api::request,
    redis_node::ready,
    redis_server::RedisServer,
    support::{Node, http},
};

#[tokio::test]
async fn a_history_is_read_after_a_position_or_from_the_end() {
    let mut config = Config::for_development();
    config.history_size = 50;
    let node = Node::start(config).await;
    let mut client = node.publisher().await;
    let mut epoch = String::new();
    for number in 1..=60 {
        epoch = client.publish(request("a", number.to_string())).await.unwrap().into_inner().position.unwrap().epoch;
    }
    let after = |seq| Some(Position { epoch: epoch.clone(), seq });
    let past = Some(Position { epoch: "1-past".into(), seq: 55 });
    // after, limit, last; complete, first, count.
    for (from, limit, last, expected) in [
        (None, 0, 0, (true, 11, 50)),
        (None, 7, 0, (true, 11, 7)),
        (after(40), 0, 0, (true, 41, 20)),
        (after(40), 5, 0, (true, 41, 5)),
        (after(10), 0, 0, (true, 11, 50)),
        (after(9), 0, 0, (false, 11, 50)),
        (after(60), 0, 0, (true, 0, 0)),
        (after(61), 0, 0, (false, 0, 0)),
        (after(u64::MAX), 0, 0, (false, 0, 0)),
        (past, 3, 0, (false, 11, 3)),
        (None, 0, 3, (true, 58, 3)),
        (None, 2, 3, (true, 58, 3)),
        (None, 0, u32::MAX, (true, 11, 50)),
        (None, u32::MAX, 0, (true, 11, 50)),
    ] {
        let asked = HistoryRequest { room: "a".into(), after: from.clone(), limit, last };
        let answer = client.history(asked.clone()).await.unwrap().into_inner();
        let first = answer.publications.first().map_or(0, |publication| publication.seq);
        assert_eq!((answer.complete, first, answer.publications.len()), expected, "{asked:?}");
        assert_eq!(answer.position.unwrap().seq, 60);
        // The same in the other form.
        let query = match from {
            Some(Position { epoch, seq }) => format!("epoch={epoch}&after={seq}&limit={}", limit.max(1)),
            None if last > 0 => format!("last={last}"),
            None => format!("limit={limit}"),
        };
        if limit == 0 && !query.starts_with("last") {
            continue;
        }
        let (_, text) = http(node.bound.api, &format!("GET /v1/rooms/a/publications?{query}"), b"").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let publications = answer["publications"].as_array().unwrap();
        let first = publications.first().map_or(0, |publication| publication["seq"].as_u64().unwrap());
        assert_eq!((answer["complete"].as_bool().unwrap(), first, publications.len()), expected, "{query}");
        assert_eq!((&answer["seq"], &answer["epoch"]), (&60.into(), &epoch.clone().into()));
    }
    let never = HistoryRequest { room: "never".into(), ..HistoryRequest::default() };
    let answer = client.history(never).await.unwrap().into_inner();
    assert_eq!((answer.position, answer.complete), (Some(Position::default()), true));
    let (_, text) = http(node.bound.api, "GET /v1/rooms/never", b"").await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer, json!({"room": "never", "epoch": "", "seq": 0, "members": null}));
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn a_history_of_the_epoch_before_is_not_complete() {
    let server = RedisServer::start().await;
    let mut config = Config::for_development();
    config.redis_addr = Some(server.address().parse().unwrap());
    let node = Node::start(config).await;
    ready(&node).await;
    let mut client = node.publisher().await;
    let mut old = Position::default();
    for _ in 0..3 {
        old = client.publish(request("a", "1")).await.unwrap().into_inner().position.unwrap();
    }
    server.ask::<String>(&["DEBUG", "CHANGE-REPL-ID"]).await;
    let new = client.publish(request("a", "2")).await.unwrap().into_inner().position.unwrap();
    assert!(new.epoch != old.epoch && new.seq == 4);
    let asked = HistoryRequest { room: "a".into(), after: Some(Position { seq: 1, ..old.clone() }), limit: 0, last: 0 };
    let answer = client.history(asked).await.unwrap().into_inner();
    // Only one epoch is named, so only its own publications go with it.
    let seqs: Vec<_> = answer.publications.iter().map(|publication| publication.seq).collect();
    assert_eq!((answer.complete, answer.position, seqs), (false, Some(new), vec![4]));
    let path = format!("GET /v1/rooms/a/publications?epoch={}&after=1", old.epoch);
    let answer: Value = serde_json::from_str(&http(node.bound.api, &path, b"").await.1).unwrap();
    assert_eq!((&answer["complete"], answer["publications"].as_array().unwrap().len()), (&false.into(), 1));
    drop(client);
    node.finish().await;
}
