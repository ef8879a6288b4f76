//! The publish API, clause by clause, in both of its forms.

use std::time::Duration;

use bytes::Bytes;
use fanout::{auth::ApiKeys, config::Config};
use proto::wire::{
    HistoryRequest, PublishManyRequest, PublishRequest, RemoveRequest, publish_result,
    publisher_client::PublisherClient,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::Instant,
};
use tokio_stream::StreamExt as _;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

use crate::support::{Node, eventually, http, http_full, soon};

const LIMIT: usize = 64 << 10;

pub(crate) fn request(room: &str, body: impl Into<Bytes>) -> PublishRequest {
    PublishRequest { room: room.into(), body: body.into(), ..PublishRequest::default() }
}

pub(crate) fn with<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !key.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    request
}

async fn seq(client: &mut PublisherClient<Channel>, request: PublishRequest) -> u64 {
    client.publish(request).await.unwrap().into_inner().position.unwrap().seq
}

/// `{"body":<body>}`.
pub(crate) fn wrapped(body: &[u8]) -> Vec<u8> {
    [b"{\"body\":", body, b"}"].concat()
}

pub(crate) const POST: &str = "POST /v1/rooms/a/publications";

#[tokio::test]
async fn a_body_is_one_json_value_in_utf8() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    for bad in
        [&b"{"[..], b"1 2", b"nul", b"'a'", b"\"\xff\"", b"{\"a\":\"\xc3\x28\"}", b"[1,]", b"\"\n\"", b"{\"a\" 1}"]
    {
        let status = client.publish(request("a", bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}");
        let (status, text) = http(node.bound.api, POST, &wrapped(bad)).await;
        assert!(status == 400 && text.contains("\"bad_json\""), "{bad:?}: {status} {text}");
    }
    assert_eq!(client.publish(request("a", "")).await.unwrap_err().code(), Code::InvalidArgument);
    // Nothing of all that was stored.
    assert_eq!(seq(&mut client, request("a", "1")).await, 1);
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn a_body_may_nest_as_deep_as_it_is_long_and_keeps_its_bytes() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let depth = LIMIT / 2;
    let deep = [vec![b'['; depth], vec![b']'; depth]].concat();
    assert_eq!(seq(&mut client, request("a", deep.clone())).await, 1);
    let (status, text) = http(node.bound.api, POST, &wrapped(&deep)).await;
    assert_eq!(status, 200, "{text}");
    // In a field that nobody asks for, too.
    let unknown = [&b"{\"other\":"[..], &deep[1..deep.len() - 1], b",\"body\":2}"].concat();
    assert_eq!(http(node.bound.api, POST, &unknown).await.0, 200);
    let all = client.history(HistoryRequest { room: "a".into(), ..HistoryRequest::default() }).await.unwrap();
    let bodies: Vec<_> = all.into_inner().publications.into_iter().map(|publication| publication.body).collect();
    assert!(bodies[0] == deep && bodies[1] == deep && bodies[2] == "2");
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_large() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let of = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    assert_eq!(seq(&mut client, request("a", of(LIMIT))).await, 1);
    assert_eq!(http(node.bound.api, POST, &wrapped(of(LIMIT).as_bytes())).await.0, 200);
    for bytes in [LIMIT + 1, 1 << 20, 5 << 20] {
        let status = client.publish(request("a", of(bytes))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bytes}: {status:?}");
        let many =
            PublishManyRequest { rooms: vec!["a".into()], body: of(bytes).into(), ..PublishManyRequest::default() };
        let refused = match client.publish_many(many).await {
            Err(status) => status.code(),
            Ok(results) => match results.into_inner().results.remove(0).result.unwrap() {
                publish_result::Result::Error(error) => error.code.into(),
                publish_result::Result::Ok(ok) => panic!("{ok:?}"),
            },
        };
        assert_eq!(refused, Code::InvalidArgument, "{bytes}");
    }
    let (status, text) = http(node.bound.api, POST, &wrapped(of(LIMIT + 1).as_bytes())).await;
    assert!(status == 413 && text.contains("message_too_large"), "{text}");
    // White space counts.
    let padded = [wrapped(b"1"), vec![b' '; LIMIT * 2]].concat();
    let (status, text) = http(node.bound.api, POST, &padded).await;
    assert!(status == 413 && text.contains("message_too_large"), "{text}");
    let requests = [request("a", "1"), request("a", of(5 << 20)), request("a", "2")];
    let refused = "api_requests_total{method=\"PublishMany\",code=\"invalid_argument\"}";
    assert_eq!(node.metric::<u64>(refused).await, 1, "what tonic refuses counts, too");
    let mut results = client.publish_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut end = None;
    while let Some(result) = results.next().await {
        end = result.err();
    }
    assert_eq!(end.unwrap().code(), Code::InvalidArgument, "such a request ends a stream");
    let ended = "api_requests_total{method=\"PublishStream\",code=\"invalid_argument\"}";
    assert_eq!(node.metric::<u64>(ended).await, 1);
    assert_eq!(seq(&mut client, request("a", "1")).await, 4);
    drop((client, results));
    node.finish().await;
}

#[tokio::test]
async fn a_request_in_json_is_read_strictly_where_it_is_known() {
    let node = Node::start(Config::for_development()).await;
    for (body, code) in [
        ("", "bad_json"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ("{\"body\":1,\"body\":2}", "bad_message"),
        ("{\"body\":1,\"key\":7}", "bad_message"),
        ("{\"body\":1}}", "bad_json"),
    ] {
        let (status, text) = http(node.bound.api, POST, body.as_bytes()).await;
        assert!(status == 400 && text.contains(&format!("\"{code}\"")), "{body}: {text}");
    }
    let long = format!("{{\"body\":1,\"key\":\"{}\"}}", "k".repeat(129));
    let (status, text) = http(node.bound.api, POST, long.as_bytes()).await;
    assert!(status == 400 && text.contains("\"bad_message\""), "{text}");
    for good in ["{\"body\":1,\"key\":null}", " {\"x\":{\"body\":2},\"body\" : 1 , \"key\":\"\"} "] {
        assert_eq!(http(node.bound.api, POST, good.as_bytes()).await.0, 200, "{good}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_room_is_one_percent_encoded_segment() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    for (segment, room) in [
        ("a%2Fb%2Fc", "a/b/c"),
        ("%2E%2E", ".."),
        ("a+b", "a+b"),
        ("100%25", "100%"),
        ("%7Bx%7D", "{x}"),
        ("caf%C3%A9%20%F0%9F%A6%80", "café 🦀"),
        ("q%3Fa%23b", "q?a#b"),
        ("order-42", "order-42"),
        ("a%252Fb", "a%2Fb"),
        ("user%3A7", "user:7"),
    ] {
        let path = format!("/v1/rooms/{segment}/publications");
        let (status, text) = http(node.bound.api, &format!("POST {path}"), b"{\"body\":1}").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &answer["room"]), (200, &room.into()), "{text}");
        assert_eq!(seq(&mut client, request(room, "2")).await, 2, "{room}");
        let (_, text) = http(node.bound.api, &format!("GET {path}?last=1"), b"").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["publications"][0]["room"], room, "{text}");
        let (_, text) = http(node.bound.api, &format!("GET /v1/rooms/{segment}"), b"").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&answer["room"], &answer["seq"]), (&room.into(), &2.into()));
    }
    let long = format!("GET /v1/rooms/{}", "x".repeat(201));
    for bad in ["GET /v1/rooms/%20a", "GET /v1/rooms/a%0A", "GET /v1/rooms/%FF", "GET /v1/rooms/a%00", &long] {
        let (status, text) = http(node.bound.api, bad, b"").await;
        assert!(status == 400 && text.contains("\"bad_room\""), "{bad}: {text}");
    }
    for room in ["", " a", "a\n", &"x".repeat(201)] {
        assert_eq!(client.publish(request(room, "1")).await.unwrap_err().code(), Code::InvalidArgument);
        let history = HistoryRequest { room: room.into(), ..HistoryRequest::default() };
        assert_eq!(client.history(history).await.unwrap_err().code(), Code::InvalidArgument);
    }
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn a_read_key_reads_and_no_key_does_nothing() {
    let mut config = Config::for_development();
    config.secrets.api_keys = ApiKeys::parse("shop:s3cret,audit:look:read").unwrap();
    let node = Node::start(config).await;
    let mut client = node.publisher().await;
    let history = || HistoryRequest { room: "a".into(), ..HistoryRequest::default() };
    let many = || PublishManyRequest { rooms: vec!["a".into()], body: "1".into(), ..PublishManyRequest::default() };
    for (key, code) in [("", Code::Unauthenticated), ("wrong", Code::Unauthenticated), ("look", Code::PermissionDenied)]
    {
        let codes = [
            client.publish(with(key, request("a", "1"))).await.unwrap_err().code(),
            client.publish_many(with(key, many())).await.unwrap_err().code(),
            client.publish_stream(with(key, tokio_stream::iter([request("a", "1")]))).await.unwrap_err().code(),
            client.remove(with(key, RemoveRequest::default())).await.unwrap_err().code(),
        ];
        assert_eq!(codes, [code; 4], "{key}");
        let reads = client.history(with(key, history())).await.map(|_| ()).map_err(|status| status.code());
        assert_eq!(reads, if key == "look" { Ok(()) } else { Err(Code::Unauthenticated) });
    }
    let api = node.bound.api;
    for (key, read, write) in [("look", 200, 403), ("wrong", 401, 401), ("", 401, 401)] {
        let header = if key.is_empty() { String::new() } else { format!("\r\nauthorization: Bearer {key}") };
        for path in ["/v1/rooms/a", "/v1/rooms/a/publications", "/v1/status"] {
            assert_eq!(http(api, &format!("GET {path}{header}"), b"").await.0, read, "{path} {key}");
        }
        for path in ["/v1/rooms/a/publications", "/v1/remove"] {
            assert_eq!(http(api, &format!("POST {path}{header}"), b"{\"body\":1}").await.0, write, "{path} {key}");
        }
    }
    assert_eq!(http(api, "GET /v1/status/stream", b"").await.0, 401);
    let (_, text) = http(api, "GET /v1/status", b"").await;
    assert!(text.contains("token_missing"), "{text}");
    let (_, text) = http(api, "GET /v1/status\r\nauthorization: Bearer x", b"").await;
    assert!(text.contains("token_invalid"), "{text}");
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_counts_for_its_publisher_its_room_and_its_time() {
    let mut config = Config::for_development();
    config.dedup_window = Duration::from_millis(600);
    config.secrets.api_keys = ApiKeys::parse("shop:one,shop:two,mail:three").unwrap();
    let node = Node::start(config).await;
    let mut client = node.publisher().await;
    let mut publish = async |key: &str, room: &str| {
        let keyed = PublishRequest { key: "k".into(), ..request(room, "1") };
        let answer = client.publish(with(key, keyed)).await.unwrap().into_inner();
        (answer.position.unwrap().seq, answer.duplicate)
    };
    let start = Instant::now();
    assert_eq!(publish("one", "a").await, (1, false));
    assert_eq!(publish("one", "a").await, (1, true));
    assert_eq!(publish("two", "a").await, (1, true), "the same publisher's other secret");
    assert_eq!(publish("three", "a").await, (2, false), "another publisher");
    assert_eq!(publish("one", "b").await, (1, false), "another room");
    let head = format!("{POST}\r\nauthorization: Bearer two");
    let (_, text) = http(node.bound.api, &head, b"{\"body\":1,\"key\":\"k\"}").await;
    assert!(text.contains("\"duplicate\":true") && text.contains("\"seq\":1"), "the other form: {text}");
    assert!(start.elapsed() < Duration::from_millis(600), "too slow to tell");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(publish("one", "a").await, (3, false), "it is forgotten");
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn a_client_such_as_grpcurl_finds_its_way() {
    use tonic_reflection::pb::{v1, v1alpha};
    let mut config = Config::for_development();
    config.secrets.api_keys = ApiKeys::parse("shop:s3cret,audit:look:read").unwrap();
    let node = Node::start(config).await;
    let channel = Endpoint::new(format!("http://{}", node.bound.api)).unwrap().connect().await.unwrap();

    // The older version of reflection: only what is served here is listed.
    let ask = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let status = older.server_reflection_info(with("", tokio_stream::iter([ask.clone()]))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut answers = older.server_reflection_info(with("look", tokio_stream::iter([ask]))).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(answer.contains("realtime.v1.Publisher") && answer.contains("grpc.health.v1.Health"), "{answer}");
    assert!(!answer.contains("realtime.v1.Link"), "{answer}");

    // The newer: the description of a method.
    let ask =
        v1::server_reflection_request::MessageRequest::FileContainingSymbol("realtime.v1.Publisher.Publish".into());
    let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut newer = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = newer.server_reflection_info(with("look", tokio_stream::iter([ask]))).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    let file = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
    assert!(file.contains("realtime/v1/publisher.proto") && file.contains("PublishStream"), "{file}");

    // Health needs no key: probes have none.
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let ask = |service: &str| tonic_health::pb::HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(ask("realtime.v1.Publisher")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("other")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    node.lifecycle.drain().cancel();
    assert_eq!(soon("the drain", watch.message()).await.unwrap().unwrap().status, 2, "not serving");
    drop((older, newer, health, watch, answers));
    node.finish().await;
}

#[tokio::test]
async fn the_status_comes_as_a_line_each_second_until_the_drain() {
    let node = Node::start(Config::for_development()).await;
    let mut stream = TcpStream::connect(node.bound.api).await.unwrap();
    stream.write_all(b"GET /v1/status/stream HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut seen = Vec::new();
    let mut head = true;
    while seen.len() < 3 {
        let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
        if line.starts_with('{') {
            let status: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&status["broker"]["kind"], &status["rooms"]), (&"memory".into(), &0.into()));
            seen.push(Instant::now());
        } else if head && line.to_ascii_lowercase().starts_with("content-type") {
            assert!(line.contains("application/x-ndjson"), "{line}");
            head = false;
        }
    }
    let took = seen[2] - seen[0];
    assert!((1500..3000).contains(&took.as_millis()), "{took:?}");
    node.finish().await;
}

#[tokio::test]
async fn odd_requests_get_json_too() {
    let node = Node::start(Config::for_development()).await;
    for (head, status) in
        [("GET /", 404), ("PUT /v1/rooms/a", 405), ("GET /v1/rooms/a/b/c", 404), ("GET /v1/rooms//publications", 400)]
    {
        let (got, head_of, text) = http_full(node.bound.api, head, b"").await;
        assert!(head_of.contains("application/json"), "{head}: {head_of}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((got, &answer["type"]), (status, &"error".into()), "{head}: {text}");
    }
    node.finish().await;
}

#[tokio::test]
async fn who_sends_nothing_or_half_a_head_is_cut_and_counted() {
    let node = Node::start(Config::for_development()).await;
    let cut = async |said: &'static [u8]| {
        let mut stream = TcpStream::connect(node.bound.api).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        soon("the end", stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"", "no answer to half a request");
    };
    tokio::join!(cut(b""), cut(b"POST /v1/rooms/a HTTP/1.1\r\nhost:"), async {
        // Others are served meanwhile.
        assert_eq!(http(node.bound.api, "GET /v1/status", b"").await.0, 200);
    });
    let counted: u64 = node.metric("api_cut_total{reason=\"slow_head\"}").await;
    assert_eq!(counted, 2);
    node.finish().await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused_and_counted() {
    let node = Node::start(Config::for_development()).await;
    let large = format!("GET /v1/status\r\nx: {}", "x".repeat(20 << 10));
    let mut stream = TcpStream::connect(node.bound.api).await.unwrap();
    stream.write_all(large.replacen("\r\n", " HTTP/1.1\r\n", 1).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    eventually("the count", async || node.metric::<u64>("api_cut_total{reason=\"bad_head\"}").await == 1).await;
    node.finish().await;
}
