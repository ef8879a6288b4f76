use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proto::{
    Room,
    wire::{self, edge_message},
};
use service::limit;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{LinkError, message};
use crate::{
    defaults::{BEAT, INTEREST_CHUNK, LINK_READS},
    interest::{HeldBack, Interest, ReadFrom, Reads, Wish},
    upstream::publishes::{Broadcast, Inflight},
};

/// The only writer of the link's stream.
pub(super) struct Sender<'a> {
    pub(super) reports: watch::Receiver<wire::Stats>,
    pub(super) outgoing: mpsc::Sender<wire::EdgeMessage>,
    pub(super) interest: Arc<Interest>,
    pub(super) reads: Arc<Reads>,
    pub(super) held_back: Arc<HeldBack>,
    pub(super) waiting: mpsc::Receiver<Broadcast>,
    pub(super) inflight: &'a Mutex<Inflight>,
    pub(super) reading: &'a Reading,
}

/// How many pages are asked for and not yet answered.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pages: AtomicUsize,
    fewer: Notify,
}

impl Reading {
    /// Waits until one more may be asked for.
    async fn may_ask(&self) {
        while self.pages.load(Ordering::Relaxed) >= limit(LINK_READS) {
            self.fewer.notified().await;
        }
    }

    /// An answer nobody asked for counts for nothing.
    pub(super) fn answered(&self) {
        let fewer = |pages: usize| pages.checked_sub(1);
        let _ = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        self.fewer.notify_one();
    }
}

impl Sender<'_> {
    pub(super) async fn run(&mut self) -> LinkError {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The latest report at once, so that a node that just started knows us.
        self.reports.mark_changed();
        let mut number = 0;
        let (mut wishes, mut pages, mut held) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let kind = tokio::select! {
                biased;
                _ = beats.tick() => {
                    number += 1;
                    edge_message::Kind::Beat(wire::EdgeBeat { number })
                }
                // Whose members cannot take more: as early as can be.
                () = next_held(&self.held_back, &mut held) => hold_back_message(held.drain(..)),
                // Rooms before broadcasts, which need them.
                () = next_wishes(&self.interest, &mut wishes) => interest_message(wishes.drain(..)),
                Some(broadcast) = self.waiting.recv() => {
                    let mut inflight = self.inflight.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(publish) = inflight.start(broadcast) else { continue };
                    edge_message::Kind::Publish(publish)
                }
                () = next_page(&self.reads, self.reading, &mut pages) => {
                    let Some((room, (number, from))) = pages.pop() else { continue };
                    self.reading.pages.fetch_add(1, Ordering::Relaxed);
                    read_message(number, &room, from)
                }
                Ok(()) = self.reports.changed() => edge_message::Kind::Stats(self.reports.borrow_and_update().clone()),
            };
            if self.outgoing.send(message(kind)).await.is_err() {
                return LinkError::Ended;
            }
        }
    }
}

async fn next_wishes(interest: &Interest, into: &mut Vec<(Room, Wish)>) {
    std::future::poll_fn(|cx| interest.poll_drain(cx, limit(INTEREST_CHUNK), into)).await;
}

async fn next_held(held_back: &HeldBack, into: &mut Vec<(Room, Duration)>) {
    std::future::poll_fn(|cx| held_back.poll_drain(cx, limit(INTEREST_CHUNK), into)).await;
}

async fn next_page(reads: &Reads, reading: &Reading, into: &mut Vec<(Room, (u64, ReadFrom))>) {
    reading.may_ask().await;
    std::future::poll_fn(|cx| reads.poll_drain(cx, 1, into)).await;
}

fn read_message(id: u64, room: &Room, from: ReadFrom) -> edge_message::Kind {
    let from = match from {
        ReadFrom::After(position) => wire::read::From::After(position.into()),
        ReadFrom::Last(count) => wire::read::From::Last(count),
    };
    edge_message::Kind::Read(wire::Read { id, room: room.as_str().to_owned(), from: Some(from), limit: 0 })
}

fn hold_back_message(held: impl Iterator<Item = (Room, Duration)>) -> edge_message::Kind {
    let rooms = held.map(|(room, length)| wire::HeldRoom {
        room: room.as_str().to_owned(),
        ms: u32::try_from(length.as_millis()).unwrap_or(u32::MAX),
    });
    edge_message::Kind::HoldBack(wire::HoldBack { rooms: rooms.collect() })
}

fn interest_message(wishes: impl Iterator<Item = (Room, Wish)>) -> edge_message::Kind {
    let rooms = wishes.map(|(room, Wish { wanted, position })| wire::RoomInterest {
        room: room.as_str().to_owned(),
        wanted,
        position: position.map(wire::Position::from),
    });
    edge_message::Kind::Interest(wire::Interest { rooms: rooms.collect() })
}
