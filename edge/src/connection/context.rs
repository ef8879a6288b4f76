use std::{sync::Arc, time::Duration};

use service::Clock;

use crate::{
    authorize::Authorizer, connections::Connections, hub::Hub, keys::Keys, metrics::Metrics, outbox,
    removals::Removals, session, upstream::Upstream,
};

/// What all connections of an edge share.
#[derive(Debug)]
pub struct Context {
    pub settings: Settings,
    pub hub: Hub,
    pub upstream: Upstream,
    pub keys: Keys,
    pub authorizer: Authorizer,
    pub connections: Arc<Connections>,
    pub removals: Arc<Removals>,
    pub outbox_rules: Arc<outbox::Rules>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

/// The limits of a connection.
#[derive(Debug, Clone)]
pub struct Settings {
    pub ping_period: Duration,
    pub pong_wait: Duration,
    pub write_wait: Duration,
    /// None: a connection may get as old as it likes.
    pub max_age: Option<Duration>,
    pub max_message_bytes: usize,
    /// Shared by all sessions.
    pub session: Arc<session::Settings>,
}
