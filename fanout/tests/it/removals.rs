//! Removals of users: from a backend's call to the links.

use fanout::config::Config;
use proto::wire::{Remove, RemoveRequest, fanout_message::Kind as Out};
use tonic::Code;

use crate::{
    redis_node::{config, ready},
    redis_server::RedisServer,
    support::{Edge, Node, http, http_full, soon},
};

/// Who is removed, from where, as the edge is told; times rise.
async fn told(edge: &mut Edge, count: usize) -> Vec<(String, String)> {
    let mut last = 0;
    let mut all = Vec::new();
    while all.len() < count {
        match edge.next().await {
            Some(Out::Remove(Remove { user, room, at_ms })) => {
                assert!(at_ms > last, "{at_ms} after {last}");
                last = at_ms;
                all.push((user, room));
            }
            other => panic!("not a removal: {other:?}"),
        }
    }
    all
}

fn pair(user: &str, room: &str) -> (String, String) {
    (user.to_owned(), room.to_owned())
}

async fn remove(node: &Node, user: &str, room: &str) -> Result<(), tonic::Status> {
    let request = RemoveRequest { user: user.into(), room: room.into() };
    soon("an answer", node.publisher().await.remove(request)).await.map(drop)
}

#[tokio::test]
async fn each_edge_is_told_and_one_that_comes_later_before_it_gets_a_room() {
    let node = Node::start(Config::for_development()).await;
    let mut early = node.edge().await;
    remove(&node, "7", "a").await.unwrap();
    assert_eq!(http(node.bound.api, "POST /v1/remove", br#"{"user":"8"}"#).await, (200, "{}".to_owned()));
    let expected = [pair("7", "a"), pair("8", "")];
    assert_eq!(told(&mut early, 2).await, expected);
    let mut late = node.edge().await;
    late.want("a", None).await;
    assert_eq!(told(&mut late, 2).await, expected);
    late.state("a").await;
    let (_, _, metrics) = http_full(node.bound.ops, "GET /metrics", b"").await;
    assert!(metrics.contains("espigon_fanout_removals 2"));
    assert!(metrics.contains(r#"espigon_fanout_api_requests_total{method="Remove",code="ok"} 1"#), "{metrics}");
    early.detach();
    late.detach();
    node.finish().await;
}

#[tokio::test]
async fn all_nodes_tell_of_it_and_one_that_starts_later() {
    let mut server = RedisServer::start().await;
    let (one, two) = (Node::start(config(&server)).await, Node::start(config(&server)).await);
    for node in [&one, &two] {
        ready(node).await;
    }
    let mut edge = two.edge().await;
    remove(&one, "7", "a").await.unwrap();
    assert_eq!(told(&mut edge, 1).await, [pair("7", "a")]);
    one.finish().await;
    let three = Node::start(config(&server)).await;
    ready(&three).await;
    let mut late = three.edge().await;
    assert_eq!(told(&mut late, 1).await, [pair("7", "a")]);

    // Redis comes back empty: what is known is still told, and what comes next as well.
    server.kill();
    server.restart().await;
    ready(&two).await;
    ready(&three).await;
    remove(&three, "8", "").await.unwrap();
    assert_eq!(told(&mut edge, 1).await, [pair("8", "")]);
    assert_eq!(told(&mut late, 1).await, [pair("8", "")]);
    let mut last = two.edge().await;
    assert_eq!(told(&mut last, 2).await, [pair("7", "a"), pair("8", "")]);
    for edge in [edge, late, last] {
        edge.detach();
    }
    two.finish().await;
    three.finish().await;
}

#[tokio::test]
async fn only_so_many_are_kept_and_more_are_refused() {
    let server = RedisServer::start().await;
    let node = Node::start(config(&server)).await;
    ready(&node).await;
    let script = "local at = redis.call('TIME')[1] * 1000 for n = 1, ARGV[1] do \
                  redis.call('ZADD', KEYS[1], at + n, 'user-' .. n .. '\\n') end return 'OK'";
    let most = proto::MAX_REMOVALS.to_string();
    assert_eq!(server.ask::<String>(&["EVAL", script, "1", "rt:removals", &most]).await, "OK");
    let refused = remove(&node, "one more", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(http(node.bound.api, "POST /v1/remove", br#"{"user":"one more"}"#).await.0, 429);
    let (_, _, metrics) = http_full(node.bound.ops, "GET /metrics", b"").await;
    assert!(metrics.contains(r#"espigon_fanout_queue_full_total{queue="removals",rule="busy"} 2"#), "{metrics}");
    // Who is among them may be removed again, and an edge is told of all.
    remove(&node, "user-1", "").await.unwrap();
    let mut edge = node.edge().await;
    edge.keep_alive(&node.lifecycle);
    let all = told_of(&mut edge, proto::MAX_REMOVALS).await;
    assert!(all.iter().any(|(user, _)| user == "user-1"));
    edge.detach();
    node.finish().await;
}

/// As many different ones.
async fn told_of(edge: &mut Edge, count: usize) -> std::collections::HashSet<(String, String)> {
    let mut all = std::collections::HashSet::new();
    while all.len() < count {
        if let Some(Out::Remove(Remove { user, room, .. })) = edge.next().await {
            all.insert((user, room));
        }
    }
    all
}

#[tokio::test]
async fn without_a_store_nobody_is_removed() {
    let mut server = RedisServer::start().await;
    let node = Node::start(config(&server)).await;
    ready(&node).await;
    server.kill();
    let refused = remove(&node, "7", "").await.unwrap_err();
    assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown), "{refused:?}");
    node.finish().await;
}
