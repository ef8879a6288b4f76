//! The demo: a page on which two people talk in a room, for who has just typed `cargo run`.
//!
//! It gives a token to whoever asks. So it listens on loopback only, whatever the edge does; and it answers only requests
//! whose `Host` is its own, as a name on the Internet may be made to point here (DNS rebinding). Other sites' pages cannot
//! read its answers, since it says nothing of CORS. An edge by itself has none of this: all of it is in this crate.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use service::{Lifecycle, accept, settings::Secret};

use crate::{paste, settings::Settings, token};

/// Long enough for a demo, short enough to see a token renewed.
const TOKEN_LIFE_S: i64 = 10 * 60;

const MAX_USER_BYTES: usize = 32;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws:; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

struct Demo {
    secret: Secret,
    /// Where the page's clients connect.
    ws: String,
    /// A command that publishes to `{room}`.
    publish: String,
    console: String,
    hosts: [String; 3],
}

/// Serves the page on the lifecycle given; returns where.
pub(crate) fn serve(
    settings: &Settings,
    ws: SocketAddr,
    api: SocketAddr,
    lifecycle: &Lifecycle,
) -> anyhow::Result<SocketAddr> {
    let at = settings.demo_listen();
    let listener = accept::bind(at, None).with_context(|| format!("bind DEMO_LISTEN={at}"))?;
    let bound = listener.local_addr()?;
    let port = bound.port();
    let demo = Arc::new(Demo {
        secret: settings.secret().clone(),
        ws: format!("ws://{}/ws", reachable(ws)),
        publish: paste::publish(api, "{room}"),
        console: paste::console(reachable(api)),
        hosts: ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}")),
    });
    let closing = lifecycle.drain().clone();
    lifecycle.spawn(accept::serve_http1(listener, router(demo), lifecycle.clone(), closing));
    Ok(bound)
}

fn router(demo: Arc<Demo>) -> Router {
    let file = |kind: &'static str, text: &'static str| {
        let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, POLICY)];
        get(async move || (headers, text))
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("../demo/index.html")))
        .route("/look.css", file("text/css; charset=utf-8", fanout::console::LOOK))
        .route("/demo.css", file("text/css; charset=utf-8", include_str!("../demo/demo.css")))
        .route("/demo.js", file("text/javascript; charset=utf-8", include_str!("../demo/demo.js")))
        .route("/espigon.js", file("text/javascript; charset=utf-8", include_str!("../demo/espigon.js")))
        .route("/settings", get(page_settings))
        .route("/token", get(user_token))
        .layer(from_fn_with_state(demo.clone(), own_host))
        .with_state(demo)
}

/// A listener on all addresses is reached on loopback.
fn reachable(mut at: SocketAddr) -> SocketAddr {
    if at.ip().is_unspecified() {
        at.set_ip([127, 0, 0, 1].into());
    }
    at
}

async fn own_host(State(demo): State<Arc<Demo>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| demo.hosts.iter().any(|own| own == host)) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "the demo is served on loopback only\n").into_response()
    }
}

async fn page_settings(State(demo): State<Arc<Demo>>) -> Json<Value> {
    Json(json!({"ws": demo.ws, "publish": demo.publish, "console": demo.console}))
}

async fn user_token(State(demo): State<Arc<Demo>>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let user = query.get("user").map_or("", String::as_str);
    let is_name = (1..=MAX_USER_BYTES).contains(&user.len())
        && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_name {
        return (StatusCode::BAD_REQUEST, "user: 1 to 32 letters, digits and hyphens\n").into_response();
    }
    match token::sign(&demo.secret, user, TOKEN_LIFE_S) {
        Ok(token) => ([(header::CACHE_CONTROL, "no-store")], token).into_response(),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "give a token to the demo");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
