//! A node that drains hands its rooms over before it goes.

use std::{collections::HashMap, time::Duration};

use fanout::config::Config;
use proto::wire::{Position, fanout_message::Kind as Out};
use tokio::time::Instant;
use tonic::Code;

use crate::{
    redis_node::{publish, ready},
    redis_server::RedisServer,
    support::{Edge, Node, finish, soon},
};

async fn node(server: &RedisServer) -> Node {
    let mut config = Config::for_development();
    config.redis_addr = Some(server.address().parse().unwrap());
    let node = Node::start(config).await;
    ready(&node).await;
    node
}

/// Where an edge is in each room, whichever link brought it there.
#[derive(Default)]
struct Positions(HashMap<String, Position>);

impl Positions {
    /// What comes twice is dropped; a gap is an error.
    fn take(&mut self, message: Out) {
        match message {
            Out::State(state) => {
                let position = state.position.unwrap();
                let at = self.0.entry(state.room).or_insert_with(|| position.clone());
                assert!(state.complete && position.seq <= at.seq, "nothing is missed between the links");
            }
            Out::Publications(run) => {
                let at = self.0.get_mut(&run.room).unwrap();
                assert!(run.first_seq <= at.seq + 1, "a gap in {}", run.room);
                at.seq = at.seq.max(run.first_seq + run.entries.len() as u64 - 1);
                at.epoch = run.epoch;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn rooms_are_handed_over_first_and_nothing_is_missed() {
    let server = RedisServer::start().await;
    let (goes, stays) = (node(&server).await, node(&server).await);
    let (mut old, mut new) = (goes.edge().await, stays.edge().await);
    old.keep_alive(&stays.lifecycle);
    new.keep_alive(&stays.lifecycle);
    let rooms: Vec<String> = (0..12).map(|number| format!("r{number}")).collect();
    let mut positions = Positions::default();
    for room in &rooms {
        old.want(room, None).await;
        positions.take(old.next().await.unwrap());
    }
    let mut publisher = stays.publisher().await;
    let say = async |publisher: &mut _| {
        for room in &rooms {
            publish(publisher, room, "1").await.unwrap();
        }
    };
    say(&mut publisher).await;
    goes.lifecycle.drain().cancel();
    let told = Instant::now();
    loop {
        match old.next().await.unwrap() {
            Out::Drain(_) => break,
            other => positions.take(other),
        }
    }
    // Slowly, one after the other, while publications go on: longer than one room may take.
    for room in &rooms {
        say(&mut publisher).await;
        let Position { epoch, seq } = positions.0[room].clone();
        new.want(room, Some((&epoch, seq))).await;
        loop {
            let message = new.next().await.unwrap();
            let joined = matches!(&message, Out::State(state) if state.room == *room);
            positions.take(message);
            if joined {
                break;
            }
        }
        old.unwant(room).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(told.elapsed() > Duration::from_secs(2));
    // It still served what was not yet moved, to the last.
    let end = loop {
        match old.result().await {
            Ok(Some(message)) => positions.take(message),
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    soon("the end of the node", finish(&goes.lifecycle)).await;
    say(&mut publisher).await;
    while positions.0.values().any(|at| at.seq < 14) {
        positions.take(new.next().await.unwrap());
    }
    assert!(positions.0.values().all(|at| at.seq == 14));
    old.detach();
    new.detach();
    drop(publisher);
    stays.finish().await;
}

#[tokio::test]
async fn an_edge_that_moves_nothing_is_cut_after_a_while() {
    let node = Node::start(Config::for_development()).await;
    let mut edge: Edge = node.edge().await;
    edge.want("a", None).await;
    edge.state("a").await;
    node.lifecycle.drain().cancel();
    let told = Instant::now();
    assert!(matches!(edge.next().await, Some(Out::Drain(_))));
    let mut publisher = node.publisher().await;
    publish(&mut publisher, "a", "1").await.unwrap();
    edge.publications("a", 1).await;
    assert_eq!(edge.result().await.unwrap_err().code(), Code::Unavailable);
    assert!((1500..4000).contains(&told.elapsed().as_millis()), "{:?}", told.elapsed());
    drop(publisher);
    edge.detach();
    node.finish().await;
}
