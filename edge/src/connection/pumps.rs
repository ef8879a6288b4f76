//! Drives the write pumps, many in one task: a walk over a room's members makes a note for each and wakes the task once,
//! which then writes to one socket after the other, with nothing else in between. A task for each connection, woken for
//! each frame, polled its reader and timers as well.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use service::{latency::Latency, traces::Span};
use slab::Slab;
use tokio::{
    io::AsyncWrite,
    task::{unconstrained, yield_now},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{socket::SocketWriter, write_pump::WritePump};
use crate::outbox::Outbox;

/// Pumps driven between two yields: about a millisecond of writing, so that others get their turn.
const BATCH: usize = 128;

/// What the lists of pumps that are due keep of a burst, in entries of 8 bytes.
const KEPT: usize = 16 << 10;

/// The handle to the drivers. Cloning shares them.
#[derive(Debug)]
pub struct Pumps<W = SocketWriter> {
    drivers: Arc<[Arc<Inbox<W>>]>,
    next: Arc<AtomicUsize>,
}

impl<W> Clone for Pumps<W> {
    fn clone(&self) -> Self {
        Self { drivers: self.drivers.clone(), next: self.next.clone() }
    }
}

/// What a driver is told. Bounded by the connections: each pump arrives once, and is due at most once for each reason to
/// wake it: frames, a close, a socket that takes more, a time-out.
#[derive(Debug)]
struct Inbox<W>(Mutex<Told<W>>);

#[derive(Debug)]
struct Told<W> {
    arrived: Vec<WritePump<W>>,
    /// Pumps to be polled, by their place.
    due: Vec<usize>,
    /// Since when there are any.
    since: Option<Instant>,
    /// Spans that end with the pass.
    traced: Vec<Arc<Span>>,
    /// The driver, while it waits.
    driver: Option<Waker>,
}

impl<W: AsyncWrite + Unpin + Send + 'static> Pumps<W> {
    /// The handle, and the drivers to spawn; they run until `end`. `written`: how long what is due waits to be written.
    pub fn new(
        drivers: usize,
        written: &Latency,
        end: &CancellationToken,
    ) -> (Self, Vec<impl Future<Output = ()> + use<W>>) {
        let inboxes: Vec<_> = (0..drivers.max(1)).map(|_| Arc::new(Inbox::new())).collect();
        let run = |inbox: &Arc<Inbox<W>>| {
            let (end, driver) =
                (end.clone(), Driver { inbox: inbox.clone(), pumps: Slab::new(), written: written.clone() });
            // Its writes are no reason to be put off by tokio: it yields by itself.
            async move { _ = end.run_until_cancelled(unconstrained(driver.run())).await }
        };
        let tasks = inboxes.iter().map(run).collect();
        (Self { drivers: inboxes.into(), next: Arc::default() }, tasks)
    }

    /// From now on what the outbox holds is written. The pump tells the outbox when it has ended. `write_wait`: how long
    /// the socket may take nothing.
    pub fn start(&self, writer: W, outbox: Arc<Outbox>, write_wait: Duration) {
        let driver = self.next.fetch_add(1, Ordering::Relaxed) % self.drivers.len();
        self.drivers[driver].tell(|told| told.arrived.push(WritePump::new(writer, outbox, write_wait)));
    }
}

impl<W> Pumps<W> {
    /// Lets the span end once all that is due now was written to, as far as the sockets take it. For publications that
    /// are traced, which are few.
    pub fn trace(&self, span: &Arc<Span>) {
        for driver in &*self.drivers {
            driver.tell(|told| told.traced.push(span.clone()));
        }
    }
}

impl<W> Inbox<W> {
    fn new() -> Self {
        Self(Mutex::new(Told { arrived: Vec::new(), due: Vec::new(), since: None, traced: Vec::new(), driver: None }))
    }

    fn tell(&self, tell: impl FnOnce(&mut Told<W>)) {
        let mut told = self.lock();
        tell(&mut told);
        let driver = told.driver.take();
        drop(told);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that polls the pumps.
struct Driver<W> {
    inbox: Arc<Inbox<W>>,
    pumps: Slab<Pump<W>>,
    written: Latency,
}

struct Pump<W> {
    pump: WritePump<W>,
    waker: Waker,
}

/// Makes the pump at this place due. Should another one have the place by now, that one is polled in vain.
struct Due<W> {
    place: usize,
    inbox: Arc<Inbox<W>>,
}

impl<W: Send + 'static> Wake for Due<W> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.inbox.tell(|told| {
            // One look at the clock for all pumps of a pass.
            told.since.get_or_insert_with(Instant::now);
            told.due.push(self.place);
        });
    }
}

impl<W: AsyncWrite + Unpin + Send + 'static> Driver<W> {
    async fn run(mut self) {
        // What is due changes places with what was, so that neither list is allocated anew.
        let (mut arrived, mut due) = (Vec::new(), Vec::new());
        loop {
            let (since, traced) = poll_fn(|cx| self.inbox.poll_told(cx, &mut arrived, &mut due)).await;
            for pump in arrived.drain(..) {
                due.push(self.admit(pump));
            }
            for batch in due.chunks(BATCH) {
                for place in batch {
                    self.poll(*place);
                }
                yield_now().await;
            }
            if let Some(since) = since {
                self.written.observe(since.elapsed());
            }
            drop(traced);
            due.clear();
            due.shrink_to(KEPT);
        }
    }

    /// Gives the pump its place.
    fn admit(&mut self, pump: WritePump<W>) -> usize {
        let entry = self.pumps.vacant_entry();
        let place = entry.key();
        let waker = Arc::new(Due { place, inbox: self.inbox.clone() }).into();
        entry.insert(Pump { pump, waker });
        place
    }

    fn poll(&mut self, place: usize) {
        let Some(Pump { pump, waker }) = self.pumps.get_mut(place) else { return };
        if pump.poll(&mut Context::from_waker(waker)).is_ready() {
            // Closes our half of the socket.
            self.pumps.remove(place);
        }
    }
}

impl<W> Inbox<W> {
    /// Ready when there is anything: moves it into the two lists, which are empty, and tells since when pumps
    /// are due, and whose spans end with them.
    fn poll_told(
        &self,
        cx: &Context<'_>,
        arrived: &mut Vec<WritePump<W>>,
        due: &mut Vec<usize>,
    ) -> Poll<(Option<Instant>, Vec<Arc<Span>>)> {
        let mut told = self.lock();
        if told.arrived.is_empty() && told.due.is_empty() && told.traced.is_empty() {
            told.driver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut told.due, due);
        *arrived = std::mem::take(&mut told.arrived);
        Poll::Ready((told.since.take(), std::mem::take(&mut told.traced)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;
    use crate::{close::CloseReason, protocol::frame, test_support};

    const WAIT: Duration = Duration::from_secs(10);

    fn pumps() -> (Pumps<DuplexStream>, impl Future<Output = ()>) {
        let (pumps, mut drivers) = Pumps::new(1, &Latency::default(), &CancellationToken::new());
        (pumps, drivers.remove(0))
    }

    /// Runs the driver meanwhile.
    async fn driven<T>(driver: impl Future<Output = ()>, test: impl Future<Output = T>) -> T {
        tokio::select! {
            () = driver => unreachable!("it runs for ever"),
            done = test => done,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_pump_writes_its_own_outbox_and_one_that_stalls_delays_no_other() {
        let (pumps, driver) = pumps();
        let test = async {
            let (near, mut stuck) = duplex(1);
            let blocked = test_support::outbox();
            pumps.start(near, blocked.clone(), WAIT);
            blocked.push(frame::text(b"more than a byte"));
            let mut others = Vec::new();
            for n in 0..300 {
                let (near, far) = duplex(64);
                let outbox = test_support::outbox();
                pumps.start(near, outbox.clone(), WAIT);
                others.push((n, outbox, far));
            }
            for _ in 0..2 {
                for (n, outbox, _) in &others {
                    outbox.push(frame::text(format!("for {n:03}").as_bytes()));
                }
                for (n, _, far) in &mut others {
                    let mut got = [0; 9];
                    far.read_exact(&mut got).await.unwrap();
                    assert_eq!(got[2..], *format!("for {n:03}").as_bytes());
                }
            }
            assert_eq!(blocked.ended().await, CloseReason::WriteTimeout);
            let mut got = Vec::new();
            stuck.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), 1, "what fitted, and then the end: its half is closed");
        };
        driven(driver, test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_is_timed_once_however_many_it_writes_to() {
        let written = Latency::default();
        let (pumps, mut drivers) = Pumps::new(1, &written, &CancellationToken::new());
        let test = async {
            let mut ends = Vec::new();
            for _ in 0..300 {
                let (near, far) = duplex(64);
                let outbox = test_support::outbox();
                pumps.start(near, outbox.clone(), WAIT);
                ends.push((outbox, far));
            }
            // The clock moves once nobody has anything to do: all of them wait for frames.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(written.count(), 0);
            for passes in 1..=2 {
                for (outbox, _) in &ends {
                    outbox.push(frame::text(b"for all"));
                }
                for (_, far) in &mut ends {
                    far.read_exact(&mut [0; 9]).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(written.count(), passes);
            }
        };
        driven(drivers.remove(0), test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_used_again() {
        let (pumps, driver) = pumps();
        let test = async {
            for _ in 0..3 {
                let (near, mut far) = duplex(64);
                let outbox = test_support::outbox();
                pumps.start(near, outbox.clone(), WAIT);
                outbox.finish(CloseReason::Peer(1005));
                assert_eq!(outbox.ended().await, CloseReason::Peer(1005));
                let mut got = Vec::new();
                far.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, *frame::empty_close());
            }
        };
        driven(driver, test).await;
    }
}
