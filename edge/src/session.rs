//! The protocol state of one connection, without sockets, tasks or clocks: requests and results go in, actions come
//! out, and whoever owns the connection carries them out.
//!
//! Requests on one room are handled in the order sent; rooms do not wait for each other. A room that waits for the
//! backend, the hub or a `leave` is *busy* and keeps its later requests in a queue; all queues of a session share a limit.

mod automatic;
mod broadcasts;
mod limits;
mod rate;
mod requests;
mod results;
mod rooms;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use proto::{Position, Room};
use tokio::time::Instant;

use crate::{
    close::CloseReason,
    protocol::{ClientMessage, ErrorCode, Malformed, Request, ServerMessage, Since, server::Left},
};
pub use automatic::{AutomaticRoom, AutomaticRooms};
pub use broadcasts::Forward;
pub use limits::Settings;
use limits::{Charge, Limits};
use rate::Verdict;
use rooms::{Busy, RoomState, Rooms, Step, Waiting};

/// Requests of one connection that wait for a busy room, or for a receipt, all rooms together. Fanout nodes take as many
/// keys with a repeat.
const MAX_WAITING: usize = 256;

/// Bytes of the bodies among them.
const MAX_WAITING_BYTES: usize = 256 << 10;

/// Distinguishes a room's operations, so that the result of a cancelled one is not taken for its successor's.
pub type OpId = u32;

type Id = Option<Box<str>>;

/// What the owner of the connection is to do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Put this frame into the outbox.
    Send(Bytes),
    /// The same, of an error with this code.
    Refuse(ErrorCode, Bytes),
    /// Ask whether the user may join; answer by [`Session::authorized`].
    Authorize {
        op: OpId,
        room: Room,
        grant: Option<Box<str>>,
    },
    /// Make it a member; the hub sends `joined`. Answer by [`Session::joined`].
    Join {
        op: OpId,
        room: Room,
        id: Id,
        publish: bool,
        grant: Option<Box<str>>,
        since: Option<Since>,
    },
    /// End the membership, or the waiting for it; the hub sends `left`. Answer by [`Session::left`].
    Leave {
        op: OpId,
        room: Room,
        id: Id,
        reason: Option<&'static str>,
    },
    /// Forward a broadcast; answer by [`Session::receipt`].
    Publish {
        room: Room,
        forward: Forward,
    },
    /// Verify a newer token.
    Authenticate {
        id: Id,
        token: Box<str>,
    },
    Close(CloseReason),
}

/// How a join ended at the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinOutcome {
    /// `joined` is in the outbox, and it is live.
    Joined,
    /// `joined` is in the outbox, and what was missed is to follow.
    CatchingUp,
    /// No fanout node answered in time.
    Unavailable,
}

/// How a broadcast ended.
pub type Receipt = Result<Stored, Failure>;

/// Why a broadcast has no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: ErrorCode,
    pub text: String,
    /// The link it went over, or was to go over, was lost: to be repeated over another.
    pub again: bool,
}

/// A broadcast has its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub position: Position,
    pub duplicate: bool,
}

#[derive(Debug)]
pub struct Session {
    rooms: Rooms,
    /// Rooms that the token itself lets the user join: no one is asked, and they do not count as rooms of the client.
    automatic: Box<[AutomaticRoom]>,
    settings: Arc<Settings>,
    limits: Limits,
    waiting: usize,
    next_op: OpId,
    /// The connection's id, unique among those of all edges.
    connection: Box<str>,
    /// When the request being handled came.
    now: Instant,
    /// Counts requests refused because too many wait.
    full: Counter,
}

impl Session {
    /// `connection`: its id, unique among those of all edges.
    pub fn new(
        connection: Box<str>,
        automatic: Vec<AutomaticRoom>,
        settings: Arc<Settings>,
        full: Counter,
        now: Instant,
    ) -> Self {
        let limits = Limits::new(&settings, automatic.len(), now);
        let (rooms, automatic) = (Rooms::default(), automatic.into());
        Self { rooms, automatic, settings, limits, waiting: 0, next_op: 0, connection, now, full }
    }

    /// The connection's id.
    pub fn connection(&self) -> &str {
        &self.connection
    }

    /// Joins the automatic rooms, each answered by a `joined` of its own, without an id.
    pub fn auto_join(&mut self, actions: &mut Vec<Action>) {
        for AutomaticRoom { room, publish } in self.automatic.clone() {
            self.start_joining(room, Joining { publish, ..Joining::default() }, actions);
        }
    }

    /// One understood message.
    pub fn request(&mut self, request: Request, now: Instant, actions: &mut Vec<Action>) {
        self.now = now;
        self.limits.understood();
        let Request { id, message } = request;
        let charge = if matches!(message, ClientMessage::Join { .. }) { Charge::Join } else { Charge::Message };
        match self.limits.take(charge, &self.settings, self.automatic.len(), now) {
            Verdict::Granted => self.granted(id, message, actions),
            Verdict::Refused(retry_ms) => actions.push(rate_limited(id.as_deref(), message.room(), retry_ms)),
            Verdict::TooMuch => actions.push(Action::Close(CloseReason::RateLimited)),
        }
    }

    fn granted(&mut self, id: Id, message: ClientMessage, actions: &mut Vec<Action>) {
        match message {
            ClientMessage::Ping => actions.push(Action::Send(ServerMessage::Pong { id: id.as_deref() }.frame())),
            ClientMessage::Auth { token } => actions.push(Action::Authenticate { id, token }),
            ClientMessage::Leave { room } => self.leave(&room, id, actions),
            ClientMessage::Join { room, since, grant } => {
                self.or_wait(room, Waiting::Join { id, since, grant }, actions);
            }
            ClientMessage::Broadcast { room, body, key } => {
                self.or_wait(room, Waiting::Broadcast { id, body, key }, actions);
            }
        }
    }

    /// One message that was not understood.
    pub fn malformed(&mut self, malformed: &Malformed, now: Instant, actions: &mut Vec<Action>) {
        let Malformed { id, code, room, text } = malformed;
        let message = ServerMessage::error(id.as_deref(), *code, text, room.as_deref());
        actions.push(Action::Refuse(*code, message.frame()));
        if self.limits.malformed() {
            actions.push(Action::Close(CloseReason::TooManyErrors));
        }
        self.control(now, actions);
    }

    /// A message that needs no answer of ours, such as a WebSocket ping: charged like others.
    pub fn control(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let verdict = self.limits.take(Charge::Message, &self.settings, self.automatic.len(), now);
        if verdict == Verdict::TooMuch {
            actions.push(Action::Close(CloseReason::RateLimited));
        }
    }

    /// The user has a newer token: it names these automatic rooms, and lets its user join those it covers. Others are left.
    pub fn claims_changed(
        &mut self,
        automatic: Vec<AutomaticRoom>,
        covers: impl Fn(&Room) -> bool,
        actions: &mut Vec<Action>,
    ) {
        self.automatic = automatic.into();
        let lost = self.rooms.names().filter(|room| !self.is_automatic(room) && !covers(room));
        for room in lost.cloned().collect::<Vec<_>>() {
            self.expel(&room, ErrorCode::NotAuthorized.as_str(), actions);
        }
    }

    /// A backend has removed the user from this room. What was asked before is asked again; true if a membership ends.
    pub fn removed(&mut self, room: &Room, actions: &mut Vec<Action>) -> bool {
        let member = self.rooms.membership(room).is_some();
        let joining = match self.rooms.busy(room).map(|busy| &mut busy.step) {
            Some(Step::Authorizing { id, since }) if !member => {
                let step = Step::Authorizing { id: id.take(), since: since.take() };
                let op = self.start(room, step);
                actions.push(Action::Authorize { op, room: room.clone(), grant: None });
                return false;
            }
            Some(Step::Joining { .. }) => true,
            _ => false,
        };
        if member || joining {
            self.expel(room, CloseReason::Removed.label(), actions);
        }
        member || joining
    }

    /// Ends a membership, or the way to one, unasked. What waits behind it finds none.
    fn expel(&mut self, room: &Room, reason: &'static str, actions: &mut Vec<Action>) {
        let joining = self.cancel_step(room, actions);
        let member = self.rooms.membership(room).is_some();
        if member {
            self.rooms.state(room).membership = None;
        }
        self.cancel_waiting(room, actions);
        if joining || member {
            self.start_leaving(room, None, Some(reason), actions);
        } else {
            self.rooms.forget_if_idle(room);
        }
    }

    /// Rooms the client is a member of, or waits for.
    pub fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.rooms.names()
    }

    fn start_joining(&mut self, room: Room, joining: Joining, actions: &mut Vec<Action>) {
        let Joining { id, publish, grant, since } = joining;
        let op = self.start(&room, Step::Joining { id: id.clone(), publish });
        actions.push(Action::Join { op, room, id, publish, grant, since });
    }

    fn start_leaving(&mut self, room: &Room, id: Id, reason: Option<&'static str>, actions: &mut Vec<Action>) {
        self.rooms.state(room).membership = None;
        let op = self.start(room, Step::Leaving);
        actions.push(Action::Leave { op, room: room.clone(), id, reason });
    }

    fn start(&mut self, room: &Room, step: Step) -> OpId {
        self.next_op = self.next_op.wrapping_add(1);
        let op = self.next_op;
        let RoomState { busy, .. } = self.rooms.state(room);
        match busy {
            Some(busy) => (busy.op, busy.step) = (op, step),
            None => *busy = Some(Box::new(Busy { op, step, queue: std::collections::VecDeque::new() })),
        }
        op
    }

    /// The step that operation `op` of the room is at; none if it was cancelled.
    fn take_step(&mut self, op: OpId, room: &Room) -> Option<Step> {
        let busy = self.rooms.busy(room).filter(|busy| busy.op == op)?;
        Some(std::mem::replace(&mut busy.step, Step::Idle))
    }

    /// Goes on with what waits for the room, until it is busy again or nothing is left.
    fn resume(&mut self, room: &Room, actions: &mut Vec<Action>) {
        while let Some(busy) = self.rooms.busy(room) {
            if !matches!(busy.step, Step::Idle) {
                return;
            }
            let Some(request) = busy.queue.pop_front() else {
                self.rooms.state(room).busy = None;
                break;
            };
            self.waiting -= 1;
            self.handle(room.clone(), request, actions);
        }
        self.rooms.forget_if_idle(room);
    }

    fn is_automatic(&self, room: &Room) -> bool {
        self.automatic.iter().any(|automatic| automatic.room == *room)
    }
}

/// What the hub is told of a join.
#[derive(Debug, Default)]
struct Joining {
    id: Id,
    publish: bool,
    grant: Option<Box<str>>,
    since: Option<Since>,
}

fn rate_limited(id: Option<&str>, room: Option<&Room>, retry_ms: u32) -> Action {
    let text = "more messages than a client may send";
    let message = ServerMessage::error(id, ErrorCode::RateLimited, text, room.map(Room::as_str));
    Action::Refuse(ErrorCode::RateLimited, message.retry_in(retry_ms).frame())
}

fn error(id: Option<&str>, code: ErrorCode, text: &str, room: Option<&Room>) -> Action {
    Action::Refuse(code, ServerMessage::error(id, code, text, room.map(Room::as_str)).frame())
}

fn cancelled(id: Option<&str>, room: &Room) -> Action {
    error(id, ErrorCode::Cancelled, "left before it was joined", Some(room))
}

fn left(id: Option<&str>, room: &Room) -> Action {
    Action::Send(ServerMessage::Left { id, payload: Left { room, reason: None } }.frame())
}
