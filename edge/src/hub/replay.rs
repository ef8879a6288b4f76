//! Members that are catching up: joined with `since`, and not yet where the room stands. Each is a cursor, not a queue,
//! and gets nothing live meanwhile. Its connection asks for more when its outbox is low; frames come from the room's
//! tail where that reaches back far enough, else from a page read from the history. One read of a room is under way at a
//! time, for whoever has waited longest, from the lowest cursor of that epoch. When a cursor is where the room stands, in
//! that same step the member is live.

mod member;

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;
use proto::Position;
use service::RandomState;
use tokio::{sync::oneshot, time::Instant};

use self::member::{CatchingUp, Open, Sources, Stage};
use super::{
    page::Page,
    room::{Cx, HubRoom, Waiting},
    tail::Tail,
};
use crate::{
    interest::{LinkId, ReadFrom},
    outbox::Outbox,
    protocol::Since,
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
    /// In the order they came: who waits longest is first.
    members: BTreeMap<u64, CatchingUp>,
    /// The same by the address of their outbox.
    arrivals: HashMap<usize, u64, RandomState>,
    /// Counts those that came.
    arrived: u64,
    /// Those to be looked at, as something came that may serve them; who waits longest is last.
    todo: Vec<u64>,
    reading: Option<(ReadId, ReadFrom)>,
    /// The last read failed; the next is for later.
    paused: bool,
    page: Option<Tail>,
    /// What the last read said of the store, until the room moves on: where it stands, and where the epoch before ended.
    store: Option<Position>,
    prev: Option<Position>,
}

/// Members served from a page as soon as it comes; others have to hope that it stays.
const SERVED_AT_ONCE: usize = 64;

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
        if let Some(arrival) = self.arrivals.remove(&address(member)) {
            self.members.remove(&arrival);
        }
    }

    fn remove_arrival(&mut self, arrival: u64) {
        if let Some(catching_up) = self.members.remove(&arrival) {
            self.arrivals.remove(&address(&catching_up.member));
        }
    }

    /// When the first that has no answer yet is to be given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.members.values().filter_map(|catching_up| match &catching_up.stage {
            Stage::Opening(waiting, ..) => Some(waiting.deadline),
            _ => None,
        });
        deadlines.min()
    }

    /// Gives up on those that have waited for an answer long enough. One that was a member stays one.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut stay = false;
        for (_, mut gone) in self.members.extract_if(.., |_, catching_up| {
            let expired = catching_up.expire(now);
            stay |= expired == Some(true);
            expired == Some(false)
        }) {
            self.arrivals.remove(&address(&gone.member));
            gone.refuse();
        }
        if stay {
            self.look_at_all();
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

    /// Whether what is being read counts as of the epoch in which it is read, whatever epoch it was stored under: the
    /// latest so many, and what follows on them.
    pub(super) fn reads_present(&self, position: &Position) -> bool {
        match &self.reading {
            Some((_, ReadFrom::Last(_))) => true,
            Some((_, ReadFrom::After(after))) => after.epoch == position.epoch,
            None => false,
        }
    }

    pub(super) fn take_page(&mut self) -> Option<Tail> {
        self.page.take()
    }

    pub(super) fn set_page(&mut self, page: Tail) {
        self.page = Some(page);
    }

    /// Something came that may serve whoever waits.
    pub(super) fn look_at_all(&mut self) {
        self.todo.clear();
        let waits = |catching_up: &CatchingUp| !matches!(catching_up.stage, Stage::Open(Open { more: None, .. }));
        let waiting = self.members.iter().rev().filter(|(_, catching_up)| waits(catching_up));
        self.todo.extend(waiting.map(|(arrival, _)| *arrival));
    }
}

impl HubRoom {
    /// A member-to-be that says where it stands, or how much it wants.
    pub(super) fn catch_up(&mut self, waiting: Waiting, since: Since, cx: &mut Cx<'_>) {
        let member = waiting.member.clone();
        let replay = self.replay.get_or_insert_default();
        let known = replay.arrivals.get(&address(&member)).and_then(|arrival| replay.members.remove(arrival));
        replay.arrived += 1;
        let arrival = replay.arrived;
        replay.arrivals.insert(address(&member), arrival);
        let stage = Stage::Opening(waiting, since, known.and_then(CatchingUp::into_open));
        replay.members.insert(arrival, CatchingUp { member, stage });
        self.serve_one(arrival, cx);
    }

    /// Its connection has room for more.
    pub(super) fn more(&mut self, member: &Arc<Outbox>, done: oneshot::Sender<Progress>, cx: &mut Cx<'_>) {
        // If it is not there it has left meanwhile; nobody waits for the answer.
        let Some(replay) = &mut self.replay else { return };
        let Some(arrival) = replay.arrivals.get(&address(member)).copied() else { return };
        let Some(catching_up) = replay.members.get_mut(&arrival) else { return };
        match &mut catching_up.stage {
            Stage::Open(open) | Stage::Opening(.., Some(open)) => open.more = Some(done),
            _ => return,
        }
        self.serve_one(arrival, cx);
    }

    /// A page of the history was read.
    pub(super) fn page_read(&mut self, id: ReadId, page: Page, cx: &mut Cx<'_>) {
        let Some(replay) = &mut self.replay else { return };
        // The answer to a read that was given up says nothing of those that ask now.
        let Some((_, from)) = replay.reading.take_if(|(reading, _)| *reading == id) else { return };
        // What is of the past says nothing of how far there is to go.
        replay.store = (!page.is_older_than(&self.handed)).then(|| page.position.clone());
        replay.prev.clone_from(&page.prev);
        for catching_up in replay.members.values_mut() {
            catching_up.take_news(&from, &page, &self.name, &self.handed, cx);
        }
        for member in replay.members.values().filter(|catching_up| catching_up.is_open()) {
            self.members.remove(&member.member);
        }
        replay.look_at_all();
        self.keep_page(page, cx);
        // Before the page may have to go again: else a page larger than what all may keep would be read for ever.
        self.serve(SERVED_AT_ONCE, cx);
    }

    /// Looks at some of those that something came for. Returns how many.
    pub(super) fn serve(&mut self, limit: usize, cx: &mut Cx<'_>) -> usize {
        let Some(replay) = &mut self.replay else { return 0 };
        let rest = replay.todo.len().saturating_sub(limit);
        let todo = replay.todo.split_off(rest);
        for arrival in todo.iter().rev() {
            self.advance(*arrival, cx);
        }
        if rest == 0 {
            self.read_missing(None, cx);
            self.end_replay(cx);
        }
        todo.len()
    }

    fn serve_one(&mut self, arrival: u64, cx: &mut Cx<'_>) {
        self.advance(arrival, cx);
        self.read_missing(Some(arrival), cx);
        self.end_replay(cx);
    }

    /// Moves on one member as far as can be.
    fn advance(&mut self, arrival: u64, cx: &mut Cx<'_>) {
        let Some(replay) = self.replay.as_deref_mut() else { return };
        let Replay { members, page, store, prev, .. } = replay;
        let Some(catching_up) = members.get_mut(&arrival) else { return };
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
                replay.remove_arrival(arrival);
                self.members.insert(member);
            }
            Stage::Gone => replay.remove_arrival(arrival),
            Stage::Opening(..) | Stage::Open(_) => {}
        }
    }

    /// Asks for the history for whoever has waited longest of those that neither tail nor page serves, or for one.
    fn read_missing(&mut self, only: Option<u64>, cx: &mut Cx<'_>) {
        let Some(replay) = self.replay.as_deref_mut().filter(|replay| replay.reading.is_none() && !replay.paused)
        else {
            return;
        };
        let Some(link) = self.link.and_then(|link| cx.placement.get(link)) else { return };
        let runs = [self.tail.as_deref(), replay.page.as_ref()];
        let (room, handed) = (&self.name, &self.handed);
        let sources = Sources { room, handed, runs, store: replay.store.as_ref(), prev: replay.prev.as_ref() };
        let mut all = replay.members.values().filter_map(|member| member.missing(&sources));
        let first = match only {
            Some(arrival) => replay.members.get(&arrival).and_then(|member| member.missing(&sources)),
            None => all.next(),
        };
        let from = match first {
            None => return,
            Some(ReadFrom::After(position)) if only.is_none() => {
                let mut lowest = position;
                for from in all {
                    if let ReadFrom::After(other) = from
                        && other.epoch == lowest.epoch
                        && other.seq < lowest.seq
                    {
                        lowest = other;
                    }
                }
                ReadFrom::After(lowest)
            }
            Some(from) => from,
        };
        *cx.next_read += 1;
        let id = ReadId { link: link.id, number: *cx.next_read };
        link.reads.set(self.name.clone(), (id.number, from.clone()));
        replay.reading = Some((id, from));
    }
}
