//! The edge's own table: room → members. Rooms are shared out among *shards*, each a task that owns its rooms, so that
//! no lock is shared on the message path. Connections wait for room in a shard's queue; links never do: what does not
//! fit is dropped, the room remembered, and its history asked for from where it stands.
//!
//! `members`, `room` and `rooms` are pure: no task, no clock, no I/O.

mod budget;
mod census;
mod members;
mod moves;
mod page;
mod replay;
mod room;
mod rooms;
mod shard;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use proto::{MAX_SEQ, Position, Room, wire};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use service::{Clock, RandomState, limit};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    connections::Spread,
    deliveries::Deliveries,
    interest::{LinkId, Placement},
    metrics::Metrics,
    outbox::Outbox,
    protocol::{Since, server::LostReason},
    session::JoinOutcome,
};
use census::Ages;
pub use census::{Census, Top};
pub use replay::Progress;
use room::Waiting;
use rooms::Rooms;
use shard::{Command, Counted, Overflow, Shard};

/// Commands that wait for a shard.
const QUEUE: usize = 1024;

/// Bytes of publications that wait for a shard.
const QUEUE_BYTES: usize = 16 << 20;

/// The handle to the hub. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Hub {
    shards: Arc<[ShardHandle]>,
    hasher: RandomState,
    join_timeout: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct ShardHandle {
    commands: mpsc::Sender<Command>,
    overflow: Arc<Overflow>,
}

/// How the hub is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    pub shards: usize,
    /// How long a room is kept after its last member left.
    pub linger: Duration,
    /// How long a join waits for a fanout node.
    pub join_timeout: Duration,
    /// What recent publications of all rooms may take in memory.
    pub tail_bytes: usize,
    /// Messages that wait for one client: half of it is handed out at a time.
    pub send_queue: usize,
}

/// Each call gives a client its own moment within the window over which clients are spread, in milliseconds.
fn slots(spread: Spread) -> Box<dyn FnMut() -> u64 + Send> {
    let mut rng = SmallRng::from_rng(&mut service::rng());
    Box::new(move || rng.random_range(0..=u64::try_from(spread.window().as_millis()).unwrap_or(u64::MAX)))
}

impl Hub {
    /// The handle, and the tasks to spawn; they run until `end`.
    pub fn new(
        settings: &Settings,
        spread: &Spread,
        clock: &Clock,
        deliveries: &Deliveries,
        metrics: &Arc<Metrics>,
        end: &CancellationToken,
    ) -> (Self, Vec<impl Future<Output = ()> + Send + use<>>) {
        let (mut handles, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..settings.shards.max(1) {
            let (sender, commands) = mpsc::channel(limit(QUEUE));
            let overflow = Arc::new(Overflow::default());
            handles.push(ShardHandle { commands: sender, overflow: overflow.clone() });
            let tail_bytes = settings.tail_bytes / settings.shards.max(1);
            let mut rooms = Rooms::new(
                settings.linger,
                tail_bytes,
                settings.send_queue,
                settings.shards.max(1),
                slots(spread.clone()),
            );
            rooms.deliveries = deliveries.clone();
            let (clock, metrics) = (clock.clone(), metrics.clone());
            let (counted, ages) = (Counted::default(), Ages::default());
            tasks.push(Shard { rooms, commands, overflow, clock, metrics, counted, ages }.run(end.clone()));
        }
        let hub = Self {
            shards: handles.into(),
            hasher: RandomState::new(),
            join_timeout: settings.join_timeout,
            metrics: metrics.clone(),
        };
        (hub, tasks)
    }

    /// Makes a connection a member of a room and puts `joined` into its outbox, before anything of that room. One that
    /// is a member already is answered again. Done when the hub has got it, so that calls keep their order; the outcome
    /// comes later, or never if it is cancelled by a `leave`.
    pub async fn join(
        &self,
        room: Room,
        member: Arc<Outbox>,
        id: Option<Box<str>>,
        publish: bool,
        grant: Option<Box<str>>,
        since: Option<Since>,
    ) -> oneshot::Receiver<JoinOutcome> {
        let (done, outcome) = oneshot::channel();
        let deadline = Instant::now() + self.join_timeout;
        let joining = Waiting { member, id, publish, grant, since, deadline, done };
        // Fails only when the hub has ended; the outcome then never comes.
        let _ = self.shard(&room).commands.send(Command::Join { room: room.clone(), joining }).await;
        outcome
    }

    /// Ends a membership, or the waiting for one, and puts `left` into the outbox, after everything of that room.
    pub async fn leave(
        &self,
        room: Room,
        member: Arc<Outbox>,
        id: Option<Box<str>>,
        reason: Option<&'static str>,
    ) -> oneshot::Receiver<()> {
        let (done, left) = oneshot::channel();
        let command = Command::Leave { room: room.clone(), member, id, reason, done: Some(done) };
        let _ = self.shard(&room).commands.send(command).await;
        left
    }

    /// Has a member that catches up get more, now that its outbox is low. No answer comes if it has left.
    pub async fn more(&self, room: Room, member: Arc<Outbox>) -> oneshot::Receiver<Progress> {
        let (done, progress) = oneshot::channel();
        let _ = self.shard(&room).commands.send(Command::More { room: room.clone(), member, done }).await;
        progress
    }

    /// Takes a connection that is gone out of a room.
    pub async fn forget(&self, room: Room, member: Arc<Outbox>) {
        let command = Command::Leave { room: room.clone(), member, id: None, reason: None, done: None };
        // Fails only when the hub has ended, and forgotten everybody.
        let _ = self.shard(&room).commands.send(command).await;
    }

    /// The links that are up changed.
    pub async fn place(&self, placement: Arc<Placement>) {
        for shard in &*self.shards {
            let _ = shard.commands.send(Command::Place(placement.clone())).await;
        }
    }

    /// A link's answer to a wanted room.
    pub fn state(&self, from: LinkId, state: wire::State) {
        let wire::State { room, position, complete, after } = state;
        let position = Position::from(position.unwrap_or_default());
        let missed_after = (!complete).then(|| after.unwrap_or_default().into());
        self.hand_over(self.shard(&room), Command::State { from, room, position, missed_after });
    }

    /// A run of publications that a link brought.
    pub fn publications(&self, publications: wire::Publications) {
        let wire::Publications { room, epoch, first_seq, entries } = publications;
        let first_seq = first_seq.min(MAX_SEQ);
        let bytes = entries.iter().map(Bytes::len).sum();
        let shard = self.shard(&room);
        self.hand_over_bytes(shard, bytes, Command::Publications { room, epoch, first_seq, entries, bytes });
    }

    /// A page of a room's history, or why there is none.
    pub fn page(&self, from: LinkId, mut result: wire::ReadResult) {
        result.first_seq = result.first_seq.min(MAX_SEQ);
        let bytes = result.entries.iter().map(Bytes::len).sum();
        self.hand_over_bytes(self.shard(&result.room), bytes, Command::Page { from, result, bytes });
    }

    /// A link says that continuity is broken.
    pub fn lost(&self, from: LinkId, lost: wire::Lost) {
        let reason = match lost.reason() {
            wire::LostReason::History => LostReason::History,
            wire::LostReason::Failover | wire::LostReason::Unspecified => LostReason::Failover,
        };
        let position = Position::from(lost.position.unwrap_or_default());
        let after = lost.after.map(Position::from);
        let shard = self.shard(&lost.room);
        self.hand_over(shard, Command::Lost { from, room: lost.room, position, reason, after });
    }

    /// Looks at all rooms, a few between other commands, so that a million of them delay nobody. One at a time: it counts
    /// from the one before on. `limit`: rooms of each list. None once the hub has ended.
    pub async fn census(&self, limit: usize) -> Option<Census> {
        let mut census = Census::new(limit);
        for shard in &*self.shards {
            let mut next = Some(0);
            while let Some(from) = next {
                let (done, looked) = oneshot::channel();
                shard.commands.send(Command::Look { census, from, done }).await.ok()?;
                (census, next) = looked.await.ok()?;
            }
        }
        Some(census)
    }

    fn hand_over_bytes(&self, shard: &ShardHandle, bytes: usize, command: Command) {
        let queued = &shard.overflow.bytes;
        if queued.fetch_add(bytes, Ordering::Relaxed) + bytes > limit(QUEUE_BYTES) {
            self.missed(shard, command);
        } else if self.hand_over(shard, command) {
            return;
        }
        queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Never waits. False if it did not fit; the room is then asked for again.
    fn hand_over(&self, shard: &ShardHandle, command: Command) -> bool {
        match shard.commands.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(command) | TrySendError::Closed(command)) => {
                self.missed(shard, command);
                false
            }
        }
    }

    fn missed(&self, shard: &ShardHandle, command: Command) {
        self.metrics.shard_full.inc();
        if let Some(room) = command.brought_for() {
            shard.overflow.missed(room);
        }
    }

    fn shard(&self, room: &str) -> &ShardHandle {
        let shards = self.shards.len();
        let hash = usize::try_from(self.hasher.hash_one(room) >> 32).unwrap_or(0);
        &self.shards[hash % shards]
    }
}
