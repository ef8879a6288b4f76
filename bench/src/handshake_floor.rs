//! The floor of handshakes: a bare program that takes a connection, reads the head of its request and answers with a ready
//! 101, and closes when the peer does. It verifies nothing and knows nobody.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    processes::Server,
    swarm::{Opening, Swarm},
};

/// What one head takes at most.
const HEAD_BYTES: usize = 4096;

/// The key's answer is the same for all.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Serves until its control connection, the first, ends: that says how many others come, and hears when all are open, and
/// when all are closed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    eprintln!("{}", json!({"message": "listening", "ws": listener.local_addr()?}));
    let (mut control, _) = listener.accept()?;
    let (mut count, mut head) = ([0; 8], vec![0; HEAD_BYTES]);
    while control.read_exact(&mut count).is_ok() {
        let mut sockets = Vec::new();
        for _ in 0..u64::from_be_bytes(count) {
            let (mut socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            let mut filled = 0;
            while !head[..filled].ends_with(b"\r\n\r\n") {
                match socket.read(&mut head[filled..])? {
                    0 => bail!("a head without an end"),
                    more => filled += more,
                }
            }
            socket.write_all(SWITCHING)?;
            sockets.push(socket);
        }
        control.write_all(b"!")?;
        for mut socket in sockets {
            while socket.read(&mut head)? > 0 {}
        }
        control.write_all(b"!")?;
    }
    Ok(())
}

/// The floor as a process, and how to have it do its work.
#[derive(Debug)]
pub(crate) struct Floor {
    server: Server,
    control: TcpStream,
}

impl Floor {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let server = Server::floor("handshake-floor", &[])?;
        let control = TcpStream::connect(server.address("ws")?).await?;
        Ok(Self { server, control })
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.server.cpu()
    }

    /// Opens so many connections.
    pub(crate) async fn open(&mut self, count: usize) -> anyhow::Result<Swarm> {
        self.control.write_all(&u64::try_from(count)?.to_be_bytes()).await?;
        let swarm = Swarm::connect(&[self.server.address("ws")?], vec![Opening::Upgraded; count], 1).await?;
        self.done().await?;
        Ok(swarm)
    }

    /// Waits until all that were open, or are to be closed, are.
    pub(crate) async fn done(&mut self) -> anyhow::Result<()> {
        self.control.read_u8().await.context("the floor of handshakes")?;
        Ok(())
    }
}
