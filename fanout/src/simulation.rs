//! A node without listeners, for the simulation and the fuzz targets: what serves links and publishers, on a broker of the
//! caller's.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{body::Body, http::Request, response::Response};
use bytes::Bytes;
use futures_util::{Stream, stream::BoxStream};
use prometheus_client::registry::Registry;
use proto::{
    VERSION,
    wire::{EdgeMessage, FanoutHello, FanoutMessage, publisher_server::PublisherServer},
};
use service::{Clock, Lifecycle, traces::Traces};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes};
use tower::Service;

use crate::{
    attachments::Attachments,
    auth::{ApiKeys, LinkToken},
    broker::{Broker, Events, Receipt, StoreError},
    defaults::{HOLD, LINK_DRAIN},
    dispatcher::{Dispatcher, Instruments},
    grpc::{attach::LinkService, publish::PublisherService},
    http::{Api, Streams},
    metrics::Metrics,
    publishing::{Offer, PublishError, Publishing},
    rates::Rates,
    removals::Removals,
    server::{leave_links, publish_api},
};

/// How the node is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    pub shards: usize,
    pub sweep: Duration,
    pub dedup_window: Duration,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Node {
    service: LinkService,
    publishing: Publishing,
    rates: Rates,
}

impl Node {
    /// Starts its tasks on the lifecycle; when that drains, rooms are handed over, and all ends.
    pub fn start(
        settings: &Settings,
        registry: &mut Registry,
        clock: Clock,
        broker: impl FnOnce(Arc<dyn Events>, CancellationToken) -> Arc<dyn Broker>,
        lifecycle: &Lifecycle,
    ) -> Self {
        let metrics = Arc::new(Metrics::new(registry));
        let end = CancellationToken::new();
        let (dispatcher, shards) = Dispatcher::with_shards(settings.shards, &metrics);
        let broker = broker(Arc::new(dispatcher.clone()), end.clone());
        let traces = Traces::default();
        let instruments = Instruments { clock: clock.clone(), metrics: Arc::clone(&metrics), traces: traces.clone() };
        shards.spawn(&broker, settings.sweep, &instruments, lifecycle, &end);
        let attachments = Attachments::new(dispatcher.clone(), Arc::clone(&metrics), traces.clone());
        // Nobody is removed here.
        let removals = Removals::new(Arc::clone(&metrics));
        let publishing = Publishing { broker, clock, metrics, traces, removals, max_body: 64 << 10 };
        let hello = FanoutHello {
            version: VERSION,
            node: settings.name.clone(),
            boot: rand::Rng::random(&mut service::rng()),
            store: String::new(),
            dedup_ms: u64::try_from(settings.dedup_window.as_millis()).unwrap_or(u64::MAX),
        };
        let service = LinkService {
            token: LinkToken::new(None),
            hello,
            attachments: attachments.clone(),
            dispatcher,
            publishing: publishing.clone(),
            lifecycle: lifecycle.clone(),
        };
        let rates = Rates::spawn(Arc::clone(&publishing.metrics), lifecycle, end.clone());
        let drain = lifecycle.drain().clone();
        lifecycle.spawn(async move {
            drain.cancelled().await;
            leave_links(&attachments).await;
            let told = Instant::now();
            while !attachments.all().is_empty() && told.elapsed() < LINK_DRAIN {
                sleep(Duration::from_millis(20)).await;
            }
            end.cancel();
        });
        Self { service, publishing, rates }
    }

    /// Attaches an edge: what it says, and what it is told.
    pub fn attach(
        &self,
        said: impl Stream<Item = Result<EdgeMessage, Status>> + Send + Unpin + 'static,
    ) -> Result<BoxStream<'static, Result<FanoutMessage, Status>>, Status> {
        self.service.open(said)
    }

    /// The publish API, for everybody.
    pub fn api(
        &self,
    ) -> impl Service<Request<Body>, Response = Response, Error = Infallible, Future: Send> + Clone + use<> {
        let LinkService { hello, attachments, lifecycle, .. } = &self.service;
        let (keys, drain) = (ApiKeys::default(), lifecycle.drain().clone());
        let publishing = self.publishing.clone();
        let publisher = PublisherService { publishing: publishing.clone(), drain: drain.clone() };
        let (node, attachments, rates) = (hello.node.as_str().into(), attachments.clone(), self.rates.clone());
        let api = Api { node, keys, publishing, attachments, rates, streams: Streams::default(), drain };
        publish_api(Routes::new(PublisherServer::new(publisher)), api)
    }

    /// Publishes as the publish API does.
    ///
    /// # Panics
    /// If it is something that no publisher may publish.
    pub async fn publish(&self, room: &str, body: Bytes, key: &str, deadline: Duration) -> Result<Receipt, StoreError> {
        let begun = self.publishing.begin("");
        // It is rare that a full queue lasts as long as publishers are held back for; refusals are to be seen all the same.
        let held = if key.is_empty() { Duration::ZERO } else { HOLD };
        let until = begun.since + held;
        let offer = Offer {
            room,
            from: "@api".into(),
            share: None,
            body,
            key,
            edge_key_ttl: None,
            unless: &[],
            begun,
            deadline,
        };
        match self.publishing.publish_held(offer, until).await {
            Ok(pending) => pending.await,
            Err(PublishError::Store(error)) => Err(error),
            Err(error) => panic!("the simulation publishes what is not allowed: {error}"),
        }
    }

    /// Bytes of entries that wait for links, the most of one.
    pub fn queued(&self) -> usize {
        self.service.attachments.all().iter().map(|attachment| attachment.queue.bytes()).max().unwrap_or(0)
    }
}
