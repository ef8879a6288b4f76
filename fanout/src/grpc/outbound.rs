//! The near end's stream: the only writer of a link.

use std::{collections::VecDeque, sync::Arc};

use futures_util::Stream;
use proto::wire::{FanoutBeat, FanoutMessage, Publications, fanout_message::Kind};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::Status;

use crate::{
    attachments::{Attachment, Control, Message},
    broker::Broker,
    defaults::LINK_BEAT,
    dispatcher::Dispatcher,
    metrics::Metrics,
};

/// What the stream of an attachment needs.
#[derive(Debug)]
pub(super) struct Outbound {
    attachment: Arc<Attachment>,
    dispatcher: Dispatcher,
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
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
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut beats = interval(LINK_BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { attachment, dispatcher, broker, metrics, taken: VecDeque::new(), beats, beat: 0 }
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
            if let Some(message) = self.taken.pop_front() {
                self.metrics.link_messages.inc();
                return Ok(self.kind(message));
            }
            tokio::select! {
                biased;
                _ = self.beats.tick() => return Ok(self.beat()),
                popped = self.attachment.queue.pop(&mut self.taken) => {
                    let wake = popped.map_err(|end| end.map(Status::from))?;
                    self.dispatcher.wake(self.attachment.id, wake);
                }
            }
        }
    }

    fn beat(&mut self) -> Kind {
        self.beat += 1;
        Kind::Beat(FanoutBeat { number: self.beat, heard_ms_ago: self.broker.health().heard_ms_ago })
    }

    fn kind(&self, message: Message) -> Kind {
        match message {
            Message::Control(Control { kind, permit }) => {
                // The answer is on its way: another question may come.
                drop(permit);
                kind
            }
            Message::Publications(room, run) => {
                self.metrics.delivered.inc_by(run.entries.len() as u64);
                self.metrics.delivered_bytes.inc_by(run.bytes() as u64);
                Kind::Publications(Publications {
                    room: room.as_str().to_owned(),
                    epoch: run.epoch.as_str().to_owned(),
                    first_seq: run.first_seq,
                    entries: run.entries.into_vec(),
                })
            }
        }
    }
}
