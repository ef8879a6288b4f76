//! What an HTTP/1.1 connection of the publish API is about, and when it has taken too long for that. hyper has one time
//! for a connection that waits for its next request and for one that sends the head of a request; pools of backends keep
//! connections for longer than a head may take.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

/// From a connection's start to its first byte, and from the first byte of a request to the end of its head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// From the end of a head to the answer: more than any call takes, and enough for a body over a slow network.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a connection may be quiet between two requests. Pools close theirs earlier: 90 s is the longest in use.
const QUIET_TIMEOUT: Duration = Duration::from_mins(2);

/// Without one of the places for those that are quiet for longer, it may be so for this long.
const SHORT_QUIET: Duration = Duration::from_secs(5);

/// How exact all this is.
const TICK: Duration = Duration::from_millis(500);

/// How an HTTP/2 connection begins, and no request of HTTP/1.1. hyper waits without limit for all of it.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where a connection is. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Talk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// Bytes of [`HTTP2`] that came; none are awaited after something else.
    preface: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Head,
    Asked,
    /// It has pings of its own to tell who is gone.
    Http2,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    Head,
    Answer,
    Quiet,
    /// It was quiet, and all places for that were taken.
    Crowded,
}

impl Talk {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { phase: Phase::Quiet, since: Instant::now(), preface: Some(0) })))
    }

    /// These bytes came.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if let Some(have) = state.preface {
            let whole = HTTP2[have..].iter().zip(bytes).all(|(expected, byte)| expected == byte);
            let have = (have + bytes.len()).min(HTTP2.len());
            state.preface = (whole && have < HTTP2.len()).then_some(have);
            if whole && have == HTTP2.len() {
                state.phase = Phase::Http2;
            }
        }
        if state.phase == Phase::Quiet && !bytes.is_empty() {
            state.enter(Phase::Head);
        }
    }

    /// Bytes went: of an answer that goes on, perhaps.
    pub(super) fn wrote(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Quiet {
            state.since = Instant::now();
        }
    }

    /// A head is complete.
    pub(super) fn asked(&self) {
        self.lock().enter(Phase::Asked);
    }

    /// There is an answer to it.
    pub(super) fn answered(&self) {
        self.lock().enter(Phase::Quiet);
    }

    /// Returns once it takes too long, and what does.
    pub(super) async fn overdue(self, places: Arc<Semaphore>) -> Overdue {
        let mut place: Option<OwnedSemaphorePermit> = None;
        loop {
            sleep(TICK).await;
            let (phase, past) = {
                let state = self.lock();
                (state.phase, state.since.elapsed())
            };
            let (limit, overdue) = match phase {
                Phase::Http2 => return std::future::pending().await,
                Phase::Head => (HEAD_TIMEOUT, Overdue::Head),
                Phase::Asked => (ANSWER_TIMEOUT, Overdue::Answer),
                Phase::Quiet if past < SHORT_QUIET => (SHORT_QUIET, Overdue::Quiet),
                Phase::Quiet => {
                    place = place.or_else(|| Arc::clone(&places).try_acquire_owned().ok());
                    if place.is_some() { (QUIET_TIMEOUT, Overdue::Quiet) } else { (SHORT_QUIET, Overdue::Crowded) }
                }
            };
            if past >= limit {
                return overdue;
            }
            if phase != Phase::Quiet || past < SHORT_QUIET {
                place = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        if self.phase != Phase::Http2 {
            self.phase = phase;
            self.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In how many seconds it is overdue from now on, and what is.
    async fn overdue(talk: &Talk, places: &Arc<Semaphore>) -> Option<(u64, Overdue)> {
        let start = Instant::now();
        let overdue = talk.clone().overdue(Arc::clone(places));
        tokio::time::timeout(Duration::from_mins(10), overdue).await.ok().map(|what| (start.elapsed().as_secs(), what))
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_time() {
        let places = Arc::new(Semaphore::new(1));
        let talk = Talk::new();
        assert_eq!(overdue(&talk, &places).await, Some((120, Overdue::Quiet)));
        talk.read(b"P");
        assert_eq!(overdue(&talk, &places).await, Some((5, Overdue::Head)));
        // What comes does not give the head more time.
        talk.read(b"OST /");
        assert_eq!(overdue(&talk, &places).await, Some((0, Overdue::Head)));
        talk.asked();
        assert_eq!(overdue(&talk, &places).await, Some((60, Overdue::Answer)));
        talk.read(b"{\"body\":");
        assert_eq!(overdue(&talk, &places).await, Some((0, Overdue::Answer)));
        talk.answered();
        assert_eq!(overdue(&talk, &places).await, Some((120, Overdue::Quiet)));
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_quiet_only_so_many_are_kept_long() {
        let places = Arc::new(Semaphore::new(1));
        let (one, other) = (Talk::new(), Talk::new());
        let (first, second) = tokio::join!(overdue(&one, &places), overdue(&other, &places));
        assert_eq!((first, second), (Some((120, Overdue::Quiet)), Some((5, Overdue::Crowded))));
        // One that is asked gives its place back.
        let (one, other) = (Talk::new(), Talk::new());
        let asks = async {
            sleep(Duration::from_secs(20)).await;
            one.asked();
            sleep(Duration::from_secs(2)).await;
            let free = places.available_permits();
            one.answered();
            free
        };
        let (_, free) = tokio::join!(overdue(&one, &places), asks);
        assert_eq!(free, 1);
        assert_eq!(overdue(&other, &places).await, Some((0, Overdue::Quiet)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_goes_on_is_not_quiet_and_http2_has_pings() {
        let places = Arc::new(Semaphore::new(0));
        let talk = Talk::new();
        talk.read(b"GET /v1/status/stream");
        talk.asked();
        talk.answered();
        let streams = async {
            for _ in 0..100 {
                sleep(Duration::from_secs(1)).await;
                talk.wrote();
            }
        };
        let (what, ()) = tokio::join!(overdue(&talk, &places), streams);
        assert_eq!(what, Some((105, Overdue::Crowded)));
        let (whole, part) = (HTTP2, &HTTP2[1..]);
        for pieces in [&[whole][..], &[b"P", part], &[b"PRI ", b"", &HTTP2[4..23], b"\n more"]] {
            let talk = Talk::new();
            for piece in pieces {
                talk.read(piece);
            }
            talk.asked();
            assert_eq!(overdue(&talk, &places).await, None, "{pieces:?}");
        }
        for pieces in [&[&HTTP2[..23]][..], &[b"PRO", part], &[b"P", b"R", b"X", whole], &[b"G", whole]] {
            let talk = Talk::new();
            for piece in pieces {
                talk.read(piece);
            }
            assert_eq!(overdue(&talk, &places).await, Some((5, Overdue::Head)), "{pieces:?}");
        }
    }
}
