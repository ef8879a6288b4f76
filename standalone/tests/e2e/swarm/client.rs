use std::{net::SocketAddr, sync::Arc, time::Duration};

use proto::Position;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use service::Clock;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Offline, World,
    ledger::{Publication, Source},
    socket::{Incoming, Socket},
    status::Status,
};
use crate::harness::Token;

/// What the first attempts after a refusal wait at most; then twice as long, up to so much.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// A client that comes back to where it was: with its position and its grant in each room, on any edge.
pub(super) struct Client {
    number: usize,
    user: String,
    token: String,
    world: Arc<World>,
    random: StdRng,
    seats: Vec<Seat>,
    broadcast: Broadcast,
    reconnect_ms: u64,
    /// Since when it tries to be back.
    returning: Option<Instant>,
    /// When its last connection ended, until it is back: for durations, and in Unix milliseconds.
    lost: Option<(Instant, i64)>,
}

/// A room it wants to be in.
struct Seat {
    room: usize,
    name: String,
    position: Option<Position>,
    grant: Option<String>,
    joined: bool,
    /// When to ask again.
    join_at: Option<Instant>,
    /// Up to where it is to be read back.
    missed_to: u64,
}

/// What it publishes itself, in the first of its rooms: one at a time, until it is acknowledged.
struct Broadcast {
    at: Option<Instant>,
    pending: Option<Publication>,
    attempts: u32,
}

/// How a connection ended.
enum End {
    Cut,
    Closed(Option<u16>),
}

#[derive(Deserialize)]
struct Welcome {
    reconnect_ms: u64,
}

#[derive(Deserialize)]
struct Joined {
    room: String,
    epoch: String,
    seq: u64,
    recovered: bool,
    grant: Option<String>,
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
    duplicate: bool,
}

#[derive(Deserialize)]
struct Refusal {
    code: String,
    retry_ms: Option<u64>,
}

impl Client {
    pub(super) fn new(number: usize, world: Arc<World>) -> Self {
        let user = format!("{}-user-{number}", world.plan.name);
        let seats = world.clients[number].seats().iter().map(|seat| Seat {
            room: seat.room,
            name: world.room_name(seat.room),
            position: None,
            grant: None,
            joined: false,
            join_at: None,
            missed_to: 0,
        });
        let seats = seats.collect();
        let token = Token::of(&user).sign();
        let broadcast = Broadcast { at: None, pending: None, attempts: 0 };
        let random = StdRng::from_rng(&mut rand::rng());
        Self { number, user, token, world, random, seats, broadcast, reconnect_ms: 0, returning: None, lost: None }
    }

    fn status(&self) -> &Status {
        &self.world.clients[self.number]
    }

    fn wrong(&self, what: &str) {
        self.world.ledger.wrong(format!("{}: {what}", self.user));
    }

    /// Connects, and comes back whenever it is cut or closed.
    pub(super) async fn run(mut self) {
        let mut backoff = BACKOFF.0;
        let mut avoid = None;
        loop {
            let edge = self.choose(avoid);
            self.returning.get_or_insert_with(Instant::now);
            if let Ok(socket) = Socket::open(edge, &self.token).await {
                (backoff, avoid) = (BACKOFF.0, None);
                self.status().connected(edge);
                let end = self.live(socket).await;
                self.status().disconnected();
                self.lost.get_or_insert_with(|| (Instant::now(), Clock::system().unix_ms()));
                sleep(self.offline(&end)).await;
            } else {
                avoid = Some(edge);
                self.world.returns.lock().unwrap().refused += 1;
                sleep(backoff.mul_f64(self.random.random_range(0.0..=1.0))).await;
                backoff = BACKOFF.1.min(backoff * 2);
            }
        }
    }

    /// Any edge, but rather not this.
    fn choose(&mut self, avoid: Option<SocketAddr>) -> SocketAddr {
        let edges = self.world.edges.borrow().clone();
        let others: Vec<_> = edges.iter().copied().filter(|edge| Some(*edge) != avoid).collect();
        *others.choose(&mut self.random).unwrap_or(&edges[0])
    }

    /// How long it stays away.
    fn offline(&mut self, end: &End) -> Duration {
        if self.returning.is_some() {
            self.world.returns.lock().unwrap().unfinished += 1;
        }
        self.returning = None;
        match end {
            End::Cut => self.world.plan.offline,
            // It was told its moment, and this is it.
            End::Closed(Some(1012)) => Duration::ZERO,
            End::Closed(None) => Duration::from_millis(self.random.random_range(0..=self.reconnect_ms)),
            End::Closed(Some(code)) => {
                self.wrong(&format!("closed with {code}"));
                Duration::from_secs(1)
            }
        }
    }

    async fn live(&mut self, mut socket: Socket) -> End {
        let now = Instant::now();
        for seat in &mut self.seats {
            (seat.joined, seat.join_at) = (false, Some(now));
        }
        if self.broadcast.pending.is_some() {
            // Its answer may have been lost with the connection.
            self.broadcast.at = Some(now);
        }
        let cut_after = self.world.plan.cut_after.map(|after| after.mul_f64(self.random.random_range(0.5..=1.5)));
        let mut cut_at = None;
        let mut publishing = self.world.publishing.subscribe();
        loop {
            self.send_due(&mut socket).await;
            let is_publishing = *publishing.borrow_and_update();
            let due = self.next_due(is_publishing);
            // Only then, as everybody is to be there in the end.
            cut_at = cut_after.filter(|_| is_publishing).map(|after| cut_at.unwrap_or_else(|| Instant::now() + after));
            tokio::select! {
                message = socket.next() => match message {
                    Ok(text) => self.received(&Incoming::parse(&text)),
                    Err(code) => return End::Closed(code),
                },
                () = until(due) => {}
                _ = publishing.changed() => {}
                () = until(cut_at) => {
                    socket.cut(self.random.random());
                    return End::Cut;
                }
            }
        }
    }

    /// When there is something to send; plans the next broadcast if there is to be one.
    fn next_due(&mut self, publishing: bool) -> Option<Instant> {
        let plan = &self.world.plan;
        let broadcasts = plan.broadcaster.is_some_and(|one_in| self.number.is_multiple_of(one_in));
        if broadcasts && publishing && self.broadcast.pending.is_none() && self.broadcast.at.is_none() {
            self.broadcast.at = Some(Instant::now() + plan.every.mul_f64(self.random.random_range(0.5..=1.5)));
        }
        let joins = self.seats.iter().filter_map(|seat| seat.join_at);
        joins.chain(self.broadcast.at.filter(|_| self.seats[0].joined)).min()
    }

    async fn send_due(&mut self, socket: &mut Socket) {
        let now = Instant::now();
        let due = |at: &mut Instant| *at <= now;
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if seat.join_at.take_if(due).is_some() {
                let Seat { name, position, grant, .. } = seat;
                let since =
                    position.as_ref().map(|Position { epoch, seq }| json!({"epoch": epoch.as_str(), "seq": seq}));
                let payload = json!({"room": name, "since": since, "grant": grant});
                socket.send(json!({"type": "join", "id": index.to_string(), "payload": payload}).to_string()).await;
            }
        }
        if !self.seats[0].joined || self.broadcast.at.take_if(due).is_none() {
            return;
        }
        let Seat { room, name, .. } = &self.seats[0];
        let by = self.source();
        if self.broadcast.pending.is_none() && !*self.world.publishing.borrow() {
            return;
        }
        let publication = *self.broadcast.pending.get_or_insert_with(|| self.world.ledger.issue(*room, by));
        self.broadcast.attempts += 1;
        let (key, body) = (publication.key(), RawValue::from_string(publication.body()).unwrap());
        let payload = format!(r#"{{"room":"{name}","key":"{key}","body":{body}}}"#);
        socket.send(format!(r#"{{"type":"broadcast","id":"broadcast","payload":{payload}}}"#)).await;
    }

    fn source(&self) -> Source {
        Source::try_from(self.world.plan.rooms + self.number).unwrap()
    }

    fn received(&mut self, message: &Incoming<'_>) {
        match message.kind {
            "message" => self.message(message),
            "joined" => self.joined(message.payload()),
            "ack" => self.acknowledged(&message.payload()),
            "error" => self.refused(message.id.as_deref().unwrap_or_default(), &message.payload()),
            "welcome" => self.reconnect_ms = message.payload::<Welcome>().reconnect_ms,
            "reconnect" => {}
            // `lost` and `left` among them.
            other => self.wrong(&format!("was told {other}: {:?}", message.payload)),
        }
    }

    fn message(&mut self, message: &Incoming<'_>) {
        let Some(index) = self.seats.iter().position(|seat| seat.name == message.room) else {
            return self.wrong(&format!("got a message of {}", message.room));
        };
        let seat = &mut self.seats[index];
        let Some(position) = seat.position.as_mut().filter(|_| seat.joined) else {
            return self.wrong(&format!("got a message of {} before joined", message.room));
        };
        if message.seq != position.seq + 1 {
            let text = format!("{}: {} after {}", message.room, message.seq, position.seq);
            return self.wrong(&text);
        }
        if let Some(epoch) = &message.epoch {
            if position.seq != 0 && position.epoch.as_str() != epoch {
                let text = format!("{}: {} begins epoch {epoch}", message.room, message.seq);
                return self.wrong(&text);
            }
            *position = Position::new(epoch, message.seq);
        }
        position.seq = message.seq;
        let room = seat.room;
        let body = message.body.map_or("", RawValue::get);
        let Some(publication) = Publication::parse(body) else {
            return self.wrong(&format!("{}: {} is {body}", message.room, message.seq));
        };
        if message.from != self.world.name_of(publication.by) {
            self.wrong(&format!("{}: {} of {} is from {}", message.room, message.seq, publication.by, message.from));
        }
        self.world.ledger.seen(room, message.seq, publication);
        self.status().seats()[index].reached(message.seq);
        self.check_back();
    }

    fn joined(&mut self, joined: Joined) {
        let Joined { room, epoch, seq, recovered, grant } = joined;
        let Some(index) = self.seats.iter().position(|seat| seat.name == room) else {
            return self.wrong(&format!("joined {room}"));
        };
        let now = Position::new(&epoch, seq);
        let seat = &mut self.seats[index];
        let held = seat.position.replace(now.clone());
        seat.joined = true;
        seat.grant = grant.or(seat.grant.take());
        seat.missed_to = self.world.ledger.last(seat.room);
        if held.is_some() {
            self.world.returns.lock().unwrap().missed += seat.missed_to.saturating_sub(seq);
        }
        match held {
            // A room never published to has no epoch to come back to.
            Some(held) if !recovered || now.seq != held.seq || now.epoch != held.epoch && held.seq > 0 => {
                self.wrong(&format!("{room}: was at {held:?}, joined at {now:?}, recovered: {recovered}"));
            }
            None if seq != 0 => self.wrong(&format!("{room}: joined first at {now:?}, before anything was published")),
            _ => {}
        }
        self.status().seats()[index].joined();
        self.check_back();
    }

    /// Whether it is back, with all that it missed.
    fn check_back(&mut self) {
        let Some(since) = self.returning else { return };
        let back = |seat: &Seat| seat.joined && seat.position.as_ref().is_some_and(|at| at.seq >= seat.missed_to);
        if self.seats.iter().all(back) {
            self.returning = None;
            if self.status().connections() > 1 {
                let ms = |since: Instant| u32::try_from(since.elapsed().as_millis()).unwrap();
                let offline = self.lost.take().map(|(since, since_ms)| Offline { since_ms, for_ms: ms(since) });
                let mut returns = self.world.returns.lock().unwrap();
                returns.replays_ms.push(ms(since));
                returns.offline.extend(offline);
            }
        }
    }

    fn acknowledged(&mut self, ack: &Ack) {
        let Some(publication) = self.broadcast.pending.take() else { return self.wrong("got an ack for nothing") };
        if ack.duplicate && self.broadcast.attempts == 1 {
            self.wrong(&format!("{publication:?} was a duplicate at first"));
        }
        (self.broadcast.attempts, self.broadcast.at) = (0, None);
        self.world.ledger.acknowledged(self.seats[0].room, ack.seq, publication);
    }

    fn refused(&mut self, id: &str, refusal: &Refusal) {
        let Refusal { code, retry_ms } = refusal;
        let passing = ["unavailable", "unknown", "authorization_unavailable"].contains(&&**code);
        let Some(retry_ms) = retry_ms.filter(|_| passing) else {
            return self.wrong(&format!("{id} was refused: {code}"));
        };
        self.world.returns.lock().unwrap().repeated += 1;
        let at = Some(Instant::now() + Duration::from_millis(retry_ms));
        match id.parse::<usize>() {
            Ok(index) => self.seats[index].join_at = at,
            Err(_) => self.broadcast.at = at,
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl World {
    pub(super) fn room_name(&self, room: usize) -> String {
        format!("{}-room-{room}", self.plan.name)
    }

    /// What envelopes of this source must have as `from`.
    fn name_of(&self, by: Source) -> String {
        match (by as usize).checked_sub(self.plan.rooms) {
            None => "@local".to_owned(),
            Some(client) => format!("{}-user-{client}", self.plan.name),
        }
    }
}
