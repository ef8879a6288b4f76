//! Floods of what clients send once they are let in.

use std::time::Duration;

use tokio::time::sleep;

use super::{Flood, MIB, attack_with, text};
use crate::harness::{Backend, RawClient, Reply, Stage, Token, closed, metric, refusals, refused};

#[tokio::test(flavor = "multi_thread")]
async fn of_frames_that_come_byte_by_byte() {
    // Who sends so holds its place and one message; places are what a user has so many of.
    let (attackers, users, places) = (1050, 30, 32);
    let flood = Flood::of("slow frames", attackers, 96 * MIB);
    let attack = move |edge, number: usize| {
        let token = Token::of(&format!("attacker-{}", number % users)).sign();
        async move {
            loop {
                if let Ok(mut client) = RawClient::connect_to(edge, "/ws", &token).await {
                    // As large as may be, masked with zeros.
                    client.send_bytes(&[0x81, 0xfe, 0x20, 0x00, 0, 0, 0, 0]).await;
                    while client.send_bytes(b" ").await {
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
    };
    let met = async |stage: &Stage| {
        let ops = stage.edge(0).ops;
        let full = metric(ops, "espigon_edge_connections").await >= (users * places) as u64;
        if full { refused(ops, "too_many_connections").await } else { 0 }
    };
    flood.run(Stage::plan(), attack, met).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_pings() {
    let flood = Flood::of("pings", 20, 64 * MIB);
    let pings = [0x89, 0x80, 0, 0, 0, 0].repeat(1000);
    let attack = move |edge, number| attack_with(edge, number, pings.clone());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fragments_with_nothing_in_them() {
    let flood = Flood::of("empty fragments", 6, 64 * MIB);
    // One message that never ends.
    let mut fragments = vec![0x01, 0x80, 0, 0, 0, 0];
    fragments.extend([0x00, 0x80, 0, 0, 0, 0].repeat(20_000));
    let attack = move |edge, number| attack_with(edge, number, fragments.clone());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "message_too_large").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_huge_fragments() {
    let flood = Flood::of("huge fragments", 20, 64 * MIB);
    // Of a message that may have 8 KiB: some say at once that they are of 4 GiB, others are of 4 KiB and never end.
    let said = [&[0x01, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[b'x'; 8 << 10][..]].concat();
    let piece = [&[0x00, 0xfe, 0x10, 0, 0, 0, 0, 0], &[b'x'; 4 << 10][..]].concat();
    let mut endless = piece.repeat(100);
    endless[0] = 0x01;
    let attack = move |edge, number: usize| {
        let frames = if number.is_multiple_of(2) { &said } else { &endless };
        attack_with(edge, number, frames.clone())
    };
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "message_too_large").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_broadcasts() {
    let flood = Flood::of("broadcasts", 20, 64 * MIB);
    let mut frames = text(r#"{"type":"join","payload":{"room":"flood"}}"#);
    frames.extend(text(r#"{"type":"broadcast","payload":{"room":"flood","body":1}}"#).repeat(1000));
    let attack = move |edge, number| attack_with(edge, number, frames.clone());
    flood.run(Stage::plan(), attack, async |stage| closed(stage.edge(0).ops, "rate_limited").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rooms() {
    let flood = Flood::of("rooms", 20, 64 * MIB);
    let attack = move |edge, number| attack_with(edge, number, (0..1000).flat_map(|room| join(number, room)).collect());
    let met = async |stage: &Stage| {
        let ops = stage.edge(0).ops;
        closed(ops, "rate_limited").await.min(refusals(ops, "too_many_rooms").await)
    };
    flood.run(Stage::plan(), attack, met).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_joins_of_rooms_that_are_left_again() {
    let flood = Flood::of("joins of rooms that are left again", 20, 64 * MIB);
    let leave = |number: usize, room| text(&format!(r#"{{"type":"leave","payload":{{"room":"{number}-{room}"}}}}"#));
    let attack = move |edge, number| {
        attack_with(
            edge,
            number,
            (0..1000).flat_map(|room| [join(number, room), leave(number, room)].concat()).collect(),
        )
    };
    let met = async |stage: &Stage| {
        let ops = stage.edge(0).ops;
        closed(ops, "rate_limited").await.min(refusals(ops, "rate_limited").await)
    };
    flood.run(Stage::plan(), attack, met).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sockets_that_nobody_reads() {
    let flood = Flood::of("sockets that nobody reads", 40, 96 * MIB);
    let body = "x".repeat(7000);
    let broadcast = format!(r#"{{"type":"broadcast","payload":{{"room":"flood","body":"{body}"}}}}"#);
    let length = u16::try_from(broadcast.len()).unwrap().to_be_bytes();
    let broadcast = [&[0x81, 0xfe, length[0], length[1], 0, 0, 0, 0], broadcast.as_bytes()].concat();
    // Each gets what all of them send: more than its outbox and the kernel hold.
    let frames = [text(r#"{"type":"join","payload":{"room":"flood"}}"#), broadcast.repeat(10)].concat();
    let attack = move |edge, number| {
        let (token, frames) = (Token::of(&format!("attacker-{number}")).sign(), frames.clone());
        async move {
            loop {
                if let Ok(mut client) = RawClient::connect_to(edge, "/ws", &token).await {
                    client.send_bytes(&frames).await;
                    // Longer than it takes until all is there.
                    sleep(Duration::from_secs(5)).await;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    // The close frame itself they do not read either: how they end is for them to choose.
    let full = r#"espigon_edge_queue_full_total{queue="outbox",rule="close_4008"}"#;
    let plan = Stage::plan().with("SEND_QUEUE", "64").with("SO_SNDBUF", "16KiB");
    flood.run(plan, attack, async |stage| metric(stage.edge(0).ops, full).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_joins_that_the_backend_does_not_answer() {
    let flood = Flood::of("joins that the backend does not answer", 50, 64 * MIB);
    let backend = Backend::answering(|question| if question.room == "square" { Reply::Yes } else { Reply::Never });
    let attack = move |edge, number| attack_with(edge, number, (0..50).flat_map(|room| join(number, room)).collect());
    let plan = Stage::plan().with("BACKEND_URL", format!("http://{}", backend.address)).with("BACKEND_QUEUE", "256");
    let full = async |stage: &Stage| {
        let ops = stage.edge(0).ops;
        let refused = refusals(ops, "authorization_unavailable").await;
        refused.min(metric(ops, "espigon_edge_backend_queue_full_total").await)
    };
    flood.run(plan, attack, full).await;
}

fn join(number: usize, room: usize) -> Vec<u8> {
    text(&format!(r#"{{"type":"join","payload":{{"room":"{number}-{room}"}}}}"#))
}
