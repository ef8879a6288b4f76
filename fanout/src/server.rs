//! Puts the node together, and takes it apart in order: unready; edges told to move their rooms; links ended; the
//! publish API's calls finished; last the dispatcher and the broker.

mod counted;
mod drain;
mod guests;
mod listener;
mod reflection;
mod talk;

pub(crate) use self::drain::leave_links;
use self::{guests::Guests, listener::Serve};

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    BoxError,
    body::{Bytes, HttpBody},
};
use prometheus_client::registry::Registry;
use proto::{
    MAX_LINK_MESSAGE_BYTES, VERSION,
    wire::{FanoutHello, link_server::LinkServer, publisher_server::PublisherServer},
};
use service::{
    Clock, Lifecycle, accept, files, ops,
    settings::Secret,
    tls::ServerTls,
    traces::{Origin, Traces},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    attachments::Attachments,
    auth::LinkToken,
    broker::{
        Broker, Events, Keep,
        memory::Memory,
        redis::{Redis, cluster::Cluster},
    },
    config::Config,
    dispatcher::{Dispatcher, Instruments},
    grpc::{attach::LinkService, door::GrpcService, publish::PublisherService},
    http::{Api, JsonService, Streams},
    metrics::{HearingAge, Metrics},
    publishing::Publishing,
    rates::Rates,
    removals::Removals,
};

/// Where the node listens: the real ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub link: SocketAddr,
    pub api: SocketAddr,
    pub ops: SocketAddr,
}

/// Starts the node on the lifecycle and returns where it listens. It goes on until the lifecycle drains.
///
/// # Errors
/// When an address cannot be bound, or names cannot be resolved.
pub async fn serve(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<Bound> {
    config.check().map_err(anyhow::Error::msg)?;
    let files = files::raise_limit().context("raise the limit of open files")?;
    let bind = |name: &str, at| accept::bind(at, None).with_context(|| format!("bind {name}={at}"));
    let ops_listener = bind("OPS_LISTEN", config.ops_listen)?;
    let link_listener = bind("LINK_LISTEN", config.link_listen)?;
    let api_listener = bind("API_LISTEN", config.api_listen)?;
    let bound =
        Bound { link: link_listener.local_addr()?, api: api_listener.local_addr()?, ops: ops_listener.local_addr()? };

    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let name = name();
    let traces = traces(&config, &name, &mut registry)?;
    // What serves others ends after those: the broker and the dispatcher.
    let end = CancellationToken::new();
    let (dispatcher, shards) = Dispatcher::new(&metrics);
    let clock = Clock::system();
    let broker = broker(&config, &clock, Arc::new(dispatcher.clone()), &metrics, lifecycle, &end);
    registry.register_collector(Box::new(HearingAge(Arc::clone(&broker))));
    let instruments = Instruments { clock: clock.clone(), metrics: Arc::clone(&metrics), traces: traces.clone() };
    shards.spawn(&broker, config.position_check_interval, &instruments, lifecycle, &end);
    let attachments = Attachments::new(dispatcher.clone(), Arc::clone(&metrics), traces.clone());
    let max_body = config.max_publish_bytes;
    let publishing = Publishing {
        broker: Arc::clone(&broker),
        clock,
        metrics: Arc::clone(&metrics),
        traces: traces.clone(),
        removals: Removals::new(Arc::clone(&metrics)),
        max_body,
    };
    let following = publishing.removals.clone().follow(Arc::clone(&broker));
    lifecycle.spawn_vital_until(end.clone(), following);
    let node = Node {
        rates: Rates::spawn(Arc::clone(&metrics), lifecycle, end.clone()),
        link_token: LinkToken::new(config.secrets.link_token.clone()),
        config,
        attachments,
        dispatcher,
        publishing,
        name,
    };

    node.watch_secrets(lifecycle);
    let failures = &node.publishing.metrics.tls_failures;
    let link_tls = watched(node.config.link_tls(failures), lifecycle)?;
    let api_tls = watched(node.config.api_tls(failures), lifecycle)?;
    let metrics = &*node.publishing.metrics;
    let router = node.link_router(lifecycle);
    let (edges, speak) = (Guests::new(files, metrics.link_cut.clone()), listener::for_edges(lifecycle));
    let links = listener::spawn(link_listener, link_tls, router, edges, speak, &metrics.writes.link, lifecycle);
    let api = node.api_service(lifecycle).await?;
    let (backends, speak) = (Guests::new(files, metrics.api_cut.clone()), listener::for_backends(lifecycle));
    let api = listener::spawn(api_listener, api_tls, api, backends, speak, &metrics.writes.api, lifecycle);
    let readiness = {
        let (broker, lifecycle) = (Arc::clone(&broker), lifecycle.clone());
        move || ready(&*broker, &lifecycle)
    };
    ops::spawn(ops_listener, Arc::new(registry), Arc::new(readiness), lifecycle);
    let drain = drain::run(lifecycle.clone(), node.attachments, links, api, end);
    lifecycle.spawn(async move {
        drain.await;
        traces.finish().await;
    });
    let Bound { link, api, ops } = bound;
    tracing::info!(%link, %api, %ops, node = &*node.name, "listening");
    Ok(bound)
}

/// Follows the certificate's files.
fn watched(tls: Result<Option<ServerTls>, String>, lifecycle: &Lifecycle) -> anyhow::Result<Option<Arc<ServerTls>>> {
    let tls = tls.map_err(anyhow::Error::msg)?.map(Arc::new);
    if let Some(tls) = tls.clone() {
        lifecycle.spawn(lifecycle.drain().clone().run_until_cancelled_owned(tls.watch()));
    }
    Ok(tls)
}

fn traces(config: &Config, name: &str, registry: &mut Registry) -> anyhow::Result<Traces> {
    let origin = Origin { service: "espigon-fanout", instance: name };
    let registry = registry.sub_registry_with_prefix("espigon_fanout");
    Traces::start(config.common.otel_exporter_otlp_endpoint.as_ref(), origin, registry)
        .context("send traces to OTEL_EXPORTER_OTLP_ENDPOINT")
}

fn broker(
    config: &Config,
    clock: &Clock,
    events: Arc<dyn Events>,
    metrics: &Arc<Metrics>,
    lifecycle: &Lifecycle,
    end: &CancellationToken,
) -> Arc<dyn Broker> {
    let keep =
        Keep { history_size: config.history_size, history_ttl: config.history_ttl, dedup_window: config.dedup_window };
    if let Some(settings) = config.redis() {
        if settings.cluster {
            return Arc::new(Cluster::spawn(settings, keep, events, metrics, lifecycle, end));
        }
        return Arc::new(Redis::spawn(settings, keep, events, metrics, lifecycle, end));
    }
    let memory = Memory::counted(keep, clock.clone(), events, metrics);
    memory.spawn_sweep(lifecycle, end.clone());
    Arc::new(memory)
}

fn ready(broker: &dyn Broker, lifecycle: &Lifecycle) -> Result<(), String> {
    if lifecycle.is_draining() {
        Err("draining".to_owned())
    } else if broker.health().ready {
        Ok(())
    } else {
        Err("the broker is not ready".to_owned())
    }
}

/// A name for logs and status: the machine's, and something of this process.
fn name() -> Arc<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "fanout" } else { host.trim() };
    format!("{host}-{:04x}", rand::random::<u16>()).into()
}

/// What the routers are made from.
struct Node {
    config: Config,
    attachments: Attachments,
    dispatcher: Dispatcher,
    publishing: Publishing,
    rates: Rates,
    name: Arc<str>,
    link_token: LinkToken,
}

impl Node {
    /// Follows the files that secrets came from.
    fn watch_secrets(&self, lifecycle: &Lifecycle) {
        let secrets = &self.config.secrets;
        if let Some(file) = secrets.link_token_file.clone() {
            let token = self.link_token.clone();
            let take = move |secret: &Secret| {
                token.replace(secret);
                Ok(())
            };
            lifecycle.spawn(lifecycle.drain().clone().run_until_cancelled_owned(file.watch(take)));
        }
        if let Some(file) = secrets.api_keys_file.clone() {
            let keys = secrets.api_keys.clone();
            let take = move |secret: &Secret| keys.replace(secret.expose());
            lifecycle.spawn(lifecycle.drain().clone().run_until_cancelled_owned(file.watch(take)));
        }
    }

    fn link_router(&self, lifecycle: &Lifecycle) -> axum::Router {
        let dedup_ms = u64::try_from(self.config.dedup_window.as_millis()).unwrap_or(u64::MAX);
        let hello = FanoutHello {
            version: VERSION,
            node: self.name.to_string(),
            boot: rand::random(),
            store: String::new(),
            dedup_ms,
        };
        let service = LinkServer::new(LinkService {
            token: self.link_token.clone(),
            hello,
            attachments: self.attachments.clone(),
            dispatcher: self.dispatcher.clone(),
            publishing: self.publishing.clone(),
            lifecycle: lifecycle.clone(),
        });
        let service =
            service.max_decoding_message_size(MAX_LINK_MESSAGE_BYTES).max_encoding_message_size(MAX_LINK_MESSAGE_BYTES);
        Routes::new(service).prepare().into_axum_router()
    }

    async fn api_service(&self, lifecycle: &Lifecycle) -> anyhow::Result<impl Serve + use<>> {
        let publisher = PublisherServer::new(PublisherService {
            publishing: self.publishing.clone(),
            drain: lifecycle.drain().clone(),
        })
        .max_decoding_message_size(MAX_LINK_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_LINK_MESSAGE_BYTES);
        let (reporter, health) = tonic_health::server::health_reporter();
        let (broker, metrics) = (Arc::clone(&self.publishing.broker), Arc::clone(&self.publishing.metrics));
        listener::report_health(reporter, broker, metrics, lifecycle).await;
        let mut grpc = Routes::builder();
        grpc.add_service(publisher).add_service(health);
        reflection::add(&mut grpc)?;
        let api = Api {
            node: Arc::clone(&self.name),
            keys: self.config.secrets.api_keys.clone(),
            publishing: self.publishing.clone(),
            attachments: self.attachments.clone(),
            rates: self.rates.clone(),
            streams: Streams::default(),
            drain: lifecycle.drain().clone(),
        };
        Ok(publish_api(grpc.routes(), api))
    }
}

/// The publish API: gRPC and JSON on one port.
pub(crate) fn publish_api<B>(grpc: Routes, api: Api) -> impl Serve<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let metrics = Arc::clone(&api.publishing.metrics);
    let grpc = GrpcService::new(grpc.prepare().into_axum_router(), api.keys.clone(), metrics);
    listener::by_content_type(grpc, JsonService::new(api))
}
