//! The reading half of a connection. Framing, masking and fragments are tungstenite's; it reads from our socket and writes
//! its own answers (pongs) into a list of ours, from where they go through the outbox like everything else. Frames are
//! watched on their way in, so that what is wrong with a message is found before all of it is there.
//!
//! Context and buffer, 1.3 KiB, are there only while a message is being read: most connections are idle.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::{CapacityError, ProtocolError},
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

use super::frame_watch::FrameWatch;
use crate::{
    close::CloseReason,
    defaults::{READ_BUFFER_BYTES, READ_TURN_BYTES},
};

/// What tungstenite may hold of its own answers. They are taken from it at once, so this is never reached.
const MAX_ANSWER_BYTES: usize = 4096;

pub(super) struct ReadPump<R> {
    reader: R,
    /// None between two messages.
    open: Option<Box<Open>>,
    max_message_bytes: usize,
    /// Whole frames that tungstenite wants written.
    answers: Vec<Bytes>,
}

/// A message that is being read.
struct Open {
    websocket: WebSocketContext,
    watch: FrameWatch,
    /// What was found wrong: what came whole before it is still handled, and nothing is read any more.
    wrong: Option<CloseReason>,
    /// Bytes read since others had their turn.
    taken: usize,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Received {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// A ping or a pong.
    Control,
    /// Part of a message: nothing to handle, but a sign of life.
    Part,
}

impl<R: AsyncRead + Unpin> ReadPump<R> {
    /// `leftover`: what the client sent right behind its request for the upgrade.
    pub(super) fn new(reader: R, leftover: &[u8], max_message_bytes: usize) -> Self {
        let open = (!leftover.is_empty()).then(|| Open::new(leftover, max_message_bytes));
        Self { reader, open, max_message_bytes, answers: Vec::new() }
    }

    /// Waits for the first bytes of a message.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let mut buffer = [MaybeUninit::uninit(); READ_BUFFER_BYTES];
        let mut into = ReadBuf::uninit(&mut buffer);
        let read = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut into));
        if read.is_err() || into.filled().is_empty() {
            return Poll::Ready(Err(CloseReason::Gone));
        }
        self.open = Some(Open::new(into.filled(), self.max_message_bytes));
        Poll::Ready(Ok(()))
    }

    /// The next message, or why there will be none. Cancel-safe: what was read stays in the WebSocket's buffer.
    pub(super) async fn next(&mut self) -> Result<Received, CloseReason> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Frames that answer what came in, to be put into the outbox.
    pub(super) fn take_answers(&mut self) -> impl Iterator<Item = Bytes> {
        self.answers.drain(..)
    }

    /// Reads on, for nothing but the peer's close frame or the end of the stream.
    pub(super) async fn drain(&mut self) {
        while self.next().await.is_ok() {
            self.answers.clear();
        }
    }

    /// Reads bytes until the end of the stream: what follows an error has no frames to be found.
    pub(super) async fn drain_bytes(&mut self) {
        let mut buffer = [0; 512];
        poll_fn(|cx| {
            loop {
                let mut into = ReadBuf::new(&mut buffer);
                match Pin::new(&mut self.reader).poll_read(cx, &mut into) {
                    Poll::Ready(Ok(())) if !into.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, CloseReason>> {
        let mut received = self.open.is_none();
        if received {
            ready!(self.poll_open(cx))?;
        }
        let Self { reader, open, answers, .. } = self;
        let Some(message) = open else { return Poll::Ready(Err(CloseReason::Internal)) };
        let Open { websocket, watch, wrong, taken } = &mut **message;
        if *taken >= READ_TURN_BYTES {
            *taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut io = Io { reader, answers, watch, wrong, taken, cx, received: &mut received };
        match websocket.read(&mut io) {
            Ok(Message::Text(text)) => Poll::Ready(Ok(Received::Text(text))),
            Ok(Message::Binary(bytes)) => Poll::Ready(Ok(Received::Binary(bytes))),
            // 1005 stands for a close frame without a code; tungstenite answers a code not allowed by an error.
            Ok(Message::Close(frame)) => {
                Poll::Ready(Err(CloseReason::Peer(frame.map_or(1005, |frame| frame.code.into()))))
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                // Tungstenite hands its pong over with the next read or flush.
                let _ = websocket.flush(&mut io);
                Poll::Ready(Ok(Received::Control))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if *taken >= READ_TURN_BYTES {
                    // There may be more: the next call lets others go first.
                } else if watch.is_between() {
                    // All that came was whole messages, and they were handed over.
                    *open = None;
                } else {
                    *taken = 0;
                }
                // Part of a message: the reader's waker is registered, and the next call goes on where this one stopped.
                if received { Poll::Ready(Ok(Received::Part)) } else { Poll::Pending }
            }
            Err(Error::Io(_)) if let Some(reason) = *wrong => Poll::Ready(Err(reason)),
            Err(error) => Poll::Ready(Err(reason_of(&error))),
        }
    }
}

impl Open {
    /// A message begins with these bytes.
    fn new(bytes: &[u8], max_message_bytes: usize) -> Box<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_ANSWER_BYTES)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let websocket = WebSocketContext::from_partially_read(bytes.to_vec(), Role::Server, Some(config));
        let mut watch = FrameWatch::new(max_message_bytes);
        let wrong = watch.see(bytes).err();
        Box::new(Self { websocket, watch, wrong, taken: bytes.len() })
    }
}

fn reason_of(error: &Error) -> CloseReason {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseReason::MessageTooLarge,
        Error::Utf8(_) => CloseReason::BadUtf8,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Io(_) => CloseReason::Gone,
        Error::Protocol(_) => CloseReason::ProtocolError,
        _ => CloseReason::Internal,
    }
}

/// What tungstenite sees as its blocking stream.
struct Io<'a, 'c, R> {
    reader: &'a mut R,
    answers: &'a mut Vec<Bytes>,
    watch: &'a mut FrameWatch,
    wrong: &'a mut Option<CloseReason>,
    taken: &'a mut usize,
    cx: &'a mut Context<'c>,
    received: &'a mut bool,
}

impl<R: AsyncRead + Unpin> Read for Io<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wrong.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if *self.taken >= READ_TURN_BYTES {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut into = ReadBuf::new(buffer);
        match Pin::new(&mut *self.reader).poll_read(self.cx, &mut into) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                *self.received |= !into.filled().is_empty();
                *self.taken += into.filled().len();
                *self.wrong = self.watch.see(into.filled()).err();
                Ok(into.filled().len())
            }
        }
    }
}

impl<R> Write for Io<'_, '_, R> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.answers.push(Bytes::copy_from_slice(frame));
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::task::{ArcWake, waker};

    use super::*;

    /// Always has more: empty fragments of one message, without end.
    #[derive(Default)]
    struct Flood {
        read: usize,
    }

    impl AsyncRead for Flood {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            while into.remaining() > 0 {
                let byte = match self.read {
                    0 => 0x01,
                    at if at % 6 == 1 => 0x80,
                    _ => 0,
                };
                into.put_slice(&[byte]);
                self.read += 1;
            }
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_that_always_has_more_lets_others_go_first() {
        const TURNS: usize = 10;
        let woken = Arc::<Woken>::default();
        let (waker, mut pump) = (waker(woken.clone()), ReadPump::new(Flood::default(), b"", 1 << 20));
        let mut cx = Context::from_waker(&waker);
        for turn in 1..=TURNS {
            let before = pump.reader.read;
            // As long as it is ready, the connection's task goes on with it.
            while let Poll::Ready(received) = pump.poll_next(&mut cx) {
                assert!(matches!(received, Ok(Received::Part)), "{received:?}");
            }
            let read = pump.reader.read - before;
            assert!((READ_TURN_BYTES..READ_TURN_BYTES + READ_BUFFER_BYTES).contains(&read), "{read} bytes in a turn");
            assert_eq!(woken.0.load(Ordering::Relaxed), turn, "it comes back by itself");
        }
    }
}
