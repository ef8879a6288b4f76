//! The way of publications to a Cluster: one task, with a lane to each primary. A room's publications are on one lane at
//! a time. What a primary refuses because the slot is on the move goes again, in the room's order and before anything
//! newer of that room, until its deadline; other rooms go on.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use ahash::RandomState;
use futures_util::{FutureExt as _, future::BoxFuture};
use hashbrown::HashMap;
use proto::Room;
use redis::{RedisResult, Value};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval, sleep_until},
};

use super::slots::Slots;
use crate::broker::{
    StoreError,
    redis::{
        connect::Connection,
        primary::Primary,
        publish::{
            BATCH, DEPTH, Job, SAY_RECEIPTS, Shared,
            batch::{Outcome, outcome},
            is_full,
            pace::Pace,
        },
    },
};

/// Until what was refused goes again: about as long as the topology takes to be found out.
const AGAIN: Duration = Duration::from_millis(50);

/// A primary and what is on its way to it.
struct Lane {
    primary: Arc<Primary>,
    waiting: VecDeque<Job>,
    under_way: VecDeque<UnderWay>,
    pace: Pace,
}

impl Lane {
    fn push(&mut self, job: Job) {
        self.pace.came(Instant::now());
        self.waiting.push_back(job);
    }
}

/// A batch: calls of one room each.
struct UnderWay {
    calls: Vec<Vec<Job>>,
    connection: Connection,
    answer: BoxFuture<'static, RedisResult<Vec<Value>>>,
}

/// A room with publications that have no receipt.
struct Open {
    /// Whose lane they are on.
    primary: Arc<Primary>,
    /// How many are on it.
    on_lane: usize,
    /// What came back from it, in order.
    back: Vec<Job>,
    /// What must wait until those are stored.
    held: Vec<Job>,
    again_at: Option<Instant>,
}

pub(super) struct Pump {
    shared: Arc<Shared>,
    slots: watch::Receiver<Arc<Slots>>,
    jobs: mpsc::Receiver<Job>,
    lanes: Vec<Lane>,
    rooms: HashMap<Room, Open, RandomState>,
    /// Rooms that wait to go again.
    waiting: Vec<Room>,
}

impl Pump {
    pub(super) fn new(shared: Arc<Shared>, slots: watch::Receiver<Arc<Slots>>, jobs: mpsc::Receiver<Job>) -> Self {
        let (lanes, rooms, waiting) = (Vec::new(), HashMap::default(), Vec::new());
        Self { shared, slots, jobs, lanes, rooms, waiting }
    }

    /// Runs until dropped.
    pub(super) async fn run(mut self) {
        let mut say = interval(SAY_RECEIPTS);
        let mut come = Vec::new();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                (lane, answer) = first_answer(&mut self.lanes) => self.finish(lane, answer),
                _ = say.tick() => {
                    self.shared.say_receipts();
                    self.lanes.retain(|lane| !lane.waiting.is_empty() || !lane.under_way.is_empty());
                }
                // What waits here is counted by the queue, which is bounded.
                count = self.jobs.recv_many(&mut come, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for job in come.drain(..) {
                        self.arrive(job);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            self.again();
            for lane in 0..self.lanes.len() {
                self.send(lane).await;
            }
        }
    }

    /// When there is something to send, or to send again.
    fn due(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().filter(|lane| !lane.waiting.is_empty() && lane.under_way.len() < DEPTH);
        let again = self.waiting.iter().filter_map(|room| self.rooms.get(room)?.again_at);
        lanes.map(|lane| lane.pace.due()).chain(again).min()
    }

    fn owner(&self, room: &Room) -> Option<Arc<Primary>> {
        self.slots.borrow().owner(room).cloned()
    }

    fn arrive(&mut self, job: Job) {
        let room = job.publication.room.clone();
        let owner = self.owner(&room);
        if let Some(open) = self.rooms.get_mut(&room) {
            let moved = !owner.is_some_and(|owner| Arc::ptr_eq(&owner, &open.primary));
            if moved || !open.back.is_empty() || !open.held.is_empty() {
                return open.held.push(job);
            }
            open.on_lane += 1;
            let primary = Arc::clone(&open.primary);
            return self.lane(&primary).push(job);
        }
        let Some(primary) = owner else {
            self.shared.moved.notify_one();
            return self.shared.settle(job, Err(StoreError::Unavailable));
        };
        self.lane(&primary).push(job);
        let open = Open { primary, on_lane: 1, back: Vec::new(), held: Vec::new(), again_at: None };
        self.rooms.insert(room, open);
    }

    fn lane(&mut self, primary: &Arc<Primary>) -> &mut Lane {
        let known = self.lanes.iter().position(|lane| Arc::ptr_eq(&lane.primary, primary));
        let index = known.unwrap_or_else(|| {
            let (primary, pace) = (Arc::clone(primary), Pace::new(Instant::now()));
            self.lanes.push(Lane { primary, waiting: VecDeque::new(), under_way: VecDeque::new(), pace });
            self.lanes.len() - 1
        });
        &mut self.lanes[index]
    }

    /// Sends a batch if there is place and it is time.
    async fn send(&mut self, index: usize) {
        let now = Instant::now();
        let lane = &mut self.lanes[index];
        let count = lane.waiting.len().min(BATCH);
        if count == 0 || lane.under_way.len() >= DEPTH || !lane.pace.is_due(count, now) {
            return;
        }
        lane.pace.sent(count, now);
        let jobs: Vec<Job> = lane.waiting.drain(..count).collect();
        let connection = lane.primary.commands.connection();
        let mut calls: Vec<Vec<Job>> = Vec::new();
        let mut last_call: HashMap<Room, usize, RandomState> = HashMap::default();
        let mut refused = Vec::new();
        for job in jobs {
            if connection.is_none() || job.publication.deadline <= now {
                refused.push(job);
                continue;
            }
            let room = &job.publication.room;
            if let Some(call) = last_call.get(room).filter(|call| !is_full(&calls[**call])) {
                calls[*call].push(job);
            } else {
                last_call.insert(room.clone(), calls.len());
                calls.push(vec![job]);
            }
        }
        for job in refused {
            self.off_lane(&job.publication.room, 1);
            self.shared.settle(job, Err(StoreError::Unavailable));
        }
        let Some(connection) = connection.filter(|_| !calls.is_empty()) else { return };
        let mut pipeline = redis::pipe();
        let Shared { scripts, keys, keep, .. } = &*self.shared;
        for call in &calls {
            scripts.publish(&mut pipeline, call, keys, keep, self.shared.floor());
        }
        let under_way = start(pipeline, calls, connection).await;
        self.lanes[index].under_way.push_back(under_way);
    }

    /// Settles the oldest batch of a lane.
    fn finish(&mut self, lane: usize, answer: RedisResult<Vec<Value>>) {
        let Some(UnderWay { calls, connection, .. }) = self.lanes[lane].under_way.pop_front() else { return };
        let answers = match answer {
            Ok(answers) => answers,
            Err(error) => {
                // Sent, perhaps done. A connection that failed one batch is not trusted with another.
                tracing::warn!(%error, "no answer to a batch: may have been stored");
                connection.cut();
                self.shared.moved.notify_one();
                Vec::new()
            }
        };
        let mut answers = answers.into_iter();
        let mut unread = false;
        for call in calls {
            let Some(room) = call.first().map(|job| job.publication.room.clone()) else { continue };
            self.off_lane_later(&room, call.len());
            let result = answers.next().map_or(Outcome::Failed(StoreError::Unknown), |answer| {
                outcome(answer, call.len(), &self.shared.refusals)
            });
            match result {
                Outcome::Receipts(receipts) => {
                    let stored = receipts.iter().any(Result::is_ok);
                    for (job, receipt) in call.into_iter().zip(receipts) {
                        self.shared.settle(job, receipt);
                    }
                    // What came back before this, and was to be stored before it, is too late.
                    let too_late = self.rooms.get_mut(&room).filter(|_| stored);
                    for job in too_late.map(|open| std::mem::take(&mut open.back)).unwrap_or_default() {
                        self.shared.settle(job, Err(StoreError::Unavailable));
                    }
                }
                Outcome::Failed(error) => {
                    for job in call {
                        self.shared.settle(job, Err(error));
                    }
                }
                came_back @ (Outcome::Elsewhere | Outcome::Unread) => {
                    unread |= matches!(came_back, Outcome::Unread);
                    self.shared.moved.notify_one();
                    if let Some(open) = self.rooms.get_mut(&room) {
                        open.back.extend(call);
                    }
                }
            }
            self.off_lane(&room, 0);
        }
        if unread {
            let (mut redis, load) = (connection.redis.clone(), self.shared.scripts.load());
            let answer = async move { load.query_async::<Vec<Value>>(&mut redis).await }.boxed();
            self.lanes[lane].under_way.push_back(UnderWay { calls: Vec::new(), connection, answer });
        }
    }

    fn off_lane_later(&mut self, room: &Room, count: usize) {
        if let Some(open) = self.rooms.get_mut(room) {
            open.on_lane = open.on_lane.saturating_sub(count);
        }
    }

    /// So many fewer are on the lane; if none is left, the room is done, or goes again.
    fn off_lane(&mut self, room: &Room, count: usize) {
        self.off_lane_later(room, count);
        let Some(open) = self.rooms.get_mut(room).filter(|open| open.on_lane == 0) else { return };
        if open.back.is_empty() && open.held.is_empty() {
            self.rooms.remove(room);
        } else if open.again_at.is_none() {
            open.again_at = Some(Instant::now() + if open.back.is_empty() { Duration::ZERO } else { AGAIN });
            self.waiting.push(room.clone());
        }
    }

    /// Puts what is to go again on the lane of who has the room now.
    fn again(&mut self) {
        let now = Instant::now();
        for room in std::mem::take(&mut self.waiting) {
            let Some(open) = self.rooms.get_mut(&room) else { continue };
            if open.again_at.is_some_and(|at| at > now) {
                self.waiting.push(room);
                continue;
            }
            let mut jobs = std::mem::take(&mut open.back);
            jobs.append(&mut open.held);
            self.rooms.remove(&room);
            for job in jobs {
                if job.publication.deadline <= now {
                    self.shared.settle(job, Err(StoreError::Unavailable));
                } else {
                    self.arrive(job);
                }
            }
        }
    }
}

/// The client queues a command when its future is first polled: polled here, batches go in order.
async fn start(pipeline: redis::Pipeline, calls: Vec<Vec<Job>>, connection: Connection) -> UnderWay {
    let (mut redis, count) = (connection.redis.clone(), calls.len());
    let mut answer = async move { redis.send_packed_commands(&pipeline, 0, count).await }.boxed();
    let answer = match poll_fn(|cx| Poll::Ready(answer.poll_unpin(cx))).await {
        Poll::Ready(result) => std::future::ready(result).boxed(),
        Poll::Pending => answer,
    };
    UnderWay { calls, connection, answer }
}

/// The first answer to the oldest batch of any lane, which is then to be finished. Cancel-safe.
async fn first_answer(lanes: &mut [Lane]) -> (usize, RedisResult<Vec<Value>>) {
    poll_fn(|cx| {
        for (index, lane) in lanes.iter_mut().enumerate() {
            if let Some(first) = lane.under_way.front_mut()
                && let Poll::Ready(answer) = first.answer.poll_unpin(cx)
            {
                return Poll::Ready((index, answer));
            }
        }
        Poll::Pending
    })
    .await
}
