//! Floods at the door: of requests for a socket, and of sockets.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::sleep,
};

use super::{FLOOD, Flood, MIB, connect, storm::Storm};
use crate::harness::{Opening, RawClient, Stage, Token, eventually, readyz, refused, serial};

#[tokio::test(flavor = "multi_thread")]
async fn of_slow_handshakes() {
    let flood = Flood::of("slow handshakes", 3000, 96 * MIB);
    let attack = async |edge: SocketAddr| {
        let Some(mut stream) = connect(edge).await else { return };
        for byte in b"GET /ws HTTP/1.1\r\nX: ".chunks(1) {
            if stream.write_all(byte).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let again = move |edge, _| async move {
        loop {
            attack(edge).await;
            sleep(Duration::from_millis(500)).await;
        }
    };
    flood.run(Stage::plan(), again, async |stage| refused(stage.edge(0).ops, "crowded").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_heads_too_large() {
    let flood = Flood::of("heads too large", 50, 64 * MIB);
    let attack = |edge, _| async move {
        let head = format!("GET /ws HTTP/1.1\r\nX: {}", "y".repeat(64 << 10));
        loop {
            if let Some(mut stream) = connect(edge).await {
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    flood.run(Stage::plan(), attack, async |stage| refused(stage.edge(0).ops, "bad_head").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_new_sockets_from_one_address() {
    let flood = Flood::of("new sockets from one address", 20, 64 * MIB);
    let attack = |edge, number: usize| {
        let token = Token::of(&format!("attacker-{number}")).sign();
        async move {
            loop {
                Opening::at(edge).from(FLOOD).bearer(&token).send().await;
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let plan = Stage::plan().with("ADDRESS_RATE", "40/s");
    flood.run(plan, attack, async |stage| refused(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_new_sockets_of_one_client_behind_a_proxy() {
    let flood = Flood::of("new sockets of one client behind a proxy", 20, 64 * MIB);
    let by_proxy = |edge, client: &str| Opening::at(edge).from(FLOOD).with("x-forwarded-for", client);
    let attack = move |edge, number: usize| {
        // What it says of others itself is not believed.
        let said = format!("198.51.100.{number}, 192.0.2.66");
        let opening = by_proxy(edge, &said).bearer(&Token::of(&format!("attacker-{number}")).sign());
        async move {
            loop {
                opening.send().await;
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let plan = Stage::plan()
        .with("ADDRESS_RATE", "40/s")
        .with("TRUSTED_PROXIES", FLOOD.map(|part| part.to_string()).join("."));
    let met = async |stage: &Stage| {
        let edge = stage.edge(0);
        let other = by_proxy(edge.ws, "192.0.2.67").bearer(&Token::of("other").sign());
        assert_eq!(other.send().await.status, 101, "another client behind the same proxy");
        refused(edge.ops, "rate_limited").await
    };
    flood.run(plan, attack, met).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sockets_of_one_user() {
    let flood = Flood::of("sockets of one user", 60, 64 * MIB);
    let token = Token::of("attacker").sign();
    let attack = move |edge, _| {
        let token = token.clone();
        async move {
            loop {
                let open = RawClient::connect_to(edge, "/ws", &token).await;
                sleep(Duration::from_millis(if open.is_ok() { 500 } else { 50 })).await;
            }
        }
    };
    flood.run(Stage::plan(), attack, async |stage| refused(stage.edge(0).ops, "too_many_connections").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sockets_for_which_there_is_no_place() {
    // There are no newcomers but these.
    let flood = Flood { newcomers: false, ..Flood::of("sockets for which there is no place", 40, 64 * MIB) };
    let attack = |edge, number: usize| {
        let token = Token::of(&format!("attacker-{number}")).sign();
        async move {
            loop {
                let open = RawClient::connect_to(edge, "/ws", &token).await;
                // Who has a place keeps it.
                sleep(Duration::from_millis(if open.is_ok() { 60_000 } else { 50 })).await;
            }
        }
    };
    let met = async |stage: &Stage| {
        let edge = stage.edge(0);
        let opening = Opening::at(edge.ws).bearer(&Token::of("newcomer").sign());
        eventually("no place", async || opening.send().await.status != 101).await;
        assert_eq!(opening.refused().await, (503, "overloaded".to_owned()));
        refused(edge.ops, "overloaded").await
    };
    flood.run(Stage::plan().with("MAX_CONNECTIONS", "40"), attack, met).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_clients_that_come_back_all_at_once() {
    let clients = 1000;
    let flood = Flood::of("clients that come back all at once", clients, 96 * MIB);
    let storm = Storm::of(clients);
    let attack = |edge, number| storm.clone().client(edge, number);
    // No limit is in their way: each is let in, and gets what it missed.
    flood.run(Stage::plan(), attack, async |_| storm.times()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_no_sockets_are_taken_and_those_there_stay() {
    let _turn = serial().await;
    // What an edge takes by itself, to know what is above it.
    let used = Stage::plan().start().await.edge(0).process.memory() / MIB;
    let limit = format!("{}MiB", used + 48);
    let plan = Stage::plan().with("MEMORY_LIMIT", limit).with("WS_CONFORMANCE_PATH", "/conformance");
    let stage = plan.start().await;
    let edge = stage.edge(0);
    let mut ana = edge.connect("ana").await;
    ana.join("lobby").await;

    // Messages of 16 MiB, of which 12 have come.
    let mut large = Vec::new();
    for _ in 0..8 {
        large.push(RawClient::connect_to(edge.ws, "/conformance", "").await.unwrap());
    }
    for client in &mut large {
        client.send_bytes(&[0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).await;
        client.send_bytes(&vec![1; 12 << 20]).await;
    }
    eventually("unready", async || readyz(edge.ops).await.1.contains("MEMORY_LIMIT")).await;
    let opening = Opening::at(edge.ws).bearer(&Token::of("bob").sign());
    assert_eq!(opening.refused().await, (503, "overloaded".to_owned()));
    assert!(refused(edge.ops, "overloaded").await > 0);
    // Who is there is served.
    stage.fanout(0).publish("lobby", "1").await.unwrap();
    assert_eq!(ana.next_message().await.body(), "1");
    ana.ping().await;

    drop(large);
    eventually("room for more", async || opening.send().await.status == 101).await;
    assert!(edge.process.output().contains("over MEMORY_LIMIT"));
}
