//! What only a Cluster can show: slots that move under load, and primaries that are lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fanout::{broker::StoreError, config::Config};
use prost::Message as _;
use proto::wire::{Entry, LostReason, PublishRequest, fanout_message::Kind as Out};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    redis_cluster::RedisCluster,
    redis_node::ready,
    redis_server::RedisServer,
    subject::{Event, after},
    support::{Edge, Node, eventually, soon},
};

async fn node(cluster: &RedisCluster) -> Node {
    let mut config = Config::for_development();
    config.redis_addr = Some(cluster.address().parse().unwrap());
    config.redis_cluster = true;
    let node = Node::start(config).await;
    ready(&node).await;
    node
}

/// Publishes numbers to a room one after the other, each until it is acknowledged, until told to end; how many.
async fn publish(node: Arc<Node>, room: String, end: watch::Receiver<bool>) -> u64 {
    let mut publisher = node.publisher().await;
    let mut number = 0;
    while !*end.borrow() {
        number += 1;
        let request = PublishRequest {
            room: room.clone(),
            body: number.to_string().into(),
            key: format!("k{number}"),
            ..PublishRequest::default()
        };
        while soon("an answer", publisher.publish(request.clone())).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(2)).await;
    }
    number
}

/// What an edge got of one room.
#[derive(Debug, Default)]
struct Got {
    numbers: Vec<u64>,
    failovers: usize,
}

/// Takes what the edge gets until each room has its last number.
async fn collect(edge: &mut Edge, got: &mut HashMap<String, Got>, last: &HashMap<String, u64>) {
    while last.iter().any(|(room, last)| got[room].numbers.last() != Some(last)) {
        take(edge, got).await;
    }
}

async fn take(edge: &mut Edge, got: &mut HashMap<String, Got>) {
    match edge.next().await {
        Some(Out::Publications(run)) => {
            let of_room = got.get_mut(&run.room).unwrap();
            let bodies = run.entries.into_iter().map(|entry| Entry::decode(entry).unwrap().body);
            of_room.numbers.extend(bodies.map(|body| std::str::from_utf8(&body).unwrap().parse::<u64>().unwrap()));
        }
        Some(Out::Lost(lost)) => {
            assert_eq!(lost.reason(), LostReason::Failover);
            got.get_mut(&lost.room).unwrap().failovers += 1;
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_under_load_and_nothing_is_lost_or_doubled() {
    let cluster = RedisCluster::start().await;
    let (hears, says) = (node(&cluster).await, Arc::new(node(&cluster).await));
    let mut edge = hears.edge().await;
    edge.keep_alive(&hears.lifecycle);
    let rooms: Vec<String> = (0..12).map(|number| format!("r{number}")).collect();
    let mut got = HashMap::new();
    for room in &rooms {
        edge.want(room, None).await;
        edge.state(room).await;
        got.insert(room.clone(), Got::default());
    }
    let (end, ended) = watch::channel(false);
    let mut publishers = JoinSet::new();
    for room in &rooms {
        let publishing = publish(Arc::clone(&says), room.clone(), ended.clone());
        let room = room.clone();
        publishers.spawn(async move { (room, publishing.await) });
    }
    // Each room's slot goes once around, and the edge is heard meanwhile.
    let moving = async {
        for room in &rooms {
            let slot = cluster.slot(room).await;
            let to = (cluster.owner(slot).await + 1) % 3;
            cluster.move_slot(slot, to).await;
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_millis(500)).await;
        end.send_replace(true);
        let mut last = HashMap::new();
        while let Some(published) = publishers.join_next().await {
            let (room, count) = published.unwrap();
            last.insert(room, count);
        }
        last
    };
    let mut moving = std::pin::pin!(moving);
    let last = loop {
        tokio::select! {
            last = &mut moving => break last,
            () = take(&mut edge, &mut got) => {}
        }
    };
    collect(&mut edge, &mut got, &last).await;
    let mut published = 0;
    for (room, last) in &last {
        let Got { numbers, failovers } = &got[room];
        assert!(numbers.iter().copied().eq(1..=*last), "{room}: {last} published, got {numbers:?}");
        assert_eq!(*failovers, 1, "{room}: its slot moved once");
        published += last;
    }
    assert!(published > 12 * 50, "{published}");
    assert!(hears.metric::<u64>("redis_unsubscribed_total").await > 0, "the Cluster unsubscribes what moves");
    edge.detach();
    hears.finish().await;
    Arc::into_inner(says).unwrap().finish().await;
}

#[tokio::test]
async fn what_a_slot_on_the_move_refuses_waits_in_order_until_its_deadline() {
    let cluster = RedisCluster::start().await;
    let subject = cluster.subject("rt", crate::subject::keep()).await;
    let before = subject.publish("a", "1").await.position;
    let slot = cluster.slot("a").await;
    let (from, name) = (cluster.owner(slot).await, slot.to_string());
    let to = (from + 1) % 3;
    let (source, target) = (&cluster.servers[from], &cluster.servers[to]);
    target.ask::<()>(&["CLUSTER", "SETSLOT", &name, "IMPORTING", &cluster.ids[from]]).await;
    source.ask::<()>(&["CLUSTER", "SETSLOT", &name, "MIGRATING", &cluster.ids[to]]).await;
    // Half of the room is here, half there.
    let port = target.port.to_string();
    source.ask::<redis::Value>(&["MIGRATE", "127.0.0.1", &port, "rt:{a}:history", "0", "5000"]).await;
    let mut late = crate::subject::publication("a", "late");
    late.deadline = tokio::time::Instant::now() + Duration::from_millis(300);
    let late = subject.broker.publish(late).unwrap();
    let pending: Vec<_> =
        (0..100).map(|_| subject.broker.publish(crate::subject::publication("a", "x")).unwrap()).collect();
    assert_eq!(soon("a refusal", late).await, Err(StoreError::Unavailable));
    assert!(source.ask::<String>(&["INFO", "errorstats"]).await.contains("TRYAGAIN"));
    cluster.move_slot(slot, to).await;
    for (number, receipt) in pending.into_iter().enumerate() {
        let position = soon("a receipt", receipt).await.unwrap().position;
        assert!(position.epoch.generation() > before.epoch.generation());
        assert_eq!(position.seq, 2 + number as u64);
    }
    subject.finish().await;
}

#[tokio::test]
async fn the_loss_of_a_primary_is_one_of_its_rooms_only() {
    let mut cluster = RedisCluster::start().await;
    let subject = cluster.subject("rt", crate::subject::keep()).await;
    // A room of the last primary, and one of another.
    let (mut here, mut there) = (String::new(), String::new());
    for number in 0.. {
        let room = format!("r{number}");
        match cluster.owner(cluster.slot(&room).await).await {
            2 => here = room,
            _ => there = room,
        }
        if !here.is_empty() && !there.is_empty() {
            break;
        }
    }
    subject.subscribe(&here).await;
    subject.subscribe(&there).await;
    let before = subject.publish(&here, "1").await.position;
    subject.publish(&there, "1").await;
    assert_eq!(cluster.servers[2].ask::<u64>(&["WAIT", "1", "5000"]).await, 1);
    cluster.servers[2].kill();
    for number in 0..50u64 {
        assert_eq!(subject.publish(&there, "x").await.position.seq, 2 + number, "another's rooms are served");
    }
    let replica = cluster.servers[5].port;
    eventually("the replica", async || {
        RedisServer::ask_at::<String>(replica, &["INFO", "replication"]).await.contains("role:master")
    })
    .await;
    let next = soon("a receipt", async {
        loop {
            let publication = crate::subject::publication(&here, "2");
            match subject.broker.publish(publication).unwrap().await {
                Ok(receipt) => return receipt.position,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    assert!(next.epoch.generation() > before.epoch.generation());
    assert_eq!(next.seq, 2);
    let page = subject.read(&here, after(&before.epoch, 1)).await;
    assert_eq!((page.prev, page.complete, page.entries.len()), (Some(before), true, 1));
    // Heard again, too.
    eventually("what is announced there", async || {
        subject.publish(&here, "3").await;
        // The receipt, which is said as an announcement without an entry, comes in any case.
        loop {
            if let Event::Announced(announcement) = subject.events.next().await
                && announcement.room.as_str() == here
            {
                return announcement.entry.is_some();
            }
        }
    })
    .await;
    subject.finish().await;
}
