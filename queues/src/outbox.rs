use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::sync::{Mutex, lock, park};

/// A drained queue with room for more frames than this gives its memory back (32 bytes a frame).
const KEPT_CAPACITY: usize = 16;

/// What an idle connection needs: its welcome and the answer of its personal room, or one frame at a time.
const FIRST_CAPACITY: usize = 2;

/// How much an outbox holds, frames being written included.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub frames: usize,
    pub bytes: usize,
}

/// A connection's bounded send queue: ready-made frames, then one close. Many push, one write pump takes.
///
/// `C` is the reason of the close. What the pump has taken still counts until it reports it [written](Self::written),
/// so the limits bound all that waits outside the kernel.
#[derive(Debug)]
pub struct Outbox<C> {
    state: Mutex<State<C>>,
}

#[derive(Debug)]
struct State<C> {
    frames: VecDeque<Bytes>,
    /// Frames and bytes in `frames` and with the pump.
    held: Limits,
    end: End<C>,
    pump: Option<Waker>,
    /// Whether the pump waits for frames, or only for a cut, the socket taking nothing now.
    wants_frames: bool,
    /// Who waits until no more than this is held.
    filler: Option<(Waker, Limits)>,
    /// Why the pump ended, once it has.
    ended: Option<C>,
    /// Who waits for that.
    owner: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
enum End<C> {
    Open,
    /// Nothing more comes in; what is queued goes out, then the close.
    Finishing(C),
    /// What is queued was dropped; the close is all that is left.
    Cut(C),
}

/// Why a frame was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError {
    /// The queue was full: it has just been cut, with the reason given. Said once.
    Full,
    /// The outbox was closed before.
    Closed,
}

/// What the pump gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<C> {
    /// There are frames to write.
    Frames,
    /// All that is left is to close.
    Close(C),
}

impl<C: Copy> Outbox<C> {
    pub fn new() -> Self {
        let held = Limits { frames: 0, bytes: 0 };
        let frames = VecDeque::new();
        let (pump, filler, ended, owner) = (None, None, None, None);
        let state = State { frames, held, end: End::Open, pump, wants_frames: false, filler, ended, owner };
        Self { state: Mutex::new(state) }
    }

    /// Queues a frame if that stays within the limits, which are the caller's own, below those of [`Self::push`]; one of
    /// any size when nothing else is held.
    pub fn try_push(&self, frame: Bytes, limits: Limits) -> bool {
        let mut state = lock(&self.state);
        if !matches!(state.end, End::Open) || (state.held.frames > 0 && !state.held.fits(frame.len(), limits)) {
            return false;
        }
        state.add(frame);
        state.wake_for_frames();
        true
    }

    /// Ready once no more than this is held, or the outbox closed.
    pub fn poll_low(&self, cx: &Context<'_>, low: Limits) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.held.within(low) || !matches!(state.end, End::Open) {
            state.filler = None;
            return Poll::Ready(());
        }
        state.filler = Some((cx.waker().clone(), low));
        Poll::Pending
    }

    /// Queues a frame. When that would exceed a limit the client is too slow: all that waits is dropped and the outbox
    /// closed with `when_full`.
    pub fn push(&self, frame: Bytes, limits: Limits, when_full: C) -> Result<(), PushError> {
        let mut state = lock(&self.state);
        if !matches!(state.end, End::Open) {
            return Err(PushError::Closed);
        }
        if !state.held.fits(frame.len(), limits) {
            state.cut(when_full);
            state.wake();
            return Err(PushError::Full);
        }
        state.add(frame);
        state.wake_for_frames();
        Ok(())
    }

    /// Takes in nothing more; what is queued goes out, then the close. False if it was closed before.
    pub fn finish(&self, reason: C) -> bool {
        self.end(|state| state.end = End::Finishing(reason))
    }

    /// Takes in nothing more and drops what is queued; only the close goes out. False if it was closed before.
    pub fn cut(&self, reason: C) -> bool {
        self.end(|state| state.cut(reason))
    }

    fn end(&self, end: impl FnOnce(&mut State<C>)) -> bool {
        let mut state = lock(&self.state);
        if !matches!(state.end, End::Open) {
            return false;
        }
        end(&mut state);
        state.wake();
        true
    }

    /// Moves all that is queued to the end of `into`, or says that only the close is left. With `into` empty the two
    /// queues just change places.
    pub fn poll_take(&self, cx: &Context<'_>, into: &mut VecDeque<Bytes>) -> Poll<Taken<C>> {
        let mut state = lock(&self.state);
        if !state.frames.is_empty() {
            if into.is_empty() {
                std::mem::swap(&mut state.frames, into);
            } else {
                into.append(&mut state.frames);
            }
            return Poll::Ready(Taken::Frames);
        }
        match state.end {
            End::Finishing(reason) | End::Cut(reason) => Poll::Ready(Taken::Close(reason)),
            End::Open => {
                park(&mut state.pump, cx);
                state.wants_frames = true;
                Poll::Pending
            }
        }
    }

    /// Whether what is queued was dropped, which goes for what the pump holds as well. If not, the pump is woken when
    /// it happens: to be asked before waiting for the socket.
    pub fn poll_cut(&self, cx: &Context<'_>) -> bool {
        let mut state = lock(&self.state);
        park(&mut state.pump, cx);
        state.wants_frames = false;
        matches!(state.end, End::Cut(_))
    }

    /// So much of what was taken is with the kernel now: it makes room for as much.
    pub fn written(&self, frames: usize, bytes: usize) {
        let mut state = lock(&self.state);
        // After a cut nothing is counted any more.
        state.held.frames = state.held.frames.saturating_sub(frames);
        state.held.bytes = state.held.bytes.saturating_sub(bytes);
        if state.frames.is_empty() && state.frames.capacity() > KEPT_CAPACITY {
            state.frames = VecDeque::new();
        }
        let held = state.held;
        let filler = state.filler.take_if(|(_, low)| held.within(*low));
        drop(state);
        if let Some((filler, _)) = filler {
            filler.wake();
        }
    }

    /// The pump has ended, for this reason.
    pub fn report_end(&self, reason: C) {
        let mut state = lock(&self.state);
        state.ended = Some(reason);
        let owner = state.owner.take();
        drop(state);
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    /// Why the pump ended, once it has. One waits for it.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<C> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.ended {
            return Poll::Ready(reason);
        }
        park(&mut state.owner, cx);
        Poll::Pending
    }

    /// Wakes who waits for the pump's end, to look at something else.
    pub fn wake_owner(&self) {
        let owner = lock(&self.state).owner.clone();
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    /// Frames and bytes that wait, those being written included.
    pub fn held(&self) -> Limits {
        lock(&self.state).held
    }

    /// Whether nothing more is taken in.
    pub fn is_closed(&self) -> bool {
        !matches!(lock(&self.state).end, End::Open)
    }

    /// The pump's own queue, once written out, gives its memory back by the same rule.
    pub fn give_back(queue: &mut VecDeque<Bytes>) {
        if queue.is_empty() && queue.capacity() > KEPT_CAPACITY {
            *queue = VecDeque::new();
        }
    }
}

impl<C: Copy> Default for Outbox<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl Limits {
    fn fits(self, more: usize, limits: Self) -> bool {
        self.frames < limits.frames && self.bytes + more <= limits.bytes
    }

    fn within(self, limits: Self) -> bool {
        self.frames <= limits.frames && self.bytes <= limits.bytes
    }
}

impl<C> State<C> {
    fn add(&mut self, frame: Bytes) {
        self.held.frames += 1;
        self.held.bytes += frame.len();
        if self.frames.capacity() == 0 {
            self.frames.reserve_exact(FIRST_CAPACITY);
        }
        self.frames.push_back(frame);
    }

    /// Wakes the pump, which stays known: pumps are woken for every frame, and a waker costs more to clone than to call.
    /// Called with the lock held, so a waker must do no more than make a note.
    fn wake(&mut self) {
        self.wants_frames = false;
        if let Some(pump) = &self.pump {
            pump.wake_by_ref();
        }
    }

    fn wake_for_frames(&mut self) {
        if self.wants_frames {
            self.wake();
        }
    }

    fn cut(&mut self, reason: C) {
        self.frames = VecDeque::new();
        self.held = Limits { frames: 0, bytes: 0 };
        self.end = End::Cut(reason);
    }
}
