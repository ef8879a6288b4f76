//! What a shard asks the store, and what comes back. Nothing here waits: each question is a future among the shard's.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use proto::{Position, Room};
use rand::Rng as _;
use service::limit;

use crate::{
    attachments::AttachmentId,
    broker::{Broker, Page, PageLimit, ReadError, ReadFrom},
    defaults::{LINK_QUEUE_BYTES, PAGE_ITEMS, RETRY},
};

/// Bytes of a page read for a room: what a room may hold in a link's queue, twice over.
fn page_limit() -> PageLimit {
    PageLimit { items: limit(PAGE_ITEMS), bytes: limit(LINK_QUEUE_BYTES) / 8 }
}

/// A room as it was when a question was asked: one with the same name may have taken its place since.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) room: Room,
    pub(super) serial: u64,
    /// Where it stood.
    pub(super) at: Position,
}

/// Why a page is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To begin delivery.
    Start,
    /// Announcements are missing.
    Repair,
    /// For those behind in the room; this one's turn it was.
    CatchUp(AttachmentId),
}

/// Why positions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// To begin delivery.
    Start,
    /// Announcements may have been missed.
    Reset,
    /// It was the rooms' turn.
    Sweep,
}

/// An answer, or the moment to ask again.
#[derive(Debug)]
pub(super) enum Answer {
    Positions {
        reason: Reason,
        rooms: Vec<Asked>,
        result: Result<Vec<Option<Position>>, ReadError>,
    },
    Page {
        purpose: Purpose,
        asked: Asked,
        result: Result<Page, ReadError>,
    },
    /// Time to check the room.
    Check(Asked),
    /// These rooms' positions are kept for longer, or not.
    Renewed {
        rooms: Vec<Asked>,
        result: Result<(), ReadError>,
    },
}

/// The questions under way.
#[derive(Debug)]
pub(super) struct Store {
    broker: Arc<dyn Broker>,
    questions: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Store {
    pub(super) fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, questions: FuturesUnordered::new() }
    }

    pub(super) fn subscribe(&self, room: &Room) {
        self.broker.subscribe(room);
    }

    pub(super) fn unsubscribe(&self, room: &Room) {
        self.broker.unsubscribe(room);
    }

    /// The next answer; pends while nothing is asked.
    pub(super) async fn answer(&mut self) -> Answer {
        match self.questions.next().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    pub(super) fn positions(&mut self, reason: Reason, rooms: Vec<Asked>, delay: Duration) {
        let broker = Arc::clone(&self.broker);
        let names = rooms.iter().map(|asked| asked.room.clone()).collect();
        self.ask(delay, async move {
            let result = broker.positions(names).await;
            Answer::Positions { reason, rooms, result }
        });
    }

    pub(super) fn renew(&mut self, rooms: Vec<Asked>) {
        let names = rooms.iter().map(|asked| asked.room.clone()).collect();
        let renewal = self.broker.renew(names);
        self.questions.push(renewal.map(|result| Answer::Renewed { rooms, result }).boxed());
    }

    /// Reads a page after the room's `at`; to begin with, only the position.
    pub(super) fn page(&mut self, purpose: Purpose, asked: Asked, delay: Duration) {
        let broker = Arc::clone(&self.broker);
        let from = if purpose == Purpose::Start { ReadFrom::Last(0) } else { ReadFrom::After(asked.at.clone()) };
        self.ask(delay, async move {
            let result = broker.read(asked.room.clone(), from, page_limit()).await;
            Answer::Page { purpose, asked, result }
        });
    }

    pub(super) fn check_later(&mut self, asked: Asked) {
        self.ask(retry_delay(), async move { Answer::Check(asked) });
    }

    fn ask(&mut self, delay: Duration, question: impl Future<Output = Answer> + Send + 'static) {
        if delay.is_zero() {
            self.questions.push(question.boxed());
        } else {
            self.questions.push(tokio::time::sleep(delay).then(|()| question).boxed());
        }
    }
}

/// Until the store is asked again after it did not answer. Spread, so that not all rooms ask at the same moment.
pub(super) fn retry_delay() -> Duration {
    service::rng().random_range(RETRY.0..RETRY.0 * 10)
}
