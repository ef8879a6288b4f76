//! What a simulation sets for its thread: the seed of all randomness, how small limits are, how tasks are delayed, and
//! which check is switched off. Only there with `--cfg simulation`, which nothing that ships is built with.

use std::{
    cell::RefCell,
    future::Future,
    hash::{BuildHasher, DefaultHasher, Hash},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rand::{Rng as _, RngCore, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, Sleep, sleep};

/// What one run is set to.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seed: u64,
    /// Limits are so many times smaller.
    pub shrink: usize,
    /// Of so many polls of a task one is delayed; 0: none.
    pub shake: u32,
    /// What is switched off, to see that the checker notices.
    pub off: Option<Check>,
}

/// What can be switched off, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// A fanout node reads what announcements left out.
    GapRepair,
    /// An edge drops what it has already.
    Dedup,
    /// The store knows the key of a repeat.
    StoreDedup,
    /// A member that catches up is live only once its cursor is where the room stands.
    CatchUpToLive,
    /// A room is left on its old link only once the new one has answered.
    MakeBeforeBreak,
    /// What is of another epoch does not follow on.
    Epoch,
    /// What the history still holds of the epoch before is handed out before `lost`.
    Prev,
    /// Broadcasts that failed are repeated in the order sent.
    RepeatOrder,
    /// A repeat names those after it that may have been stored, and then must not be.
    RepeatUnless,
    /// Rooms are compared with the store though nothing says that they should be.
    Sweep,
    /// A fanout node compares all rooms once its subscriber is connected again.
    Reset,
    /// What a link's queue had no place for is read from the history.
    Behind,
    /// An edge asks again for what it had no place for.
    AskAgain,
}

impl Check {
    pub const ALL: [Self; 13] = [
        Self::GapRepair,
        Self::Dedup,
        Self::StoreDedup,
        Self::CatchUpToLive,
        Self::MakeBeforeBreak,
        Self::Epoch,
        Self::Prev,
        Self::RepeatOrder,
        Self::RepeatUnless,
        Self::Sweep,
        Self::Reset,
        Self::Behind,
        Self::AskAgain,
    ];
}

struct Set {
    settings: Settings,
    rng: SmallRng,
    /// Polls of tasks at this moment.
    polls: (Instant, u32),
    trouble: Option<&'static str>,
}

/// More polls than this while time stands still are a loop without end.
const MOST_POLLS: u32 = 500_000;

/// What went wrong in a task: it panicked, or some are busy for ever.
pub fn trouble() -> Option<&'static str> {
    SET.with_borrow(|set| set.as_ref().and_then(|set| set.trouble))
}

/// False once there is trouble: then nothing goes on.
fn may_poll() -> bool {
    SET.with_borrow_mut(|set| {
        let Some(set) = set else { return true };
        let now = Instant::now();
        if set.polls.0 != now {
            set.polls = (now, 0);
        }
        set.polls.1 += 1;
        if set.polls.1 > MOST_POLLS {
            set.trouble = Some("tasks are busy, and time stands still");
        }
        set.trouble.is_none()
    })
}

struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            SET.with_borrow_mut(|set| {
                if let Some(set) = set {
                    set.trouble = Some("a task panicked");
                }
            });
        }
    }
}

thread_local! {
    static SET: RefCell<Option<Set>> = const { RefCell::new(None) };
}

/// From now on this thread is a simulation, until the guard is dropped.
pub fn begin(settings: Settings) -> Running {
    let rng = SmallRng::seed_from_u64(settings.seed);
    SET.set(Some(Set { settings, rng, polls: (Instant::now(), 0), trouble: None }));
    Running(())
}

/// See [`begin`].
#[derive(Debug)]
pub struct Running(());

impl Drop for Running {
    fn drop(&mut self) {
        SET.take();
    }
}

/// Whether this check is switched off.
pub fn is_off(check: Check) -> bool {
    SET.with_borrow(|set| set.as_ref().is_some_and(|set| set.settings.off == Some(check)))
}

/// The limit, smaller in a simulation; at least two, as an answer often comes in two messages.
pub fn limit(full: usize) -> usize {
    SET.with_borrow(|set| set.as_ref().map_or(full, |set| (full / set.settings.shrink).max(2.min(full))))
}

/// Draws from the seed.
#[derive(Debug)]
pub struct Seeded(());

pub fn rng() -> Seeded {
    Seeded(())
}

impl RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        SET.with_borrow_mut(|set| set.as_mut().map_or_else(|| rand::rng().next_u32(), |set| set.rng.next_u32()))
    }

    fn next_u64(&mut self) -> u64 {
        SET.with_borrow_mut(|set| set.as_mut().map_or_else(|| rand::rng().next_u64(), |set| set.rng.next_u64()))
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        rand_core_fill(self, bytes);
    }
}

fn rand_core_fill(rng: &mut Seeded, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let drawn = rng.next_u64().to_le_bytes();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    }
}

/// A hasher without a seed, so that tables have the same order in every run.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomState(());

impl RandomState {
    pub fn new() -> Self {
        Self(())
    }

    pub fn hash_one<T: Hash>(&self, value: T) -> u64 {
        BuildHasher::hash_one(self, value)
    }
}

impl BuildHasher for RandomState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher::new()
    }
}

/// A task whose turn comes late now and then, as on a busy machine.
pub(crate) fn shaken<F: Future>(task: F) -> Shaken<F> {
    Shaken { task: Box::pin(task), delay: None }
}

pub(crate) struct Shaken<F> {
    task: Pin<Box<F>>,
    delay: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Shaken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !may_poll() {
            return Poll::Pending;
        }
        if self.delay.is_none() {
            self.delay = draw_delay().map(|delay| Box::pin(sleep(delay)));
        }
        if let Some(delay) = &mut self.delay {
            if delay.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.delay = None;
        }
        let _panics = Panics;
        self.task.as_mut().poll(cx)
    }
}

fn draw_delay() -> Option<Duration> {
    SET.with_borrow_mut(|set| {
        let Set { settings, rng, .. } = set.as_mut()?;
        if settings.shake == 0 || !rng.random_ratio(1, settings.shake) {
            return None;
        }
        // Mostly a moment, seldom long enough for queues to fill.
        let most = if rng.random_ratio(1, 50) { 400 } else { 4 };
        Some(Duration::from_millis(rng.random_range(1..=most)))
    })
}
