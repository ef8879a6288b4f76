//! Clients that say nothing, and clients that do not read.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

use crate::harness::{Message, Stage, eventually, publish_body};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_closed_in_time() {
    let pong_wait = Duration::from_millis(900);
    let stage = Stage::plan().with("PING_PERIOD", "300ms").with("PONG_WAIT", "900ms").start().await;
    let mut other = stage.edge(0).connect("ana").await;
    let start = Instant::now();
    let mut silent = stage.edge(0).connect_raw("bob").await;
    let code = tokio::select! {
        code = silent.read_to_close() => code,
        () = async {
            loop {
                sleep(Duration::from_millis(100)).await;
                other.ping().await;
            }
        } => unreachable!(),
    };
    assert_eq!(code, 4009);
    assert!(start.elapsed() >= pong_wait, "not before its time: {:?}", start.elapsed());
    assert!(start.elapsed() < pong_wait * 4, "in time: {:?}", start.elapsed());
    other.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_pings_and_says_nothing_else_stays() {
    let stage = Stage::plan().with("PING_PERIOD", "200ms").with("PONG_WAIT", "600ms").start().await;
    let mut quiet = stage.edge(0).connect("ana").await;
    quiet.join("lobby").await;
    let publish_late = async {
        sleep(Duration::from_millis(1800)).await;
        stage.fanout(0).publish("lobby", "1").await.unwrap();
    };
    // Reads all the while, and so answers.
    let ((), message) = tokio::join!(publish_late, quiet.next_message());
    assert_eq!(message.body(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_socket_is_cut_and_delays_nobody() {
    let (members, publications) = (100, 300);
    // The close waits until we read, which is after all others have read everything: on a busy machine, long.
    let plan = Stage::plan().with("SEND_QUEUE", "64").with("SO_SNDBUF", "16KiB").with("WRITE_WAIT", "30s");
    let stage = plan.start().await;
    let edge = stage.edge(0);
    let mut clients = Vec::new();
    for number in 0..members {
        let mut client = edge.connect(&format!("member-{number}")).await;
        client.join("lobby").await;
        clients.push(client);
    }
    let mut unread = edge.connect_raw("sloth").await;
    unread.send(r#"{"type":"join","id":"1","payload":{"room":"lobby"}}"#).await;
    unread.read_until(r#""id":"1""#).await;

    let body = json!("x".repeat(4000)).to_string();
    let publish = async {
        let mut publisher = stage.fanout(0).grpc().await;
        let mut ticks = interval(Duration::from_millis(10));
        for _ in 0..publications {
            ticks.tick().await;
            publisher.publish(publish_body("lobby", &body)).await.unwrap();
        }
    };
    let read = join_all(clients.iter_mut().map(|client| client.next_messages(publications)));
    let ((), got) = tokio::join!(publish, read);
    for messages in got {
        let seqs: Vec<_> = messages.iter().map(Message::seq).collect();
        assert!(seqs.iter().copied().eq(1..=publications as u64), "everything, in order");
    }

    assert_eq!(unread.read_to_close().await, 4008);
    eventually("a line that says why", async || edge.process.output().contains("slow consumer")).await;
    for client in &mut clients {
        client.ping().await;
    }
}
