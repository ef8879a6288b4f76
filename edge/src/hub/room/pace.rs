//! Whether the members of a large room keep up. One that does not is too slow, and is closed once its outbox is full. When
//! many do not, more comes than they, or this edge, can take: then the room waits for them for a while, what comes stays
//! pending, and its publishers are held back.

use std::time::Duration;

use service::limit;
use tokio::time::Instant;

use super::{Cx, HubRoom};
use crate::hub::members::Look;

/// Members from which on a room waits, if one in so many lags. Few of them all, or fewer, are slow by themselves.
const CROWD: usize = 64;
const ONE_IN: usize = 8;

/// Members that are looked at, spread over all.
const SAMPLE: usize = 32;

/// Longest wait for members that take nothing, as dead ones do, and longest wait in all. Past it the room goes on until
/// those that lag are closed or have caught up: whatever members do, publishers are not held back to less than half an
/// outbox in that time.
const STILL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon a room that waits looks at its members again.
pub(in crate::hub) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// For how long publishers are held back, unless they are told otherwise, and how long after they are told so again.
const LEASE: Duration = Duration::from_secs(1);
const RENEWAL: Duration = Duration::from_millis(200);

/// A room in which more came than its members took; until all of it is handed out.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// While many lag.
    lag: Option<Lag>,
    /// When its publishers were last told to wait.
    told: Option<Instant>,
}

#[derive(Debug)]
struct Lag {
    since: Instant,
    /// When they last took something, and what is left.
    moved: Instant,
    held: usize,
}

impl Lag {
    fn begun(now: Instant, held: usize) -> Self {
        Self { since: now, moved: now, held }
    }

    /// Whether to wait on.
    fn look(&mut self, now: Instant, held: usize) -> bool {
        if held < self.held {
            self.moved = now;
        }
        self.held = held;
        now < self.moved + STILL && now < self.since + PATIENCE
    }
}

impl HubRoom {
    pub(super) fn is_crowd(&self) -> bool {
        self.members.len() >= limit(CROWD)
    }

    /// Whether the next slice is to be handed out now. If not, the room waits.
    pub(super) fn may_go_on(&mut self, now: Instant, cx: &mut Cx<'_>) -> bool {
        if !self.is_crowd() {
            return true;
        }
        let Look { seen, lag, held } = self.members.look(SAMPLE);
        if ONE_IN * lag < seen {
            if let Some(pace) = &mut self.pace {
                pace.lag = None;
            }
            return true;
        }
        self.hold_back(now, cx);
        let lag = &mut self.pace.get_or_insert_default().lag;
        self.listed.waits = lag.get_or_insert_with(|| Lag::begun(now, held)).look(now, held);
        !self.listed.waits
    }

    /// Tells the nodes that publishers are to wait, if they have not heard it just now.
    pub(super) fn hold_back(&mut self, now: Instant, cx: &mut Cx<'_>) {
        if self.pace.is_none() {
            cx.hold_backs += 1;
        }
        let pace = self.pace.get_or_insert_default();
        if pace.told.is_none_or(|told| told + RENEWAL <= now) {
            pace.told = Some(now);
            self.tell(LEASE, cx);
        }
    }

    /// All is handed out: publishers may go on.
    pub(super) fn let_go_on(&mut self, cx: &Cx<'_>) {
        if self.pace.take().is_some_and(|pace| pace.told.is_some()) {
            self.tell(Duration::ZERO, cx);
        }
    }

    /// They publish over any node.
    fn tell(&self, lease: Duration, cx: &Cx<'_>) {
        for link in cx.placement.links() {
            link.held_back.set(self.name.clone(), lease);
        }
    }
}
