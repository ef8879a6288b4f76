//! How a connection leaves HTTP. The answer that switches protocols (101) is not written by us: whoever takes the socket
//! sends it together with its own first words, by one system call and in one segment.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Socket;

/// How the answer begins that is held back.
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

/// A connection that is HTTP no more.
#[derive(Debug)]
pub struct Switched {
    pub socket: Socket,
    /// The answer's head, which is still to be sent, before anything else.
    pub answer: Bytes,
    /// What the client sent right behind its request.
    pub rest: Bytes,
}

type Take = Box<dyn FnOnce(Switched) + Send>;

/// Says who takes the socket; a request to this accept loop has one among its extensions.
#[derive(Clone, Default)]
pub struct Switch(Arc<Mutex<Option<Take>>>);

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Switch {
    /// Takes the socket once the request is answered, by 101; dropped if the client goes away before.
    pub fn then(&self, take: impl FnOnce(Switched) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(take));
    }

    pub(super) fn take(&self) -> Option<Take> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The socket as HTTP has it: an answer that switches protocols is kept.
#[derive(Debug)]
pub(super) struct Holding {
    socket: Socket,
    answer: Vec<u8>,
}

impl Holding {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, answer: Vec::new() }
    }

    pub(super) fn switched(self, rest: Bytes) -> Switched {
        Switched { socket: self.socket, answer: self.answer.into(), rest }
    }

    /// Whether the bytes are the answer's; it is then kept.
    fn holds(&mut self, bytes: &[u8]) -> bool {
        let held = !self.answer.is_empty() || bytes.starts_with(SWITCHING);
        if held {
            self.answer.extend_from_slice(bytes);
        }
        held
    }
}

impl AsyncRead for Holding {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, into)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && self.holds(first)
        {
            // The next slices come again.
            return Poll::Ready(Ok(first.len()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (Holding, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Holding::new(Socket::Plain(listener.accept().await.unwrap().0)), client)
    }

    #[tokio::test]
    async fn an_answer_that_switches_protocols_is_kept_whole_and_any_other_is_sent() {
        let (mut holding, mut client) = pair().await;
        holding.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let parts = [IoSlice::new(b""), IoSlice::new(b"HTTP/1.1 101 Switching\r\n"), IoSlice::new(b"\r\n")];
        let first = holding.write_vectored(&parts).await.unwrap();
        assert_eq!(first, parts[1].len());
        holding.write_all(b"\r\n").await.unwrap();
        let switched = holding.switched(Bytes::from_static(b"behind"));
        assert_eq!(switched.answer, "HTTP/1.1 101 Switching\r\n\r\n");
        assert_eq!(switched.rest, "behind");
        drop(switched.socket);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "HTTP/1.1 100 Continue\r\n\r\n");
    }
}
