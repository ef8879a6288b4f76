use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use proto::Room;
use rand::Rng as _;
use tokio::{
    io::AsyncRead,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Context, Guest,
    guest::Arrival,
    heartbeat::{Due, Heartbeat},
    read_pump::{ReadPump, Received},
    replays::{Replays, drive},
};
use crate::{
    auth::{Claims, TokenError},
    authorize::{Admission, Applicant},
    close::CloseReason,
    defaults::CLIENT_PING,
    outbox::Outbox,
    protocol::{
        ErrorCode, Request, ServerMessage, frame,
        server::{Authenticated, ReconnectReason, Welcome},
    },
    removals::News,
    session::{Action, AutomaticRooms, JoinOutcome, OpId, Receipt, Session},
};

/// Requests of one connection under way, of all kinds; with so many it is not read from until some are done.
const MAX_PENDING: usize = 128;

/// What a connection and its client say to each other: reads requests, has the session decide, carries out its actions.
pub(super) struct Conversation<R> {
    pub(super) reader: ReadPump<R>,
    claims: Arc<Claims>,
    token: Arc<str>,
    auto_join: bool,
    arrival: Arrival,
    session: Session,
    pub(super) outbox: Arc<Outbox>,
    pub(super) context: Arc<Context>,
    heartbeat: Heartbeat,
    timer: Pin<Box<Sleep>>,
    /// None while nothing is under way, which is nearly always.
    pending: Option<Box<FuturesUnordered<BoxFuture<'static, Done>>>>,
    /// None while no room catches up.
    replays: Option<Box<Replays>>,
    actions: Vec<Action>,
}

/// The end of something that took time.
enum Done {
    Authorized {
        op: OpId,
        room: Room,
        admission: Admission,
    },
    Joined {
        op: OpId,
        room: Room,
        outcome: JoinOutcome,
    },
    Left {
        op: OpId,
        room: Room,
    },
    Published {
        op: OpId,
        room: Room,
        receipt: Receipt,
    },
    /// It was cancelled.
    Nothing,
}

impl<R: AsyncRead + Unpin + Send> Conversation<R> {
    pub(super) fn new(reader: ReadPump<R>, guest: Guest, outbox: Arc<Outbox>, context: Arc<Context>) -> Self {
        let now = Instant::now();
        let settings = &context.settings;
        let first = service::rng().random_range(0.5..=1.0);
        let Guest { id, claims, token, auto_join, arrival } = guest;
        let expires = now + context.left_of(&claims);
        let mut heartbeat = Heartbeat::new(settings.ping_period, settings.pong_wait, first, now, expires);
        if let Some(age) = settings.max_age {
            // Jittered, as those that came together should not go together.
            heartbeat.ages_at(now + age.mul_f64(service::rng().random_range(0.9..=1.1)));
        }
        let automatic = AutomaticRooms::of(&claims).rooms;
        let session = Session::new(id, automatic, settings.session.clone(), context.metrics.session_full.clone(), now);
        let timer = Box::pin(sleep_until(heartbeat.deadline()));
        Self {
            reader,
            claims,
            token,
            auto_join,
            arrival,
            session,
            outbox,
            context,
            heartbeat,
            timer,
            pending: None,
            replays: None,
            actions: Vec::new(),
        }
    }

    /// Returns why the connection is to close.
    pub(super) async fn run(&mut self) -> CloseReason {
        if self.auto_join {
            self.session.auto_join(&mut self.actions);
        }
        loop {
            // Before anything is asked for the client, so that what it is given is given after all that were seen.
            if let Some(reason) = self.look_for_removals() {
                return reason;
            }
            if !self.actions.is_empty()
                && let Some(reason) = Box::pin(self.perform_all()).await
            {
                return reason;
            }
            let may_read = self.pending.as_ref().is_none_or(|pending| pending.len() < MAX_PENDING);
            tokio::select! {
                // If there is a removal of its user, the outbox's owner is woken: this task. Both in one, as each connection
                // keeps a place for each future here.
                done = poll_fn(|cx| {
                    let removed = self.context.removals.latest() != self.arrival.seen;
                    if removed { Poll::Ready(Done::Nothing) } else { poll_done(&mut self.pending, cx) }
                }) => self.done(done),
                received = self.reader.next(), if may_read => {
                    let ended = match received {
                        Ok(received) => self.received(received),
                        Err(reason) => Some(reason),
                    };
                    if let Some(reason) = ended {
                        return reason;
                    }
                }
                () = drive(&mut self.replays, &self.context.hub, &self.outbox) => {}
                () = self.timer.as_mut() => {
                    if let Some(reason) = self.due() {
                        return reason;
                    }
                }
            }
        }
    }

    /// Takes the connection out of all rooms.
    pub(super) async fn leave_all(self: Box<Self>) {
        for room in self.session.rooms() {
            self.context.hub.forget(room.clone(), self.outbox.clone()).await;
        }
    }

    /// The client's first message, behind what is to be sent before it.
    pub(super) fn welcome(&self, answer: &[u8]) {
        let Context { settings, upstream, connections, .. } = &*self.context;
        let claims = &self.claims;
        let automatic = AutomaticRooms::of(claims);
        let rooms: Vec<&str> = automatic.rooms.iter().map(|automatic| automatic.room.as_str()).collect();
        let payload = Welcome {
            connection: self.session.connection(),
            user: &claims.user,
            expires: claims.expires,
            ping_ms: millis(CLIENT_PING),
            dedup_ms: upstream.dedup_ms(),
            reconnect_ms: millis(connections.spread().window()),
            max_message_bytes: settings.max_message_bytes,
            rooms: &rooms,
        };
        let welcome = ServerMessage::Welcome { payload }.frame();
        self.outbox.push(if answer.is_empty() { welcome } else { [answer, &welcome].concat().into() });
        for (name, code) in &automatic.refused {
            let text = "the token's automatic room cannot be joined";
            self.refuse(*code, ServerMessage::error(None, *code, text, Some(name)).frame());
        }
    }

    /// Returns why the connection is to close, if it is for this.
    fn received(&mut self, received: Received) -> Option<CloseReason> {
        let now = Instant::now();
        self.heartbeat.received(now);
        for answer in self.reader.take_answers() {
            self.outbox.push(answer);
        }
        let text = match received {
            Received::Text(text) => text,
            Received::Binary(_) => return Some(CloseReason::Binary),
            Received::Control => {
                self.session.control(now, &mut self.actions);
                return None;
            }
            Received::Part => return None,
        };
        match Request::parse(&text) {
            Ok(request) => {
                self.context.metrics.requests.inc();
                self.session.request(request, now, &mut self.actions);
            }
            Err(malformed) => {
                self.context.metrics.malformed.inc();
                self.session.malformed(&malformed, now, &mut self.actions);
            }
        }
        None
    }

    fn done(&mut self, done: Done) {
        let (session, actions) = (&mut self.session, &mut self.actions);
        match done {
            Done::Authorized { op, room, admission } => session.authorized(op, &room, admission, actions),
            Done::Joined { op, room, outcome } => {
                session.joined(op, &room, outcome, actions);
                if outcome == JoinOutcome::CatchingUp {
                    self.replays.get_or_insert_default().add(room);
                }
            }
            Done::Left { op, room } => session.left(op, &room, actions),
            Done::Published { op, room, receipt } => {
                session.receipt(op, &room, receipt, Instant::now(), actions);
            }
            Done::Nothing => {}
        }
    }

    /// Whether a backend has removed the user since this was looked at; returns why to close, if it is altogether.
    fn look_for_removals(&mut self) -> Option<CloseReason> {
        let removals = &self.context.removals;
        if removals.latest() == self.arrival.seen {
            return None;
        }
        let News { seen, everywhere, rooms } = removals.since(self.arrival.seen, &self.claims.user);
        self.arrival.seen = seen;
        // An edge that was cut off hears of some late: who came after them is not meant, but what it was given may be older.
        if everywhere.is_some_and(|removed| removed.is_after(self.arrival.unix_ms)) {
            return Some(CloseReason::Removed);
        }
        let rooms = if everywhere.is_some() { self.session.rooms().cloned().collect() } else { rooms };
        let ended = rooms.iter().filter(|room| self.session.removed(room, &mut self.actions)).count();
        self.context.metrics.removed.inc_by(ended as u64);
        None
    }

    fn due(&mut self) -> Option<CloseReason> {
        match self.heartbeat.due(Instant::now()) {
            Due::Dead => return Some(CloseReason::PingTimeout),
            Due::TokenExpired => return Some(CloseReason::TokenExpired),
            Due::Gone => return Some(CloseReason::Restarting),
            Due::Aged => self.grow_old(),
            Due::Ping => {
                self.outbox.push(frame::ping());
            }
            Due::Nothing => {}
        }
        self.timer.as_mut().reset(self.heartbeat.deadline());
        None
    }

    /// Tells the client its moment to reconnect: its own, within the window over which clients are spread.
    fn grow_old(&mut self) {
        let window = self.context.connections.spread().window();
        let after = window.mul_f64(service::rng().random_range(0.0..=1.0));
        self.outbox.push(ServerMessage::reconnect(millis(after), ReconnectReason::Age).frame());
        self.heartbeat.goes_at(Instant::now() + after);
    }

    /// Carries out what the session wants done; returns why to close, if that is it.
    async fn perform_all(&mut self) -> Option<CloseReason> {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                if let Action::Close(reason) = action {
                    return Some(reason);
                }
                self.perform(action).await;
            }
        }
        None
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Send(frame) => {
                self.outbox.push(frame);
            }
            Action::Refuse(code, frame) => self.refuse(code, frame),
            Action::Close(_) => {}
            Action::Authorize { op, room, grant } => self.authorize(op, room, grant),
            Action::Join { op, room, id, publish, grant, since } => {
                let (member, asked) = (self.outbox.clone(), room.clone());
                let outcome = self.context.hub.join(asked, member, id, publish, grant, since).await;
                let done = outcome.map(move |outcome| match outcome {
                    Ok(outcome) => Done::Joined { op, room, outcome },
                    Err(_) => Done::Nothing,
                });
                self.start(done.boxed());
            }
            Action::Leave { op, room, id, reason } => {
                let left = self.context.hub.leave(room.clone(), self.outbox.clone(), id, reason).await;
                self.start(left.map(move |_| Done::Left { op, room }).boxed());
            }
            Action::Publish { room, forward } => {
                let op = forward.op;
                let forward = self.session.forward(&room, forward);
                let (via, receipt) = self.context.upstream.publish(&room, &self.claims.user, forward);
                if let Some(via) = via {
                    self.session.sent(&room, via);
                }
                self.start(async move { Done::Published { op, room, receipt: receipt.await } }.boxed());
            }
            Action::Authenticate { id, token } => self.authenticate(id.as_deref(), &token).await,
        }
    }

    fn authorize(&mut self, op: OpId, room: Room, grant: Option<Box<str>>) {
        let (context, claims, token) = (self.context.clone(), self.claims.clone(), self.token.clone());
        let asking = async move {
            let keys = context.keys.now();
            let removed = context.removals.last(&claims.user, &room);
            let applicant = Applicant { claims: &claims, token: &token, grant: grant.as_deref(), removed };
            let now_ms = || context.clock.unix_ms();
            let admission = context.authorizer.admit(&room, applicant, keys.grants.as_ref(), now_ms).await;
            Done::Authorized { op, room, admission }
        };
        self.start(asking.boxed());
    }

    async fn authenticate(&mut self, id: Option<&str>, token: &str) {
        let verified = self.context.keys.verify(token, &self.context.clock).await;
        let (code, text) = match verified {
            Ok(claims) if claims.user == self.claims.user => return self.authenticated(id, token, claims),
            Ok(_) => (ErrorCode::TokenInvalid, "the token is another user's"),
            Err(TokenError::Expired) => (ErrorCode::TokenExpired, "the token has expired"),
            Err(TokenError::Unavailable) => {
                (ErrorCode::AuthorizationUnavailable, "the key that the token names cannot be had now")
            }
            Err(error @ (TokenError::Invalid(_) | TokenError::UnknownKey)) => {
                tracing::debug!(user = %self.claims.user, reason = %error, "verify a newer token");
                (ErrorCode::TokenInvalid, "the token is not valid")
            }
        };
        self.refuse(code, ServerMessage::error(id, code, text, None).frame());
    }

    fn authenticated(&mut self, id: Option<&str>, token: &str, claims: Claims) {
        let payload = Authenticated { expires: claims.expires };
        self.heartbeat.token_expires(Instant::now() + self.context.left_of(&claims));
        self.timer.as_mut().reset(self.heartbeat.deadline());
        // Where the backend decides, what it allowed stands.
        let by_claims = self.context.authorizer.is_by_claims();
        let covers = |room: &Room| !by_claims || claims.rooms.cover(room);
        self.session.claims_changed(AutomaticRooms::of(&claims).rooms, covers, &mut self.actions);
        self.claims = Arc::new(claims);
        if self.context.authorizer.shows_tokens() {
            self.token = token.into();
        }
        self.outbox.push(ServerMessage::Authenticated { id, payload }.frame());
    }

    fn refuse(&self, code: ErrorCode, frame: Bytes) {
        self.context.metrics.error(code.as_str());
        self.outbox.push(frame);
    }

    fn start(&mut self, future: BoxFuture<'static, Done>) {
        self.pending.get_or_insert_default().push(future);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The next thing that is done; never, while nothing is under way. The list is given back once it is empty.
fn poll_done(
    slot: &mut Option<Box<FuturesUnordered<BoxFuture<'static, Done>>>>,
    cx: &mut task::Context<'_>,
) -> Poll<Done> {
    let Some(under_way) = slot else { return Poll::Pending };
    let done = ready!(under_way.poll_next_unpin(cx));
    if done.is_none() {
        *slot = None;
    }
    Poll::Ready(done.unwrap_or(Done::Nothing))
}
