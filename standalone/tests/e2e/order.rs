//! Whatever the way in, each member gets everything, once, in one order.

use std::time::Duration;

use proto::wire::publish_result;
use serde_json::json;
use tokio::{sync::mpsc, time::interval};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use crate::harness::{Client, Edge, Fanout, Message, Stage, publish_body, soon};

const STREAMED: usize = 10_000;

/// 20 each 10 ms: 2,000/s.
const BATCH: usize = 20;
const PACE: Duration = Duration::from_millis(10);

const BROADCASTS: usize = 11;

#[tokio::test(flavor = "multi_thread")]
async fn two_edges_two_fanout_nodes_and_redis() {
    let stage = roomy(Stage::plan().redis().fanouts(2).edges(2)).await;
    everything_in_one_order([stage.edge(0), stage.edge(1)], [stage.fanout(0), stage.fanout(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_edge_one_fanout_node_in_memory() {
    let stage = roomy(Stage::plan()).await;
    everything_in_one_order([stage.edge(0); 2], [stage.fanout(0); 2]).await;
}

/// So that the whole stream fits, however slowly the test reads.
async fn roomy(plan: crate::harness::Plan) -> Stage {
    plan.with("SEND_QUEUE", "16384").with("SEND_QUEUE_BYTES", "64MiB").with("HISTORY_SIZE", "16384").start().await
}

async fn everything_in_one_order(edges: [&Edge; 2], fanouts: [&Fanout; 2]) {
    let room = "lobby";
    let (mut ana, mut bob, mut cleo) =
        (edges[0].connect("ana").await, edges[1].connect("bob").await, edges[0].connect("cleo").await);
    for client in [&mut ana, &mut bob, &mut cleo] {
        client.join(room).await;
    }

    ana.broadcast(room, r#""a broadcast""#).await;
    fanouts[0].publish(room, r#""by gRPC""#).await.unwrap();
    let total = STREAMED + BROADCASTS + 2;
    let publish = async {
        tokio::join!(stream(fanouts[1], room), async {
            for number in 1..BROADCASTS {
                cleo.broadcast(room, &json!({"broadcast": number}).to_string()).await;
            }
            assert_eq!(fanouts[0].post(room, r#""by HTTP""#).await.0, 200);
        });
    };
    let ((), ana_got, bob_got) = tokio::join!(publish, collect(&mut ana, total), collect(&mut bob, total));

    for got in [&ana_got, &bob_got] {
        let seqs: Vec<_> = got.iter().map(Message::seq).collect();
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "seq rises by one");
        let streamed: Vec<_> = got.iter().filter_map(|message| message.json["body"]["streamed"].as_u64()).collect();
        assert!(streamed.iter().copied().eq(0..STREAMED as u64), "the stream keeps its order");
        let broadcasts: Vec<_> = got.iter().filter_map(|message| message.json["body"]["broadcast"].as_u64()).collect();
        assert!(broadcasts.iter().copied().eq(1..BROADCASTS as u64), "broadcasts keep their order");
        for (body, from) in [("a broadcast", "ana"), ("by gRPC", "@local"), ("by HTTP", "@local")] {
            let found: Vec<_> = got.iter().filter(|message| message.json["body"] == body).collect();
            assert_eq!(found.len(), 1, "{body}");
            assert_eq!(found[0].json["from"], from, "{body}");
        }
    }
    let same = ana_got.iter().zip(&bob_got).all(|(a, b)| a.text == b.text);
    assert!(same, "both get the same envelopes in the same order");
}

async fn collect(client: &mut Client, count: usize) -> Vec<Message> {
    client.next_messages(count).await
}

/// A paced stream of publications, each with its result in order.
async fn stream(fanout: &Fanout, room: &str) {
    let (sender, receiver) = mpsc::channel(BATCH);
    let send = async {
        let mut ticks = interval(PACE);
        for number in 0..STREAMED {
            if number % BATCH == 0 {
                ticks.tick().await;
            }
            let body = json!({"streamed": number}).to_string();
            sender.send(publish_body(room, &body)).await.unwrap();
        }
        drop(sender);
    };
    let receive = async {
        let mut publisher = fanout.grpc().await;
        let mut results = publisher.publish_stream(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let (mut count, mut last) = (0, 0);
        while let Some(result) = soon("a result", results.next()).await {
            let Some(publish_result::Result::Ok(ok)) = result.unwrap().result else { panic!("refused after {count}") };
            let seq = ok.position.unwrap().seq;
            assert!(seq > last, "results come in order");
            (count, last) = (count + 1, seq);
        }
        assert_eq!(count, STREAMED);
    };
    tokio::join!(send, receive);
}
