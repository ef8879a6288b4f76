//! What the node tells about itself and its edges.

use std::net::SocketAddr;

use fanout::{auth::ApiKeys, config::Config};
use proto::wire::{RoomMembers, RoomPublications, Stats, edge_message::Kind};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{Node, eventually, http, http_full, soon};

/// What a node serves at a time.
const STREAMS: usize = 64;

async fn told_once(api: SocketAddr) -> Value {
    serde_json::from_str(&http(api, "GET /v1/status", b"").await.1).unwrap()
}

#[tokio::test]
async fn the_status_tells_of_links_rooms_rates_and_latency() {
    let node = Node::start(Config::for_development()).await;
    let api = node.bound.api;
    let empty = told_once(api).await;
    assert_eq!((&empty["latency"], &empty["rates"]["member_deliveries"]), (&Value::Null, &Value::Null));

    let mut edge = node.edge().await;
    edge.want("a", None).await;
    edge.state("a").await;
    let top = vec![RoomMembers { room: "a".into(), members: 3 }, RoomMembers { room: " none ".into(), members: 9 }];
    let busiest = vec![RoomPublications { room: "b".into(), publications: 20 }];
    let said = Stats { connections: 5, rooms: 1, members: 3, top, ..Stats::default() };
    // As an edge of before says it, and as one of now.
    edge.send(Kind::Stats(said.clone())).await;
    eventually("the report", async || http(api, "GET /v1/rooms/a", b"").await.1.contains(r#""members":3"#)).await;
    let older = told_once(api).await;
    assert_eq!((&older["members"], &older["rates"]["member_deliveries"]), (&json!(3), &Value::Null));
    let rest = Stats { window_ms: 5000, deliveries: 60, busiest, ages: vec![1, 98, 1], slow_consumers: 2, ..said };
    edge.send(Kind::Stats(rest)).await;
    eventually("the next one", async || told_once(api).await["slow_consumers"] == 2).await;

    let status = told_once(api).await;
    assert_eq!(status["broker"]["kind"], "memory");
    assert_eq!(status["links"], json!([{"edge": "test", "rooms": 1, "connections": 5, "queued_bytes": 0}]));
    assert_eq!((&status["rooms"], &status["members"], &status["connections"]), (&json!(1), &json!(3), &json!(5)));
    assert_eq!(status["top_rooms"], json!([{"room": "a", "members": 3}]));
    assert_eq!(status["busiest_rooms"], json!([{"room": "b", "publications": 4.0}]));
    assert_eq!(status["rates"]["member_deliveries"], 12.0);
    assert!(status["rates"]["publications"].is_u64() && status["rates"]["deliveries"].is_u64());
    assert_eq!(status["latency"], json!({"p50_ms": 2, "p99_ms": 2}));
    edge.detach();
    eventually("that it left", async || told_once(api).await["connections"] == 0).await;
    node.finish().await;
}

/// A stream of the status, after the head of the response.
async fn stream(api: SocketAddr, key: &str) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(api).await.unwrap());
    let request = format!("GET /v1/status/stream HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(line(&mut stream).await.starts_with("HTTP/1.1 200"));
    while line(&mut stream).await != "\r\n" {}
    stream
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    soon("a line", stream.read_line(&mut line)).await.unwrap();
    line
}

/// The next line of the status: chunks are framed by lines of their own.
async fn told(stream: &mut BufReader<TcpStream>) -> Value {
    loop {
        let line = line(stream).await;
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[tokio::test]
async fn the_stream_is_for_keys_also_those_that_may_only_read() {
    let mut config = Config::for_development();
    config.secrets.api_keys = ApiKeys::parse("shop:s3cret,audit:look:read").unwrap();
    let node = Node::start(config).await;
    let api = node.bound.api;
    for key in ["look", "s3cret"] {
        let mut stream = stream(api, key).await;
        for _ in 0..2 {
            assert_eq!(told(&mut stream).await["broker"]["kind"], "memory");
        }
    }
    assert_eq!(http(api, "GET /v1/status/stream\r\nauthorization: Bearer wrong", b"").await.0, 401);
    node.finish().await;
}

#[tokio::test]
async fn only_so_many_streams_are_open_at_a_time() {
    let node = Node::start(Config::for_development()).await;
    let api = node.bound.api;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(stream(api, "").await);
    }
    let (code, head, body) = http_full(api, "GET /v1/status/stream", b"").await;
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &error["payload"]["code"]), (429, &json!("too_many_connections")));
    assert!(error["payload"]["error"].as_str().unwrap().starts_with("64 streams"), "{error}");
    assert!(head.contains("retry-after: 1"), "{head}");
    assert_eq!(http(api, "GET /v1/status", b"").await.0, 200, "once is not a stream");
    streams.pop();
    let freed = async || {
        let mut stream = BufReader::new(TcpStream::connect(api).await.unwrap());
        stream.write_all(b"GET /v1/status/stream HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        line(&mut stream).await.starts_with("HTTP/1.1 200")
    };
    eventually("a free place", freed).await;
    drop(streams);
    node.finish().await;
}

#[tokio::test]
async fn the_console_is_in_the_binary_open_and_strict() {
    let mut config = Config::for_development();
    config.secrets.api_keys = ApiKeys::parse("shop:s3cret").unwrap();
    let node = Node::start(config).await;
    let (code, head, page) = http_full(node.bound.api, "GET /console", b"").await;
    assert_eq!((code, page.contains("<main")), (200, true));
    assert!(
        !page.contains("s3cret") && !page.contains("style=") && !page.contains("onclick="),
        "as the policy wants it"
    );
    let linked = page.split('"').filter(|text| text.starts_with("console/"));
    let imported = http(node.bound.api, "GET /console/main.js", b"").await.1;
    let imported = imported.split('"').filter_map(|text| text.strip_prefix("./")).map(|name| format!("console/{name}"));
    let files: Vec<_> = linked.map(str::to_owned).chain(imported).collect();
    assert_eq!(files.len(), 6, "{files:?}");
    for file in files {
        let (code, head, text) = http_full(node.bound.api, &format!("GET /{file}"), b"").await;
        assert_eq!((code, text.is_empty()), (200, false), "{file}");
        assert!(head.contains("default-src 'none'") && head.contains("nosniff"), "{file}: {head}");
    }
    for rule in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(head.contains(rule) && !head.contains("unsafe"), "{head}");
    }
    let strange = "POST /v1/rooms/a/publications\r\norigin: https://shop.example\r\nauthorization: Bearer s3cret";
    assert_eq!(http(node.bound.api, strange, br#"{"body":1}"#).await.0, 200, "a page that has a key");
    assert_eq!(http(node.bound.api, "POST /console", b"").await.0, 405);
    assert_eq!(http(node.bound.api, "GET /console/main.rs", b"").await.0, 404);
    node.finish().await;
}

#[tokio::test]
async fn a_node_without_keys_takes_nothing_from_strange_pages() {
    let node = Node::start(Config::for_development()).await;
    let post = "POST /v1/rooms/a/publications";
    for strange in ["https://shop.example", "null"] {
        let (code, text) = http(node.bound.api, &format!("{post}\r\norigin: {strange}"), br#"{"body":1}"#).await;
        assert!(code == 403 && text.contains("origin_not_allowed"), "{text}");
    }
    let (_, text) = http(node.bound.api, "GET /v1/rooms/a/publications", b"").await;
    assert!(text.contains(r#""publications":[]"#), "{text}");
    assert_eq!(http(node.bound.api, &format!("{post}\r\norigin: http://test"), br#"{"body":1}"#).await.0, 200);
    node.finish().await;
}
