//! One shard: the only owner of its rooms.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hashbrown::HashMap;
use proto::{Position, Room, Stamp};
use service::{Clock, RandomState, Seldom, traces::Traces};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Instruments, Interest, Wish,
    catch_up::Turns,
    inbox::{Batch, Inbox},
    member::Member,
    store::{Asked, Purpose, Store},
    sweep::Sweep,
};
use crate::{
    attachments::{Attachment, AttachmentId},
    broker::Broker,
    defaults::UNWANTED_LINGER,
    metrics::Metrics,
    room::{Effect, Effects, LostReason, RoomState},
    routing::{Entry, Routing},
};

/// Announcements handled before other tasks get their turn.
const YIELD_AFTER: usize = 1024;

/// How far a room has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The broker was asked for its announcements.
    Subscribing,
    /// They come; its position is asked for.
    Starting {
        /// Announcements may have been missed since.
        stale: bool,
    },
    Ready,
}

/// What a shard keeps for a room.
#[derive(Debug)]
pub(super) struct RoomData {
    pub(super) state: RoomState,
    pub(super) phase: Phase,
    /// Tells this room from earlier ones of its name.
    pub(super) serial: u64,
    /// A page for those behind is being read.
    pub(super) catching_up: bool,
    /// When the last attachment left; there while the room is in the list of unwanted ones.
    left_at: Option<Box<Instant>>,
    /// An announcement came since the sweep last looked.
    pub(super) heard: bool,
    /// When the store last knew that the room is live.
    pub(super) renewed: Option<Instant>,
}

impl RoomData {
    /// To be remembered with a question.
    pub(super) fn asked(&self, room: &Room) -> Asked {
        Asked { room: room.clone(), serial: self.serial, at: self.state.position().cloned().unwrap_or_default() }
    }
}

pub(super) type RoomEntry = Entry<RoomData, Member>;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) index: usize,
    pub(super) routing: Routing<RoomData, Member>,
    pub(super) store: Store,
    pub(super) turns: HashMap<AttachmentId, Turns, RandomState>,
    pub(super) metrics: Arc<Metrics>,
    inbox: Arc<Inbox>,
    clock: Clock,
    traces: Traces,
    serial: u64,
    /// A failover breaks the continuity of all rooms.
    losses: Seldom,
    /// Rooms nobody wants any more, by the time they are given up.
    unwanted: VecDeque<(Instant, Room, u64)>,
    pub(super) sweep: Sweep,
    /// Its last question has not been answered.
    pub(super) sweeping: bool,
}

impl Shard {
    pub(super) fn new(
        index: usize,
        broker: Arc<dyn Broker>,
        inbox: Arc<Inbox>,
        instruments: Instruments,
        sweep: Sweep,
    ) -> Self {
        let Instruments { clock, metrics, traces } = instruments;
        Self {
            index,
            routing: Routing::default(),
            store: Store::new(broker),
            turns: HashMap::default(),
            metrics,
            inbox,
            clock,
            traces,
            serial: 0,
            losses: Seldom::default(),
            unwanted: VecDeque::new(),
            sweep,
            sweeping: false,
        }
    }

    pub(super) async fn run(mut self, mut interests: mpsc::Receiver<Interest>, end: CancellationToken) {
        let inbox = Arc::clone(&self.inbox);
        loop {
            let unwanted = self.unwanted.front().map(|(at, ..)| *at);
            tokio::select! {
                () = end.cancelled() => return,
                batch = inbox.take() => self.batch(batch).await,
                interest = interests.recv() => match interest {
                    Some(interest) => self.interest(interest),
                    None => return,
                },
                answer = self.store.answer() => self.answer(answer),
                () = sleep_until(unwanted.unwrap_or_else(Instant::now)), if unwanted.is_some() => self.give_up(),
                () = sleep_until(self.sweep.due()) => self.sweep(),
            }
        }
    }

    async fn batch(&mut self, batch: Batch) {
        for id in batch.gone {
            for room in self.routing.remove(id) {
                self.left(&room);
            }
            self.turns.remove(&id);
        }
        self.start(batch.subscribed);
        if batch.reset {
            self.compare_all();
        }
        let mut now_ms = self.clock.unix_ms();
        for (count, announcement) in batch.announcements.into_iter().enumerate() {
            self.announced(&announcement.room, &announcement.position, announcement.entry, now_ms);
            if count % YIELD_AFTER == YIELD_AFTER - 1 {
                tokio::task::yield_now().await;
                now_ms = self.clock.unix_ms();
            }
        }
        for (room, position) in batch.overflow {
            self.announced(&room, &position, None, now_ms);
        }
        for id in batch.awake {
            self.take_turns(id);
        }
    }

    fn announced(&mut self, room: &Room, position: &Position, entry: Option<Bytes>, now_ms: i64) {
        if let Some(found) = self.routing.get_mut(room) {
            let mut span = None;
            if let Some(stamp) = entry.as_deref().and_then(Stamp::of) {
                self.metrics.announced.observe_ms(stamp.ts_ms, now_ms);
                let since = time_of(stamp.ts_ms.min(now_ms));
                span = self.traces.parent(stamp.traceparent).map(|parent| parent.span_since("announce", since));
            }
            found.data.heard = true;
            let effects = found.data.state.announced(position, entry);
            self.apply(room, effects);
            // It is with the links, or held until what comes before it is.
            drop(span);
        }
    }

    fn interest(&mut self, interest: Interest) {
        let Interest { attachment, wishes } = interest;
        for wish in wishes {
            // A closed one has been, or will be, reported gone: it must not come in after that.
            if attachment.is_closed() {
                return;
            }
            if wish.wanted {
                self.wanted(&attachment, wish);
            } else if self.routing.leave(&wish.room, attachment.id) {
                attachment.rooms_changed(-1);
                self.left(&wish.room);
            }
        }
        self.take_turns(attachment.id);
    }

    fn wanted(&mut self, attachment: &Arc<Attachment>, wish: Wish) {
        let Wish { room, position, .. } = wish;
        let (serial, store, metrics, sweep) = (&mut self.serial, &self.store, &self.metrics, &mut self.sweep);
        self.routing.open(&room, || {
            *serial += 1;
            metrics.rooms.inc();
            store.subscribe(&room);
            sweep.add(room.clone(), *serial);
            RoomData {
                state: RoomState::default(),
                phase: Phase::Subscribing,
                serial: *serial,
                catching_up: false,
                left_at: None,
                heard: false,
                renewed: None,
            }
        });
        let member = Member::joining(Arc::clone(attachment), position);
        if self.routing.join(&room, attachment.id, member) {
            attachment.rooms_changed(1);
        }
        let Some(entry) = self.routing.get_mut(&room) else { return };
        if entry.data.phase == Phase::Ready
            && let Some(at) = entry.data.state.position().cloned()
            && let Some(member) = entry.member_mut(attachment.id)
        {
            let behind = member.admit(&room, &at);
            if behind {
                self.enqueue(attachment.id, &room);
            }
        }
    }

    /// An attachment left the room: if it was the last, the room is given up in a while.
    fn left(&mut self, room: &Room) {
        self.release(room);
        let Some(entry) = self.routing.get_mut(room).filter(|entry| entry.members.is_empty()) else { return };
        let now = Instant::now();
        if entry.data.left_at.replace(Box::new(now)).is_none() {
            self.unwanted.push_back((now + UNWANTED_LINGER, room.clone(), entry.data.serial));
        }
    }

    /// Lets the room's publishers go on if nobody is behind in it any more.
    pub(super) fn release(&mut self, room: &Room) {
        let behind =
            self.routing.get_mut(room).is_some_and(|entry| entry.members.iter().any(|(_, member)| member.is_refused()));
        if !behind {
            self.inbox.held_back().remove(room);
        }
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        while let Some((_, room, serial)) = self.unwanted.pop_front_if(|(at, ..)| *at <= now) {
            let Some(entry) = self.routing.get_mut(&room).filter(|entry| entry.data.serial == serial) else { continue };
            let until = entry.data.left_at.as_deref().map(|left_at| *left_at + UNWANTED_LINGER);
            if let Some(until) = until.filter(|until| entry.members.is_empty() && *until > now) {
                // It was wanted meanwhile, and left again.
                self.unwanted.push_back((until, room, serial));
                continue;
            }
            entry.data.left_at = None;
            if self.routing.forget(&room) {
                self.store.unsubscribe(&room);
                self.metrics.rooms.dec();
            }
        }
    }

    /// The room that was asked about, if it is still there.
    pub(super) fn same(&mut self, asked: &Asked) -> Option<&mut RoomEntry> {
        self.routing.get_mut(&asked.room).filter(|entry| entry.data.serial == asked.serial)
    }

    /// Delivery of the room begins at the position: those who wait for it are told.
    pub(super) fn begin(&mut self, room: &Room, position: Position) {
        let Some(entry) = self.routing.get_mut(room) else { return };
        let Phase::Starting { stale } = entry.data.phase else { return };
        entry.data.phase = Phase::Ready;
        for (_, member) in &mut entry.members {
            member.admit(room, &position);
        }
        let mut effects = entry.data.state.start(position);
        if stale {
            effects.extend(entry.data.state.check());
        }
        self.apply(room, effects);
        self.enqueue_all(room);
    }

    /// Does what a room's state asks for.
    pub(super) fn apply(&mut self, room: &Room, effects: Effects) {
        if effects.is_empty() {
            return;
        }
        let mut fell_behind = Vec::new();
        let Some(entry) = self.routing.get_mut(room) else { return };
        for effect in effects {
            match effect {
                Effect::Deliver(run) => {
                    for (id, member) in &mut entry.members {
                        if member.deliver(room, &run, self.index) {
                            fell_behind.push(*id);
                        }
                    }
                }
                Effect::Lost(position, reason) => {
                    match reason {
                        LostReason::History => self.metrics.lost_history.inc(),
                        LostReason::Failover => self.metrics.lost_failover.inc(),
                    };
                    if let Some(left_out) = self.losses.is_due() {
                        tracing::warn!(%room, %position, ?reason, left_out, "continuity of a room is broken");
                    }
                    for (_, member) in &mut entry.members {
                        member.lost(room, &position, reason);
                    }
                }
                Effect::Read(at) => {
                    self.metrics.repairs.inc();
                    let asked = Asked { at, ..entry.data.asked(room) };
                    self.store.page(Purpose::Repair, asked, Duration::ZERO);
                }
                Effect::HeldTooMuch => {
                    self.metrics.held_full.inc();
                }
                Effect::AskLater => {
                    self.metrics.from_the_past.inc();
                    tracing::warn!(%room, "the store answers from an epoch that was left: asking again");
                    self.store.check_later(entry.data.asked(room));
                }
            }
        }
        if !fell_behind.is_empty() {
            self.inbox.held_back().insert(room);
        }
        for id in fell_behind {
            self.enqueue(id, room);
            self.take_turns(id);
        }
    }
}

fn time_of(unix_ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0))
}
