//! Faults drawn from a seed, under 200 clients and 50 publishers. Even seeds run on a primary with a replica and
//! Sentinels, odd ones on a Cluster.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    checker::{Count, Room},
    client::{self, World, room_name},
    faults::{self, Fault},
    stage::Stage,
    store::{self, Store},
};
use crate::harness::{eventually, serial, tell};

const CLIENTS: usize = 200;
const ROOMS: usize = 50;
const ROOMS_EACH: usize = 4;
/// Until everybody has everything, once there are no more faults.
const LIMIT: Duration = Duration::from_mins(2);
/// Of a run in `make test`.
const SECONDS: u64 = 60;

fn rooms_of(client: usize) -> impl Iterator<Item = usize> {
    (0..ROOMS_EACH).map(move |index| (client + 13 * index) % ROOMS)
}

async fn run(seed: u64, seconds: u64) {
    let _serial = serial().await;
    tell(format_args!("chaos: seed {seed}, {seconds} s"));
    let mut random = StdRng::seed_from_u64(seed);
    let store = if seed.is_multiple_of(2) { Store::with_sentinels().await } else { Store::cluster().await };
    let kinds = faults::kinds(store.is_cluster());
    let mut stage = Stage::start(store);
    stage.store.find_rooms((0..ROOMS).map(room_name)).await;
    let world = Arc::new(World {
        rooms: (0..ROOMS).map(|_| Mutex::new(Room::default())).collect(),
        edges: stage.sockets(),
        apis: stage.apis(),
        publishing: watch::Sender::new(true),
    });
    let mut clients = JoinSet::new();
    clients.spawn(store::watch_ids(stage.store.ports(), stage.store.ids.clone()));
    for number in 0..CLIENTS {
        clients.spawn(client::client(number, rooms_of(number).collect(), world.clone()));
    }
    eventually("everybody is there", async || {
        let is_there = |client| rooms_of(client).all(|room| world.rooms[room].lock().unwrap().since(client).is_some());
        (0..CLIENTS).all(is_there)
    })
    .await;
    let mut publishers = JoinSet::new();
    for room in 0..ROOMS {
        publishers.spawn(client::publisher(room, world.clone()));
    }
    let struck = strike(&mut stage, &kinds, Duration::from_secs(seconds), &mut random).await;
    world.publishing.send_replace(false);
    let mut longest = Duration::ZERO;
    let ended = async {
        while let Some(waited) = publishers.join_next().await {
            longest = longest.max(waited.unwrap());
        }
        while world.rooms.iter().any(|room| !room.lock().unwrap().late().is_empty()) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = timeout(LIMIT, ended).await.is_ok();
    stage.assert_all_run();
    clients.shutdown().await;
    let (mut sum, mut wrong) = (Count::default(), Vec::new());
    for (number, room) in world.rooms.iter().enumerate() {
        let mut room = room.lock().unwrap();
        sum.add(&room.finish(stage.store.changes(number)));
        wrong.extend(room.wrong.iter().map(|what| format!("room {number}: {what}")));
    }
    tell(format_args!(
        "chaos: seed {seed}: {sum:?}, longest wait for a receipt {longest:.1?}, IDs of the store by shard {:?}, faults {struck:?}",
        stage.store.id_counts()
    ));
    assert!(
        wrong.is_empty() && in_time,
        "seed {seed}, in time: {in_time}:\n{}",
        wrong[..wrong.len().min(20)].join("\n")
    );
    let (times, acknowledged) = if seconds < 600 { (1, 5_000) } else { (5, 50_000) };
    assert!(struck.values().all(|count| *count >= times), "too few faults: {struck:?}");
    assert!(sum.acknowledged >= acknowledged && sum.dropped > 0, "seed {seed} proves nothing: {sum:?}");
}

/// One fault after the other for so long, and until there was one of each kind; how many of each.
async fn strike(stage: &mut Stage, kinds: &[Fault], time: Duration, random: &mut StdRng) -> BTreeMap<Fault, usize> {
    let mut struck: BTreeMap<Fault, usize> = BTreeMap::new();
    let end = Instant::now() + time;
    for fault in faults::order(kinds, random) {
        if Instant::now() > end && struck.len() == kinds.len() {
            break;
        }
        stage.strike(fault, random).await;
        stage.assert_all_run();
        *struck.entry(fault).or_default() += 1;
        sleep(Duration::from_millis(random.random_range(200..=1000))).await;
    }
    struck
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_seed_2() {
    run(2, SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_seed_4() {
    run(4, SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_seed_1() {
    run(1, SECONDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_seed() {
    run(rand::rng().random(), SECONDS).await;
}

#[expect(clippy::disallowed_methods, reason = "how somebody says which seed")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "by hand: make chaos SECONDS=600 SEED=7"]
async fn replay() {
    let seconds = number("SECONDS").unwrap_or(600);
    let seed = number("SEED").unwrap_or_else(|| rand::rng().random());
    run(seed, seconds).await;
}
