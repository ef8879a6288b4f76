//! `GET /ws`: what must hold before a client gets its socket, checked in the order of `PROTOCOL.md`, section 1:
//! request, state of the edge, address, origin, token.

mod addresses;
mod conformance;
mod handshake;
mod refusal;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use futures_util::FutureExt as _;
use service::{
    Lifecycle,
    accept::{Switch, Switched},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    auth::{Claims, Origins, TokenError},
    close::CloseReason,
    connection::{self, Arrival, Context, Guest, Pumps, split},
    connections::Place,
    defaults::FAREWELL,
    memory::Memory,
    outbox::Outbox,
    protocol::{ErrorCode, SUBPROTOCOL, ServerMessage},
};
pub use addresses::{Addresses, TrustedProxies};
pub use conformance::{Echoes, conformance};
use handshake::Handshake;
use refusal::Refusal;

/// What the route needs.
#[derive(Debug)]
pub struct Gate {
    pub context: Arc<Context>,
    pub pumps: Pumps,
    pub origins: Arc<Origins>,
    pub lifecycle: Lifecycle,
    /// The tasks of sockets, from before the 101 on, so that a drain can wait for all of them.
    pub sockets: TaskTracker,
    /// Places for sockets that are opened only to say why they are refused.
    pub farewells: Arc<Semaphore>,
    pub echoes: Echoes,
    /// None: an address may have as many new sockets as it likes.
    pub addresses: Option<Arc<Addresses>>,
    pub(crate) memory: Arc<Memory>,
}

/// The route's handler.
pub async fn upgrade(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let admitted = gate.admit(request).await;
    respond(&gate, admitted)
}

fn respond(gate: &Gate, admitted: Result<Response, Refusal>) -> Response {
    admitted.unwrap_or_else(|refusal| {
        gate.context.metrics.refused(refusal.code.as_str());
        refusal.response()
    })
}

impl Gate {
    async fn admit(self: &Arc<Self>, request: Request) -> Result<Response, Refusal> {
        let handshake = Handshake::check(&request)?;
        self.check_state()?;
        self.check_address(&request)?;
        self.check_origin(request.headers())?;
        let token = handshake.token(&request);
        let mut place = self.context.connections.reserve().ok_or(Refusal::OVERLOADED)?;
        let arrival = self.context.arrival();
        let verified = self.verify(token.as_deref()).await.and_then(|claims| {
            if place.belong_to(&claims.user) { Ok(claims) } else { Err(Refusal::TOO_MANY_CONNECTIONS) }
        });
        let farewell = match &verified {
            Ok(_) => None,
            // A browser is told by its socket, as long as not too many are being told.
            Err(refusal) if handshake.offers_realtime && *refusal != Refusal::NO_KEYS => {
                Some(self.farewells.clone().try_acquire_owned().map_err(|_| refusal.clone())?)
            }
            Err(refusal) => return Err(refusal.clone()),
        };
        let auto_join = !query_has(&request, "auto_join", "false");
        let token = token.filter(|_| self.context.authorizer.shows_tokens());
        let guest = verified.map(|claims| guest(claims, token.as_deref(), auto_join, arrival));
        let opening = Opening { guest, place, farewell, tracked: self.sockets.token(), gate: self.clone() };
        switch(&request)?.then(|switched| opening.open(switched));
        Ok(handshake.response())
    }

    fn check_state(&self) -> Result<(), Refusal> {
        if self.lifecycle.is_draining() {
            Err(Refusal::DRAINING)
        } else if !self.context.upstream.ever_linked() {
            Err(Refusal::NOT_READY)
        } else if self.context.connections.is_full() || self.memory.is_full() {
            Err(Refusal::OVERLOADED)
        } else {
            Ok(())
        }
    }

    fn check_address(&self, request: &Request) -> Result<(), Refusal> {
        self.addresses.as_ref().map_or(Ok(()), |addresses| addresses.check(request, Instant::now()))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (origin, second) = (origins.next(), origins.next());
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        // An Origin that is no text, or a second one, is nobody's we know.
        let known = match origin {
            None => true,
            Some(origin) => {
                second.is_none() && origin.to_str().is_ok_and(|origin| self.origins.allows(Some(origin), host))
            }
        };
        if known { Ok(()) } else { Err(Refusal::ORIGIN) }
    }

    async fn verify(&self, token: Option<&str>) -> Result<Claims, Refusal> {
        let token = token.ok_or(Refusal::TOKEN_MISSING)?;
        self.context.keys.verify(token, &self.context.clock).await.map_err(|error| match error {
            TokenError::Expired => Refusal::TOKEN_EXPIRED,
            TokenError::Unavailable => Refusal::NO_KEYS,
            TokenError::Invalid(_) | TokenError::UnknownKey => {
                tracing::debug!(reason = %error, "refuse a token");
                Refusal::TOKEN_INVALID
            }
        })
    }
}

fn guest(claims: Claims, token: Option<&str>, auto_join: bool, arrival: Arrival) -> Guest {
    let id = uuid::Uuid::now_v7().simple().to_string();
    Guest { id: id.into(), claims: Arc::new(claims), token: token.unwrap_or_default().into(), auto_join, arrival }
}

/// The way out of HTTP.
fn switch(request: &Request) -> Result<&Switch, Refusal> {
    // Our accept loop always gives one.
    request.extensions().get().ok_or(Refusal::bad_request("this connection cannot become a WebSocket"))
}

/// A socket that is about to be the client's.
struct Opening {
    /// Without one, a browser is told by the socket why it is refused, since it cannot see a status.
    guest: Result<Guest, Refusal>,
    place: Place,
    farewell: Option<OwnedSemaphorePermit>,
    tracked: TaskTrackerToken,
    gate: Arc<Gate>,
}

impl Opening {
    /// Starts the connection, as a task of its own: it lasts, and what an upgrade needs is given back.
    fn open(self, Switched { socket, answer, rest }: Switched) {
        let Self { guest, mut place, farewell, tracked, gate } = self;
        let Gate { context, pumps, lifecycle, .. } = &*gate;
        let (reader, writer) = split(socket);
        let rules = context.outbox_rules.clone();
        // The answer is in the outbox, with what else is said first, before anybody else has the handle, and before the
        // pump runs: so they leave together, and first.
        match guest {
            Ok(guest) => {
                context.metrics.accepted.inc();
                let outbox = Arc::new(Outbox::new(guest.claims.user.clone(), rules));
                let connection = connection::run(reader, &answer, &rest, guest, outbox.clone(), context.clone());
                place.fill(outbox.clone());
                // Its handle was not there yet when the drain began.
                if lifecycle.is_draining() {
                    outbox.finish(CloseReason::Restarting);
                }
                pumps.start(writer, outbox, context.settings.write_wait);
                lifecycle.spawn(connection.map(move |()| drop((place, tracked))));
            }
            Err(refusal) => {
                context.metrics.refused(refusal.code.as_str());
                let outbox = Arc::new(Outbox::nobodys(rules));
                let error = ServerMessage::error(None, refusal.code, refusal.text, None).frame();
                outbox.push([answer, error].concat().into());
                outbox.finish(refusal.close_reason());
                place.fill(outbox.clone());
                pumps.start(writer, outbox.clone(), context.settings.write_wait.min(FAREWELL));
                let context = context.clone();
                lifecycle.spawn(async move {
                    connection::farewell(reader, &rest, &outbox, &context).await;
                    drop((place, tracked, farewell));
                });
            }
        }
    }
}

fn query_has(request: &Request, name: &str, value: &str) -> bool {
    handshake::query(request, name).is_some_and(|given| given == value)
}

impl Handshake {
    /// The token, first found: header, subprotocol, query.
    fn token(&self, request: &Request) -> Option<String> {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = header.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let given = |token: &String| !token.is_empty();
        let found = bearer.map(str::to_owned).filter(given).or_else(|| self.bearer.clone().filter(given));
        found.or_else(|| handshake::query(request, "token").filter(given))
    }

    fn response(&self) -> Response {
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, &self.accept);
        if self.offers_realtime {
            response = response.header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        }
        // All parts are valid header values: ours, or base64.
        response.body(Body::empty()).unwrap_or_else(|_| Refusal::bad_request("bad handshake").response())
    }
}

impl Refusal {
    /// How the socket of a browser that is refused closes.
    fn close_reason(&self) -> CloseReason {
        match self.code {
            ErrorCode::TokenExpired => CloseReason::TokenExpired,
            ErrorCode::TooManyConnections => CloseReason::TooManyConnections,
            _ => CloseReason::TokenInvalid,
        }
    }
}
