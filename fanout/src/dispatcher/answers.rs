//! What a shard asks the store about its rooms, when, and what it makes of the answers.

use std::time::Duration;

use proto::{Position, Room};
use service::limit;
use tokio::time::Instant;

use super::{
    shard::{Phase, Shard},
    store::{Answer, Asked, Purpose, Reason, retry_delay},
};
use crate::{
    broker::{Page, ReadError},
    defaults::{POSITIONS_BATCH, RENEWAL},
};

impl Shard {
    /// Announcements of these rooms come from now on: ask where they are.
    pub(super) fn start(&mut self, rooms: Vec<Room>) {
        let mut asked = Vec::new();
        for room in rooms {
            if let Some(entry) = self.routing.get_mut(&room)
                && entry.data.phase == Phase::Subscribing
            {
                entry.data.phase = Phase::Starting { stale: false };
                asked.push(entry.data.asked(&room));
            }
        }
        self.ask_positions(Reason::Start, asked, Duration::ZERO);
    }

    fn ask_positions(&mut self, reason: Reason, mut asked: Vec<Asked>, delay: Duration) {
        while !asked.is_empty() {
            let rest = asked.split_off(asked.len().min(limit(POSITIONS_BATCH)));
            self.store.positions(reason, std::mem::replace(&mut asked, rest), delay);
        }
    }

    /// Announcements may have been missed: ask where all rooms are.
    pub(super) fn compare_all(&mut self) {
        #[cfg(simulation)]
        if service::simulation::is_off(service::simulation::Check::Reset) {
            return;
        }
        let rooms: Vec<Room> = self.routing.iter().map(|(room, _)| room.clone()).collect();
        let mut asked = Vec::new();
        for room in rooms {
            let Some(entry) = self.routing.get_mut(&room) else { continue };
            match &mut entry.data.phase {
                Phase::Subscribing => {}
                Phase::Starting { stale } => *stale = true,
                Phase::Ready => asked.push(entry.data.asked(&room)),
            }
        }
        self.ask_positions(Reason::Reset, asked, Duration::ZERO);
    }

    /// Compares the rooms whose turn it is and that were silent since their last one.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        let (mut silent, mut due) = (Vec::new(), Vec::new());
        for (room, serial) in self.sweep.take(now, &mut service::rng()) {
            let Some(entry) = self.routing.get_mut(&room).filter(|entry| entry.data.serial == serial) else { continue };
            #[cfg(simulation)]
            if service::simulation::is_off(service::simulation::Check::Sweep) {
                continue;
            }
            if !std::mem::take(&mut entry.data.heard) && entry.data.phase == Phase::Ready && !self.sweeping {
                silent.push(entry.data.asked(&room));
            }
            // A publication renews by itself.
            if entry.data.renewed.is_none_or(|at| now - at > RENEWAL) {
                due.push(entry.data.asked(&room));
            }
            self.sweep.add(room, serial);
        }
        if !silent.is_empty() {
            self.sweeping = true;
            self.metrics.swept.inc_by(silent.len() as u64);
            self.store.positions(Reason::Sweep, silent, Duration::ZERO);
        }
        if !due.is_empty() {
            // Tried again in the next round if it fails.
            self.store.renew(due);
        }
    }

    fn renewed(&mut self, rooms: &[Asked]) {
        let now = Instant::now();
        for asked in rooms {
            if let Some(entry) = self.same(asked) {
                entry.data.renewed = Some(now);
            }
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Positions { reason, rooms, result } => {
                self.sweeping &= reason != Reason::Sweep;
                match result {
                    Ok(positions) => {
                        for (asked, position) in rooms.into_iter().zip(positions) {
                            self.position(reason, asked, position);
                        }
                    }
                    // Their turn comes again.
                    Err(ReadError) if reason == Reason::Sweep => {}
                    Err(ReadError) => self.ask_positions(reason, rooms, retry_delay()),
                }
            }
            Answer::Page { purpose, asked, result: Ok(page) } => self.page(purpose, &asked, &page),
            Answer::Page { purpose, asked, result: Err(ReadError) } => self.store.page(purpose, asked, retry_delay()),
            Answer::Renewed { rooms, result } => {
                if result.is_ok() {
                    self.renewed(&rooms);
                }
            }
            Answer::Check(asked) => {
                if let Some(entry) = self.same(&asked) {
                    let effects = entry.data.state.check();
                    self.apply(&asked.room, effects);
                }
            }
        }
    }

    fn position(&mut self, reason: Reason, asked: Asked, position: Option<Position>) {
        let Some(entry) = self.same(&asked) else { return };
        let effects = match (reason, position) {
            (Reason::Start, Some(position)) => return self.begin(&asked.room, position),
            (Reason::Start, None) => return self.store.page(Purpose::Start, asked, Duration::ZERO),
            (_, Some(position)) => entry.data.state.compare(&asked.at, &position),
            (_, None) => entry.data.state.check(),
        };
        if reason == Reason::Sweep && !effects.is_empty() {
            self.metrics.sweep_behind.inc();
            tracing::debug!(room = %asked.room, "the sweep found a room behind");
        }
        self.apply(&asked.room, effects);
    }

    fn page(&mut self, purpose: Purpose, asked: &Asked, page: &Page) {
        match purpose {
            Purpose::Start => {
                if self.same(asked).is_some() {
                    self.begin(&asked.room, page.position.clone());
                }
            }
            Purpose::Repair => {
                let Some(entry) = self.same(asked) else { return };
                let effects = entry.data.state.page(page);
                self.apply(&asked.room, effects);
                self.enqueue_all(&asked.room);
            }
            Purpose::CatchUp(id) => self.caught_up(id, asked, page),
        }
    }
}
