//! The ops listener: what an orchestrator and a monitoring system ask. It shows no room, user or body.
//!
//! - `/livez`: the process works. Never depends on others: restarting us would not mend them.
//! - `/readyz`: new work should come here; 503 with the reason otherwise.
//! - `/metrics`: in the OpenMetrics text format.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use crate::{Lifecycle, accept};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The ops listener is one of the tier's tasks and should be the last to end: so often it looks whether it is.
const LAST_ONE_CHECK: Duration = Duration::from_millis(20);

/// Says whether new work should come here, or why not.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves the ops routes until the drain's other work is done, so that `/readyz` tells the truth all the while.
pub fn spawn(listener: TcpListener, registry: Arc<Registry>, ready: Readiness, lifecycle: &Lifecycle) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(readyz(&ready))))
        .route("/metrics", get(move || std::future::ready(metrics(&registry))));
    let own = Lifecycle::new();
    let tier = lifecycle.clone();
    lifecycle.spawn(async move {
        tokio::select! {
            () = accept::serve_http1(listener, router, own.clone(), own.drain().clone()) => {}
            () = last_one(&tier) => {}
        }
        own.stop().await;
    });
}

async fn last_one(tier: &Lifecycle) {
    tier.drain().cancelled().await;
    while tier.tasks() > 1 {
        tokio::time::sleep(LAST_ONE_CHECK).await;
    }
}

fn readyz(ready: &Readiness) -> impl IntoResponse + use<> {
    match ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
    }
}
