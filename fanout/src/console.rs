//! The console: a page that shows what `/v1/status/stream` tells, and looks into rooms. It is static, open to whoever
//! reaches the listener, and knows nothing; the data it asks for needs a key, as for everybody.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    routing::get,
};

/// What the console and other pages of the project look like: the demo has it, too.
pub const LOOK: &str = include_str!("../console/look.css");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page gets a key to hold: nothing but its own scripts run in it, it talks to nobody else, and is in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 7] = [
    ("/console", HTML, include_str!("../console/index.html")),
    ("/console/look.css", CSS, LOOK),
    ("/console/console.css", CSS, include_str!("../console/console.css")),
    ("/console/main.js", SCRIPT, include_str!("../console/main.js")),
    ("/console/status.js", SCRIPT, include_str!("../console/status.js")),
    ("/console/chart.js", SCRIPT, include_str!("../console/chart.js")),
    ("/console/room.js", SCRIPT, include_str!("../console/room.js")),
];

/// Serves the page's files, as they are in the binary.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| router.route(path, get(async move || (headers(kind), text))))
}

fn headers(kind: &'static str) -> [(HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version's page is to be seen at once.
        (header::CACHE_CONTROL, "no-cache"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
}
