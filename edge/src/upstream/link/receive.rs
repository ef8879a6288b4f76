use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt as _;
use proto::{Room, wire, wire::fanout_message};

use super::{Incoming, LinkError, Links, in_time, send::Reading, up::Up};
use crate::{auth::UserId, upstream::publishes::Inflight};

/// Takes what the node sends and hands it over, until the link ends.
pub(super) async fn receive(
    mut incoming: Incoming,
    up: &Up,
    links: &Links,
    inflight: &Mutex<Inflight>,
    reading: &Reading,
) -> LinkError {
    loop {
        let message = match in_time(incoming.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(None) => return LinkError::Ended,
            Ok(Some(Err(status))) => return status.into(),
            Err(silent) => return silent,
        };
        match message.kind {
            Some(fanout_message::Kind::Publications(run)) => links.hub.publications(run),
            Some(fanout_message::Kind::PublicationsBatch(batch)) => {
                for run in batch.runs {
                    links.hub.publications(run);
                }
            }
            Some(fanout_message::Kind::State(state)) => links.hub.state(up.id(), state),
            Some(fanout_message::Kind::Lost(lost)) => links.hub.lost(up.id(), lost),
            Some(fanout_message::Kind::Receipt(receipt)) => {
                inflight.lock().unwrap_or_else(PoisonError::into_inner).receipt(receipt);
            }
            Some(fanout_message::Kind::ReadResult(result)) => {
                reading.answered();
                links.hub.page(up.id(), result);
            }
            Some(fanout_message::Kind::Drain(_)) => {
                tracing::info!("a fanout node drains: moving its rooms");
                up.drains();
            }
            Some(fanout_message::Kind::Remove(remove)) => {
                if let Err(error) = learn(&remove, links) {
                    links.shared.metrics.link_unknown_messages.inc();
                    tracing::warn!(%error, "a fanout node removes whom there cannot be");
                }
            }
            Some(fanout_message::Kind::Beat(beat)) => up.beat(beat.heard_ms_ago, &beat.store),
            // Of a newer node, or an answer to what we never ask.
            _ => {
                links.shared.metrics.link_unknown_messages.inc();
            }
        }
    }
}

fn learn(remove: &wire::Remove, links: &Links) -> Result<(), Box<dyn std::error::Error>> {
    let user = UserId::try_new(&remove.user)?;
    let room = if remove.room.is_empty() { None } else { Some(Room::try_new(&remove.room)?) };
    links.removals.learn(&user, room.as_ref(), remove.at_ms);
    Ok(())
}
