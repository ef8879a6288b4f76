//! The two halves of a socket. Each is used by one task alone; only with TLS do they share a state.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use service::Socket;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

/// Reads from a socket.
#[derive(Debug)]
pub enum SocketReader {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<Socket>),
}

/// Writes to it. Unlike tokio's half of a TCP stream, it does not end the stream when it goes: the close handshake may
/// still be under way (RFC 6455, section 7.1.1), and the reading half ends it.
#[derive(Debug)]
pub struct SocketWriter(Half);

#[derive(Debug)]
enum Half {
    Plain(OwnedWriteHalf),
    Tls(WriteHalf<Socket>),
    Gone,
}

pub fn split(socket: Socket) -> (SocketReader, SocketWriter) {
    match socket {
        Socket::Plain(stream) => {
            let (reader, writer) = stream.into_split();
            (SocketReader::Plain(reader), SocketWriter(Half::Plain(writer)))
        }
        socket @ Socket::Tls(_) => {
            let (reader, writer) = tokio::io::split(socket);
            (SocketReader::Tls(reader), SocketWriter(Half::Tls(writer)))
        }
    }
}

impl AsyncRead for SocketReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(cx, into),
            Self::Tls(half) => Pin::new(half).poll_read(cx, into),
        }
    }
}

impl Drop for SocketWriter {
    fn drop(&mut self) {
        if let Half::Plain(half) = std::mem::replace(&mut self.0, Half::Gone) {
            half.forget();
        }
    }
}

impl AsyncWrite for SocketWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Half::Plain(half) => Pin::new(half).poll_write(cx, bytes),
            Half::Tls(half) => Pin::new(half).poll_write(cx, bytes),
            Half::Gone => gone(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Half::Plain(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Half::Tls(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Half::Gone => gone(),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Half::Plain(half) => Pin::new(half).poll_flush(cx),
            Half::Tls(half) => Pin::new(half).poll_flush(cx),
            Half::Gone => gone(),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Half::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Half::Tls(half) => Pin::new(half).poll_shutdown(cx),
            Half::Gone => gone(),
        }
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}
