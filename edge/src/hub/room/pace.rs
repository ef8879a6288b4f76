//! Whether the members of a large room keep up. One that does not is too slow, and is closed once its outbox is full. When
//! many do not, more comes than they, or this edge, can take: then the room waits for them for a while, what comes stays
//! pending, and its publishers are held back.

use std::time::Duration;

use queues::Limits;
use service::limit;
use tokio::time::Instant;

use super::{Cx, HubRoom};

/// Members from which on a room waits, if one in so many lags. In a smaller one, or if fewer lag, it is they who are slow.
const CROWD: usize = 64;
const ONE_IN: usize = 8;

/// Members that are looked at, spread over all.
const SAMPLE: usize = 32;

/// Longest wait for members that take nothing, as dead ones do, and longest wait in all.
const STILL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// It does not wait for more than that until half an outbox has been handed out, or so long has passed: whatever members
/// do, publishers are not held back to less.
const REST: Duration = Duration::from_secs(30);

/// How soon a room that waits looks at its members again.
pub(in crate::hub) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// For how long publishers are held back, unless they are told otherwise, and how long after they are told so again.
const LEASE: Duration = Duration::from_secs(1);
const RENEWAL: Duration = Duration::from_millis(200);

/// Of a room whose members have not kept up.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lag: Option<Lag>,
    /// When its publishers were last told to wait, until all is handed out.
    told: Option<Instant>,
}

/// Many lag, or did just now.
#[derive(Debug)]
struct Lag {
    since: Instant,
    /// Where the look at members begins.
    start: usize,
    /// When those that lag last took something, and what waited for them then.
    moved: Instant,
    left: usize,
    /// Handed out since.
    handed: Limits,
}

impl Lag {
    fn begun(now: Instant, start: usize, left: usize) -> Self {
        Self { since: now, start, moved: now, left, handed: Limits { frames: 0, bytes: 0 } }
    }

    /// Whether to wait on, now that so much is left.
    fn waits(&mut self, now: Instant, left: usize) -> bool {
        if left < self.left {
            self.moved = now;
        }
        self.left = left;
        now < self.moved + STILL && now < self.since + PATIENCE
    }

    /// Whether those that lag next are waited for as if these had not been.
    fn is_over(&self, now: Instant, outbox: Limits) -> bool {
        let Limits { frames, bytes } = self.handed;
        2 * frames >= outbox.frames || 2 * bytes >= outbox.bytes || now >= self.since + REST
    }
}

impl HubRoom {
    pub(super) fn is_crowd(&self) -> bool {
        self.members.len() >= limit(CROWD)
    }

    /// Looks at the members, and has the room wait if many lag. False if it waits.
    pub(super) fn check_pace(&mut self, now: Instant, cx: &mut Cx<'_>) -> bool {
        let outbox = self.members.first_limits();
        let (true, Some(outbox)) = (self.is_crowd(), outbox) else {
            self.forget_lag();
            return true;
        };
        let pace = self.pace.as_mut();
        let lag = pace.and_then(|pace| pace.lag.as_mut());
        // Another part of them each time, but the same ones while they lag.
        let start = lag.as_ref().map_or(usize::try_from(self.handed.seq).unwrap_or(0), |lag| lag.start);
        let (seen, lagging, left) = self.members.look(start, SAMPLE);
        if ONE_IN * lagging < seen {
            if lag.is_some_and(|lag| lag.is_over(now, outbox)) {
                self.forget_lag();
            }
            return true;
        }
        let lag = &mut self.pace.get_or_insert_default().lag;
        let waits = lag.get_or_insert_with(|| Lag::begun(now, start, left)).waits(now, left);
        if waits {
            self.waits = true;
            self.hold_back(now, cx);
        }
        !waits
    }

    fn forget_lag(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.lag = None;
        }
    }

    /// So much is handed out to each.
    pub(super) fn count_pace(&mut self, frames: usize, bytes: usize) {
        if let Some(Lag { handed, .. }) = self.pace.as_mut().and_then(|pace| pace.lag.as_mut()) {
            handed.frames += frames;
            handed.bytes += bytes;
        }
    }

    /// Tells the nodes that publishers are to wait, if they have not heard it just now.
    pub(super) fn hold_back(&mut self, now: Instant, cx: &mut Cx<'_>) {
        let told = &mut self.pace.get_or_insert_default().told;
        cx.hold_backs += u64::from(told.is_none());
        if told.is_none_or(|told| told + RENEWAL <= now) {
            *told = Some(now);
            self.tell(LEASE, cx);
        }
    }

    /// All is handed out: publishers may go on.
    pub(super) fn let_go_on(&mut self, cx: &Cx<'_>) {
        let Some(pace) = &mut self.pace else { return };
        let told = pace.told.take();
        if pace.lag.is_none() {
            self.pace = None;
        }
        if told.is_some() {
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
