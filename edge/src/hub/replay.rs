//! Members that are catching up: joined with `since`, and not yet where the room stands. Each is a cursor, not a queue,
//! and gets nothing live meanwhile. Its connection asks for more when its outbox is low; frames come from the room's
//! tail where that reaches back far enough, else from a page read from the history. One read of a room is under way at a
//! time, from the lowest cursor. When a cursor is where the room stands, in that same step the member is live.

use std::{collections::vec_deque, sync::Arc};

use bytes::Bytes;
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

/// A room's members that catch up.
#[derive(Debug, Default)]
pub(super) struct Replay {
    members: Vec<CatchingUp>,
    reading: Option<(LinkId, ReadFrom)>,
    pub(super) page: Option<Tail>,
    /// What the last read said of the store, until the room moves on: where it stands, and where the epoch before ended.
    store: Option<Position>,
    prev: Option<Position>,
}

#[derive(Debug)]
struct CatchingUp {
    member: Arc<Outbox>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Not answered yet: whether it can be is up to the history.
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

impl Replay {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn remove(&mut self, member: &Arc<Outbox>) {
        self.members.retain(|catching_up| !Arc::ptr_eq(&catching_up.member, member));
    }

    /// Gives up on those that have waited for an answer long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        let late = |stage: &Stage| matches!(stage, Stage::Opening(waiting, _) if waiting.deadline <= now);
        for catching_up in self.members.extract_if(.., |catching_up| late(&catching_up.stage)) {
            if let Stage::Opening(waiting, _) = catching_up.stage {
                let _ = waiting.done.send(JoinOutcome::Unavailable);
            }
        }
    }

    /// The room moved on: what the store said of it is of the past.
    pub(super) fn moved_on(&mut self) {
        self.store = None;
    }

    /// A read that will not be answered.
    pub(super) fn forget_read(&mut self, gone: impl Fn(LinkId) -> bool) {
        self.reading.take_if(|(link, _)| gone(*link));
    }
}

impl HubRoom {
    /// A member-to-be that says where it stands, or how much it wants.
    pub(super) fn catch_up(&mut self, waiting: Waiting, since: Since, cx: &mut Cx<'_>) {
        let member = waiting.member.clone();
        self.leave(&member);
        let replay = self.replay.get_or_insert_default();
        replay.members.push(CatchingUp { member, stage: Stage::Opening(waiting, since) });
        self.serve(cx);
    }

    /// Its connection has room for more.
    pub(super) fn more(&mut self, member: &Arc<Outbox>, done: oneshot::Sender<Progress>, cx: &mut Cx<'_>) {
        let catching_up = self
            .replay
            .as_mut()
            .and_then(|replay| replay.members.iter_mut().find(|catching_up| Arc::ptr_eq(&catching_up.member, member)));
        // If it is not there it has left meanwhile; nobody waits for the answer.
        let Some(CatchingUp { stage: Stage::Open { more, .. }, .. }) = catching_up else { return };
        *more = Some(done);
        self.serve(cx);
    }

    /// A page of the history was read.
    pub(super) fn page_read(&mut self, page: Page, cx: &mut Cx<'_>) {
        let Some(replay) = &mut self.replay else { return };
        let Some((_, from)) = replay.reading.take() else { return };
        replay.store = Some(page.position.clone());
        replay.prev.clone_from(&page.prev);
        for catching_up in &mut replay.members {
            catching_up.take_news(&from, &page, &self.name, &self.handed, cx);
        }
        self.keep_page(page, cx);
        self.serve(cx);
    }

    /// The page could not be read; [`Self::serve`] asks again.
    pub(super) fn page_failed(&mut self) {
        if let Some(replay) = &mut self.replay {
            replay.reading = None;
        }
    }

    /// Moves on all that can, and reads what is missing for the others.
    pub(super) fn serve(&mut self, cx: &mut Cx<'_>) {
        let Some(mut replay) = self.replay.take() else { return };
        let Replay { members, page, store, prev, .. } = &mut *replay;
        let runs = [self.tail.as_deref(), page.as_ref()];
        for catching_up in &mut *members {
            catching_up.open(self, &runs);
            catching_up.advance(self, &runs, prev.as_ref(), store.as_ref(), cx);
        }
        let done = |stage: &Stage| matches!(stage, Stage::Live | Stage::Gone);
        for CatchingUp { member, stage } in members.extract_if(.., |catching_up| done(&catching_up.stage)) {
            if matches!(stage, Stage::Live) {
                self.members.insert(member);
            }
        }
        if replay.members.is_empty() {
            Self::drop_page(&mut replay, cx);
            return;
        }
        self.read_missing(&mut replay, cx);
        self.replay = Some(replay);
    }

    /// Asks for the history from the lowest cursor that neither tail nor page serves.
    fn read_missing(&self, replay: &mut Replay, cx: &mut Cx<'_>) {
        if replay.reading.is_some() {
            return;
        }
        let Some(link) = self.link.and_then(|link| cx.placement.get(link)) else { return };
        let runs = [self.tail.as_deref(), replay.page.as_ref()];
        let missing = |catching_up: &CatchingUp| catching_up.missing(&self.handed, &runs, replay.store.as_ref());
        let from = replay.members.iter().filter_map(missing).min_by_key(|from| match from {
            ReadFrom::After(position) => (position.seq, 0),
            ReadFrom::Last(count) => (u64::MAX, u32::MAX - count),
        });
        if let Some(from) = from {
            link.reads.set(self.name.clone(), from.clone());
            replay.reading = Some((link.id, from));
        }
    }
}

impl CatchingUp {
    /// Answers the join as far as memory allows.
    fn open(&mut self, room: &HubRoom, runs: &[Option<&Tail>; 2]) {
        let Stage::Opening(_, since) = &self.stage else { return };
        let handed = &room.handed;
        let tail = runs[0].filter(|tail| tail.end() == *handed);
        let opened = match since {
            Since::Position(position) if position == handed => Some((position.clone(), true)),
            // Memory is never ahead of the store, so what it has is true; what it has not, the store is asked for.
            Since::Position(position) => {
                let within = position.epoch == handed.epoch && position.seq <= handed.seq;
                (within && find(runs, position).is_some()).then(|| (position.clone(), true))
            }
            Since::Last(0) => Some((handed.clone(), false)),
            Since::Last(_) if handed.seq == 0 => Some((handed.clone(), false)),
            Since::Last(count) => tail.filter(|tail| tail.is_whole() || tail.len() >= *count as usize).map(|tail| {
                let back = (*count as usize).min(tail.len()) as u64;
                (Position { epoch: handed.epoch.clone(), seq: handed.seq - back }, false)
            }),
        };
        if let Some((cursor, recovered)) = opened {
            self.joined(&room.name, cursor, recovered);
        }
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
    fn advance(
        &mut self,
        room: &HubRoom,
        runs: &[Option<&Tail>; 2],
        prev: Option<&Position>,
        store: Option<&Position>,
        cx: &mut Cx<'_>,
    ) {
        let Stage::Open { cursor, more } = &mut self.stage else { return };
        if more.is_none() {
            return;
        }
        let before = cursor.clone();
        while *cursor != room.handed {
            if Some(&*cursor) == prev
                && let Some(store) = store
            {
                // All that the epoch before left was handed over.
                let to = Position { epoch: store.epoch.clone(), seq: cursor.seq };
                let lost = ServerMessage::lost(&room.name, &to, LostReason::Failover, (cx.after_ms)());
                self.member.push(lost.frame());
                *cursor = to;
                continue;
            }
            // The tail may already hold what has not been handed out yet to anybody: not more than the room stands at.
            let most =
                if cursor.epoch == room.handed.epoch { room.handed.seq.saturating_sub(cursor.seq) } else { u64::MAX };
            let Some(frames) = find(runs, cursor) else { break };
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let count = frames.take(most).take_while(|frame| self.member.fill((*frame).clone())).count() as u64;
            cursor.seq += count;
            if count == 0 {
                break;
            }
            cx.replayed += count;
        }
        let live = *cursor == room.handed;
        let moved = *cursor != before;
        if (live || moved || self.member.is_filled())
            && let Some(done) = more.take()
        {
            let _ = done.send(if live { Progress::Live } else { Progress::More });
        }
        if live {
            self.stage = Stage::Live;
        }
    }

    /// What to read for this member to get on, if only the history can help.
    fn missing(&self, handed: &Position, runs: &[Option<&Tail>; 2], store: Option<&Position>) -> Option<ReadFrom> {
        match &self.stage {
            Stage::Opening(_, Since::Position(since)) => Some(ReadFrom::After(since.clone())),
            Stage::Opening(_, Since::Last(count)) => Some(ReadFrom::Last(*count)),
            // Ahead of us, or as far as the store: we will come there.
            Stage::Open { cursor, more: Some(_) } if cursor.epoch == handed.epoch && cursor.seq >= handed.seq => None,
            Stage::Open { cursor, more: Some(_) } if Some(cursor) == store => None,
            Stage::Open { cursor, more: Some(_) } => {
                let served = find(runs, cursor).is_some_and(|mut frames| frames.next().is_some());
                (!served).then(|| ReadFrom::After(cursor.clone()))
            }
            Stage::Open { .. } | Stage::Live | Stage::Gone => None,
        }
    }
}

/// What follows the position, from a run that has some of it if there is one.
fn find<'a>(runs: &[Option<&'a Tail>; 2], position: &Position) -> Option<vec_deque::Iter<'a, Bytes>> {
    let found = || runs.iter().flatten().filter_map(|run| run.from(position));
    found().find(|frames| frames.len() > 0).or_else(|| found().next())
}
