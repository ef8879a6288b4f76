//! Redis
mod address;
use super::*;
use crate::metrics::Metrics;
pub use address::RedisAddress;
use futures_util::future::BoxFuture;
use proto::{Position, Room};
use service::{Lifecycle, settings::Secret};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub address: RedisAddress,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub prefix: String,
}
#[derive(Debug)]
pub struct Redis;
impl Redis {
    pub(crate) fn spawn(
        _: RedisSettings,
        _: Keep,
        _: Arc<dyn Events>,
        _: &Arc<Metrics>,
        _: &Lifecycle,
        _: &CancellationToken,
    ) -> Self {
        Self
    }
}
impl Broker for Redis {
    fn publish(&self, _: NewPublication) -> Result<Pending, StoreError> {
        Err(StoreError::Unavailable)
    }
    fn subscribe(&self, _: &Room) {}
    fn unsubscribe(&self, _: &Room) {}
    fn read(&self, _: Room, _: ReadFrom, _: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        Box::pin(async { Err(ReadError) })
    }
    fn positions(&self, _: Vec<Room>) -> BoxFuture<'static, Result<Vec<Option<Position>>, ReadError>> {
        Box::pin(async { Err(ReadError) })
    }
    fn health(&self) -> Health {
        Health { kind: "redis", store: None, ready: false, heard_ms_ago: 0 }
    }
}
