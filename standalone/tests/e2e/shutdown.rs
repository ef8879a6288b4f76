//! Processes end in order when asked to.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Client, Edge, Process, Stage, eventually};

const CLIENTS: usize = 200;

async fn clients(edge: &Edge) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = edge.connect(&format!("user-{number}")).await;
        client.join(&room(number)).await;
        clients.push(client);
    }
    clients
}

/// Ten clients to a room, so that each fanout node serves some.
fn room(number: usize) -> String {
    format!("room-{}", number / 10)
}

/// Nothing was left running.
fn assert_tracker_empty(process: &Process) {
    let tasks = process.wait_for("that it has shut down", |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "shut down").then(|| line["tasks"].clone())
    });
    assert_eq!(tasks, json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_at_the_moment_they_were_told_and_work_until_then() {
    let stage = Stage::plan().with("DRAIN_WINDOW", "3s").start().await;
    let edge = stage.edge(0);
    let mut clients = clients(edge).await;
    edge.process.terminate();
    let mut slots = Vec::new();
    for client in &mut clients {
        let told = client.expect("reconnect").await;
        assert_eq!(told["reason"], "draining");
        slots.push(told["after_ms"].as_u64().unwrap());
    }
    // The last one still works, and is told what is published meanwhile.
    let last = slots.iter().enumerate().max_by_key(|(_, slot)| **slot).unwrap().0;
    assert_eq!(slots[last], 3000);
    clients[last].ping().await;
    stage.fanout(0).publish(&room(last), "1").await.unwrap();
    assert_eq!(clients[last].next_message().await.seq(), 1);
    // Spread evenly: a tenth of the clients in each tenth of the window.
    for tenth in 0..10u64 {
        let range = tenth * 300 + 1..=(tenth + 1) * 300;
        let share = slots.iter().filter(|slot| range.contains(slot)).count();
        assert!((CLIENTS / 10 - 1..=CLIENTS / 10 + 1).contains(&share), "{share} in {range:?}");
    }
    join_all(clients.iter_mut().map(|client| client.expect_close(1012))).await;
    edge.process.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_says_goodbye_to_each_client() {
    let stage = Stage::plan().start().await;
    let edge = stage.edge(0);
    let mut clients = clients(edge).await;
    edge.process.terminate();
    join_all(clients.iter_mut().map(|client| client.expect_close(1012))).await;
    let status = edge.process.ended().await;
    assert!(status.success(), "{status}");
    assert_tracker_empty(&edge.process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fanout_node_goes_and_no_client_notices() {
    let stage = Stage::plan().redis().fanouts(2).start().await;
    let mut clients = clients(stage.edge(0)).await;
    stage.fanout(0).process.ends_well().await;
    assert_tracker_empty(&stage.fanout(0).process);

    for client in &mut clients {
        client.ping().await;
    }
    for number in (0..CLIENTS).step_by(10) {
        stage.fanout(1).publish(&room(number), "1").await.unwrap();
    }
    let got = join_all(clients.iter_mut().map(Client::next_message)).await;
    assert!(got.iter().all(|message| message.seq() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let stage = Stage::plan().with("WRITE_WAIT", "20s").start().await;
    let edge = stage.edge(0);
    // Never answers the close, and would be waited for.
    let mut stubborn = edge.connect_raw("ana").await;
    stubborn.read_until("welcome").await;
    edge.process.terminate();
    eventually("it drains", async || edge.process.output().contains("draining")).await;
    assert!(edge.process.try_ended().is_none(), "waits for the client");
    edge.process.terminate();
    edge.process.ended().await;
}
