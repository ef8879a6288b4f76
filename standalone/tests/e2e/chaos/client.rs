//! Clients that come back to where they were, and publishers that repeat what was not acknowledged; all of it told to the
//! checker.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use proto::{
    Position,
    wire::{PublishRequest, publisher_client::PublisherClient},
};
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

use super::checker::Room;
use crate::{
    harness::Token,
    swarm::{Incoming, Socket},
};

/// How long a client believes that nothing happens.
const SILENCE: Duration = Duration::from_secs(6);
const ANSWER: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);
/// Between two publications of a room.
const EVERY: Duration = Duration::from_millis(250);

/// What all share.
pub(super) struct World {
    pub(super) rooms: Vec<Mutex<Room>>,
    pub(super) edges: Vec<SocketAddr>,
    pub(super) apis: Vec<SocketAddr>,
    pub(super) publishing: watch::Sender<bool>,
}

#[derive(Deserialize)]
struct At {
    room: String,
    epoch: String,
    seq: u64,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    retry_ms: Option<u64>,
}

pub(super) fn room_name(room: usize) -> String {
    format!("r{room}")
}

pub(super) async fn client(number: usize, rooms: Vec<usize>, world: Arc<World>) {
    let token = Token::of(&format!("user-{number}")).with("rooms", json!(["*"])).sign();
    loop {
        let edge = world.edges[rand::rng().random_range(0..world.edges.len())];
        if let Ok(Ok(mut socket)) = timeout(ANSWER, Socket::open(edge, &token)).await {
            for room in &rooms {
                join(number, *room, &mut socket, &world).await;
            }
            while let Ok(Ok(text)) = timeout(SILENCE, socket.next()).await {
                received(number, &Incoming::parse(&text), &mut socket, &world).await;
            }
        }
        let pause = PAUSE.mul_f64(rand::rng().random_range(0.0..=1.0));
        sleep(pause).await;
    }
}

async fn join(number: usize, room: usize, socket: &mut Socket, world: &World) {
    let since = world.rooms[room].lock().unwrap().since(number);
    let since = since.map(|Position { epoch, seq }| json!({"epoch": epoch.as_str(), "seq": seq}));
    let payload = json!({"room": room_name(room), "since": since});
    socket.send(json!({"type": "join", "id": room.to_string(), "payload": payload}).to_string()).await;
}

async fn received(number: usize, message: &Incoming<'_>, socket: &mut Socket, world: &World) {
    let room = |name: &str| world.rooms[name[1..].parse::<usize>().unwrap()].lock().unwrap();
    match message.kind {
        "message" => {
            let body = message.body.map_or("", RawValue::get).parse().unwrap();
            room(&message.room).message(number, message.epoch.as_deref(), message.seq, body);
        }
        "joined" => {
            let at: At = message.payload();
            room(&at.room).joined(number, &Position::new(&at.epoch, at.seq), at.recovered);
        }
        "lost" => {
            let at: At = message.payload();
            room(&at.room).lost(number, &Position::new(&at.epoch, at.seq), &at.reason);
        }
        "error" => {
            let (index, refusal): (usize, Refusal) =
                (message.id.as_deref().unwrap().parse().unwrap(), message.payload());
            let Some(retry_ms) = refusal.retry_ms else {
                let what = format!("{number} was refused: {}", refusal.code);
                return world.rooms[index].lock().unwrap().wrong.push(what);
            };
            sleep(Duration::from_millis(retry_ms)).await;
            join(number, index, socket, world).await;
        }
        _ => {}
    }
}

/// Publishes to a room, one after the other, each until it is acknowledged, at whichever node answers; the longest time
/// without a receipt.
pub(super) async fn publisher(room: usize, world: Arc<World>) -> Duration {
    let (mut ticks, mut attempts, mut longest) = (interval(EVERY), room, Duration::ZERO);
    for number in 0.. {
        ticks.tick().await;
        if !*world.publishing.borrow() {
            break;
        }
        let began = Instant::now();
        loop {
            let api = world.apis[attempts % world.apis.len()];
            let mut api: PublisherClient<Channel> =
                PublisherClient::new(Endpoint::from_shared(format!("http://{api}")).unwrap().connect_lazy());
            let request = PublishRequest {
                room: room_name(room),
                body: number.to_string().into(),
                key: number.to_string(),
                ..PublishRequest::default()
            };
            if let Ok(Ok(answer)) = timeout(ANSWER, api.publish(request)).await {
                let at = answer.into_inner().position.unwrap();
                world.rooms[room].lock().unwrap().receipt(&Position::new(&at.epoch, at.seq), number);
                break;
            }
            attempts += 1;
            sleep(PAUSE).await;
        }
        longest = longest.max(began.elapsed());
    }
    longest
}
