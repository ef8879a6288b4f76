//! The near end's stream: the only writer of a link.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use proto::{
    Room,
    wire::{self, FanoutBeat, FanoutMessage, Publications, PublicationsBatch, fanout_message::Kind},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;

use crate::{
    attachments::{Attachment, Control, Message},
    broker::{
        Broker,
        removals::{Removal, Who},
    },
    defaults::{LINK_BEAT, LINK_MESSAGE_BYTES},
    dispatcher::Dispatcher,
    metrics::Metrics,
    removals::{Cursor, Removals},
    room::Run,
};

/// What the stream of an attachment needs.
#[derive(Debug)]
pub(super) struct Outbound {
    attachment: Arc<Attachment>,
    dispatcher: Dispatcher,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    removals: Removals,
    told: Cursor,
    /// The hello, which comes first, is out.
    greeted: bool,
    taken: VecDeque<Message>,
    beats: Interval,
    beat: u64,
}

/// When the stream is dropped, for whatever reason, so is the link.
impl Drop for Outbound {
    fn drop(&mut self) {
        self.attachment.close(None);
    }
}

impl Outbound {
    pub(super) fn new(
        attachment: Arc<Attachment>,
        dispatcher: Dispatcher,
        broker: Arc<dyn Broker>,
        removals: Removals,
        metrics: Arc<Metrics>,
    ) -> Self {
        // Not at once: the hello comes first.
        let mut beats = interval_at(Instant::now() + LINK_BEAT, LINK_BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (told, taken) = (removals.cursor(), VecDeque::new());
        Self { attachment, dispatcher, broker, metrics, removals, told, greeted: false, taken, beats, beat: 0 }
    }

    /// Beats and what the queue holds, until its end.
    pub(super) fn stream(self) -> impl Stream<Item = Result<FanoutMessage, Status>> {
        futures_util::stream::unfold(Some(self), |outbound| async {
            let mut outbound = outbound?;
            match outbound.next().await {
                Ok(kind) => Some((Ok(FanoutMessage { kind: Some(kind) }), Some(outbound))),
                Err(Some(status)) => Some((Err(status), None)),
                Err(None) => None,
            }
        })
    }

    async fn next(&mut self) -> Result<Kind, Option<Status>> {
        loop {
            if let Some(kind) = self.taken() {
                self.metrics.link_messages.inc();
                self.greeted = true;
                return Ok(kind);
            }
            tokio::select! {
                biased;
                _ = self.beats.tick() => return Ok(self.beat()),
                // Before all else: they are few, and nobody is to be let in by what they void.
                removal = self.removals.next(&mut self.told), if self.greeted => return Ok(remove(removal)),
                popped = self.attachment.queue.pop(&mut self.taken) => {
                    let wake = popped.map_err(|end| end.map(Status::from))?;
                    self.dispatcher.wake(self.attachment.id, wake);
                }
            }
        }
    }

    fn beat(&mut self) -> Kind {
        self.beat += 1;
        let health = self.broker.health();
        let store = health.store.as_deref().unwrap_or_default().to_owned();
        Kind::Beat(FanoutBeat { number: self.beat, heard_ms_ago: health.heard_ms_ago, store })
    }

    /// The next message of what was taken from the queue: runs up to the next control in one, if the edge takes that.
    fn taken(&mut self) -> Option<Kind> {
        let (room, run) = match self.taken.pop_front()? {
            Message::Control(Control { kind, permit }) => {
                // The answer is on its way: another question may come.
                drop(permit);
                return Some(kind);
            }
            Message::Publications(room, run) => (room, run),
        };
        let first = self.publications(&room, run);
        let several = matches!(self.taken.front(), Some(Message::Publications(..)));
        if !several || !self.attachment.takes_batches() {
            return Some(Kind::Publications(first));
        }
        let mut bytes = size(&first);
        let mut runs = vec![first];
        while bytes < LINK_MESSAGE_BYTES
            && let Some(Message::Publications(room, run)) =
                self.taken.pop_front_if(|message| matches!(message, Message::Publications(..)))
        {
            let next = self.publications(&room, run);
            bytes += size(&next);
            runs.push(next);
        }
        Some(Kind::PublicationsBatch(PublicationsBatch { runs }))
    }

    fn publications(&self, room: &Room, run: Run) -> Publications {
        self.metrics.delivered.inc_by(run.entries.len() as u64);
        self.metrics.delivered_bytes.inc_by(run.bytes() as u64);
        Publications {
            room: room.as_str().to_owned(),
            epoch: run.epoch.as_str().to_owned(),
            first_seq: run.first_seq,
            entries: run.entries.into_vec(),
        }
    }
}

fn remove(removal: Removal) -> Kind {
    let Removal { who: Who { user, room }, at_ms } = removal;
    let room = room.map(|room| room.as_str().to_owned()).unwrap_or_default();
    Kind::Remove(wire::Remove { user: (*user).to_owned(), room, at_ms })
}

/// About what a run takes in a message: with short publications, names weigh more than entries.
fn size(run: &Publications) -> usize {
    run.room.len() + run.epoch.len() + run.entries.iter().map(Bytes::len).sum::<usize>()
}
