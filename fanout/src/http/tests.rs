//! What a caller is told when the store does not do as asked.

use axum::{
    body::Body,
    http::{Request, header},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use service::traces::Traces;

use super::*;
use crate::{
    broker::{StoreError, scripted::Scripted},
    dispatcher::Dispatcher,
    metrics::Metrics,
};

/// Status, `retry-after`, body.
async fn ask(outcome: Result<u64, StoreError>, head: &str, body: &'static str) -> (u16, Option<String>, Value) {
    let metrics = Arc::<Metrics>::default();
    let (dispatcher, _shards) = Dispatcher::new(&metrics);
    let api = Api {
        node: "n".into(),
        keys: ApiKeys::default(),
        publishing: Publishing::for_tests(Arc::new(Scripted::new(outcome))),
        attachments: Attachments::new(dispatcher, metrics, Traces::default()),
        rates: Rates::default(),
        streams: Streams::default(),
        drain: CancellationToken::new(),
    };
    let (method, path) = head.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
    let response = JsonService::new(api).call(request).await;
    let status = response.status().as_u16();
    let retry = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, retry, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_the_store_says_is_a_status_a_code_and_a_hint() {
    let post = "POST /v1/rooms/a/publications";
    for (outcome, status, code, retry) in [
        (StoreError::Busy, 429, "rate_limited", Some("1")),
        (StoreError::Unavailable, 503, "unavailable", Some("1")),
        (StoreError::Unknown, 504, "unknown", None),
    ] {
        let (got, after, body) = ask(Err(outcome), post, r#"{"body":1}"#).await;
        assert_eq!((got, after.as_deref()), (status, retry), "{body}");
        assert_eq!((&body["type"], &body["payload"]["code"]), (&"error".into(), &code.into()));
        assert!(body["payload"]["error"].is_string());
    }
    let (status, _, body) = ask(Ok(7), "POST /v1/remove", r#"{"user":"7"}"#).await;
    assert_eq!((status, &body["payload"]["code"]), (503, &"unavailable".into()));
    let (status, _, body) = ask(Ok(7), post, r#"{"body":1}"#).await;
    assert_eq!((status, body), (200, json!({"room": "a", "epoch": "1-a", "seq": 7, "duplicate": false})));
    for path in ["GET /v1/rooms/a/publications", "GET /v1/rooms/a"] {
        let (status, _, body) = ask(Ok(7), path, "").await;
        assert_eq!((status, &body["payload"]["code"]), (503, &"unavailable".into()), "{path}");
    }
}
