//! The connection for publications: in order, some at a time; they are refused before the write, or lost without an answer.

use std::{sync::Arc, time::Duration};

use fanout::broker::{Announcement, NewPublication, Receipt, StoreError};
use rand::Rng as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{BATCH, Job, ModelBroker, SAY_RECEIPT};
use crate::{
    record::body_of,
    world::{World, lock, one_in, up_to},
};

/// How late a server may read what a connection had sent.
const LATE: Duration = Duration::from_secs(2);

impl ModelBroker {
    /// The pump of publications: in order, some at a time.
    pub(super) async fn store(self: Arc<Self>, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.recv_many(&mut jobs, BATCH).await > 0 {
            let connection = lock(&self.state).commands;
            sleep(self.latency() / 4).await;
            let lost = lock(&self.state).commands != connection;
            let down = lock(&self.state).commands_down_until > Instant::now();
            for job in jobs.drain(..) {
                self.store_one(job, lost, down);
            }
        }
    }

    fn store_one(&self, job: Job, lost: bool, down: bool) {
        let Job { publication, receipt } = job;
        let world = &self.world;
        if down || publication.deadline <= Instant::now() || self.errs() {
            world.count("store: refused before the write");
            let _ = receipt.send(Err(StoreError::Unavailable));
            return;
        }
        // The connection was lost, or its answer, while it was under way: it may have arrived.
        if (lost || self.errs()) && service::rng().random() {
            let _ = receipt.send(Err(StoreError::Unknown));
            if !one_in(3) {
                world.count("store: unknown, and not stored");
                return;
            }
            // It is still under way: servers read on what a connection had sent before it ended.
            let (world, delay) = (Arc::clone(world), up_to(LATE));
            self.spawn(async move {
                sleep(delay).await;
                world.count("store: unknown, and stored late");
                let _ = world.store(&publication);
            });
            return;
        }
        let answer = world.store(&publication);
        if let Err(error) = answer {
            world.count(&format!("store: too late, {error:?}"));
        }
        if lost || self.errs() {
            world.count("store: unknown, but stored");
            let _ = receipt.send(Err(StoreError::Unknown));
            return;
        }
        if world.plan.say_receipts
            && let Some(me) = self.me()
            && let Ok(answer) = &answer
        {
            let (room, position) = (publication.room, answer.position.clone());
            self.spawn(async move {
                sleep(SAY_RECEIPT).await;
                me.events.announced(Announcement { room, position, entry: None });
            });
        }
        let delay = self.latency() / 4;
        self.spawn(async move {
            sleep(delay).await;
            let _ = receipt.send(answer);
        });
    }
}

impl World {
    /// Stores a publication and announces it to every node.
    fn store(&self, publication: &NewPublication) -> Result<Receipt, StoreError> {
        let room = &publication.room;
        let mut truth = self.truth();
        let receipt = truth.store.publish(publication, self.unix_ms())?;
        if !receipt.duplicate {
            truth.record.stored(room, &receipt.position, &publication.entry);
        }
        truth.observe(room);
        drop(truth);
        self.say(|| format!("store {room} {} {}", receipt.position, body_of(&publication.entry)));
        let entry = (!receipt.duplicate).then(|| publication.entry.clone());
        let announcement = Announcement { room: room.clone(), position: receipt.position.clone(), entry };
        for broker in lock(&self.brokers).iter().flatten() {
            broker.hear(&announcement);
        }
        Ok(receipt)
    }
}
