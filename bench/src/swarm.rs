//! Many sockets, one task each, on one thread. What comes in is counted, checked and timed; it must be in order.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};

use crate::{
    clock::now_ns,
    frames::{Frame, Frames, PONG, client_text},
    payload::Stamp,
    processes::JWT_SECRET,
};

/// Handshakes under way at a time.
const CONNECTING: usize = 128;

/// What one read takes.
const READ_BYTES: usize = 16 << 10;

/// What all sockets got.
#[derive(Debug)]
pub(crate) struct Tally {
    /// From one publication that a socket gets to the next, by number.
    step: u64,
    delivered: Cell<u64>,
    /// Deliveries that were not the next one of their socket.
    disorder: Cell<u64>,
    /// Publication → deliveries still to come, for those under way.
    under_way: RefCell<BTreeMap<u64, usize>>,
    latencies: RefCell<Histogram<u64>>,
    done: Notify,
}

impl Tally {
    fn new(step: u64) -> Self {
        Self {
            step,
            delivered: Cell::new(0),
            disorder: Cell::new(0),
            under_way: RefCell::default(),
            latencies: RefCell::new(Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("valid bounds")),
            done: Notify::new(),
        }
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.get()
    }

    /// Deliveries that did not come, or not in order.
    pub(crate) fn lost(&self) -> u64 {
        self.disorder.get() + self.under_way.borrow().values().sum::<usize>() as u64
    }

    /// The publication is on its way to so many.
    pub(crate) fn sent(&self, number: u64, to: usize) {
        self.under_way.borrow_mut().insert(number, to);
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way.borrow().len()
    }

    /// Waits until some publication has reached everybody.
    pub(crate) async fn any_done(&self) {
        self.done.notified().await;
    }

    /// Latencies since the last call, in nanoseconds.
    pub(crate) fn take_latencies(&self) -> Histogram<u64> {
        let mut latencies = self.latencies.borrow_mut();
        let taken = latencies.clone();
        latencies.reset();
        taken
    }

    fn got(&self, stamp: Stamp, expected: &mut Option<u64>, now_ns: u64) {
        self.delivered.set(self.delivered.get() + 1);
        if expected.is_some_and(|expected| expected != stamp.number) {
            self.disorder.set(self.disorder.get() + 1);
        }
        *expected = Some(stamp.number + self.step);
        self.latencies.borrow_mut().saturating_record(now_ns.saturating_sub(stamp.sent_ns));
        let mut under_way = self.under_way.borrow_mut();
        if let Some(left) = under_way.get_mut(&stamp.number) {
            *left -= 1;
            if *left == 0 {
                under_way.remove(&stamp.number);
                self.done.notify_one();
            }
        }
    }
}

/// What a socket does first.
#[derive(Debug, Clone)]
pub(crate) enum Opening {
    /// Nothing: the floor speaks no HTTP.
    Bare,
    /// Upgrades as a user of its own, and waits for nothing else: what comes next is the floor's silence.
    Upgraded,
    /// Upgrades as a user of its own, without automatic rooms, and joins this room.
    Room(String),
    /// Upgrades as a user of its own, and waits until it is in its personal room.
    Personal,
}

/// Open sockets. They close with it.
#[derive(Debug)]
pub(crate) struct Swarm {
    pub(crate) tally: Rc<Tally>,
    sockets: JoinSet<std::io::Result<&'static str>>,
}

impl Swarm {
    /// Connects one socket for each opening, to the addresses in turn, and waits until each is in its room. Must run in
    /// a `LocalSet`.
    ///
    /// `step`: from one publication that a socket gets to the next, by number.
    pub(crate) async fn connect(to: &[SocketAddr], openings: Vec<Opening>, step: usize) -> anyhow::Result<Self> {
        Self::connect_users(to, openings, step, 0).await
    }

    /// As users of these numbers on.
    pub(crate) async fn connect_users(
        to: &[SocketAddr],
        openings: Vec<Opening>,
        step: usize,
        first_user: usize,
    ) -> anyhow::Result<Self> {
        let tally = Rc::new(Tally::new(step as u64));
        let (mut sockets, mut connecting) = (JoinSet::new(), JoinSet::new());
        for (user, opening) in openings.into_iter().enumerate() {
            if connecting.len() >= CONNECTING {
                take(&mut connecting, &mut sockets, &tally).await?;
            }
            connecting.spawn_local(open(to[user % to.len()], first_user + user, opening));
        }
        while !connecting.is_empty() {
            take(&mut connecting, &mut sockets, &tally).await?;
        }
        Ok(Self { tally, sockets })
    }

    /// Fails if a socket was closed by the server.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.sockets.try_join_next() {
            None => Ok(()),
            Some(ended) => bail!("a socket was closed: {}", ended??),
        }
    }
}

type Opened = (TcpStream, Frames);

async fn take(
    connecting: &mut JoinSet<anyhow::Result<Opened>>,
    sockets: &mut JoinSet<std::io::Result<&'static str>>,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    if let Some(opened) = connecting.join_next().await {
        let (stream, frames) = opened??;
        sockets.spawn_local(read(stream, frames, tally.clone()));
    }
    Ok(())
}

async fn open(to: SocketAddr, user: usize, opening: Opening) -> anyhow::Result<Opened> {
    let mut stream = TcpStream::connect(to).await.context("connect")?;
    stream.set_nodelay(true)?;
    let mut frames = Frames::default();
    match opening {
        Opening::Bare => {}
        Opening::Upgraded => upgrade(&mut stream, user, true).await?,
        Opening::Room(room) => {
            upgrade(&mut stream, user, false).await?;
            let join = json!({"type": "join", "id": "1", "payload": {"room": room}}).to_string();
            stream.write_all(&client_text(&join)).await?;
            joined(&mut stream, &mut frames).await?;
        }
        Opening::Personal => {
            upgrade(&mut stream, user, true).await?;
            joined(&mut stream, &mut frames).await?;
        }
    }
    Ok((stream, frames))
}

async fn upgrade(stream: &mut TcpStream, user: usize, auto_join: bool) -> anyhow::Result<()> {
    let token = token(user)?;
    let request = format!(
        "GET /ws?auto_join={auto_join}&token={token} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // Byte by byte, so that nothing of what follows is taken.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the answer to an upgrade")?);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        bail!("not upgraded: {}", String::from_utf8_lossy(&head));
    }
    Ok(())
}

pub(crate) fn token(user: usize) -> anyhow::Result<String> {
    let expires = service::Clock::system().unix_secs() + 24 * 3600;
    let claims = json!({"sub": format!("user-{user}"), "exp": expires, "rooms": ["*"]});
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(JWT_SECRET.as_bytes()))?)
}

async fn joined(stream: &mut TcpStream, frames: &mut Frames) -> anyhow::Result<()> {
    let (mut buffer, mut joined, mut refused) = (vec![0; 4096], false, None);
    while !joined {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            bail!("closed before it joined");
        }
        frames.feed(&buffer[..count], |frame| {
            let Frame::Text(text) = frame else { return };
            joined |= text.starts_with(b"{\"type\":\"joined\"");
            if text.starts_with(b"{\"type\":\"error\"") {
                refused = Some(String::from_utf8_lossy(text).into_owned());
            }
        });
        if let Some(error) = refused {
            bail!("refused: {error}");
        }
    }
    Ok(())
}

thread_local! {
    /// One for all: nothing is kept in it over an await.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Reads until the socket ends.
async fn read(stream: TcpStream, mut frames: Frames, tally: Rc<Tally>) -> std::io::Result<&'static str> {
    let mut expected = None;
    loop {
        stream.readable().await?;
        let ended = BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
            Ok(0) => Some(Ok("by the server")),
            Ok(count) => {
                let now = now_ns();
                let mut pinged = false;
                frames.feed(&buffer[..count], |frame| match frame {
                    Frame::Text(text) => {
                        if let Some(stamp) = Stamp::find(text) {
                            tally.got(stamp, &mut expected, now);
                        }
                    }
                    Frame::Ping => pinged = true,
                });
                // Six bytes fit, or the socket has worse troubles.
                if pinged { stream.try_write(&PONG).err().map(Err) } else { None }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        });
        if let Some(ended) = ended {
            return ended;
        }
    }
}
