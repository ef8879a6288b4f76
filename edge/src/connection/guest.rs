use std::{sync::Arc, time::Duration};

use super::Context;
use crate::auth::Claims;

/// Who the connection belongs to, as its upgrade found.
#[derive(Debug)]
pub struct Guest {
    pub id: Box<str>,
    pub claims: Arc<Claims>,
    /// For backends that want to see it; else empty.
    pub token: Arc<str>,
    /// Whether to join the automatic rooms for it.
    pub auto_join: bool,
    pub arrival: Arrival,
}

/// When a connection came: to be had before its handle is where others find it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub(super) unix_ms: i64,
    /// The removals up to this number are none of its affair.
    pub(super) seen: u64,
}

impl Context {
    /// A connection comes now.
    pub fn arrival(&self) -> Arrival {
        Arrival { unix_ms: self.clock.unix_ms(), seen: self.removals.latest() }
    }

    /// How long the token is still good for.
    pub(super) fn left_of(&self, claims: &Claims) -> Duration {
        // A year is as good as for ever, and within what a timer takes.
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let left = claims.expires.saturating_mul(1000).saturating_sub(self.clock.unix_ms());
        Duration::from_millis(u64::try_from(left).unwrap_or(0).min(YEAR))
    }
}
