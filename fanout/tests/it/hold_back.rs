//! An edge whose members do not keep up has a room's publishers held back.

use std::pin::pin;

use bytes::Bytes;
use fanout::config::Config;
use proto::wire::{
    HeldRoom, HoldBack, LinkErrorCode, LinkPublish, Receipt, edge_message::Kind, fanout_message::Kind as Out, receipt,
};

use crate::{
    publish_api::request,
    support::{Node, eventually, soon},
};

/// Of one message, and of one shard.
const CHUNK: usize = 512;
const ROOMS: usize = 4096;

fn hold(rooms: impl IntoIterator<Item = String>, ms: u32) -> Kind {
    let rooms = rooms.into_iter().map(|room| HeldRoom { room, ms }).collect();
    Kind::HoldBack(HoldBack { rooms })
}

#[tokio::test]
async fn publishers_wait_until_the_edge_lets_them_go_on() {
    let node = Node::start(Config::for_development()).await;
    let edge = node.edge().await;
    edge.send(hold(["crowd".to_owned(), "no\nroom".to_owned()], 1000)).await;
    eventually("the hold", async || node.metric::<u64>("hold_backs_total").await == 1).await;
    let (mut one, mut other) = (node.publisher().await, node.publisher().await);
    let mut held = pin!(one.publish(request("crowd", "1")));
    tokio::select! {
        biased;
        _ = &mut held => panic!("it was not held back"),
        free = other.publish(request("free", "1")) => assert!(free.is_ok()),
    }
    edge.send(hold(["crowd".to_owned()], 0)).await;
    assert!(soon("its turn", held).await.is_ok());
    node.finish().await;
}

#[tokio::test]
async fn broadcasts_to_a_room_that_waits_leave_place_for_others() {
    let node = Node::start(Config::for_development()).await;
    let mut edge = node.edge().await;
    let body = Bytes::from(format!("\"{}\"", "x".repeat(8 << 10)));
    let publish = |id: u64, room: &str| {
        let (room, from, body) = (room.to_owned(), "7".to_owned(), body.clone());
        Kind::Publish(LinkPublish { id, room, from, body, ..LinkPublish::default() })
    };
    // As much as a link may have waiting in all.
    let count = 512;
    for id in 0..count {
        if id % 64 == 0 {
            edge.send(hold(["crowd".to_owned()], 1000)).await;
        }
        edge.send(publish(id, "crowd")).await;
    }
    edge.send(publish(count, "free")).await;
    let mut busy = 0;
    let free = loop {
        match soon("receipts", edge.next()).await {
            Some(Out::Receipt(Receipt { id, result: Some(result) })) if id == count => break result,
            Some(Out::Receipt(Receipt { result: Some(receipt::Result::Error(error)), .. })) => {
                assert_eq!(error.code(), LinkErrorCode::Busy);
                busy += 1;
            }
            Some(Out::Beat(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(free, receipt::Result::Stored(_)), "{free:?}");
    assert_eq!(busy, count - (1 << 20) / body.len() as u64, "a quarter waits");
    node.finish().await;
}

#[tokio::test]
async fn rooms_without_end_are_not_kept() {
    let node = Node::start(Config::for_development()).await;
    let edge = node.edge().await;
    let full = async || node.metric::<u64>("queue_full_total{queue=\"held_back\",rule=\"not_held\"}").await;
    assert_eq!(full().await, 0);
    // Until a second has more than have place.
    let mut rooms = 0;
    eventually("too many", async || {
        for first in (rooms..rooms + ROOMS).step_by(CHUNK) {
            edge.send(hold((first..first + CHUNK).map(|room| format!("room-{room}")), 1000)).await;
        }
        rooms += ROOMS;
        eventually("these", async || node.metric::<usize>("hold_backs_total").await == rooms).await;
        full().await > 0
    })
    .await;
    assert!(node.publisher().await.publish(request("free", "1")).await.is_ok());
    node.finish().await;
}
