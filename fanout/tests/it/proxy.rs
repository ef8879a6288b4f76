//! Between a node and its Redis: passes all on, until it is told to do worse.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering},
    },
};

use service::Lifecycle;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What becomes of what the server sends, to a subscriber or to all.
const PASS: u8 = 0;
/// Answers to pings pass, what is announced does not.
const MUTE: u8 = 1;
const PONG: &[u8] = b"+PONG\r\n";
/// Nothing passes any more, either way.
const BLACK_HOLE: u8 = 2;
/// What the server sends comes no faster than over a network that is busy with other things.
const SLOW: u8 = 3;
const SLOW_BYTES_PER_SECOND: f64 = (16 << 20) as f64;

#[derive(Default)]
struct Connection {
    subscriber: AtomicBool,
    mode: AtomicU8,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    target: Arc<AtomicU16>,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    lifecycle: Lifecycle,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self {
            address,
            target: Arc::new(AtomicU16::new(target)),
            connections: Arc::default(),
            lifecycle: Lifecycle::new(),
        };
        let (target, connections, tasks) =
            (Arc::clone(&proxy.target), Arc::clone(&proxy.connections), proxy.lifecycle.clone());
        proxy.lifecycle.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::Relaxed))).await else {
                    continue;
                };
                let connection = Arc::<Connection>::default();
                connections.lock().unwrap().push(Arc::clone(&connection));
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tasks.spawn(pass(from_client, to_server, Arc::clone(&connection), false));
                tasks.spawn(pass(from_server, to_client, connection, true));
            }
        });
        proxy
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where connections go from now on.
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// The subscriber there is now hears nothing more, but its pings are answered.
    pub(crate) fn mute(&self) {
        self.set(MUTE);
    }

    /// From the subscriber there is now, and to it, nothing comes any more.
    pub(crate) fn black_hole(&self) {
        self.set(BLACK_HOLE);
    }

    /// Over the connections there are now nothing comes any more.
    pub(crate) fn swallow(&self) {
        let connections = self.connections.lock().unwrap();
        connections.iter().for_each(|connection| connection.mode.store(BLACK_HOLE, Ordering::Relaxed));
    }

    /// All connections there are now are slow.
    pub(crate) fn slow_down(&self) {
        let connections = self.connections.lock().unwrap();
        connections.iter().for_each(|connection| connection.mode.store(SLOW, Ordering::Relaxed));
    }

    fn set(&self, mode: u8) {
        let connections = self.connections.lock().unwrap();
        let mut subscribers =
            connections.iter().filter(|connection| connection.subscriber.load(Ordering::Relaxed)).peekable();
        assert!(subscribers.peek().is_some(), "there is no subscriber");
        subscribers.for_each(|connection| connection.mode.store(mode, Ordering::Relaxed));
    }

    pub(crate) async fn finish(self) {
        self.lifecycle.finish(std::time::Duration::ZERO).await;
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, connection: Arc<Connection>, down: bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..count];
        if !down && bytes.windows(9).any(|window| window == b"SUBSCRIBE") {
            connection.subscriber.store(true, Ordering::Relaxed);
        }
        let pongs;
        let bytes = match connection.mode.load(Ordering::Relaxed) {
            SLOW if down => {
                let share = f64::from(u32::try_from(count).unwrap()) / SLOW_BYTES_PER_SECOND;
                tokio::time::sleep(std::time::Duration::from_secs_f64(share)).await;
                bytes
            }
            // Answers and what is announced may come at once.
            MUTE if down => {
                pongs = PONG.repeat(bytes.windows(PONG.len()).filter(|window| *window == PONG).count());
                &pongs
            }
            PASS | SLOW | MUTE => bytes,
            _ => continue,
        };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
