//! The one writer of a connection's socket. It takes all that is queued and hands it to the kernel in one call; the bytes
//! of a shared frame are never copied.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use queues::Taken;
use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use crate::{close::CloseReason, defaults::MAX_WRITE_FRAMES, outbox::Outbox, protocol::frame};

/// Writes what the outbox holds until it closes, and then tells the outbox that it ended, and why: the close frame is with
/// the kernel, or there was no use in sending one. Driven by [`Pumps`](super::pumps::Pumps).
#[derive(Debug)]
pub(super) struct WritePump<W> {
    writer: W,
    outbox: Arc<Outbox>,
    /// Taken from the outbox, not written yet.
    frames: VecDeque<Bytes>,
    /// The first frame is on the wire in part: it must be finished, whatever comes.
    partial: bool,
    cut: bool,
    /// The close frame is the last of `frames`, or out.
    closing: Option<CloseReason>,
    /// How long a write may make no progress.
    write_wait: Duration,
    /// Runs while the socket takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<W: AsyncWrite + Unpin> WritePump<W> {
    pub(super) fn new(writer: W, outbox: Arc<Outbox>, write_wait: Duration) -> Self {
        let frames = VecDeque::new();
        Self { writer, outbox, frames, partial: false, cut: false, closing: None, write_wait, stalled: None }
    }

    /// Ready once the pump has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reason = match ready!(self.poll_write_all(cx)) {
            Ok(reason) => reason,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => CloseReason::WriteTimeout,
            Err(error) => {
                tracing::debug!(user = self.outbox.user(), %error, "write to a socket");
                CloseReason::Gone
            }
        };
        self.outbox.queue().report_end(reason);
        Poll::Ready(())
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<CloseReason>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if let Some(reason) = self.closing {
                if reason.is_of_the_stream() {
                    // The peer's close could not be seen: so it gets the end right behind ours, and need not wait for it.
                    ready!(Pin::new(&mut self.writer).poll_shutdown(cx))?;
                }
                return Poll::Ready(Ok(reason));
            }
            match ready!(self.outbox.queue().poll_take(cx, &mut self.frames)) {
                Taken::Frames => {}
                Taken::Close(reason) => {
                    self.closing = Some(reason);
                    self.frames.extend(match reason {
                        // 1005 stands for a close frame without a code (RFC 6455, section 7.1.5).
                        CloseReason::Peer(1005) => Some(frame::empty_close()),
                        _ => reason.frame().map(|(code, word)| frame::close(code, word)),
                    });
                }
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.frames.is_empty() {
            let written = match self.poll_write(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending if !self.cut && self.outbox.queue().poll_cut(cx) => {
                    self.cut = true;
                    self.frames.truncate(usize::from(self.partial));
                    continue;
                }
                Poll::Pending => return self.poll_stalled(cx),
            };
            self.stalled = None;
            self.advance(written);
        }
        queues::Outbox::<CloseReason>::give_back(&mut self.frames);
        // What TLS has taken may still be with it.
        let Poll::Ready(flushed) = Pin::new(&mut self.writer).poll_flush(cx) else { return self.poll_stalled(cx) };
        self.stalled = None;
        Poll::Ready(flushed)
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.write_wait)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let writer = Pin::new(&mut self.writer);
        let written = if let [only] = self.frames.make_contiguous() {
            // The most frequent case by far, and the cheaper call.
            ready!(writer.poll_write(cx, only))?
        } else {
            let mut slices = [IoSlice::new(&[]); MAX_WRITE_FRAMES];
            let count = self.frames.len().min(MAX_WRITE_FRAMES);
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(frame);
            }
            ready!(writer.poll_write_vectored(cx, &slices[..count]))?
        };
        Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
    }

    fn advance(&mut self, written: usize) {
        let (mut left, mut frames) = (written, 0);
        while let Some(first) = self.frames.front_mut() {
            if left < first.len() {
                first.advance(left);
                self.partial = left > 0 || (frames == 0 && self.partial);
                break;
            }
            left -= first.len();
            frames += 1;
            self.partial = false;
            self.frames.pop_front();
        }
        self.outbox.wrote(frames, written);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::Mutex};

    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;
    use crate::test_support;

    const WAIT: Duration = Duration::from_secs(10);

    /// A writer that takes everything, and notes each call: the addresses and lengths of the slices.
    #[derive(Default, Clone)]
    struct Recorder(Arc<Mutex<Vec<Call>>>);

    impl<W: AsyncWrite + Unpin> WritePump<W> {
        async fn run(&mut self) -> CloseReason {
            poll_fn(|cx| self.poll(cx)).await;
            self.outbox.ended().await
        }
    }

    type Call = Vec<(usize, usize)>;

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buffer)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let call = slices.iter().map(|slice| (slice.as_ptr().addr(), slice.len())).collect();
            self.0.lock().unwrap().push(call);
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn all_that_is_queued_leaves_in_one_write_and_is_not_copied() {
        let outbox = test_support::outbox();
        let frames: Vec<_> = (0..10).map(|n| frame::text(format!("message {n}").as_bytes())).collect();
        for frame in &frames {
            outbox.push(frame.clone());
        }
        outbox.finish(CloseReason::Restarting);
        let recorder = Recorder::default();
        assert_eq!(WritePump::new(recorder.clone(), outbox, WAIT).run().await, CloseReason::Restarting);
        let calls = recorder.0.lock().unwrap();
        let shared: Vec<_> = frames.iter().map(|frame| (frame.as_ptr().addr(), frame.len())).collect();
        assert_eq!(calls.len(), 2, "ten frames, then the close");
        assert_eq!(calls[0], shared, "the very bytes that were queued");
    }

    #[tokio::test]
    async fn frames_arrive_whole_through_a_narrow_pipe() {
        let outbox = test_support::outbox();
        let (near, mut far) = duplex(7);
        let mut expected = Vec::new();
        for n in 0..100 {
            let frame = frame::text(format!("message {n}").as_bytes());
            expected.extend_from_slice(&frame);
            outbox.push(frame);
        }
        outbox.finish(CloseReason::Peer(1005));
        expected.extend_from_slice(&frame::empty_close());
        let reading = async {
            let mut got = vec![0; expected.len()];
            far.read_exact(&mut got).await.unwrap();
            got
        };
        let mut pump = WritePump::new(near, outbox.clone(), WAIT);
        let (reason, got) = tokio::join!(pump.run(), reading);
        assert_eq!(reason, CloseReason::Peer(1005));
        assert_eq!(got, expected);
        assert_eq!(outbox.queue().held().frames, 0);
        assert_eq!(outbox.queue().held().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_ends_after_the_deadline() {
        let outbox = test_support::outbox();
        let (near, mut far) = duplex(8);
        outbox.push(frame::text(&[b'x'; 100]));
        let start = tokio::time::Instant::now();
        let mut pump = WritePump::new(near, outbox.clone(), WAIT);
        let reading = async {
            // Progress after 6 s moves the deadline; then nothing more is read.
            sleep(Duration::from_secs(6)).await;
            far.read_exact(&mut [0; 4]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let reason = tokio::select! { reason = pump.run() => reason, () = reading => unreachable!() };
        assert_eq!(reason, CloseReason::WriteTimeout);
        assert_eq!(start.elapsed().as_secs(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_consumer_gets_the_rest_of_its_frame_and_then_the_close() {
        let outbox = test_support::outbox();
        let (near, mut far) = duplex(16);
        let first = frame::text(&[b'x'; 40]);
        outbox.push(first.clone());
        let mut pump = WritePump::new(near, outbox.clone(), WAIT);
        let work = async {
            // The pump is stuck in the first frame by now.
            sleep(Duration::from_secs(1)).await;
            while outbox.push(frame::text(b"more")) {}
            let mut got = Vec::new();
            let expected = [&first[..], &frame::close(4008, "slow_consumer")].concat();
            while got.len() < expected.len() {
                far.read_buf(&mut got).await.unwrap();
            }
            assert_eq!(got, expected);
        };
        let (reason, ()) = tokio::join!(pump.run(), work);
        assert_eq!(reason, CloseReason::SlowConsumer);
    }

    #[tokio::test]
    async fn after_an_error_in_the_stream_its_end_follows_the_close_frame() {
        let outbox = test_support::outbox();
        let (near, mut far) = duplex(64);
        outbox.finish(CloseReason::BadUtf8);
        let mut pump = WritePump::new(near, outbox, WAIT);
        assert_eq!(pump.run().await, CloseReason::BadUtf8);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, *frame::close(1007, "bad_utf8"));
    }

    #[tokio::test]
    async fn a_broken_connection_is_gone() {
        let outbox = test_support::outbox();
        let (near, far) = duplex(8);
        drop(far);
        outbox.push(frame::text(b"anyone?"));
        assert_eq!(WritePump::new(near, outbox.clone(), WAIT).run().await, CloseReason::Gone);
    }
}
