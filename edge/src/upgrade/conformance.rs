use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use tokio::sync::Semaphore;

use super::{Gate, Handshake, Refusal, halves, respond};
use crate::{
    connection,
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
pub async fn conformance(State(gate): State<Gate>, request: Request) -> Response {
    let admitted = gate.admit_echo(request);
    respond(&gate, admitted)
}

impl Gate {
    fn admit_echo(&self, mut request: Request) -> Result<Response, Refusal> {
        let handshake = Handshake::check(&request)?;
        self.check_state()?;
        self.check_address(&request)?;
        let mut place = self.context.connections.reserve().ok_or(Refusal::OVERLOADED)?;
        let echo = self.echoes.places.clone().try_acquire_owned().map_err(|_| Refusal::OVERLOADED)?;
        let upgraded = hyper::upgrade::on(&mut request);
        let gate = self.clone();
        let tracked = self.sockets.token();
        self.lifecycle.spawn(async move {
            if let Some((reader, writer, leftover)) = halves(upgraded).await {
                let outbox = Arc::new(Outbox::nobodys(gate.echoes.rules.clone()));
                place.fill(outbox.clone());
                gate.pumps.start(writer, outbox.clone(), gate.context.settings.write_wait);
                connection::echo(reader, &leftover, &outbox, &gate.context).await;
            }
            drop((tracked, echo));
        });
        Ok(handshake.response())
    }
}
