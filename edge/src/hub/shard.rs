use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use proto::{Position, Room, Stamp, wire::ReadResult};
use service::Clock;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    census::{Ages, Census},
    replay::Progress,
    room::Waiting,
    rooms::{Rooms, Walked},
};
use crate::{
    interest::{LinkId, Placement},
    metrics::Metrics,
    outbox::Outbox,
    protocol::{
        ServerMessage,
        server::{Left, LostReason},
    },
};

/// Members walked between two yields, so that a hot room delays the others of its shard no longer than that.
pub(super) const MAX_WALK: usize = 1024;

/// Commands handled between two looks at what is to be handed out.
const MAX_COMMANDS: usize = 64;

pub(super) enum Command {
    Join {
        room: Room,
        joining: Waiting,
    },
    Leave {
        room: Room,
        member: Arc<Outbox>,
        id: Option<Box<str>>,
        reason: Option<&'static str>,
        done: Option<oneshot::Sender<()>>,
    },
    State {
        from: LinkId,
        room: String,
        position: Position,
        missed_after: Option<Position>,
    },
    Publications {
        room: String,
        epoch: String,
        first_seq: u64,
        entries: Vec<Bytes>,
        bytes: usize,
    },
    Lost {
        from: LinkId,
        room: String,
        position: Position,
        reason: LostReason,
        after: Option<Position>,
    },
    More {
        room: Room,
        member: Arc<Outbox>,
        done: oneshot::Sender<Progress>,
    },
    Page {
        from: LinkId,
        result: ReadResult,
        bytes: usize,
    },
    Place(Arc<Placement>),
    /// Looks at some rooms from this slot on; tells where to go on, if there are more.
    Look {
        census: Census,
        from: usize,
        done: oneshot::Sender<(Census, Option<usize>)>,
    },
}

impl Command {
    /// The room, of what a link brought.
    pub(super) fn brought_for(self) -> Option<String> {
        match self {
            Self::State { room, .. } | Self::Publications { room, .. } | Self::Lost { room, .. } => Some(room),
            Self::Page { result, .. } => Some(result.room),
            Self::Join { .. } | Self::Leave { .. } | Self::More { .. } | Self::Place(_) | Self::Look { .. } => None,
        }
    }
}

/// What the links share with a shard beside its queue: the links never wait for it.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    /// Bytes of publications in the shard's queue.
    pub(super) bytes: AtomicUsize,
    /// Rooms of which something was dropped because the queue was full. Each once; to be asked for again.
    missed: Mutex<BTreeSet<String>>,
    some_missed: AtomicBool,
    any_missed: Notify,
}

impl Overflow {
    pub(super) fn missed(&self, room: String) {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).insert(room);
        self.some_missed.store(true, Ordering::Release);
        self.any_missed.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        if !self.some_missed.swap(false, Ordering::Acquire) {
            return BTreeSet::new();
        }
        std::mem::take(&mut *self.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task that owns a share of the rooms.
pub(super) struct Shard {
    pub(super) rooms: Rooms,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) overflow: Arc<Overflow>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) counted: Counted,
    /// Since the last census.
    pub(super) ages: Ages,
}

impl Shard {
    pub(super) async fn run(mut self, end: CancellationToken) {
        while !end.is_cancelled() {
            if self.rooms.has_work() {
                self.handle_ready();
                self.walk();
                self.keep_house();
                // The pumps of those that got something run before the next slice.
                tokio::task::yield_now().await;
                continue;
            }
            let deadline = self.rooms.next_deadline();
            tokio::select! {
                () = end.cancelled() => {}
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    self.handle(command);
                    self.handle_ready();
                }
                () = self.overflow.any_missed.notified() => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
            self.keep_house();
        }
    }

    /// What is due however busy it is.
    fn keep_house(&mut self) {
        self.ask_for_missed();
        let now = Instant::now();
        if self.rooms.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.rooms.expire(now);
        }
        self.count();
    }

    fn ask_for_missed(&mut self) {
        for room in self.overflow.take() {
            #[cfg(simulation)]
            if service::simulation::is_off(service::simulation::Check::AskAgain) {
                continue;
            }
            self.rooms.ask_again(&room);
        }
    }

    fn walk(&mut self) {
        let Walked { frames, hold_backs, .. } = self.rooms.walk(MAX_WALK, Instant::now());
        self.metrics.deliveries.inc_by(frames);
        self.metrics.hold_backs.inc_by(hold_backs);
    }

    fn handle_ready(&mut self) {
        for _ in 0..MAX_COMMANDS {
            let Ok(command) = self.commands.try_recv() else { break };
            self.handle(command);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Join { room, joining } => self.rooms.join(room, joining),
            Command::Leave { room, member, id, reason, done } => {
                self.rooms.leave(&room, &member, Instant::now());
                if let Some(done) = done {
                    member
                        .push(ServerMessage::Left { id: id.as_deref(), payload: Left { room: &room, reason } }.frame());
                    let _ = done.send(());
                }
            }
            Command::State { from, room, position, missed_after } => {
                self.rooms.state(from, &room, position, missed_after.as_ref());
            }
            Command::Publications { room, epoch, first_seq, entries, bytes } => {
                self.overflow.bytes.fetch_sub(bytes, Ordering::Relaxed);
                let taken = self.rooms.publications(&room, &epoch, first_seq, &entries);
                self.metrics.publications.inc_by(taken.fresh as u64);
                self.metrics.duplicates.inc_by(taken.duplicates as u64);
                self.metrics.gaps.inc_by(taken.gap.into());
                self.metrics.room_full.inc_by(taken.full.into());
                // What is had already comes first, and what had no place last.
                self.count_ages(entries.get(taken.duplicates..).unwrap_or_default().iter().take(taken.fresh));
            }
            Command::Lost { from, room, position, reason, after } => {
                // What comes before it may not have found place here: then it says too much.
                self.ask_for_missed();
                self.rooms.lost(from, &room, position, reason, after.as_ref());
            }
            Command::More { room, member, done } => self.rooms.more(&room, &member, done),
            Command::Page { from, result, bytes } => {
                self.overflow.bytes.fetch_sub(bytes, Ordering::Relaxed);
                if let Some(error) = &result.error {
                    self.metrics.pages_failed.inc();
                    tracing::debug!(room = result.room, code = error.code, error = error.message, "read a history");
                } else {
                    self.metrics.pages.inc();
                }
                self.rooms.page(from, result, Instant::now());
            }
            Command::Place(placement) => self.rooms.place(placement, Instant::now()),
            Command::Look { mut census, from, done } => {
                census.ages.add(std::mem::take(&mut self.ages));
                let next = self.rooms.look(from, &mut census);
                let _ = done.send((census, next));
            }
        }
    }

    fn count_ages<'a>(&mut self, fresh: impl ExactSizeIterator<Item = &'a Bytes>) {
        if fresh.len() > 0 {
            let now_ms = self.clock.unix_ms();
            for stamp in fresh.filter_map(|entry| Stamp::of(entry)) {
                self.metrics.received.observe_ms(stamp.ts_ms, now_ms);
                self.ages.count(now_ms - stamp.ts_ms);
            }
        }
    }

    /// Keeps the gauges, which all shards share, in step with this one.
    fn count(&mut self) {
        let now = Counted { rooms: self.rooms.len(), members: self.rooms.members() };
        let before = std::mem::replace(&mut self.counted, now);
        self.metrics.rooms.inc_by(now.rooms.cast_signed() as i64 - before.rooms.cast_signed() as i64);
        self.metrics.members.inc_by(now.members.cast_signed() as i64 - before.members.cast_signed() as i64);
    }
}

/// What the gauges hold of a shard.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    rooms: usize,
    members: usize,
}
