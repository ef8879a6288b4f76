use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use service::accept::Switched;
use tokio::sync::Semaphore;

use super::{Gate, Handshake, Refusal, respond, switch};
use crate::{
    connection::{self, split},
    defaults::{ECHO_OUTBOX, MAX_ECHOES},
    metrics::Metrics,
    outbox::{Outbox, Rules},
};

/// What the echo for conformance suites has of its own: places, and room for large messages.
#[derive(Debug, Clone)]
pub struct Echoes {
    places: Arc<Semaphore>,
    rules: Arc<Rules>,
}

impl Echoes {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let rules = Arc::new(Rules { limits: ECHO_OUTBOX, metrics });
        Self { places: Arc::new(Semaphore::new(MAX_ECHOES)), rules }
    }
}

/// The handler of `WS_CONFORMANCE_PATH`: any valid handshake is let in, and gets back what it sends.
pub async fn conformance(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let admitted = gate.admit_echo(&request);
    respond(&gate, admitted)
}

impl Gate {
    fn admit_echo(self: &Arc<Self>, request: &Request) -> Result<Response, Refusal> {
        let handshake = Handshake::check(request)?;
        self.check_state()?;
        self.check_address(request)?;
        let mut place = self.context.connections.reserve().ok_or(Refusal::OVERLOADED)?;
        let echo = self.echoes.places.clone().try_acquire_owned().map_err(|_| Refusal::OVERLOADED)?;
        let gate = self.clone();
        let tracked = self.sockets.token();
        switch(request)?.then(move |Switched { socket, answer, rest }| {
            let (reader, writer) = split(socket);
            let outbox = Arc::new(Outbox::nobodys(gate.echoes.rules.clone()));
            outbox.push(answer);
            place.fill(outbox.clone());
            gate.pumps.start(writer, outbox.clone(), gate.context.settings.write_wait);
            let lifecycle = gate.lifecycle.clone();
            lifecycle.spawn(async move {
                connection::echo(reader, &rest, &outbox, &gate.context).await;
                drop((place, tracked, echo));
            });
        });
        Ok(handshake.response())
    }
}
