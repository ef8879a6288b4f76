//! Clients that are bare sockets, driven by a thread that may block.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Range,
    time::Duration,
};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use service::Clock;

use crate::subject::SECRET;

const PATIENCE: Duration = Duration::from_secs(30);

/// One client: its socket, and what it has not looked at yet.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// Connects users of these numbers, each until it is in its personal room.
pub(crate) fn connect(to: SocketAddr, users: Range<usize>) -> Vec<Client> {
    users.map(|user| Client::connect(to, user)).collect()
}

impl Client {
    fn connect(to: SocketAddr, user: usize) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, unread: Vec::new() };
        let claims =
            json!({"sub": format!("user-{user:08}"), "exp": Clock::system().unix_secs() + 3600, "rooms": ["*"]});
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
        let request = format!(
            "GET /ws?token={token} HTTP/1.1\r\nHost: gates\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        client.stream.write_all(request.as_bytes()).unwrap();
        client.read_until(b"\"type\":\"joined\"", 1);
        client
    }

    /// Joins one room after the other, and waits for the answers.
    pub(crate) fn join(&mut self, rooms: impl Iterator<Item = String>) {
        for room in rooms {
            self.say(&json!({"type": "join", "payload": {"room": room}}));
            self.read_until(b"\"type\":\"joined\"", 1);
        }
    }

    /// Says something, and waits for the answer.
    pub(crate) fn ping(&mut self) {
        self.say(&json!({"type": "ping"}));
        self.read_until(b"\"type\":\"pong\"", 1);
    }

    fn say(&mut self, message: &Value) {
        let text = message.to_string();
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).unwrap();
        // Masked with zeros, which leaves it readable.
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.stream.write_all(&frame).unwrap();
    }

    /// Reads until this has come so many times.
    pub(crate) fn read_until(&mut self, what: &[u8], times: usize) {
        let mut buffer = [0; 16 << 10];
        let mut left = times;
        loop {
            while let Some(at) = self.unread.windows(what.len()).position(|window| window == what) {
                self.unread.drain(..at + what.len());
                left -= 1;
                if left == 0 {
                    return;
                }
            }
            let count = self.stream.read(&mut buffer).expect("in time");
            assert_ne!(count, 0, "closed: {}", String::from_utf8_lossy(&self.unread));
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }
}
