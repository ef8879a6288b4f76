use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::soon;

/// A client without a WebSocket library, which would answer Pings and closes by itself. It reads when told to.
#[derive(Debug)]
pub(crate) struct RawClient {
    stream: TcpStream,
    read: Vec<u8>,
}

/// A frame of the server: opcode and payload.
type Frame = (u8, Vec<u8>);

const CLOSE: u8 = 8;

impl RawClient {
    pub(crate) async fn connect(edge: SocketAddr, token: &str) -> Self {
        Self::connect_to(edge, "/ws", token).await.unwrap_or_else(|head| panic!("{head}"))
    }

    /// `Err`: what was answered instead.
    pub(crate) async fn connect_to(edge: SocketAddr, path: &str, token: &str) -> Result<Self, String> {
        let socket = TcpSocket::new_v4().unwrap();
        // So that what the server can send without our reading is soon exhausted.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(edge).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {edge}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut client = Self { stream, read: Vec::new() };
        let head = soon("the handshake", async {
            loop {
                if let Some(end) = client.read.windows(4).position(|window| window == b"\r\n\r\n") {
                    break client.read.drain(..end + 4).collect::<Vec<_>>();
                }
                assert!(client.fill().await, "closed in the handshake");
            }
        })
        .await;
        if head.starts_with(b"HTTP/1.1 101 ") { Ok(client) } else { Err(String::from_utf8_lossy(&head).into_owned()) }
    }

    /// Reads to the end of the connection, however it comes.
    pub(crate) async fn read_to_end(&mut self) {
        soon("the end", async {
            while self.fill().await {
                self.read.clear();
            }
        })
        .await;
    }

    /// Sends these bytes, be they frames or not. False: the server has ended the connection.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends a text message, masked with zeros: the payload as it is.
    pub(crate) async fn send(&mut self, text: &str) {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short message");
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Reads until a text message contains this.
    pub(crate) async fn read_until(&mut self, part: &str) {
        soon(part, async {
            loop {
                let (_, payload) = self.frame().await.expect("closed");
                if String::from_utf8_lossy(&payload).contains(part) {
                    return;
                }
            }
        })
        .await;
    }

    /// Reads to the close frame and returns its code.
    pub(crate) async fn read_to_close(&mut self) -> u16 {
        soon("a close frame", async {
            loop {
                let (opcode, payload) = self.frame().await.expect("closed without a close frame");
                if opcode == CLOSE {
                    return u16::from_be_bytes([payload[0], payload[1]]);
                }
            }
        })
        .await
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.read) {
                self.read.drain(..length);
                return Some(frame);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.is_ok_and(|count| count > 0)
    }
}

/// The first frame, unmasked as a server's are, and its length in all.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&opcode, &length) = (bytes.first()?, bytes.get(1)?);
    let (head, length) = match length {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    Some(((opcode & 0x0f, bytes.get(head..head + length)?.to_vec()), head + length))
}
