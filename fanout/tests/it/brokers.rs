//! The two brokers that ship, as subjects.

use std::sync::Arc;

use fanout::broker::{
    Broker, Events, Keep,
    memory::Memory,
    redis::{Redis, RedisSettings, cluster::Cluster},
};
use service::{Clock, Lifecycle};
use tokio_util::sync::CancellationToken;

use crate::{
    patience::eventually,
    redis_server::RedisServer,
    sentinels::Sentinels,
    subject::{Recorder, Subject},
};

impl Subject {
    pub(crate) fn memory(keep: Keep) -> Self {
        let (events, lifecycle, end) = (Arc::<Recorder>::default(), Lifecycle::new(), CancellationToken::new());
        let broker = Memory::new(keep, Clock::system(), Arc::clone(&events) as Arc<dyn Events>);
        broker.spawn_sweep(&lifecycle, end.clone());
        Self { broker: Arc::new(broker), events, server: None, lifecycle, end }
    }

    pub(crate) async fn redis(keep: Keep) -> Self {
        let server = RedisServer::start().await;
        let address = server.address();
        Self::redis_behind(&address, server, keep).await
    }

    /// By way of a Sentinel.
    pub(crate) async fn sentinel(keep: Keep) -> Self {
        let mut server = RedisServer::start().await;
        let sentinels = Sentinels::start(1, server.port).await;
        let address = sentinels.address();
        server.company.push(Box::new(sentinels));
        Self::redis_behind(&address, server, keep).await
    }

    /// Over this address, which leads to that server.
    pub(crate) async fn redis_behind(address: &str, server: RedisServer, keep: Keep) -> Self {
        let (events, lifecycle, end) = (Arc::<Recorder>::default(), Lifecycle::new(), CancellationToken::new());
        let broker = redis_at(address, keep, Arc::clone(&events) as Arc<dyn Events>, &lifecycle, &end);
        let subject = Self { broker, events, server: Some(server), lifecycle, end };
        subject.ready().await;
        subject
    }

    /// On a Cluster, with names that begin so.
    pub(crate) async fn cluster(address: &str, prefix: &str, keep: Keep) -> Self {
        let (events, lifecycle, end) = (Arc::<Recorder>::default(), Lifecycle::new(), CancellationToken::new());
        let settings = RedisSettings { cluster: true, prefix: prefix.to_owned(), ..settings(address) };
        let broker = Cluster::start(settings, keep, Arc::clone(&events) as Arc<dyn Events>, &lifecycle, &end);
        let subject = Self { broker: Arc::new(broker), events, server: None, lifecycle, end };
        subject.ready().await;
        subject
    }

    pub(crate) async fn ready(&self) {
        eventually("the broker", async || self.broker.health().ready).await;
    }

    pub(crate) fn server(&self) -> &RedisServer {
        self.server.as_ref().unwrap()
    }
}

/// A broker on the server; another node's, if there is one already.
pub(crate) fn redis(
    server: &RedisServer,
    keep: Keep,
    events: Arc<dyn Events>,
    lifecycle: &Lifecycle,
    end: &CancellationToken,
) -> Arc<dyn Broker> {
    redis_at(&server.address(), keep, events, lifecycle, end)
}

fn redis_at(
    address: &str,
    keep: Keep,
    events: Arc<dyn Events>,
    lifecycle: &Lifecycle,
    end: &CancellationToken,
) -> Arc<dyn Broker> {
    Arc::new(Redis::start(settings(address), keep, events, lifecycle, end))
}

fn settings(address: &str) -> RedisSettings {
    RedisSettings {
        address: address.parse().unwrap(),
        username: None,
        password: None,
        ca: None,
        prefix: "rt".to_owned(),
        cluster: false,
    }
}
