//! Assembles an edge, and brings it to an orderly end: unready and refusing new sockets at once, then the sockets, then
//! hub and links, then the listener.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, routing::get};
use prometheus_client::registry::Registry;
use service::{
    Clock, Lifecycle,
    accept::{self, Cut, Http1},
    files, ops,
    traces::{Origin, Traces},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authorize::{Authorizer, Backend},
    config::{CLIENT_PATH, Config},
    connection::{Context, Pumps},
    connections::Connections,
    defaults::MAX_FAREWELLS,
    deliveries::Deliveries,
    drain::goodbye,
    hub::Hub,
    keys::Keys,
    memory::Memory,
    metrics::Metrics,
    outbox,
    removals::Removals,
    upgrade::{Echoes, Gate, conformance, upgrade},
    upstream::Upstream,
};

/// Where an edge listens.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub ws: SocketAddr,
    pub ops: SocketAddr,
}

/// Starts an edge on the lifecycle given. Returns once it listens; whether it is ready is told by `/readyz`.
pub async fn serve(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<Bound> {
    let files = files::raise_limit().context("raise the limit of open files")?;
    let listener = accept::bind(config.listen(), Some(config.send_buffer())).context("bind LISTEN")?;
    let ops = accept::bind(config.ops_listen(), None).context("bind OPS_LISTEN")?;
    let bound = Bound { ws: listener.local_addr()?, ops: ops.local_addr()? };

    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let authorizer = authorizer(&config, &mut registry)?;

    let connections =
        Connections::new(config.max_connections(files), config.max_connections_per_user(), metrics.clone());
    // Hub and links outlive the sockets, which need them to the last.
    let end = CancellationToken::new();
    let (pumps, drivers) = Pumps::new(config.hub().shards, &metrics.written, &end);
    for driver in drivers {
        lifecycle.spawn_vital(driver);
    }
    let (keys, issuer) = config.keys().context("set up the client for JWKS_URL")?;
    if let Some(issuer) = issuer {
        issuer.metrics().register(registry.sub_registry_with_prefix("espigon_edge"));
        lifecycle.spawn_vital_until(end.clone(), issuer.keep(keys.clone()));
    }
    let tier = config.upstream(keys.clone());
    let traces = traces(&config, &tier.name, &mut registry)?;
    let writers = pumps.clone();
    let deliveries = Deliveries::new(traces.clone(), move |span| writers.trace(&span));
    let clock = Clock::system();
    let (hub, shards) = Hub::new(&config.hub(), &connections.spread(), &clock, &deliveries, &metrics, &end);
    for shard in shards {
        lifecycle.spawn_vital(shard);
    }
    let upstream = Upstream::new(tier, metrics.clone());
    let removals = Arc::new(Removals::new(connections.clone(), metrics.clone()));
    upstream.spawn(&hub, &connections, &removals, lifecycle, &end);

    let context = Arc::new(Context {
        settings: config.connection(),
        hub,
        upstream: upstream.clone(),
        keys: keys.clone(),
        authorizer,
        connections: connections.clone(),
        removals,
        outbox_rules: Arc::new(outbox::Rules { limits: config.outbox_limits(), metrics: metrics.clone() }),
        metrics: metrics.clone(),
        clock,
    });
    for (named, file) in config.secret_files() {
        let (keys, until) = (keys.clone(), end.clone());
        let watching = file.watch(move |secret| keys.change(|secrets| named.set(secret, secrets)));
        lifecycle.spawn(async move { until.run_until_cancelled(watching).await });
    }
    let memory = Arc::new(Memory::new(config.memory_limit()));
    let (watched, until) = (memory.clone(), end.clone());
    lifecycle.spawn(async move { _ = until.run_until_cancelled(watched.watch()).await });
    let sockets = TaskTracker::new();
    let gate = Arc::new(Gate {
        context,
        pumps,
        origins: config.origins(),
        lifecycle: lifecycle.clone(),
        sockets: sockets.clone(),
        farewells: Arc::new(Semaphore::new(MAX_FAREWELLS)),
        echoes: Echoes::new(metrics.clone()),
        addresses: config.addresses().map(Arc::new),
        memory: memory.clone(),
    });
    let mut router = Router::new().route(CLIENT_PATH, get(upgrade));
    if let Some(path) = config.conformance_path() {
        router = router.route(path, get(conformance));
    }
    let router = router.with_state(gate);
    let closing = CancellationToken::new();
    let tls = config.tls(&metrics.tls_failures).context("read TLS_CERT, TLS_KEY")?.map(Arc::new);
    if let Some(tls) = tls.clone() {
        lifecycle.spawn(end.clone().run_until_cancelled_owned(tls.watch()));
    }
    let http = Http1::public(router, tls, move |cut| metrics.refused(code_of(cut)));
    lifecycle.spawn_vital(http.serve(listener, lifecycle.clone(), closing.clone()));
    let window = config.drain_window();
    let drain = drain(lifecycle.clone(), connections.clone(), window, sockets, end, closing);
    lifecycle.spawn(async move {
        drain.await;
        traces.finish().await;
    });
    ops::spawn(ops, Arc::new(registry), readiness(lifecycle, upstream, connections, memory, keys), lifecycle);
    tracing::info!(ws = %bound.ws, ops = %bound.ops, "listening");
    Ok(bound)
}

/// The label of a connection that never got as far as a handshake. No client sees it.
fn code_of(cut: Cut) -> &'static str {
    match cut {
        Cut::Crowded => "crowded",
        Cut::Slow => "slow_head",
        Cut::Malformed => "bad_head",
    }
}

/// The order of the end.
pub(crate) async fn drain(
    lifecycle: Lifecycle,
    connections: Arc<Connections>,
    window: Duration,
    sockets: TaskTracker,
    end: CancellationToken,
    closing: CancellationToken,
) {
    lifecycle.drain().cancelled().await;
    tracing::info!(connections = connections.count(), ?window, "draining");
    goodbye(&connections, window).await;
    sockets.close();
    sockets.wait().await;
    end.cancel();
    closing.cancel();
}

fn readiness(
    lifecycle: &Lifecycle,
    upstream: Upstream,
    connections: Arc<Connections>,
    memory: Arc<Memory>,
    keys: Keys,
) -> ops::Readiness {
    let lifecycle = lifecycle.clone();
    Arc::new(move || {
        if lifecycle.is_draining() {
            Err("draining".to_owned())
        } else if !upstream.ever_linked() {
            Err("no link to a fanout node yet".to_owned())
        } else if !upstream.has_one_store() {
            Err("fanout nodes do not share one store".to_owned())
        } else if !keys.are_there() {
            Err("no keys from JWKS_URL yet".to_owned())
        } else if connections.is_full() {
            Err("MAX_CONNECTIONS reached".to_owned())
        } else if memory.is_full() {
            Err("MEMORY_LIMIT reached".to_owned())
        } else {
            Ok(())
        }
    })
}

fn traces(config: &Config, name: &str, registry: &mut Registry) -> anyhow::Result<Traces> {
    let origin = Origin { service: "espigon-edge", instance: name };
    let registry = registry.sub_registry_with_prefix("espigon_edge");
    Traces::start(config.common().otel_exporter_otlp_endpoint.as_ref(), origin, registry)
        .context("send traces to OTEL_EXPORTER_OTLP_ENDPOINT")
}

fn authorizer(config: &Config, registry: &mut Registry) -> anyhow::Result<Authorizer> {
    let Some(backend) = config.backend() else { return Ok(Authorizer::Claims) };
    let backend = Backend::new(backend).context("set up the client for BACKEND_URL")?;
    backend.metrics().register(registry.sub_registry_with_prefix("espigon_edge"));
    Ok(Authorizer::Backend(backend))
}
