//! One member that catches up: how far it is, and what moves it on.

use std::{collections::vec_deque, sync::Arc};

use bytes::Bytes;
use proto::{Position, Room};
use tokio::{sync::oneshot, time::Instant};

use super::Progress;
use crate::{
    hub::{
        page::Page,
        room::{Cx, Waiting},
        tail::Tail,
    },
    interest::ReadFrom,
    outbox::Outbox,
    protocol::{ServerMessage, Since, server::LostReason},
    session::JoinOutcome,
};

#[derive(Debug)]
pub(super) struct CatchingUp {
    pub(super) member: Arc<Outbox>,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Not answered yet: whether it can be is up to the history. If it is a member already, it stays live meanwhile.
    /// If it was catching up already, that waits: it goes on when there is no answer in time.
    Opening(Waiting, Since, Option<Open>),
    Open(Open),
    /// Where the room stands: to be made a member like others.
    Live,
    /// Its connection is gone.
    Gone,
}

/// How far it has come.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) cursor: Position,
    /// Its connection has room for more.
    pub(super) more: Option<oneshot::Sender<Progress>>,
}

/// What the room has to serve from.
pub(super) struct Sources<'a> {
    pub(super) room: &'a Room,
    pub(super) handed: &'a Position,
    pub(super) runs: [Option<&'a Tail>; 2],
    pub(super) store: Option<&'a Position>,
    pub(super) prev: Option<&'a Position>,
}

impl CatchingUp {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// How far it had come, whatever it asks for now.
    pub(super) fn into_open(self) -> Option<Open> {
        match self.stage {
            Stage::Open(open) | Stage::Opening(.., Some(open)) => Some(open),
            Stage::Opening(.., None) | Stage::Live | Stage::Gone => None,
        }
    }

    /// Gives up waiting for an answer, if it was long enough. True if it was catching up before, and does so again;
    /// false if there is nothing left of it.
    pub(super) fn expire(&mut self, now: Instant) -> Option<bool> {
        let Stage::Opening(waiting, _, before) = &mut self.stage else { return None };
        if waiting.deadline > now {
            return None;
        }
        let Some(open) = before.take() else { return Some(false) };
        self.refuse();
        self.stage = Stage::Open(open);
        Some(true)
    }

    /// Tells its connection that there is no answer.
    pub(super) fn refuse(&mut self) {
        if let Stage::Opening(waiting, ..) = std::mem::replace(&mut self.stage, Stage::Gone) {
            let _ = waiting.done.send(JoinOutcome::Unavailable);
        }
    }

    /// Answers the join as far as memory allows. True if it did.
    pub(super) fn open(&mut self, sources: &Sources<'_>) -> bool {
        let Stage::Opening(_, since, _) = &self.stage else { return false };
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
        let Stage::Opening(waiting, ..) = std::mem::replace(&mut self.stage, Stage::Gone) else { return };
        if waiting.answer(room, &cursor, recovered, JoinOutcome::CatchingUp) {
            self.stage = Stage::Open(Open { cursor, more: None });
        }
    }

    /// Takes from a page what it says of this member: whether it can be recovered, or has lost something.
    pub(super) fn take_news(&mut self, from: &ReadFrom, page: &Page, room: &Room, handed: &Position, cx: &mut Cx<'_>) {
        match (&mut self.stage, from) {
            (Stage::Opening(_, Since::Position(since), _), ReadFrom::After(after)) if *since == *after => {
                if page.complete {
                    self.joined(room, after.clone(), true);
                } else {
                    self.joined(room, handed.clone(), false);
                }
            }
            // Of an epoch that nobody knows any more: no read would say otherwise.
            (Stage::Opening(_, Since::Position(since), _), _) if page.has_left(&since.epoch) => {
                self.joined(room, handed.clone(), false);
            }
            (Stage::Opening(_, Since::Last(count), _), ReadFrom::Last(read)) if *count <= *read => {
                let start = page.before_last(*count);
                self.joined(room, start, false);
            }
            (Stage::Open(Open { cursor, .. }), ReadFrom::After(after)) if *cursor == *after && !page.complete => {
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
    pub(super) fn advance(&mut self, sources: &Sources<'_>, cx: &mut Cx<'_>) {
        let Stage::Open(Open { cursor, more }) = &mut self.stage else { return };
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
        #[cfg(simulation)]
        let live = live || service::simulation::is_off(service::simulation::Check::CatchUpToLive);
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
    pub(super) fn missing(&self, sources: &Sources<'_>) -> Option<ReadFrom> {
        let handed = sources.handed;
        match &self.stage {
            Stage::Opening(_, Since::Position(since), _) => Some(ReadFrom::After(since.clone())),
            Stage::Opening(_, Since::Last(count), _) => Some(ReadFrom::Last(*count)),
            // Ahead of us, or as far as the store: we will come there.
            Stage::Open(Open { cursor, more: Some(_) }) if cursor.epoch == handed.epoch && cursor.seq >= handed.seq => {
                None
            }
            Stage::Open(Open { cursor, more: Some(_) }) if Some(cursor) == sources.store => None,
            Stage::Open(Open { cursor, more: Some(_) }) => {
                let served = sources.after(cursor).is_some_and(|frames| frames.len() > 0);
                (!served).then(|| ReadFrom::After(cursor.clone()))
            }
            Stage::Open(_) | Stage::Live | Stage::Gone => None,
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
