//! How many new sockets an address may ask for, and whose address that is (`ADDRESS_RATE`, `TRUSTED_PROXIES`).

mod rate;
mod trust;

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use axum::{extract::ConnectInfo, http::Request};
use tokio::time::Instant;

use super::Refusal;
use rate::Rates;
pub use trust::TrustedProxies;

#[derive(Debug)]
pub struct Addresses {
    rates: Mutex<Rates>,
    proxies: TrustedProxies,
}

impl Addresses {
    /// `rate`: new sockets of one address in a second.
    pub fn new(rate: u32, proxies: TrustedProxies) -> Self {
        Self { rates: Mutex::new(Rates::new(rate)), proxies }
    }

    /// Counts the request for its address, and refuses it if that has asked too often.
    pub(super) fn check<B>(&self, request: &Request<B>, now: Instant) -> Result<(), Refusal> {
        // Our accept loop always says who it is.
        let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else { return Ok(()) };
        let address = self.proxies.client(peer.ip(), request.headers());
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.admit(address, now) { Ok(()) } else { Err(Refusal::ADDRESS_RATE) }
    }
}
