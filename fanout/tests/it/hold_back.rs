//! An edge whose members do not keep up has a room's publishers held back.

use std::pin::pin;

use fanout::config::Config;
use proto::wire::{HeldRoom, HoldBack, edge_message::Kind};

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
