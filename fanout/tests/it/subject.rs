//! A broker under test, and everything it says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use fanout::broker::{
    Announcement, Broker, Events, Keep, NewPublication, Page, PageLimit, ReadFrom, Receipt, removals::Removal,
};
use proto::{Key, Position, Room};
use service::Lifecycle;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Server,
    patience::{PATIENCE, finish, soon},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Announced(Announcement),
    Subscribed(Room),
    Reset,
}

/// Remembers events in order.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    events: Mutex<VecDeque<Event>>,
    ready: Notify,
}

impl Recorder {
    fn push(&self, event: Event) {
        self.events.lock().unwrap().push_back(event);
        self.ready.notify_one();
    }

    pub(crate) async fn next(&self) -> Event {
        soon("an event", async {
            loop {
                if let Some(event) = self.events.lock().unwrap().pop_front() {
                    return event;
                }
                self.ready.notified().await;
            }
        })
        .await
    }

    /// The next announcement with an entry.
    pub(crate) async fn announced(&self) -> Announcement {
        loop {
            if let Event::Announced(announcement) = self.next().await
                && announcement.entry.is_some()
            {
                return announcement;
            }
        }
    }

    pub(crate) async fn until(&self, event: Event) {
        while self.next().await != event {}
    }
}

impl Events for Recorder {
    fn announced(&self, announcement: Announcement) {
        self.push(Event::Announced(announcement));
    }

    fn subscribed(&self, room: Room) {
        self.push(Event::Subscribed(room));
    }

    fn reset(&self) {
        self.push(Event::Reset);
    }
}

pub(crate) struct Subject {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) events: Arc<Recorder>,
    pub(crate) server: Option<Server>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) end: CancellationToken,
}

pub(crate) fn keep() -> Keep {
    Keep { history_size: 1000, history_ttl: Duration::from_mins(1), dedup_window: Duration::from_mins(1) }
}

pub(crate) const PAGE: PageLimit = PageLimit { items: 1000, bytes: 1 << 20 };

impl Subject {
    pub(crate) async fn finish(self) {
        assert!(!self.lifecycle.is_draining(), "a broker ends when it is told to, whatever its servers do");
        self.end.cancel();
        finish(&self.lifecycle).await;
    }

    pub(crate) async fn publish(&self, room: &str, body: impl Into<Bytes>) -> Receipt {
        soon("a receipt", self.broker.publish(publication(room, body)).unwrap()).await.unwrap()
    }

    pub(crate) async fn publish_as(&self, room: &str, sender: &str, key: &str, ttl: Option<Duration>) -> Receipt {
        let key = Key::try_new(key).unwrap();
        let publication = NewPublication { sender: sender.into(), key, key_ttl: ttl, ..publication(room, "x") };
        soon("a receipt", self.broker.publish(publication).unwrap()).await.unwrap()
    }

    pub(crate) async fn read(&self, room: &str, from: ReadFrom) -> Page {
        self.read_page(room, from, PAGE).await
    }

    pub(crate) async fn read_page(&self, room: &str, from: ReadFrom, limit: PageLimit) -> Page {
        soon("a page", self.broker.read(name(room), from, limit)).await.unwrap()
    }

    pub(crate) async fn removals(&self, after_ms: i64, limit: usize) -> Vec<Removal> {
        soon("removals", self.broker.removals(after_ms, limit)).await.unwrap().removals
    }

    pub(crate) async fn subscribe(&self, room: &str) {
        self.broker.subscribe(&name(room));
        self.events.until(Event::Subscribed(name(room))).await;
    }
}

pub(crate) fn name(room: &str) -> Room {
    Room::try_new(room).unwrap()
}

pub(crate) fn after(epoch: &str, seq: u64) -> ReadFrom {
    ReadFrom::After(Position::new(epoch, seq))
}

pub(crate) fn publication(room: &str, body: impl Into<Bytes>) -> NewPublication {
    NewPublication {
        room: name(room),
        sender: "7".into(),
        key: None,
        key_ttl: None,
        unless: Vec::new(),
        entry: body.into(),
        deadline: Instant::now() + PATIENCE,
        part: None,
    }
}
