//! What the connections of a listener share: places, of which those that have shown no key or token make room for others;
//! patience; and what is counted of those that are cut.

use std::sync::Arc;

use axum::BoxError;
use service::{
    Seldom,
    accept::{Crowd, Place, Speaker},
};
use tokio::sync::Semaphore;

use super::talk::{Overdue, Talk};
use crate::metrics::Cut;

/// Connections: more than there are edges, or pools of a hundred backends have. Idle ones hold some 20 KiB each.
const MAX_CONNECTIONS: usize = 4096;

/// Those of HTTP/1.1 among them that may be quiet for longer than a few seconds.
const QUIET_PLACES: usize = 1024;

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Guests {
    crowd: Arc<Crowd>,
    quiet: Arc<Semaphore>,
    cut: Cut,
    /// Connections may come by the thousand.
    full: Arc<Seldom>,
}

impl Guests {
    /// With a quarter of the open files at most: the other listener, Redis and probes want some, too.
    pub(super) fn new(files: u64, cut: Cut) -> Self {
        let crowd = Crowd::new(connections(files));
        Self { crowd, quiet: Arc::new(Semaphore::new(QUIET_PLACES)), cut, full: Arc::default() }
    }

    /// A place for one more; `None` if everybody has shown what lets it in.
    pub(super) async fn enter(&self) -> Option<Guest> {
        let place = self.crowd.enter_or_leave().await;
        if place.is_none() {
            self.cut.full.inc();
            if let Some(left_out) = self.full.is_due() {
                tracing::warn!(left_out, "all places of a listener are taken: closing a connection at once");
            }
        }
        place.map(|place| Guest { place, talk: Talk::new(), guests: self.clone() })
    }
}

fn connections(files: u64) -> usize {
    usize::try_from(files / 4).unwrap_or(usize::MAX).clamp(1, MAX_CONNECTIONS)
}

/// A connection.
#[derive(Debug)]
pub(super) struct Guest {
    place: Place,
    pub(super) talk: Talk,
    guests: Guests,
}

impl Guest {
    pub(super) fn speaker(&self) -> Speaker {
        self.place.speaker()
    }

    /// It said nothing at all.
    pub(super) fn was_silent(&self) {
        self.guests.cut.head.inc();
    }

    /// Waits until somebody else needs the place more.
    pub(super) async fn makes_room(&self) {
        self.place.cut().await;
        self.guests.cut.stranger.inc();
    }

    /// Waits until something takes it too long.
    pub(super) async fn overdue(&self) {
        let cut = &self.guests.cut;
        let cut = match self.talk.clone().overdue(Arc::clone(&self.guests.quiet)).await {
            Overdue::Head => &cut.head,
            Overdue::Answer => &cut.answer,
            Overdue::Quiet => &cut.quiet,
            Overdue::Crowded => &cut.crowded,
        };
        cut.inc();
    }

    /// Counts what hyper cut it for.
    pub(super) fn failed(&self, error: &BoxError) {
        let Some(error) = error.downcast_ref::<hyper::Error>() else { return };
        if error.is_parse() {
            self.guests.cut.bad_head.inc();
        } else if error.is_timeout() {
            // There is no other time that hyper looks after.
            self.guests.cut.ping.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_gets_a_share_of_the_files() {
        assert_eq!([0, 3, 1024, 20_000, u64::MAX].map(connections), [1, 1, 256, 4096, 4096]);
    }
}
