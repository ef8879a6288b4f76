//! Members that are catching up: joined with `since`, and not yet where the room stands. Each is a cursor, not a queue,
//! and gets nothing live meanwhile. Its connection asks for more when its outbox is low; frames come from the room's
//! tail where that reaches back far enough, else from a page read from the history. One read of a room is under way at a
//! time, for whoever has waited longest, from the lowest cursor of that epoch. When a cursor is where the room stands, in
//! that same step the member is live.

use std::{collections::vec_deque, sync::Arc};

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashMap;
use proto::{Position, Room};
use tokio::{sync::oneshot, time::Instant};

use super::{
    page::Page,
    room::{Cx, HubRoom, Waiting},
    tail::Tail,
};
use crate::{
    interest::{LinkId, ReadFrom},
    outbox::Outbox,
    protocol::{ServerMessage, Since, server::LostReason},
    session::JoinOutcome,
};

/// How far a member that catches up has come, when it asked for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Not there yet: ask again when the outbox is low.
    More,
    /// Live.
    Live,
}

/// Which read of the history an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadId {
    pub(super) link: LinkId,
    pub(super) number: u64,
}

/// A room's members that catch up.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// By the address of their outbox.
    members: HashMap<usize, CatchingUp, RandomState>,
    /// Counts those that came, so that the one that waits longest is known.
    arrivals: u64,
    /// Those to be looked at, as something came that may serve them.
    todo: Vec<usize>,
    reading: Option<(ReadId, ReadFrom)>,
    /// The last read failed; the next is for later.
    paused: bool,
    page: Option<Tail>,
    /// What the last read said of the store, until the room moves on: where it stands, and where the epoch before ended.
    store: Option<Position>,
    prev: Option<Position>,
}

#[derive(Debug)]
struct CatchingUp {
    member: Arc<Outbox>,
    arrival: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Not answered yet: whether it can be is up to the history. If it is a member already, it stays live meanwhile.
    Opening(Waiting, Since),
    Open {
        cursor: Position,
        more: Option<oneshot::Sender<Progress>>,
    },
    /// Where the room stands: to be made a member like others.
    Live,
    /// Its connection is gone.
    Gone,
}

/// What the room has to serve from.
struct Sources<'a> {
    room: &'a Room,
    handed: &'a Position,
    runs: [Option<&'a Tail>; 2],
    store: Option<&'a Position>,
    prev: Option<&'a Position>,
}

fn address(member: &Arc<Outbox>) -> usize {
    Arc::as_ptr(member).addr()
}

impl Replay {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn has_work(&self) -> bool {
        !self.todo.is_empty()
    }

    pub(super) fn remove(&mut self, member: &Arc<Outbox>) {
        self.members.remove(&address(member));
    }

    /// When the first that has no answer yet is to be given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.members.values().filter_map(|catching_up| match &catching_up.stage {
            Stage::Opening(waiting, _) => Some(waiting.deadline),
            _ => None,
        });
        deadlines.min()
    }

    /// Gives up on those that have waited for an answer long enough. One that was a member stays one.
    pub(super) fn expire(&mut self, now: Instant) {
        let late = |stage: &Stage| matches!(stage, Stage::Opening(waiting, _) if waiting.deadline <= now);
        for (_, catching_up) in self.members.extract_if(|_, catching_up| late(&catching_up.stage)) {
            if let Stage::Opening(waiting, _) = catching_up.stage {
                let _ = waiting.done.send(JoinOutcome::Unavailable);
            }
        }
    }

    /// The room moved on: what the store said of it is of the past.
    pub(super) fn moved_on(&mut self) {
        self.store = None;
        self.look_at_all();
    }

    /// A read that will not be answered, if it was over a link that is gone.
    pub(super) fn forget_read(&mut self, gone: impl Fn(LinkId) -> bool) {
        if self.reading.take_if(|(id, _)| gone(id.link)).is_some() {
            self.look_at_all();
        }
    }

    /// What was read last was dropped on the way here, or failed and may be tried again.
    pub(super) fn read_again(&mut self) {
        self.reading = None;
        self.paused = false;
        self.look_at_all();
    }

    /// The page could not be read. False if nobody waits for it any more.
    pub(super) fn page_failed(&mut self, id: ReadId) -> bool {
        let failed = self.reading.take_if(|(reading, _)| *reading == id).is_some();
        self.paused |= failed;
        failed
    }

    /// Whether what is being read is the latest so many.
    pub(super) fn reads_last(&self) -> bool {
        matches!(self.reading, Some((_, ReadFrom::Last(_))))
    }

    pub(super) fn take_page(&mut self) -> Option<Tail> {
        self.page.take()
    }

    pub(super) fn set_page(&mut self, page: Tail) {
        self.page = Some(page);
    }

    fn look_at_all(&mut self) {
        self.todo.clear();
        let waits = |catching_up: &CatchingUp| !matches!(catching_up.stage, Stage::Open { more: None, .. });
        let waiting = self.members.iter().filter(|(_, catching_up)| waits(catching_up));
        self.todo.extend(waiting.map(|(address, _)| *address));
    }
}

impl HubRoom {
    /// A member-to-be that says where it stands, or how much it wants.
    pub(super) fn catch_up(&mut self, waiting: Waiting, since: Since, cx: &mut Cx<'_>) {
        let member = waiting.member.clone();
        let replay = self.replay.get_or_insert_default();
        replay.arrivals += 1;
        let (address, arrival) = (address(&member), replay.arrivals);
        replay.members.insert(address, CatchingUp { member, arrival, stage: Stage::Opening(waiting, since) });
        self.serve_one(address, cx);
    }

    /// Its connection has room for more.
    pub(super) fn more(&mut self, member: &Arc<Outbox>, done: oneshot::Sender<Progress>, cx: &mut Cx<'_>) {
        let address = address(member);
        // If it is not there it has left meanwhile; nobody waits for the answer.
        let Some(replay) = &mut self.replay else { return };
        let Some(catching_up) = replay.members.get_mut(&address) else { return };
        let Stage::Open { more, .. } = &mut catching_up.stage else { return };
        *more = Some(done);
        self.serve_one(address, cx);
    }

    /// A page of the history was read.
    pub(super) fn page_read(&mut self, id: ReadId, page: Page, cx: &mut Cx<'_>) {
        let Some(replay) = &mut self.replay else { return };
        // The answer to a read that was given up says nothing of those that ask now.
        let Some((_, from)) = replay.reading.take_if(|(reading, _)| *reading == id) else { return };
        replay.store = Some(page.position.clone());
        replay.prev.clone_from(&page.prev);
        for catching_up in replay.members.values_mut() {
            catching_up.take_news(&from, &page, &self.name, &self.handed, cx);
        }
        for member in replay.members.values().filter(|catching_up| catching_up.is_open()) {
            self.members.remove(&member.member);
        }
        replay.look_at_all();
        self.keep_page(page, cx);
    }

    /// Looks at some of those that something came for. Returns how many.
    pub(super) fn serve(&mut self, limit: usize, cx: &mut Cx<'_>) -> usize {
        let Some(replay) = &mut self.replay else { return 0 };
        let rest = replay.todo.len().saturating_sub(limit);
        let todo = replay.todo.split_off(rest);
        for address in &todo {
            self.advance(*address, cx);
        }
        if rest == 0 {
            self.read_missing(None, cx);
            self.end_replay(cx);
        }
        todo.len()
    }

    fn serve_one(&mut self, address: usize, cx: &mut Cx<'_>) {
        self.advance(address, cx);
        self.read_missing(Some(address), cx);
        self.end_replay(cx);
    }

    /// Moves on one member as far as can be.
    fn advance(&mut self, address: usize, cx: &mut Cx<'_>) {
        let Some(replay) = self.replay.as_deref_mut() else { return };
        let Replay { members, page, store, prev, .. } = replay;
        let Some(catching_up) = members.get_mut(&address) else { return };
        let runs = [self.tail.as_deref(), page.as_ref()];
        let (room, handed) = (&self.name, &self.handed);
        let sources = Sources { room, handed, runs, store: store.as_ref(), prev: prev.as_ref() };
        if catching_up.open(&sources) {
            self.members.remove(&catching_up.member);
        }
        catching_up.advance(&sources, cx);
        match catching_up.stage {
            Stage::Live => {
                let member = catching_up.member.clone();
                members.remove(&address);
                self.members.insert(member);
            }
            Stage::Gone => drop(members.remove(&address)),
            Stage::Opening(..) | Stage::Open { .. } => {}
        }
    }

    /// Asks for the history for whoever has waited longest of those that neither tail nor page serves, or for one.
    fn read_missing(&mut self, only: Option<usize>, cx: &mut Cx<'_>) {
        let Some(replay) = self.replay.as_deref_mut().filter(|replay| replay.reading.is_none() && !replay.paused)
        else {
            return;
        };
        let Some(link) = self.link.and_then(|link| cx.placement.get(link)) else { return };
        let runs = [self.tail.as_deref(), replay.page.as_ref()];
        let (room, handed) = (&self.name, &self.handed);
        let sources = Sources { room, handed, runs, store: replay.store.as_ref(), prev: replay.prev.as_ref() };
        let all = || replay.members.values().filter_map(|member| Some((member.arrival, member.missing(&sources)?)));
        let first = match only {
            Some(address) => replay.members.get(&address).and_then(|member| member.missing(&sources)),
            None => all().min_by_key(|(arrival, _)| *arrival).map(|(_, from)| from),
        };
        let from = match first {
            None => return,
            Some(ReadFrom::After(position)) if only.is_none() => {
                let same = all().filter_map(|(_, from)| match from {
                    ReadFrom::After(other) if other.epoch == position.epoch => Some(other),
                    _ => None,
                });
                ReadFrom::After(same.min_by_key(|other| other.seq).unwrap_or(position))
            }
            Some(from) => from,
        };
        *cx.next_read += 1;
        let id = ReadId { link: link.id, number: *cx.next_read };
        link.reads.set(self.name.clone(), (id.number, from.clone()));
        replay.reading = Some((id, from));
    }
}

impl CatchingUp {
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// Answers the join as far as memory allows. True if it did.
    fn open(&mut self, sources: &Sources<'_>) -> bool {
        let Stage::Opening(_, since) = &self.stage else { return false };
        let handed = sources.handed;
        let tail = sources.runs[0].filter(|tail| tail.end() == *handed);
        let opened = match since {
            Since::Position(position) if position == handed => Some((position.clone(), true)),
            // Memory is never ahead of the store, so what it has is true; what it has not, the store is asked for.
            Since::Position(position) => {
                let within = position.epoch == handed.epoch && position.seq <= handed.seq;
                (within && sources.after(position).is_some()).then(|| (position.clone(), true))
            }
            Since::Last(0) => Some((handed.clone(), false)),
            Since::Last(_) if handed.seq == 0 => Some((handed.clone(), false)),
            Since::Last(count) => tail.filter(|tail| tail.is_whole() || tail.len() >= *count as usize).map(|tail| {
                let back = (*count as usize).min(tail.len()) as u64;
                (Position { epoch: handed.epoch.clone(), seq: handed.seq - back }, false)
            }),
        };
        let Some((cursor, recovered)) = opened else { return false };
        self.joined(sources.room, cursor, recovered);
        true
    }

    /// Puts `joined` into the outbox; what follows the cursor comes after it.
    fn joined(&mut self, room: &Room, cursor: Position, recovered: bool) {
        let Stage::Opening(waiting, _) = std::mem::replace(&mut self.stage, Stage::Gone) else { return };
        if waiting.answer(room, &cursor, recovered, JoinOutcome::CatchingUp) {
            self.stage = Stage::Open { cursor, more: None };
        }
    }

    /// Takes from a page what it says of this member: whether it can be recovered, or has lost something.
    fn take_news(&mut self, from: &ReadFrom, page: &Page, room: &Room, handed: &Position, cx: &mut Cx<'_>) {
        match (&mut self.stage, from) {
            (Stage::Opening(_, Since::Position(since)), ReadFrom::After(after)) if *since == *after => {
                if page.complete {
                    self.joined(room, after.clone(), true);
                } else {
                    self.joined(room, handed.clone(), false);
                }
            }
            // Of an epoch that nobody knows any more: no read would say otherwise.
            (Stage::Opening(_, Since::Position(since)), _) if !page.knows(&since.epoch) => {
                self.joined(room, handed.clone(), false);
            }
            (Stage::Opening(_, Since::Last(count)), ReadFrom::Last(read)) if *count <= *read => {
                let start = page.before_last(*count);
                self.joined(room, start, false);
            }
            (Stage::Open { cursor, .. }, ReadFrom::After(after)) if *cursor == *after && !page.complete => {
                let to = page.start();
                let reason = if to.epoch == cursor.epoch { LostReason::History } else { LostReason::Failover };
                // Most of the outbox is kept free of replays, so there is room for this.
                self.member.push(ServerMessage::lost(room, &to, reason, (cx.after_ms)()).frame());
                *cursor = to;
            }
            _ => {}
        }
    }

    /// Hands over what follows the cursor, as much as its share of the outbox holds.
    fn advance(&mut self, sources: &Sources<'_>, cx: &mut Cx<'_>) {
        let Stage::Open { cursor, more } = &mut self.stage else { return };
        if more.is_none() {
            return;
        }
        let (before, mut full) = (cursor.clone(), false);
        while *cursor != *sources.handed && !full {
            if let Some(to) = sources.end_of_epoch(cursor) {
                let lost = ServerMessage::lost(sources.room, &to, LostReason::Failover, (cx.after_ms)());
                self.member.push(lost.frame());
                *cursor = to;
                continue;
            }
            sources.begin_epoch(cursor);
            let Some(frames) = sources.after(cursor) else { break };
            let frames = frames.take(sources.most(cursor));
            let there = frames.len() as u64;
            let count = frames.take_while(|frame| self.member.fill((*frame).clone())).count() as u64;
            cursor.seq += count;
            cx.replayed += count;
            full = count < there;
            if count == 0 {
                break;
            }
        }
        let live = *cursor == *sources.handed;
        if (live || full || *cursor != before)
            && let Some(done) = more.take()
        {
            let _ = done.send(if live { Progress::Live } else { Progress::More });
        }
        if live {
            self.stage = Stage::Live;
        }
    }

    /// What to read for this member to get on, if only the history can help.
    fn missing(&self, sources: &Sources<'_>) -> Option<ReadFrom> {
        let handed = sources.handed;
        match &self.stage {
            Stage::Opening(_, Since::Position(since)) => Some(ReadFrom::After(since.clone())),
            Stage::Opening(_, Since::Last(count)) => Some(ReadFrom::Last(*count)),
            // Ahead of us, or as far as the store: we will come there.
            Stage::Open { cursor, more: Some(_) } if cursor.epoch == handed.epoch && cursor.seq >= handed.seq => None,
            Stage::Open { cursor, more: Some(_) } if Some(cursor) == sources.store => None,
            Stage::Open { cursor, more: Some(_) } => {
                let served = sources.after(cursor).is_some_and(|frames| frames.len() > 0);
                (!served).then(|| ReadFrom::After(cursor.clone()))
            }
            Stage::Open { .. } | Stage::Live | Stage::Gone => None,
        }
    }
}

impl<'a> Sources<'a> {
    /// What follows the position, from a run that has some of it if there is one.
    fn after(&self, position: &Position) -> Option<vec_deque::Iter<'a, Bytes>> {
        let found = || self.runs.into_iter().flatten().filter_map(|run| run.from(position));
        found().find(|frames| frames.len() > 0).or_else(|| found().next())
    }

    /// The tail may hold what has not been handed out to anybody yet: not more than where the room stands.
    fn most(&self, cursor: &Position) -> usize {
        if cursor.epoch != self.handed.epoch {
            return usize::MAX;
        }
        usize::try_from(self.handed.seq.saturating_sub(cursor.seq)).unwrap_or(usize::MAX)
    }

    /// If the cursor has all that the epoch before left, which may be less than the client has seen: where the present
    /// one goes on.
    fn end_of_epoch(&self, cursor: &Position) -> Option<Position> {
        let (prev, store) = (self.prev?, self.store?);
        let over = prev.epoch == cursor.epoch && prev.seq <= cursor.seq && store.epoch != cursor.epoch;
        over.then(|| Position { epoch: store.epoch.clone(), seq: prev.seq })
    }

    /// After a position before the first publication of all comes that publication, of whatever epoch.
    fn begin_epoch(&self, cursor: &mut Position) {
        if cursor.epoch.is_empty()
            && cursor.seq == 0
            && let Some(whole) = self.runs.into_iter().flatten().find(|run| run.is_whole() && run.len() > 0)
        {
            cursor.epoch = whole.end().epoch;
        }
    }
}
