//! What publishers and edges ask the broker for, checked: the one way to it for the publish API and the links.

mod accepted;
mod begun;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use proto::{Key, KeyError, Position, Room, RoomError, wire};
use serde_json::value::RawValue;
use service::{Clock, traces::Traces};
use tokio::time::Instant;

pub(crate) use self::{accepted::Accepted, begun::Begun};
use crate::{
    broker::{
        Broker, NewPublication, Page, PageLimit, ReadError, ReadFrom, StoreError,
        removals::{Removal, Who},
        share::{Part, Share},
    },
    defaults::{BUSY_PAUSE, BUSY_PAUSE_MAX},
    metrics::Metrics,
    removals::Removals,
};

/// Longest user id; it must fit in the name of a room.
const MAX_FROM_BYTES: usize = 200;

/// Most later ones that a publication may name: as many as an edge lets a client have without a receipt.
const MAX_UNLESS: usize = 256;

/// Why a publication was refused, or what the store said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("a sender has 1 to {MAX_FROM_BYTES} bytes and does not begin with @")]
    From,
    #[error("a publication names at most {MAX_UNLESS} later ones")]
    Unless,
    #[error("body is not one JSON value in UTF-8")]
    Body,
    #[error("body is larger than MAX_PUBLISH_BYTES ({0} bytes)")]
    TooLarge(usize),
    #[error("a user's id fits in the name of a room, also as user:<id>, and does not begin with @")]
    User,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A publication as it was offered.
#[derive(Debug, Clone)]
pub(crate) struct Offer<'a> {
    pub(crate) room: &'a str,
    pub(crate) from: Arc<str>,
    /// Of what this publisher may have in the queue to the store.
    pub(crate) share: Option<Arc<Share>>,
    pub(crate) body: Bytes,
    pub(crate) key: &'a str,
    /// The edge made the key: how long it is kept. It is not shown to members.
    pub(crate) edge_key_ttl: Option<Duration>,
    /// Keys of the sender's later ones, of which none may have been stored.
    pub(crate) unless: &'a [String],
    pub(crate) begun: Begun,
    /// From now on.
    pub(crate) deadline: Duration,
}

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Publishing {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Traces,
    pub(crate) removals: Removals,
    /// `MAX_PUBLISH_BYTES`.
    pub(crate) max_body: usize,
}

impl Publishing {
    /// A publication is offered now, with this W3C trace context, which may be empty.
    pub(crate) fn begin(&self, traceparent: &str) -> Begun {
        Begun::new(&self.traces, traceparent)
    }

    /// Takes a backend's publication, whose body is checked here and nowhere else.
    pub(crate) fn publish(&self, offer: Offer<'_>) -> Result<Accepted, PublishError> {
        self.counted(|| {
            self.check_size(&offer.body)?;
            let body = json(&offer.body)?;
            self.submit(Offer { body, ..offer })
        })
    }

    /// As [`Self::publish`], for a caller that can wait: one that finds no place is held back until then.
    pub(crate) async fn publish_held(&self, offer: Offer<'_>, until: Instant) -> Result<Accepted, PublishError> {
        let mut pause = BUSY_PAUSE;
        loop {
            let result = self.publish(offer.clone());
            if !matches!(result, Err(PublishError::Store(StoreError::Busy))) {
                return result;
            }
            if Instant::now() >= until {
                self.metrics.published(&Err(StoreError::Busy));
                return result;
            }
            tokio::time::sleep(pause).await;
            // Many may wait for as long as members of a room do not keep up.
            pause = (2 * pause).min(BUSY_PAUSE_MAX);
        }
    }

    /// Takes a client's broadcast, whose body the edge has checked.
    pub(crate) fn broadcast(&self, offer: Offer<'_>) -> Result<Accepted, PublishError> {
        self.counted(|| {
            self.check_size(&offer.body)?;
            let from = &offer.from;
            if from.is_empty() || from.len() > MAX_FROM_BYTES || from.starts_with('@') {
                return Err(PublishError::From);
            }
            self.submit(offer)
        })
    }

    /// Removes a user from a room; from all, and its connections, without one. Returns when it is stored.
    pub(crate) async fn remove(&self, user: &str, room: &str) -> Result<(), PublishError> {
        let fits = Room::try_new(user).is_ok() && Room::try_new(&format!("user:{user}")).is_ok();
        if !fits || user.starts_with('@') {
            return Err(PublishError::User);
        }
        let room = if room.is_empty() { None } else { Some(Room::try_new(room)?) };
        let who = Who { user: user.into(), room };
        let stored = self.broker.remove(who.clone()).await;
        if stored == Err(StoreError::Busy) {
            self.metrics.removals_full.inc();
        }
        self.removals.learn(Removal { who, at_ms: stored? });
        Ok(())
    }

    /// Reads a page of a room's history.
    pub(crate) async fn read(&self, room: Room, from: ReadFrom, limit: PageLimit) -> Result<Page, ReadError> {
        self.broker.read(room, from, limit).await
    }

    /// Where a room is.
    pub(crate) async fn position(&self, room: Room) -> Result<Position, ReadError> {
        let limit = PageLimit { items: 1, bytes: 0 };
        self.broker.read(room, ReadFrom::Last(0), limit).await.map(|page| page.position)
    }

    fn counted(&self, offer: impl FnOnce() -> Result<Accepted, PublishError>) -> Result<Accepted, PublishError> {
        offer().inspect_err(|error| match error {
            // It may be offered again: whoever gives up counts it.
            PublishError::Store(StoreError::Busy) => {}
            PublishError::Store(error) => self.metrics.published(&Err(*error)),
            _ => {
                self.metrics.refused.inc();
            }
        })
    }

    fn check_size(&self, body: &Bytes) -> Result<(), PublishError> {
        if body.len() > self.max_body { Err(PublishError::TooLarge(self.max_body)) } else { Ok(()) }
    }

    fn part(&self, share: &Arc<Share>, body: &Bytes) -> Result<Part, StoreError> {
        share.take(body.len()).ok_or_else(|| {
            self.metrics.broker_key_full.inc();
            StoreError::Busy
        })
    }

    fn submit(&self, offer: Offer<'_>) -> Result<Accepted, PublishError> {
        let room = Room::try_new(offer.room)?;
        let key = Key::try_new(offer.key)?;
        if offer.unless.len() > MAX_UNLESS {
            return Err(PublishError::Unless);
        }
        let unless = offer.unless.iter().filter_map(|key| Key::try_new(key).transpose()).collect::<Result<_, _>>()?;
        let part = match &offer.share {
            Some(share) => Some(self.part(share, &offer.body)?),
            None => None,
        };
        let shown = if offer.edge_key_ttl.is_some() { "" } else { offer.key };
        let bytes = offer.body.len() as u64;
        let entry = wire::Entry {
            from: offer.from.to_string(),
            ts_ms: self.clock.unix_ms(),
            body: offer.body,
            key: shown.to_owned(),
            traceparent: offer.begun.traceparent(),
        };
        let now = Instant::now();
        offer.begun.named(&room);
        let pending = self.broker.publish(NewPublication {
            room,
            sender: offer.from,
            key,
            key_ttl: offer.edge_key_ttl,
            unless,
            entry: entry.encode_to_vec().into(),
            deadline: now + offer.deadline,
            part,
        })?;
        self.metrics.accepted.observe(now - offer.begun.since);
        self.metrics.published_bytes.inc_by(bytes);
        Ok(Accepted::new(pending, now, offer.begun, Arc::clone(&self.metrics)))
    }
}

#[cfg(test)]
impl Publishing {
    /// To this broker, counted nowhere.
    pub(crate) fn for_tests(broker: Arc<dyn Broker>) -> Self {
        let (metrics, removals) = (Arc::default(), Removals::new(Arc::default()));
        let (clock, traces, max_body) = (Clock::system(), Traces::default(), 64 << 10);
        Self { broker, clock, metrics, traces, removals, max_body }
    }
}

/// The body without the white space around it, if it is one JSON value; its bytes are left as they are.
fn json(body: &Bytes) -> Result<Bytes, PublishError> {
    let value: &RawValue = serde_json::from_slice(body).map_err(|_| PublishError::Body)?;
    Ok(body.slice_ref(value.get().as_bytes()))
}

/// The publications of a page as others may read them. An entry that cannot be decoded is not ours to judge here: it is
/// shown without content.
pub(crate) fn publications(page: &Page) -> impl Iterator<Item = wire::Publication> + '_ {
    (page.first_seq..).zip(&page.entries).map(|(seq, entry)| {
        let wire::Entry { from, ts_ms, body, key, .. } = wire::Entry::decode(entry.clone()).unwrap_or_else(|error| {
            tracing::error!(%error, seq, "decode a stored entry");
            wire::Entry::default()
        });
        wire::Publication { seq, from, ts_ms, body, key }
    })
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use service::traces::Origin;

    use super::*;
    use crate::{
        broker::{Keep, memory::Memory},
        dispatcher::Dispatcher,
    };

    /// The trace context that is stored with a publication that was offered with this one.
    async fn stored(traces: Traces, traceparent: &str) -> String {
        let metrics = Arc::<Metrics>::default();
        let (dispatcher, _shards) = Dispatcher::new(&metrics);
        let (clock, minute) = (Clock::system(), Duration::from_mins(1));
        let keep = Keep { history_size: 10, history_ttl: minute, dedup_window: minute };
        let broker = Arc::new(Memory::new(keep, clock.clone(), Arc::new(dispatcher)));
        let removals = Removals::new(Arc::clone(&metrics));
        let publishing = Publishing { broker, clock, metrics, traces, removals, max_body: 100 };
        let (from, body, begun) = (Arc::from("@a"), Bytes::from_static(b"1"), publishing.begin(traceparent));
        let offer = Offer {
            room: "a",
            from,
            share: None,
            body,
            key: "",
            edge_key_ttl: None,
            unless: &[],
            begun,
            deadline: minute,
        };
        publishing.publish(offer).unwrap().await.unwrap();
        let limit = PageLimit { items: 1, bytes: 1000 };
        let page = publishing.read(Room::try_new("a").unwrap(), ReadFrom::Oldest, limit).await.unwrap();
        wire::Entry::decode(page.entries[0].clone()).unwrap().traceparent
    }

    #[tokio::test]
    async fn a_trace_context_is_stored_if_it_is_sampled_and_there_is_who_wants_it() {
        let on = || {
            let endpoint = "http://127.0.0.1:9".parse().unwrap();
            let origin = Origin { service: "test", instance: "1" };
            Traces::start(Some(&endpoint), origin, &mut Registry::default()).unwrap()
        };
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736";
        let (sampled, not) = (format!("{trace}-00f067aa0ba902b7-01"), format!("{trace}-00f067aa0ba902b7-00"));
        assert!(stored(on(), &sampled).await.starts_with(trace));
        assert_eq!(stored(on(), &not).await, "");
        assert_eq!(stored(on(), "").await, "");
        assert_eq!(stored(Traces::default(), &sampled).await, "");
    }

    #[test]
    fn a_body_is_one_json_value_byte_for_byte() {
        for text in [r#"{"a":1.0,"a":12345678901234567890}"#, "1.0", r#""\u00e9🦀""#, "null", "[ 1 , 2 ]"] {
            assert_eq!(json(&Bytes::copy_from_slice(text.as_bytes())).unwrap(), text);
        }
        assert_eq!(json(&Bytes::from_static(b" \n{\"a\": 1}\t")).unwrap(), "{\"a\": 1}");
        for bad in [&b""[..], b" ", b"{", b"1 2", b"{\"a\":1}x", b"nul", b"\"\xff\"", b"'a'"] {
            assert_eq!(json(&Bytes::copy_from_slice(bad)), Err(PublishError::Body), "{bad:?}");
        }
    }
}
