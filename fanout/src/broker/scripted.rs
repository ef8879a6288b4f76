//! A broker for tests that does as it is told, and nothing else.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use proto::{Position, Room};

use super::{
    Broker, Health, NewPublication, Page, PageLimit, Pending, ReadError, ReadFrom, Receipt, StoreError,
    removals::{RemovalPage, Who},
};

#[derive(Debug)]
pub(crate) struct Scripted {
    /// What becomes of publications; those that find it busy are not taken.
    outcome: Mutex<Result<Receipt, StoreError>>,
    pub(crate) offered: AtomicUsize,
}

impl Scripted {
    pub(crate) fn new(outcome: Result<u64, StoreError>) -> Self {
        let outcome = outcome.map(|seq| Receipt { position: Position::new("1-a", seq), duplicate: false });
        Self { outcome: Mutex::new(outcome), offered: AtomicUsize::new(0) }
    }
}

impl Broker for Scripted {
    fn publish(&self, _: NewPublication) -> Result<Pending, StoreError> {
        self.offered.fetch_add(1, Ordering::Relaxed);
        match &*self.outcome.lock().unwrap() {
            Err(StoreError::Busy) => Err(StoreError::Busy),
            outcome => Ok(Pending::Ready(outcome.clone())),
        }
    }

    fn subscribe(&self, _: &Room) {}

    fn unsubscribe(&self, _: &Room) {}

    fn read(&self, _: Room, _: ReadFrom, _: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        std::future::ready(Err(ReadError)).boxed()
    }

    fn positions(&self, _: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>> {
        std::future::ready(Err(ReadError)).boxed()
    }

    fn renew(&self, _: Vec<Room>) -> BoxFuture<'static, Result<(), ReadError>> {
        std::future::ready(Err(ReadError)).boxed()
    }

    fn remove(&self, _: Who) -> BoxFuture<'static, Result<i64, StoreError>> {
        std::future::ready(Err(StoreError::Unavailable)).boxed()
    }

    fn removals(&self, _: i64, _: usize) -> BoxFuture<'static, Result<RemovalPage, ReadError>> {
        std::future::ready(Err(ReadError)).boxed()
    }

    fn health(&self) -> Health {
        Health { kind: "scripted", store: None, ready: false, heard_ms_ago: 0 }
    }
}
