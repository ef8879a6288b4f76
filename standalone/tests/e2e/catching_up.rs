//! A client in as many rooms as it may be in, with as much missed in each as is kept, comes back.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use proto::{Position, wire::PublishManyRequest};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, interval, sleep_until};

use crate::{
    harness::{Fanout, Stage, Token, serial, soon, tell},
    swarm::{Incoming, Socket},
};

/// What one connection may be in, and what is kept of a room, by default.
const ROOMS: usize = 128;
const MISSED: u64 = 1000;

/// Published in each room while they catch up.
const LIVE: u64 = 20;

/// Between them.
const PACE: Duration = Duration::from_millis(500);

const ALL: u64 = MISSED + LIVE;

/// Between two messages of the client that reads slowly: 128,000 take it 16 s.
const SLOW: Duration = Duration::from_micros(125);

/// What a client has, and how fast it reads.
struct Reader {
    token: String,
    rooms: HashMap<String, Room>,
    joined: usize,
    /// Joins that were answered with an error to be repeated.
    repeated: usize,
    pace: Option<Duration>,
}

struct Room {
    position: Position,
    grant: Option<String>,
}

#[derive(Deserialize)]
struct Joined {
    room: String,
    epoch: String,
    seq: u64,
    recovered: bool,
    grant: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn in_128_rooms_with_1000_missed_in_each() {
    let _serial = serial().await;
    let stage = Stage::plan().redis().fanouts(2).edges(2).with("HISTORY_SIZE", ALL.to_string()).start().await;
    let (mut fast, mut slow) = (Reader::new("fast", None), Reader::new("slow", Some(SLOW)));
    for reader in [&mut fast, &mut slow] {
        let mut socket = reader.join(stage.edge(0).ws).await;
        reader.read_to(&mut socket, 0).await;
    }
    let began = Instant::now();
    publish(stage.fanout(0), 0..MISSED).await;
    let published = began.elapsed();

    let live = async {
        let mut ticks = interval(PACE);
        for number in MISSED..ALL {
            ticks.tick().await;
            publish(stage.fanout(0), number..number + 1).await;
        }
    };
    let back = async |reader: &mut Reader, edge: usize| {
        let began = Instant::now();
        let mut socket = reader.join(stage.edge(edge).ws).await;
        reader.read_to(&mut socket, MISSED).await;
        let took = began.elapsed();
        reader.read_to(&mut socket, ALL).await;
        (socket, took)
    };
    let ((), (mut fast_socket, fast_took), (mut slow_socket, slow_took)) =
        tokio::join!(live, back(&mut fast, 0), back(&mut slow, 1));
    tell(format_args!(
        "catching up: {ROOMS} rooms, {MISSED} missed in each (published in {published:.1?}): back after {fast_took:.1?}, \
         reading slowly {slow_took:.1?}; {} joins repeated",
        fast.repeated + slow.repeated
    ));

    publish(stage.fanout(1), ALL..ALL + 1).await;
    fast.read_to(&mut fast_socket, ALL + 1).await;
    slow.read_to(&mut slow_socket, ALL + 1).await;
}

fn room(number: usize) -> String {
    format!("room-{number}")
}

fn body(number: u64) -> String {
    format!(r#"{{"n":{number},"text":"as long as a small update of an application may well be"}}"#)
}

/// Publishes the same to all rooms, in order.
async fn publish(fanout: &Fanout, numbers: std::ops::Range<u64>) {
    let mut api = fanout.grpc().await;
    for number in numbers {
        let rooms = (0..ROOMS).map(room).collect();
        let request = PublishManyRequest { rooms, body: body(number).into(), ..PublishManyRequest::default() };
        let results = api.publish_many(request).await.unwrap().into_inner().results;
        assert_eq!(results.len(), ROOMS);
        for result in results {
            let Some(proto::wire::publish_result::Result::Ok(ok)) = result.result else { panic!("{result:?}") };
            assert_eq!(ok.position.unwrap().seq, number + 1);
        }
    }
}

impl Reader {
    fn new(user: &str, pace: Option<Duration>) -> Self {
        Self { token: Token::of(user).sign(), rooms: HashMap::new(), joined: 0, repeated: 0, pace }
    }

    async fn join(&mut self, edge: SocketAddr) -> Socket {
        self.joined = 0;
        let mut socket = Socket::open(edge, &self.token).await.unwrap();
        for name in (0..ROOMS).map(room) {
            self.send_join(&mut socket, &name).await;
        }
        socket
    }

    async fn send_join(&self, socket: &mut Socket, name: &str) {
        let held = self.rooms.get(name);
        let since = held.map(|held| json!({"epoch": held.position.epoch.as_str(), "seq": held.position.seq}));
        let payload = json!({"room": name, "since": since, "grant": held.and_then(|held| held.grant.as_ref())});
        socket.send(json!({"type": "join", "id": name, "payload": payload}).to_string()).await;
    }

    /// Reads until it is in all rooms, and has everything up to this `seq` in each. Nothing else may be said to it.
    async fn read_to(&mut self, socket: &mut Socket, seq: u64) {
        let mut behind = self.rooms.values().filter(|room| room.position.seq < seq).count();
        let mut next = Instant::now();
        while self.joined < ROOMS || behind > 0 {
            if let Some(pace) = self.pace {
                next += pace;
                sleep_until(next).await;
            }
            let text = soon("a message", socket.next()).await.expect("it is not closed as slow, or at all");
            let message = Incoming::parse(&text);
            match message.kind {
                "joined" => self.take_join(message.payload()),
                "message" => behind -= usize::from(self.take(&message) == seq),
                "welcome" => {}
                // Its page did not come in time on a busy machine: as clients do, again.
                "error" if text.contains(r#""code":"unavailable""#) => {
                    self.repeated += 1;
                    self.send_join(socket, &message.id.unwrap()).await;
                }
                _ => panic!("{text}"),
            }
        }
    }

    fn take_join(&mut self, joined: Joined) {
        let Joined { room, epoch, seq, recovered, grant } = joined;
        let position = Position::new(&epoch, seq);
        self.joined += 1;
        match self.rooms.get(&room) {
            Some(held) => assert!(recovered && held.position.seq == seq, "{room}: {} and {position}", held.position),
            None => assert_eq!(seq, 0),
        }
        self.rooms.insert(room, Room { position, grant });
    }

    fn take(&mut self, message: &Incoming<'_>) -> u64 {
        let Room { position, .. } = self.rooms.get_mut(&*message.room).unwrap();
        let seq = position.seq + 1;
        assert_eq!((message.seq, message.body.map(RawValue::get)), (seq, Some(&*body(seq - 1))), "{}", message.room);
        position.seq = seq;
        if let Some(epoch) = &message.epoch {
            *position = Position::new(epoch, seq);
        }
        seq
    }
}
