//! What unit tests of several modules need.

use std::sync::Arc;

use queues::Limits;

use crate::{
    auth::UserId,
    outbox::{Outbox, Rules},
};

pub(crate) const LIMITS: Limits = Limits { frames: 256, bytes: 1 << 20 };

/// An outbox of the default size.
pub(crate) fn outbox() -> Arc<Outbox> {
    outbox_with(LIMITS)
}

pub(crate) fn outbox_with(limits: Limits) -> Arc<Outbox> {
    let rules = Rules { limits, metrics: Arc::default() };
    Arc::new(Outbox::new(UserId::try_new("7").unwrap(), Arc::new(rules)))
}

/// Any frame.
pub(crate) fn frame() -> bytes::Bytes {
    crate::protocol::frame::text(b"{}")
}

/// The JSON in a text frame of ours (RFC 6455, section 5.2).
pub(crate) fn json_of(frame: &[u8]) -> serde_json::Value {
    let header = match frame[1] {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    serde_json::from_slice(&frame[header..]).unwrap()
}
