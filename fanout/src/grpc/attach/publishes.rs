//! An edge's broadcasts on their way to the broker. One that finds no place there waits, and what follows in its room
//! waits behind it, so that order is kept; other rooms go on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use proto::wire::{LinkPublish, Receipt, Stored, fanout_message::Kind, receipt::Result as Outcome};
use service::limit;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    attachments::Control,
    broker::StoreError,
    defaults::{BUSY_PAUSE, BUSY_PAUSE_MAX, EDGE_KEY_GRACE, HOLD, LINK_PUBLISHES, STREAM_PUBLISH_BYTES},
    grpc::status,
    publishing::{Accepted, Begun, Offer, PublishError, Publishing},
};

/// Longest deadline of a broadcast, and that of one without.
const MAX_DEADLINE: Duration = Duration::from_mins(1);

/// A receipt.
pub(super) enum Answer {
    Now(Control),
    Later(BoxFuture<'static, Control>),
}

/// One that found no place.
struct Waiting {
    publish: LinkPublish,
    permit: OwnedSemaphorePermit,
    begun: Begun,
    until: Instant,
}

/// See the module.
pub(super) struct Publishes {
    publishing: Publishing,
    /// Limits those without a receipt on its way.
    places: Arc<Semaphore>,
    waiting: BTreeMap<String, Line>,
    /// Of those that wait.
    bytes: usize,
    /// When they are offered again, and how long after the last time; longer each time while none finds a place.
    again_at: Instant,
    pause: Duration,
}

/// Those of one room, the oldest first.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Line {
    /// A room has a quarter of what a link may have waiting, so that one that is held back leaves place for others.
    fn is_full(&self, more: usize) -> bool {
        self.waiting.len() >= limit(LINK_PUBLISHES) / 4 || self.bytes + more > STREAM_PUBLISH_BYTES / 4
    }
}

impl Publishes {
    pub(super) fn new(publishing: Publishing, places: Arc<Semaphore>) -> Self {
        let again_at = Instant::now();
        Self { publishing, places, waiting: BTreeMap::new(), bytes: 0, again_at, pause: BUSY_PAUSE }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When those that wait are to be offered again.
    pub(super) fn again_at(&self) -> Instant {
        self.again_at
    }

    /// Offers a broadcast; no answer yet if it has to wait.
    pub(super) fn take(&mut self, publish: LinkPublish) -> Option<Answer> {
        let more = bytes(&publish);
        let full = self.bytes + more > STREAM_PUBLISH_BYTES && self.is_waiting()
            || self.waiting.get(&publish.room).is_some_and(|line| line.is_full(more));
        let permit = Arc::clone(&self.places).try_acquire_owned().ok().filter(|_| !full);
        let Some(permit) = permit else {
            self.publishing.metrics.link_publishes_full.inc();
            self.publishing.metrics.published(&Err(StoreError::Busy));
            let result = Outcome::Error(status::link_busy());
            return Some(Answer::Now(Control { kind: receipt(publish.id, result), permit: None }));
        };
        let begun = self.publishing.begin(&publish.traceparent);
        if !self.waiting.contains_key(&publish.room) {
            let result = self.offer(&publish, begun.clone());
            if !matches!(result, Err(PublishError::Store(StoreError::Busy))) {
                return Some(self.answer(publish.id, result, permit));
            }
        }
        self.wait(publish, permit, begun);
        None
    }

    /// Offers those that wait again, and returns the answers there are.
    pub(super) fn again(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let now = Instant::now();
        for (room, mut line) in std::mem::take(&mut self.waiting) {
            while let Some(first) = line.waiting.front() {
                let result = self.offer(&first.publish, first.begun.clone());
                if matches!(result, Err(PublishError::Store(StoreError::Busy))) && now < first.until {
                    break;
                }
                let Some(Waiting { publish, permit, .. }) = line.waiting.pop_front() else { break };
                self.bytes -= bytes(&publish);
                line.bytes -= bytes(&publish);
                answers.push(self.answer(publish.id, result, permit));
            }
            if !line.waiting.is_empty() {
                self.waiting.insert(room, line);
            }
        }
        self.pause = if answers.is_empty() { (2 * self.pause).min(BUSY_PAUSE_MAX) } else { BUSY_PAUSE };
        self.again_at = now + self.pause;
        answers
    }

    fn wait(&mut self, mut publish: LinkPublish, permit: OwnedSemaphorePermit, begun: Begun) {
        // What came in is part of a larger block, which is not to be kept.
        publish.body = Bytes::copy_from_slice(&publish.body);
        let more = bytes(&publish);
        if !self.is_waiting() {
            self.pause = BUSY_PAUSE;
            self.again_at = Instant::now() + BUSY_PAUSE;
        }
        self.bytes += more;
        let until = begun.since + deadline(&publish).min(HOLD);
        let room = publish.room.clone();
        let line = self.waiting.entry(room).or_default();
        line.bytes += more;
        line.waiting.push_back(Waiting { publish, permit, begun, until });
    }

    fn offer(&self, publish: &LinkPublish, begun: Begun) -> Result<Accepted, PublishError> {
        let deadline = deadline(publish);
        self.publishing.broadcast(Offer {
            room: &publish.room,
            from: publish.from.as_str().into(),
            share: None,
            body: publish.body.clone(),
            key: &publish.key,
            edge_key_ttl: publish.key_is_ours.then_some(deadline + EDGE_KEY_GRACE),
            unless: &publish.unless,
            begun,
            deadline,
        })
    }

    fn answer(&self, id: u64, result: Result<Accepted, PublishError>, permit: OwnedSemaphorePermit) -> Answer {
        let pending = match result {
            Ok(pending) => pending,
            Err(error) => {
                if error == PublishError::Store(StoreError::Busy) {
                    self.publishing.metrics.published(&Err(StoreError::Busy));
                }
                let kind = receipt(id, Outcome::Error(status::link_error(error)));
                return Answer::Now(Control { kind, permit: Some(permit) });
            }
        };
        let metrics = Arc::clone(&self.publishing.metrics);
        let answer = async move {
            let result = pending.await;
            metrics.published(&result);
            let result = match result {
                Ok(stored) => {
                    Outcome::Stored(Stored { position: Some(stored.position.into()), duplicate: stored.duplicate })
                }
                Err(error) => Outcome::Error(status::link_error(PublishError::Store(error))),
            };
            Control { kind: receipt(id, result), permit: Some(permit) }
        };
        Answer::Later(answer.boxed())
    }
}

/// What one takes while it waits.
fn bytes(publish: &LinkPublish) -> usize {
    publish.body.len() + publish.unless.iter().map(String::len).sum::<usize>()
}

fn deadline(publish: &LinkPublish) -> Duration {
    match Duration::from_millis(publish.deadline_ms.into()) {
        Duration::ZERO => MAX_DEADLINE,
        deadline => deadline.min(MAX_DEADLINE),
    }
}

fn receipt(id: u64, result: Outcome) -> Kind {
    Kind::Receipt(Receipt { id, result: Some(result) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::time::sleep_until;

    use super::*;
    use crate::broker::scripted::Scripted;

    #[tokio::test(start_paused = true)]
    async fn one_that_finds_no_place_is_offered_ever_less_often_and_refused_in_time() {
        let broker = Arc::new(Scripted::new(Err(StoreError::Busy)));
        let publishing = Publishing::for_tests(broker.clone());
        let mut publishes = Publishes::new(publishing, Arc::new(Semaphore::new(10)));
        let start = Instant::now();
        let (room, from, body) = ("a".to_owned(), "7".to_owned(), Bytes::from_static(b"1"));
        assert!(publishes.take(LinkPublish { room, from, body, ..LinkPublish::default() }).is_none());
        let answers = loop {
            sleep_until(publishes.again_at()).await;
            let answers = publishes.again();
            if !answers.is_empty() {
                break answers;
            }
        };
        assert!(matches!(answers[..], [Answer::Now(_)]) && !publishes.is_waiting());
        assert!(start.elapsed() >= HOLD && start.elapsed() < HOLD + 2 * BUSY_PAUSE_MAX);
        let offered = broker.offered.load(Ordering::Relaxed);
        assert!((100..150).contains(&offered), "{offered} times in {HOLD:?}");
    }
}
