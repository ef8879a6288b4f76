//! What a caller is told when the store does not do as asked.

use std::sync::atomic::Ordering;

use tonic::Code;

use super::*;
use crate::{
    auth::{ApiKeys, Right},
    broker::{StoreError, scripted::Scripted},
    defaults::KEY_ITEMS,
};

fn service(outcome: Result<u64, StoreError>) -> (PublisherService, Arc<Scripted>) {
    let broker = Arc::new(Scripted::new(outcome));
    let publishing = Publishing::for_tests(broker.clone());
    (PublisherService { publishing, drain: CancellationToken::new() }, broker)
}

/// A call that was let in.
fn call<T>(message: T) -> Request<T> {
    let caller = ApiKeys::default().admit(&http::Request::new(()), Right::Publish).unwrap();
    let mut call = Request::new(message);
    call.extensions_mut().insert(caller);
    call
}

fn request() -> Request<PublishRequest> {
    call(PublishRequest { room: "a".into(), body: "1".into(), ..PublishRequest::default() })
}

fn trailer<'a>(status: &'a Status, name: &str) -> Option<&'a str> {
    status.metadata().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_holds_a_call_back_and_then_refuses_it_with_a_hint() {
    let (service, broker) = service(Err(StoreError::Busy));
    let start = Instant::now();
    let status = service.publish(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(trailer(&status, "grpc-retry-pushback-ms"), Some("500"));
    assert_eq!(trailer(&status, "realtime-stored"), Some("no"));
    assert!(start.elapsed() >= HOLD);
    assert!(broker.offered.load(Ordering::Relaxed) > 100, "it was offered again and again");
    assert_eq!(service.publishing.metrics.busy.get(), 1);
}

#[tokio::test]
async fn a_store_that_is_away_is_unavailable_and_certainly_not_stored() {
    let (service, _) = service(Err(StoreError::Unavailable));
    let status = service.publish(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(trailer(&status, "realtime-stored"), Some("no"));
    let history = HistoryRequest { room: "a".into(), ..HistoryRequest::default() };
    assert_eq!(service.history(call(history)).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unknown_and_says_no_more() {
    let (service, _) = service(Err(StoreError::Unknown));
    let status = service.publish(request()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert_eq!(trailer(&status, "realtime-stored"), None);
    assert_eq!(trailer(&status, "grpc-retry-pushback-ms"), None);
}

#[tokio::test(start_paused = true)]
async fn rooms_of_one_call_fail_one_by_one_with_the_same_codes() {
    for (outcome, code) in [
        (StoreError::Busy, Code::ResourceExhausted),
        (StoreError::Unavailable, Code::Unavailable),
        (StoreError::Unknown, Code::Unknown),
    ] {
        let (service, _) = service(Err(outcome));
        let rooms = vec!["a".to_owned(), " ".to_owned(), "b".to_owned()];
        let many = PublishManyRequest { rooms, body: "1".into(), ..PublishManyRequest::default() };
        let start = Instant::now();
        let results = service.publish_many(call(many)).await.unwrap().into_inner().results;
        let codes = results.into_iter().map(|result| match result.result.unwrap() {
            publish_result::Result::Ok(ok) => panic!("{ok:?}"),
            publish_result::Result::Error(error) => Code::from(error.code),
        });
        assert_eq!(codes.collect::<Vec<_>>(), [code, Code::InvalidArgument, code]);
        assert!(start.elapsed() < HOLD * 2, "held back once, not for each room");
    }
}

#[tokio::test]
async fn whom_nobody_let_in_is_refused() {
    let (service, broker) = service(Ok(1));
    let code = service.publish(Request::new(request().into_inner())).await.unwrap_err().code();
    assert_eq!((code, broker.offered.load(Ordering::Relaxed)), (Code::Unauthenticated, 0));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_its_share_of_the_queue_is_refused_as_by_a_full_one_and_others_are_not() {
    let (service, broker) = service(Ok(1));
    let keys = ApiKeys::parse("flood:one,shop:two").unwrap();
    let publish = async |key: &str| {
        let head = http::Request::builder().header("authorization", format!("Bearer {key}")).body(()).unwrap();
        let mut call = request();
        call.extensions_mut().insert(keys.admit(&head, Right::Publish).unwrap());
        service.publish(call).await
    };
    let head = http::Request::builder().header("authorization", "Bearer one").body(()).unwrap();
    let share = keys.admit(&head, Right::Publish).unwrap().share.unwrap();
    let parts: Vec<_> = (0..KEY_ITEMS).map(|_| share.take(1).unwrap()).collect();
    let start = Instant::now();
    let status = publish("one").await.unwrap_err();
    assert_eq!((status.code(), trailer(&status, "realtime-stored")), (Code::ResourceExhausted, Some("no")));
    assert!(start.elapsed() >= HOLD);
    let metrics = &service.publishing.metrics;
    assert!(metrics.broker_key_full.get() > 100 && metrics.busy.get() == 1);
    assert_eq!(broker.offered.load(Ordering::Relaxed), 0, "it did not get as far as the queue");
    publish("two").await.unwrap();
    drop(parts);
    publish("one").await.unwrap();
    assert_eq!(broker.offered.load(Ordering::Relaxed), 2);
}
