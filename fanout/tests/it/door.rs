//! The publish API's door: who has no key for a call is told by the head of it, while nothing of the rest has come.

use std::net::SocketAddr;

use fanout::{auth::ApiKeys, config::Config};
use proto::wire::{PublishRequest, PublishResponse};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    publish_api::with,
    support::{Node, soon},
};

async fn node() -> Node {
    let mut config = Config::for_development();
    config.secrets.api_keys = ApiKeys::parse("shop:s3cret,audit:look:read").unwrap();
    Node::start(config).await
}

/// Sends the head of a request whose body never comes; the answer's status, or none if there was no answer.
async fn head_only(to: SocketAddr, line: &str, key: &str, announced: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let key = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
    let head = format!("{line} HTTP/1.1\r\nhost: test\r\n{key}{announced}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer[..length].to_vec()).unwrap();
    let status = answer.split(' ').nth(1)?.parse().unwrap();
    Some((status, answer))
}

#[tokio::test]
async fn without_a_key_a_body_is_not_waited_for() {
    let node = node().await;
    let api = node.bound.api;
    for line in ["POST /v1/rooms/a/publications", "POST /v1/remove"] {
        for announced in
            ["content-length: 60000", "transfer-encoding: chunked", "content-length: 9\r\nexpect: 100-continue"]
        {
            for (key, status, code) in
                [("", 401, "token_missing"), ("x", 401, "token_invalid"), ("look", 403, "not_authorized")]
            {
                let (got, answer) = soon("an answer", head_only(api, line, key, announced)).await.unwrap();
                assert!(got == status && answer.contains(code), "{line} {announced} {key}: {answer}");
            }
        }
    }
    // With one it is: nothing else was the reason.
    let (got, _) =
        soon("a go-ahead", head_only(api, "POST /v1/remove", "s3cret", "content-length: 9\r\nexpect: 100-continue"))
            .await
            .unwrap();
    assert_eq!(got, 100);
    for (code, count) in [("token_missing", 3), ("token_invalid", 3), ("not_authorized", 3)] {
        let series = format!("api_requests_total{{method=\"POST remove\",code=\"{code}\"}}");
        assert_eq!(node.metric::<u64>(&series).await, count, "{code}");
    }
    node.finish().await;
}

/// Calls a method of the publisher with a stream of messages that never sends one.
async fn never_sent(channel: &Channel, path: &'static str, key: &str) -> Code {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let requests = with(key, tokio_stream::pending::<PublishRequest>());
    let codec = ProstCodec::<PublishRequest, PublishResponse>::default();
    match soon("an answer", client.streaming(requests, path.parse().unwrap(), codec)).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn without_a_key_a_message_is_not_waited_for() {
    let node = node().await;
    let channel = Channel::from_shared(format!("http://{}", node.bound.api)).unwrap().connect().await.unwrap();
    let methods =
        ["Publish", "PublishMany", "PublishStream", "Remove"].map(|method| format!("/realtime.v1.Publisher/{method}"));
    for path in methods {
        let path: &'static str = path.leak();
        let codes = [
            never_sent(&channel, path, "").await,
            never_sent(&channel, path, "x").await,
            never_sent(&channel, path, "look").await,
        ];
        assert_eq!(codes, [Code::Unauthenticated, Code::Unauthenticated, Code::PermissionDenied], "{path}");
    }
    for path in [
        "/realtime.v1.Publisher/History",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/realtime.v1.Link/Attach",
    ] {
        assert_eq!(never_sent(&channel, path, "x").await, Code::Unauthenticated, "{path}");
    }
    assert_eq!(never_sent(&channel, "/realtime.v1.Publisher/PublishStream", "s3cret").await, Code::Ok);
    for (method, code, count) in [
        ("Publish", "unauthenticated", 2),
        ("Publish", "permission_denied", 1),
        ("History", "unauthenticated", 1),
        ("other", "unauthenticated", 2),
    ] {
        let series = format!("api_requests_total{{method=\"{method}\",code=\"{code}\"}}");
        assert_eq!(node.metric::<u64>(&series).await, count, "{method} {code}");
    }
    drop(channel);
    node.finish().await;
}
