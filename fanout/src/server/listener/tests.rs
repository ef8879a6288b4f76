//! What hyper cuts connections of backends for is counted.

use axum::body::Body;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::Instant,
};

use super::*;

/// What becomes of a connection on which this is said and then nothing more: the answer, and what was counted.
async fn said(said: &[u8]) -> (String, Metrics) {
    let metrics = Metrics::default();
    let guest = Guests::new(1024, metrics.api_cut.clone()).enter().await.unwrap();
    let service = tower::service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let (mut client, server) = duplex(1 << 20);
    client.write_all(said).await.unwrap();
    let builder = for_backends(&Lifecycle::new());
    let error = builder.serve_connection(TokioIo::new(server), TowerToHyperService::new(service)).await.unwrap_err();
    guest.failed(&error);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    (String::from_utf8_lossy(&answer).into_owned(), metrics)
}

#[tokio::test(start_paused = true)]
async fn who_answers_no_ping_is_cut_and_counted() {
    let start = Instant::now();
    // With empty settings.
    let (_, metrics) = said(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!((metrics.api_cut.ping.get(), metrics.api_cut.bad_head.get()), (1, 0));
    assert_eq!(start.elapsed().as_secs(), 2 * KEEP_ALIVE.as_secs());
}

#[tokio::test]
async fn a_head_that_is_none_or_too_large_is_answered_and_counted() {
    let large = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(MAX_HEAD_BYTES));
    for (head, status) in [(&*large, "431"), ("what is this\r\n\r\n", "400")] {
        let (answer, metrics) = said(head.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        assert_eq!((metrics.api_cut.ping.get(), metrics.api_cut.bad_head.get()), (0, 1));
    }
}
