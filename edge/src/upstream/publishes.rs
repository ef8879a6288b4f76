use std::collections::BTreeMap;

use prometheus_client::metrics::counter::Counter;
use proto::{
    Room,
    wire::{self, LinkErrorCode, receipt::Result as Outcome},
};
use service::limit;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    auth::UserId,
    defaults::LINK_INFLIGHT,
    protocol::ErrorCode,
    session::{Failure, Forward, Receipt, Stored},
};

/// A broadcast on its way to a link.
#[derive(Debug)]
pub(super) struct Broadcast {
    room: Room,
    from: UserId,
    forward: Forward,
    receipt: oneshot::Sender<Receipt>,
}

impl Broadcast {
    pub(super) fn new(room: Room, from: UserId, forward: Forward) -> (Self, oneshot::Receiver<Receipt>) {
        let (receipt, waiting) = oneshot::channel();
        (Self { room, from, forward, receipt }, waiting)
    }

    /// It was not sent: certainly not stored. `again`: another link may do.
    pub(super) fn refuse(self, text: &str, again: bool) {
        let _ = self.receipt.send(Err(Failure { code: ErrorCode::Unavailable, text: text.to_owned(), again }));
    }
}

/// The broadcasts sent on one link whose receipts are awaited.
#[derive(Debug)]
pub(super) struct Inflight {
    next: u64,
    receipts: BTreeMap<u64, oneshot::Sender<Receipt>>,
    full: Counter,
}

impl Inflight {
    /// `full` counts those refused because too many are under way.
    pub(super) fn new(full: Counter) -> Self {
        Self { next: 0, receipts: BTreeMap::new(), full }
    }

    /// The message to send; `None` if it was refused, or nobody waits for it any more.
    pub(super) fn start(&mut self, broadcast: Broadcast) -> Option<wire::LinkPublish> {
        if self.receipts.len() >= limit(LINK_INFLIGHT) {
            // Those whose time ran out are no longer waited for.
            self.receipts.retain(|_, receipt| !receipt.is_closed());
        }
        if self.receipts.len() >= limit(LINK_INFLIGHT) {
            self.full.inc();
            broadcast.refuse("too many broadcasts are under way", false);
            return None;
        }
        let left = broadcast.forward.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            broadcast.refuse("it waited too long to be sent", false);
            return None;
        }
        let Broadcast { room, from, forward, receipt } = broadcast;
        self.next += 1;
        self.receipts.insert(self.next, receipt);
        Some(wire::LinkPublish {
            id: self.next,
            room: room.as_str().to_owned(),
            from: from.as_str().to_owned(),
            body: forward.body,
            key: forward.key.to_string(),
            key_is_ours: forward.key_is_ours,
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            traceparent: String::new(),
            unless: forward.unless.iter().map(ToString::to_string).collect(),
        })
    }

    pub(super) fn receipt(&mut self, receipt: wire::Receipt) {
        // Unknown: its sender gave up, and its place with it.
        let Some(waiting) = self.receipts.remove(&receipt.id) else { return };
        let _ = waiting.send(outcome(receipt.result));
    }
}

impl Drop for Inflight {
    /// The link is lost: whatever was sent may have been stored.
    fn drop(&mut self) {
        // In the order sent.
        for receipt in std::mem::take(&mut self.receipts).into_values() {
            let text = "the link was lost: it may have been stored".to_owned();
            let _ = receipt.send(Err(Failure { code: ErrorCode::Unknown, text, again: true }));
        }
    }
}

fn outcome(result: Option<Outcome>) -> Receipt {
    match result {
        Some(Outcome::Stored(wire::Stored { position, duplicate })) => {
            Ok(Stored { position: position.unwrap_or_default().into(), duplicate })
        }
        Some(Outcome::Error(error)) => {
            let code = match error.code() {
                LinkErrorCode::Invalid => ErrorCode::BadMessage,
                LinkErrorCode::TooLarge => ErrorCode::MessageTooLarge,
                LinkErrorCode::Unavailable | LinkErrorCode::Busy => ErrorCode::Unavailable,
                LinkErrorCode::Unknown | LinkErrorCode::Unspecified => ErrorCode::Unknown,
            };
            Err(Failure { code, text: error.message, again: false })
        }
        None => {
            let text = "the receipt was not understood".to_owned();
            Err(Failure { code: ErrorCode::Unknown, text, again: false })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proto::Key;

    use super::*;

    fn broadcast() -> (Broadcast, oneshot::Receiver<Receipt>) {
        let (room, user) = (Room::try_new("r").unwrap(), UserId::try_new("7").unwrap());
        let key = Key::try_new("k").unwrap().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let body = Bytes::from_static(b"1");
        let (key_is_ours, unless) = (true, Vec::new());
        Broadcast::new(room, user, Forward { op: 1, body, key, key_is_ours, deadline, alone: false, via: None, unless })
    }

    #[tokio::test(start_paused = true)]
    async fn receipts_find_their_senders_and_a_lost_link_leaves_it_unknown() {
        let mut inflight = Inflight::new(Counter::default());
        let (first, mut first_receipt) = broadcast();
        let (second, mut second_receipt) = broadcast();
        let first = inflight.start(first).unwrap();
        inflight.start(second).unwrap();
        let stored = wire::Stored { position: Some(wire::Position { epoch: "e".into(), seq: 4 }), duplicate: false };
        inflight.receipt(wire::Receipt { id: first.id, result: Some(Outcome::Stored(stored)) });
        assert_eq!(first_receipt.try_recv().unwrap().unwrap().position.seq, 4);
        drop(inflight);
        assert_eq!(second_receipt.try_recv().unwrap().unwrap_err().code, ErrorCode::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_sent_is_certainly_not_stored() {
        let mut inflight = Inflight::new(Counter::default());
        let (late, mut receipt) = broadcast();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(inflight.start(late).is_none());
        assert_eq!(receipt.try_recv().unwrap().unwrap_err().code, ErrorCode::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn those_under_way_have_a_limit() {
        let mut inflight = Inflight::new(Counter::default());
        let mut waiting = Vec::new();
        for _ in 0..LINK_INFLIGHT {
            let (broadcast, receipt) = broadcast();
            inflight.start(broadcast).unwrap();
            waiting.push(receipt);
        }
        let (one_more, mut receipt) = broadcast();
        assert!(inflight.start(one_more).is_none());
        assert_eq!(inflight.full.get(), 1);
        assert_eq!(receipt.try_recv().unwrap().unwrap_err().code, ErrorCode::Unavailable);
        // One whose sender gave up makes room.
        waiting.pop();
        assert!(inflight.start(broadcast().0).is_some());
    }
}
