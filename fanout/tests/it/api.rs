//! The publish API: gRPC and JSON.

use std::time::Duration;

use fanout::{auth::ApiKeys, config::Config};
use proto::wire::{HistoryRequest, Position, PublishManyRequest, PublishRequest, RemoveRequest, publish_result};
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::support::{Node, http, http_full, soon};

fn request(room: &str, body: &str) -> PublishRequest {
    PublishRequest { room: room.into(), body: body.to_owned().into(), ..PublishRequest::default() }
}

#[tokio::test]
async fn publications_are_numbered_and_read_back() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let first = client.publish(request("a", " {\"n\": 1.0} ")).await.unwrap().into_inner();
    let epoch = first.position.unwrap().epoch;
    let keyed = PublishRequest { key: "k".into(), ..request("a", "2") };
    assert!(!client.publish(keyed.clone()).await.unwrap().into_inner().duplicate);
    let again = client.publish(keyed).await.unwrap().into_inner();
    assert_eq!((again.position, again.duplicate), (Some(Position { epoch: epoch.clone(), seq: 2 }), true));

    let history = |after, limit, last| HistoryRequest { room: "a".into(), after, limit, last };
    let all = client.history(history(None, 0, 0)).await.unwrap().into_inner();
    assert_eq!((all.complete, all.publications.len()), (true, 2));
    assert_eq!(&*all.publications[0].body, b"{\"n\": 1.0}");
    assert_eq!((&*all.publications[1].from, &*all.publications[1].key), ("@local", "k"));
    assert!(all.publications[0].ts_ms > 1_700_000_000_000);
    let after = Some(Position { epoch, seq: 1 });
    let one = client.history(history(after, 0, 0)).await.unwrap().into_inner();
    assert_eq!((one.complete, one.publications[0].seq), (true, 2));
    let other = Some(Position { epoch: "1-x".into(), seq: 1 });
    assert!(!client.history(history(other, 0, 0)).await.unwrap().into_inner().complete);
    let last = client.history(history(None, 0, 1)).await.unwrap().into_inner();
    assert_eq!(last.publications[0].seq, 2);
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let large = format!("\"{}\"", "x".repeat(64 << 10));
    for bad in [request(" a", "1"), request("a", "{"), request("a", "1 2"), request("a", ""), request("a", &large)] {
        let error = client.publish(bad).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    }
    let key = PublishRequest { key: "k".repeat(129), ..request("a", "1") };
    assert_eq!(client.publish(key).await.unwrap_err().code(), Code::InvalidArgument);
    for (user, room) in [("", ""), ("@shop", ""), (" 7", "a"), ("7", " a"), (&"x".repeat(196), "")] {
        let bad = RemoveRequest { user: user.into(), room: room.into() };
        assert_eq!(client.remove(bad).await.unwrap_err().code(), Code::InvalidArgument, "{user} {room}");
    }
    client.remove(RemoveRequest { user: "7".into(), room: String::new() }).await.unwrap();
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn a_stream_has_its_results_in_order() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let requests = (0..3000u64).map(|number| match number % 10 {
        9 => request("a", "{"),
        _ => request(["a", "b"][usize::try_from(number % 2).unwrap()], &number.to_string()),
    });
    let mut results = client.publish_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seqs = [0, 0];
    for number in 0..3000usize {
        let result = soon("a result", results.message()).await.unwrap().unwrap().result.unwrap();
        match (number % 10, result) {
            (9, publish_result::Result::Error(error)) => assert_eq!(error.code, i32::from(Code::InvalidArgument)),
            (_, publish_result::Result::Ok(ok)) => {
                seqs[number % 2] += 1;
                assert_eq!(ok.position.unwrap().seq, seqs[number % 2]);
            }
            (_, publish_result::Result::Error(error)) => panic!("{error:?}"),
        }
    }
    assert!(results.message().await.unwrap().is_none());
    drop((client, results));
    node.finish().await;
}

#[tokio::test]
async fn many_rooms_fail_one_by_one() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let rooms = vec!["a".to_owned(), " bad".to_owned(), "a".to_owned()];
    let many = PublishManyRequest { rooms, body: "1".into(), ..PublishManyRequest::default() };
    let results = client.publish_many(many).await.unwrap().into_inner().results;
    let seqs = results.into_iter().map(|result| match result.result.unwrap() {
        publish_result::Result::Ok(ok) => ok.position.unwrap().seq,
        publish_result::Result::Error(_) => 0,
    });
    assert_eq!(seqs.collect::<Vec<_>>(), [1, 0, 2]);
    let many =
        PublishManyRequest { rooms: vec!["a".to_owned(); 1001], body: "1".into(), ..PublishManyRequest::default() };
    assert_eq!(client.publish_many(many).await.unwrap_err().code(), Code::InvalidArgument);
    drop(client);
    node.finish().await;
}

#[tokio::test]
async fn keys_decide_who_may_what() {
    let mut config = Config::for_development();
    config.secrets.api_keys = ApiKeys::parse("shop:s3cret,audit:look:read").unwrap();
    let node = Node::start(config).await;
    let mut client = node.publisher().await;
    let with = |key: &str| {
        let mut request = Request::new(request("a", "1"));
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        request
    };
    assert_eq!(client.publish(request("a", "1")).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.publish(with("wrong")).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(client.publish(with("look")).await.unwrap_err().code(), Code::PermissionDenied);
    client.publish(with("s3cret")).await.unwrap();
    drop(client);

    let api = node.bound.api;
    let path = "/v1/rooms/a/publications";
    let body = br#"{"body":1}"#;
    assert_eq!(http(api, &format!("POST {path}"), body).await.0, 401);
    assert_eq!(http(api, &format!("POST {path}\r\nauthorization: Bearer look"), body).await.0, 403);
    assert_eq!(http(api, &format!("GET {path}"), b"").await.0, 401);
    assert_eq!(http(api, "GET /v1/status", b"").await.0, 401);
    let (status, text) = http(api, &format!("GET {path}\r\nauthorization: Bearer look"), b"").await;
    assert!(status == 200 && text.contains(r#""from":"@shop""#), "{text}");
    node.finish().await;
}

#[tokio::test]
async fn json_over_http_keeps_the_bytes_of_a_body() {
    let node = Node::start(Config::for_development()).await;
    let api = node.bound.api;
    let room = "/v1/rooms/a%2Fb%20c";
    let body = r#"{"key":"k1", "other":0, "body": {"a":1.0,"a":12345678901234567890,"b":"\u00e9🦀"} }"#;
    let (status, text) = http(api, &format!("POST {room}/publications"), body.as_bytes()).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let epoch = answer["epoch"].as_str().unwrap().to_owned();
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"room": "a/b c", "epoch": epoch, "seq": 1, "duplicate": false}));
    let again = http(api, &format!("POST {room}/publications"), body.as_bytes()).await.1;
    assert!(again.contains(r#""duplicate":true"#), "{again}");
    http(api, &format!("POST {room}/publications"), br#"{"body":null}"#).await;

    let (status, text) = http(api, &format!("GET {room}/publications?limit=1"), b"").await;
    assert_eq!(status, 200);
    let start = format!(
        r#"{{"epoch":"{epoch}","seq":2,"complete":true,"publications":[{{"type":"message","room":"a/b c","seq":1,"from":"@local","ts":""#
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains(r#""body":{"a":1.0,"a":12345678901234567890,"b":"\u00e9🦀"}}]}"#), "{text}");
    let (_, text) = http(api, &format!("GET {room}/publications?epoch={epoch}&after=1"), b"").await;
    assert!(
        text.contains(r#""complete":true"#) && text.contains(r#""seq":2,"from""#) && text.ends_with("\"body\":null}]}")
    );
    let (_, text) = http(api, &format!("GET {room}/publications?last=1"), b"").await;
    assert!(!text.contains(r#""seq":1,"#), "{text}");
    let (_, text) = http(api, room, b"").await;
    let _ = text;
    let (status, text) = http(api, &format!("GET {room}"), b"").await;
    let room_state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, room_state), (200, json!({"room": "a/b c", "epoch": epoch, "seq": 2, "members": null})));
    node.finish().await;
}

#[tokio::test]
async fn errors_of_http_have_their_status_and_code() {
    let node = Node::start(Config::for_development()).await;
    let api = node.bound.api;
    let large = format!("{{\"body\":\"{}\"}}", "x".repeat(64 << 10));
    let huge = format!("{{\"body\":\"{}\"}}", "x".repeat(80 << 10));
    let post = "POST /v1/rooms/a/publications";
    for (head, body, status, code) in [
        (post, "{", 400, "bad_json"),
        (post, "{\"key\":\"a\"}", 400, "bad_message"),
        (post, &*large, 413, "message_too_large"),
        (post, &*huge, 413, "message_too_large"),
        ("POST /v1/rooms/%20a/publications", "{\"body\":1}", 400, "bad_room"),
        ("GET /v1/rooms/%ff", "", 400, "bad_room"),
        ("GET /v1/rooms/a/publications?last=1&after=2", "", 400, "bad_message"),
        ("GET /v1/rooms/a/publications?limit=x", "", 400, "bad_message"),
        ("GET /v1/nothing", "", 404, "not_found"),
        ("DELETE /v1/status", "", 405, "bad_message"),
        ("POST /v1/remove", "{}", 400, "bad_message"),
        ("POST /v1/remove", "{", 400, "bad_json"),
        ("POST /v1/remove", r#"{"user":"7","room":""}"#, 400, "bad_room"),
        ("POST /v1/remove", r#"{"user":"@7"}"#, 400, "bad_message"),
    ] {
        let (got, text) = http(api, head, body.as_bytes()).await;
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{head}: {text}"));
        assert_eq!((got, answer["payload"]["code"].as_str()), (status, Some(code)), "{head}: {text}");
        assert_eq!(answer["type"], "error");
    }
    node.finish().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let node = Node::start(Config::for_development()).await;
    let channel =
        tonic::transport::Endpoint::new(format!("http://{}", node.bound.api)).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "realtime.v1.Publisher"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    drop(health);
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(answer.contains("realtime.v1.Publisher"), "{answer}");
    drop((reflection, answers));
    node.finish().await;
}

#[tokio::test]
async fn ops_tell_the_truth_and_a_request_under_way_is_finished() {
    let node = Node::start(Config::for_development()).await;
    let ops = node.bound.ops;
    assert_eq!(http(ops, "GET /livez", b"").await.0, 200);
    assert_eq!(http(ops, "GET /readyz", b"").await.0, 200);
    let (_, head, metrics) = http_full(ops, "GET /metrics", b"").await;
    assert!(head.contains("openmetrics-text"));
    assert!(metrics.contains("espigon_fanout_broker_up 1"));
    tokio::time::timeout(Duration::from_secs(10), node.finish()).await.unwrap();
}
