//! Backends with a good key, one that may only read, a wrong one and none, and all that they are told.

use http::Method;
use proto::wire::{
    HistoryRequest, PublishManyRequest, RemoveRequest, link_client::LinkClient, publisher_client::PublisherClient,
};
use tonic::Request;

use super::{API_KEY, READ_KEY, Told, WRONG_KEY, WRONG_LINK_TOKEN};
use crate::harness::{Fanout, publish_body, soon};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4701-00f067aa0ba902b7-01";

pub(super) async fn speak(node: &Fanout, told: &mut Told) {
    for key in [Some(API_KEY), Some(READ_KEY), Some(WRONG_KEY), None] {
        by_http(node, key, told).await;
        by_grpc(node, key, told).await;
    }
    told.private("a console", console(node).await);
    // And an edge that shows another token than the node's.
    let mut link = LinkClient::connect(format!("http://{}", node.link)).await.unwrap();
    let request = with_key(tokio_stream::pending(), Some(WRONG_LINK_TOKEN));
    told.private("a link", format!("{:?}", link.attach(request).await.unwrap_err()));
}

async fn by_http(node: &Fanout, key: Option<&str>, told: &mut Told) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (method, target, body) in [
        (Method::POST, "v1/rooms/lobby/publications", r#"{"body":1}"#),
        (Method::POST, "v1/rooms/lobby/publications", r#"{"body":"#),
        (Method::POST, "v1/rooms/%20/publications", r#"{"body":1}"#),
        (Method::GET, "v1/rooms/other/publications?limit=10", ""),
        (Method::GET, "v1/rooms/other/publications?limit=many", ""),
        (Method::GET, "v1/rooms/lobby", ""),
        (Method::GET, "v1/status", ""),
        (Method::POST, "v1/remove", r#"{"user":"nobody","room":"lobby"}"#),
        (Method::POST, "v1/remove", r#"{"user":"","room":"lobby"}"#),
        (Method::GET, "nowhere", ""),
    ] {
        let request =
            client.request(method, format!("http://{}/{target}", node.api)).header("traceparent", TRACEPARENT);
        let request = request.header("content-type", "application/json").body(body);
        let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
        let response = request.send().await.unwrap();
        let head = format!("{} {:?}", response.status(), response.headers());
        told.private("a backend by HTTP", format!("{head} {}", response.text().await.unwrap()));
    }
}

async fn by_grpc(node: &Fanout, key: Option<&str>, told: &mut Told) {
    let mut publisher = PublisherClient::connect(format!("http://{}", node.api)).await.unwrap();
    let many = PublishManyRequest { rooms: vec![String::new()], body: "1".into(), ..PublishManyRequest::default() };
    let history = HistoryRequest { room: "other".to_owned(), ..HistoryRequest::default() };
    let remove = RemoveRequest { user: "nobody".to_owned(), room: "lobby".to_owned() };
    let stream = tokio_stream::iter([publish_body("lobby", "1"), publish_body("", "1")]);
    for answer in [
        format!("{:?}", publisher.publish(with_key(publish_body("lobby", "1"), key)).await),
        format!("{:?}", publisher.publish(with_key(publish_body("lobby", "no JSON"), key)).await),
        format!("{:?}", publisher.publish_many(with_key(many, key)).await),
        format!("{:?}", publisher.history(with_key(history, key)).await),
        format!("{:?}", publisher.remove(with_key(remove, key)).await),
    ] {
        told.private("a backend by gRPC", answer);
    }
    match publisher.publish_stream(with_key(stream, key)).await {
        Ok(results) => {
            let mut results = results.into_inner();
            while let Some(result) = soon("a result", results.message()).await.transpose() {
                told.private("a result", format!("{result:?}"));
            }
        }
        Err(status) => told.private("a stream", format!("{status:?}")),
    }
}

/// The page, and what it is told.
async fn console(node: &Fanout) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = client.get(format!("http://{}/console", node.api)).send().await.unwrap().text().await.unwrap();
    let stream = client.get(format!("http://{}/v1/status/stream", node.api)).bearer_auth(READ_KEY);
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    // The edge tells the node of its rooms every few seconds.
    let mut reports = String::new();
    soon("a report of the room", async {
        while !reports.contains("lobby") {
            reports.push_str(&String::from_utf8(stream.chunk().await.unwrap().unwrap().into()).unwrap());
        }
    })
    .await;
    format!("{page}\n{reports}")
}

fn with_key<T>(message: T, key: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    request
}
