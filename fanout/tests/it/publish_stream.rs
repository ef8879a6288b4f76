//! `PublishStream`: held back, ended, and in order with all else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fanout::config::Config;
use proto::wire::publish_result;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{
    publish_api::{POST, request, wrapped},
    support::{Node, http, soon},
};

#[tokio::test]
async fn a_stream_is_held_back_by_flow_control_while_a_room_is_behind() {
    let mut config = Config::for_development();
    config.history_size = 100_000;
    let node = Node::start(config).await;
    let mut edge = node.edge().await;
    edge.keep_alive(&node.lifecycle);
    edge.want("a", None).await;
    edge.state("a").await;
    // The edge does not read: once its share of the queue is full, the room's publishers wait for a while.
    let body = Bytes::from(format!("\"{}\"", "x".repeat(60_000)));
    let (sent, total) = (Arc::new(AtomicUsize::new(0)), 1500);
    let (counter, requests) = (Arc::clone(&sent), (0..total).map(move |_| request("a", body.clone())));
    let requests = tokio_stream::iter(requests.inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    let mut client = node.publisher().await;
    let mut results = client.publish_stream(requests).await.unwrap().into_inner();
    let answered = async {
        let mut last = 0;
        while let Some(result) = results.message().await.unwrap() {
            let publish_result::Result::Ok(ok) = result.result.unwrap() else { panic!("refused") };
            last += 1;
            assert_eq!(ok.position.unwrap().seq, last);
        }
        last
    };
    let watching = async {
        // It stands still: what was sent stays within the windows, the stream's own bytes, and the link's queue.
        let (mut before, mut since) = (0, Instant::now());
        soon("a standstill", async {
            while since.elapsed() < Duration::from_millis(700) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let now = sent.load(Ordering::Relaxed);
                if now != before {
                    (before, since) = (now, Instant::now());
                }
            }
        })
        .await;
        assert!(before < total, "never held back");
        assert!(before * 60_000 < 24 << 20, "{before} publications were taken in");
        let (_, metrics) = http(node.bound.ops, "GET /metrics", b"").await;
        let held = "espigon_fanout_queue_full_total{queue=\"publish_stream\",rule=\"held_back\"} 0\n";
        assert!(!metrics.contains(held), "counted");
    };
    let (count, ()) = soon("all results", async { tokio::join!(answered, watching) }).await;
    assert_eq!(count, total as u64, "none was refused, none lost");
    drop((client, results));
    edge.detach();
    node.finish().await;
}

#[tokio::test]
async fn a_drain_ends_streams_after_what_was_read_and_says_that_no_more_was_stored() {
    let node = Node::start(Config::for_development()).await;
    let mut client = node.publisher().await;
    let requests = tokio_stream::iter([request("a", "1"), request("a", "2")]).chain(tokio_stream::pending());
    let mut results = client.publish_stream(requests).await.unwrap().into_inner();
    for _ in 0..2 {
        soon("a result", results.message()).await.unwrap().unwrap();
    }
    node.lifecycle.drain().cancel();
    let status = soon("the end", results.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("realtime-stored").unwrap(), "no");
    drop((client, results));
    node.finish().await;
}

#[tokio::test]
async fn an_edges_room_gets_what_either_form_publishes_in_one_order() {
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    edge.want("a", None).await;
    edge.state("a").await;
    let mut client = node.publisher().await;
    for number in 0..20 {
        client.publish(request("a", format!("{number}.0"))).await.unwrap();
        http(node.bound.api, POST, &wrapped(format!("{number}.5").as_bytes())).await;
    }
    let bodies = edge.publications("a", 40).await;
    let bodies: Vec<_> = bodies.into_iter().map(|(_, _, body)| String::from_utf8(body.to_vec()).unwrap()).collect();
    let expected: Vec<_> = (0..20).flat_map(|number| [format!("{number}.0"), format!("{number}.5")]).collect();
    assert_eq!(bodies, expected);
    edge.detach();
    drop(client);
    node.finish().await;
}
