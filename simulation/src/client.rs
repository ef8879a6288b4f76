//! A client: joins, leaves and broadcasts over a WebSocket, reads slowly now and then, is cut off, and comes back with its
//! positions to whatever edge there is. Everything it is told goes to its checker.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use proto::{Position, Room};
use rand::{Rng as _, seq::IteratorRandom as _};
use serde_json::{Value, json};
use tokio::{
    io::DuplexStream,
    time::{Instant, sleep, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, protocol::Role},
};

use crate::{
    checker::{Asked, Checker},
    plan::Kind,
    publisher::body,
    world::{World, lock, one_in, up_to},
};

type Socket = WebSocketStream<DuplexStream>;

/// What a request was.
enum Request {
    Join(Room, Asked),
    Leave,
    Broadcast(Room, String),
}

pub(crate) struct Client {
    number: usize,
    world: Arc<World>,
    pub(crate) view: Arc<Mutex<Checker>>,
    /// Rooms it means to be in.
    wanted: Vec<Room>,
    /// Counts its connections, its requests, its broadcasts on this connection.
    connection: usize,
    requests: u64,
    broadcasts: u64,
    under_way: BTreeMap<String, Request>,
    /// Joins that a leave came to before the answer.
    cancelled: BTreeMap<String, Asked>,
    /// It does not read before then.
    reads_at: Instant,
}

/// What a client does next.
enum Step {
    Act,
    Heard(Option<Result<Message, Error>>),
}

impl Client {
    pub(crate) fn new(number: usize, world: &Arc<World>) -> Self {
        let mut wanted: Vec<Room> = (0..world.plan.rooms).map(World::room).collect();
        wanted.retain(|_| !one_in(3));
        Self {
            number,
            world: world.clone(),
            view: Arc::new(Mutex::new(Checker::new(number, world.clone()))),
            wanted,
            connection: 0,
            requests: 0,
            broadcasts: 0,
            under_way: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            reads_at: Instant::now(),
        }
    }

    /// Connects again and again; never ends.
    pub(crate) async fn run(mut self) {
        loop {
            if let Some(socket) = self.connect().await {
                self.converse(socket).await;
                lock(&self.view).disconnected();
                self.lose_requests();
            }
            let offline = if self.world.is_settling() { 300 } else { 1500 };
            sleep(up_to(Duration::from_millis(offline))).await;
        }
    }

    async fn connect(&mut self) -> Option<Socket> {
        sleep(up_to(Duration::from_millis(20))).await;
        let edge = {
            let edges = lock(&self.world.edges);
            edges.iter().flatten().filter(|edge| !edge.is_draining()).choose(&mut service::rng()).cloned()?
        };
        self.connection += 1;
        self.broadcasts = 0;
        let id = format!("{}.{}", self.number, self.connection);
        let socket = edge.connect(&format!("u{}", self.number), &id)?;
        self.world.count("client: connected");
        Some(WebSocketStream::from_raw_socket(socket, Role::Client, None).await)
    }

    /// Those without an answer may or may not have been done.
    fn lose_requests(&mut self) {
        self.cancelled.clear();
        for request in std::mem::take(&mut self.under_way).into_values() {
            if let Request::Broadcast(_, body) = request {
                self.world.truth().record.is_unordered(body);
            }
        }
    }

    async fn converse(&mut self, mut socket: Socket) {
        for room in self.wanted.clone() {
            let asked = self.how_to_come_back(&room);
            if self.join(&mut socket, room, asked).await.is_err() {
                return;
            }
        }
        self.reads_at = Instant::now();
        let mut acts_at = Instant::now() + up_to(Duration::from_millis(500));
        loop {
            let step = tokio::select! {
                biased;
                () = sleep_until(acts_at), if !self.world.is_settling() => Step::Act,
                heard = async { sleep_until(self.reads_at).await; socket.next().await } => Step::Heard(heard),
            };
            match step {
                Step::Act => {
                    acts_at = Instant::now() + up_to(Duration::from_millis(400));
                    if !self.act(&mut socket).await {
                        return;
                    }
                }
                Step::Heard(Some(Ok(Message::Text(text)))) => {
                    self.heard(text.as_str());
                    if self.rejoin(&mut socket).await.is_err() {
                        return;
                    }
                }
                Step::Heard(Some(Ok(Message::Close(frame)))) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    self.world.count(&format!("client: closed with {code}"));
                    if code == 4008 && self.world.plan.kind == Kind::Calm {
                        self.world.fail(&format!("client {} was called slow on a calm day", self.number));
                    }
                    return;
                }
                Step::Heard(Some(Ok(_))) => {}
                Step::Heard(Some(Err(_)) | None) => return,
            }
        }
    }

    fn how_to_come_back(&self, room: &Room) -> Asked {
        let position = lock(&self.view).rooms.get(room).and_then(|seen| seen.position.clone());
        match position {
            Some(position) if !one_in(10) => Asked::Since(position),
            _ if one_in(4) => Asked::Last(service::rng().random_range(0..20)),
            _ => Asked::Plain,
        }
    }

    async fn request(&mut self, socket: &mut Socket, request: Request) -> Result<(), Error> {
        self.requests += 1;
        let id = self.requests.to_string();
        let message = match &request {
            Request::Join(room, asked) => {
                let mut payload = json!({"room": room.as_str()});
                match asked {
                    Asked::Plain => {}
                    Asked::Last(count) => payload["since"] = json!({"last": count}),
                    Asked::Since(Position { epoch, seq }) => {
                        payload["since"] = json!({"epoch": epoch.as_str(), "seq": seq});
                    }
                }
                json!({"type": "join", "id": id, "payload": payload})
            }
            Request::Leave | Request::Broadcast(..) => Value::Null,
        };
        self.send(socket, id, request, &message).await
    }

    async fn send(&mut self, socket: &mut Socket, id: String, request: Request, text: &Value) -> Result<(), Error> {
        self.world.say(|| format!("client {} says {text}", self.number));
        self.under_way.insert(id, request);
        socket.send(Message::text(text.to_string())).await
    }

    async fn join(&mut self, socket: &mut Socket, room: Room, asked: Asked) -> Result<(), Error> {
        self.request(socket, Request::Join(room, asked)).await
    }

    /// False if the connection is to be dropped.
    async fn act(&mut self, socket: &mut Socket) -> bool {
        let room = World::room(service::rng().random_range(0..self.world.plan.rooms));
        let calm = self.world.plan.kind == Kind::Calm;
        let planned = self.world.plan.kind == Kind::Planned;
        let done = match service::rng().random_range(0..100) {
            0..=59 => {
                let count = if one_in(15) && !planned { 12 } else { 1 };
                self.broadcast(socket, &room, count).await
            }
            60..=69 if !planned => {
                if !self.wanted.contains(&room) {
                    self.wanted.push(room.clone());
                }
                let asked = self.how_to_come_back(&room);
                self.join(socket, room, asked).await
            }
            70..=77 => self.leave(socket, room).await,
            78..=82 if !planned && self.wanted.contains(&room) => self.join(socket, room, Asked::Plain).await,
            83..=88 if !calm => {
                self.world.count("client: reads slowly");
                self.reads_at = Instant::now() + up_to(Duration::from_millis(2500));
                Ok(())
            }
            89..=93 => {
                self.world.count("client: cut off");
                return false;
            }
            _ => Ok(()),
        };
        done.is_ok()
    }

    async fn leave(&mut self, socket: &mut Socket, room: Room) -> Result<(), Error> {
        self.wanted.retain(|wanted| *wanted != room);
        self.requests += 1;
        let id = self.requests.to_string();
        let message = json!({"type": "leave", "id": id, "payload": {"room": room.as_str()}});
        self.send(socket, id, Request::Leave, &message).await
    }

    async fn broadcast(&mut self, socket: &mut Socket, room: &Room, count: usize) -> Result<(), Error> {
        for _ in 0..count {
            self.broadcasts += 1;
            self.requests += 1;
            let id = self.requests.to_string();
            let name = format!("b:{}.{}:{}", self.number, self.connection, self.broadcasts);
            let body = body(&name, self.world.plan.body);
            let key = if one_in(3) { format!(r#","key":"{name}""#) } else { String::new() };
            let text =
                format!(r#"{{"type":"broadcast","id":"{id}","payload":{{"room":"{room}","body":{body}{key}}}}}"#);
            self.world.say(|| format!("client {} says {name}", self.number));
            self.under_way.insert(id, Request::Broadcast(room.clone(), name));
            socket.send(Message::text(text)).await?;
        }
        Ok(())
    }

    /// Rooms it wants but is not in, and has not asked for: to be asked for again.
    async fn rejoin(&mut self, socket: &mut Socket) -> Result<(), Error> {
        for room in self.wanted.clone() {
            let asks = self.under_way.values().any(|request| match request {
                Request::Join(asked, _) => *asked == room,
                Request::Leave => true,
                Request::Broadcast(..) => false,
            });
            let member = lock(&self.view).rooms.get(&room).is_some_and(|seen| seen.member);
            if !asks && !member {
                sleep(up_to(Duration::from_millis(50))).await;
                let asked = self.how_to_come_back(&room);
                self.join(socket, room, asked).await?;
            }
        }
        Ok(())
    }

    fn heard(&mut self, text: &str) {
        self.world.say(|| format!("client {} hears {text}", self.number));
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            self.world.fail(&format!("client {} got no JSON: {text}", self.number));
            return;
        };
        let payload = &message["payload"];
        let id = message["id"].as_str();
        let room = |from: &Value| from["room"].as_str().and_then(|room| Room::try_new(room).ok());
        let position = || Position::new(payload["epoch"].as_str().unwrap_or(""), payload["seq"].as_u64().unwrap_or(0));
        let request = id.and_then(|id| self.under_way.remove(id));
        match (message["type"].as_str().unwrap_or(""), request) {
            ("message", _) => {
                let Some(room) = room(&message) else { return };
                let seq = message["seq"].as_u64().unwrap_or(0);
                let body = message["body"].as_str().unwrap_or("");
                lock(&self.view).message(&room, message["epoch"].as_str(), seq, body);
            }
            // It was cancelled, and under way; `left` follows.
            ("joined", None) => {
                let Some(room) = room(payload) else { return };
                let asked = id.and_then(|id| self.cancelled.remove(id));
                match asked {
                    Some(asked) => {
                        let recovered = payload["recovered"].as_bool().unwrap_or(false);
                        lock(&self.view).joined(&room, &asked, position(), recovered);
                    }
                    None => self.world.fail(&format!("client {} did not ask: {text}", self.number)),
                }
            }
            ("joined", Some(Request::Join(room, asked))) => {
                let recovered = payload["recovered"].as_bool().unwrap_or(false);
                lock(&self.view).joined(&room, &asked, position(), recovered);
            }
            ("left", _) => {
                if let Some(room) = room(payload) {
                    lock(&self.view).left(&room);
                }
            }
            ("lost", _) => {
                let Some(room) = room(payload) else { return };
                lock(&self.view).lost(&room, position(), payload["reason"].as_str().unwrap_or(""));
            }
            ("ack", Some(Request::Broadcast(room, body))) => {
                self.world.count("client: ack");
                self.world.truth().record.acked(&room, &body, position());
            }
            ("error", Some(Request::Join(_, asked))) if payload["code"] == "cancelled" => {
                self.world.count("client: join cancelled");
                self.cancelled.insert(id.unwrap_or_default().to_owned(), asked);
            }
            ("error", request) => self.refused(payload["code"].as_str().unwrap_or(""), request),
            ("welcome" | "reconnect" | "pong", _) => {}
            (other, _) => self.world.fail(&format!("client {} did not expect {other}: {text}", self.number)),
        }
    }

    fn refused(&mut self, code: &str, request: Option<Request>) {
        self.world.count(&format!("client: error {code}"));
        match request {
            Some(Request::Broadcast(_, body)) if code == "unknown" => self.world.truth().record.is_unordered(body),
            Some(Request::Broadcast(_, body)) => self.world.truth().record.refused(&body),
            _ => {}
        }
    }
}
