//! The order of the end: edges move their rooms elsewhere while the node still serves them; links; the publish API's calls;
//! last what serves all of these.

use std::time::Duration;

use service::Lifecycle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::listener::Listening;
use crate::{
    attachments::{Attachments, End},
    defaults::{DRAIN_GRACE, HAND_OVER, LINK_DRAIN},
};

/// How often it is looked whether the rooms are gone.
const CHECK: Duration = Duration::from_millis(20);

/// How long calls of the publish API under way get once the links are closed.
const API_DRAIN: Duration = Duration::from_secs(12);

pub(super) async fn run(
    lifecycle: Lifecycle,
    attachments: Attachments,
    links: Listening,
    api: Listening,
    end: CancellationToken,
) {
    lifecycle.drain().cancelled().await;
    leave_links(&attachments).await;
    links.finish(LINK_DRAIN).await;
    api.finish(API_DRAIN).await;
    end.cancel();
}

/// Has the edges move their rooms, then ends their links.
pub(crate) async fn leave_links(attachments: &Attachments) {
    hand_over(attachments).await;
    for attachment in attachments.all() {
        attachment.close(Some(End::Stopping));
    }
}

/// Waits until every edge has moved its rooms, for as long as some still do.
async fn hand_over(attachments: &Attachments) {
    for attachment in attachments.all() {
        attachment.say_drain();
    }
    let told = Instant::now();
    let (mut rooms, mut moved) = (u64::MAX, told);
    loop {
        let all = attachments.all();
        let now = Instant::now();
        let left = all.iter().map(|attachment| attachment.rooms()).sum();
        if left < rooms {
            (rooms, moved) = (left, now);
        }
        let idle = all.iter().all(|attachment| attachment.is_idle());
        if all.is_empty() || (idle && now - told >= DRAIN_GRACE) {
            tracing::info!(took = ?(now - told), "all rooms are handed over");
            return;
        }
        if now - moved >= LINK_DRAIN || now - told >= HAND_OVER {
            tracing::warn!(rooms, links = all.len(), "edges did not move their rooms: ending their links");
            return;
        }
        sleep(CHECK).await;
    }
}
