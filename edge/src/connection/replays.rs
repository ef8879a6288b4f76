use std::{collections::VecDeque, future::pending, sync::Arc};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use proto::Room;

use crate::{
    hub::{Hub, Progress},
    outbox::Outbox,
};

/// The rooms of a connection that catch up. They take turns: whenever the outbox is low, the next one is asked for more.
#[derive(Debug, Default)]
pub(super) struct Replays {
    /// To be asked, in turn.
    turns: VecDeque<Room>,
    asked: FuturesUnordered<BoxFuture<'static, (Room, Option<Progress>)>>,
}

impl Replays {
    pub(super) fn add(&mut self, room: Room) {
        if !self.turns.contains(&room) {
            self.turns.push_back(room);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.asked.is_empty()
    }

    /// One step. Cancel-safe: a room stays in its place until the hub has the question.
    async fn step(&mut self, hub: &Hub, outbox: &Arc<Outbox>) {
        tokio::select! {
            Some((room, progress)) = self.asked.next(), if !self.asked.is_empty() => {
                // Without an answer it was left meanwhile.
                if progress == Some(Progress::More) {
                    self.add(room);
                }
            }
            Some(room) = next_turn(&self.turns, outbox) => {
                let progress = hub.more(room.clone(), outbox.clone()).await;
                self.turns.pop_front();
                self.asked.push(progress.map(|progress| (room, progress.ok())).boxed());
            }
        }
    }
}

async fn next_turn(turns: &VecDeque<Room>, outbox: &Outbox) -> Option<Room> {
    let Some(room) = turns.front() else { return pending().await };
    outbox.low().await;
    Some(room.clone())
}

/// Drives the replays of a connection, while there are any; never ends.
pub(super) async fn drive(slot: &mut Option<Box<Replays>>, hub: &Hub, outbox: &Arc<Outbox>) {
    while let Some(replays) = slot {
        // Boxed, so that a connection without any keeps no place for it.
        Box::pin(replays.step(hub, outbox)).await;
        if replays.is_empty() {
            *slot = None;
        }
    }
    pending::<()>().await;
}
