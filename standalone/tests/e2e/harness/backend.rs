use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, extract::Query, http::StatusCode, response::IntoResponse as _, routing::get};
use service::{Lifecycle, accept};

/// A backend that lets users into rooms named after them, and says which rooms it cannot decide about.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    lifecycle: Lifecycle,
}

impl Backend {
    /// Answers yes for rooms `…-<user>`, listen-only for `news`, 503 for `broken`, else no.
    pub(crate) fn start() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let can_join = move |Query(query): Query<HashMap<String, String>>| {
            count.fetch_add(1, Ordering::SeqCst);
            let (room, user) = (&query["room"], &query["user_id"]);
            let answer = match room.as_str() {
                "broken" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                "news" => r#"{"allowed":true,"publish":false}"#.into_response(),
                room => format!(r#"{{"allowed":{}}}"#, room.ends_with(&format!("-{user}"))).into_response(),
            };
            std::future::ready(answer)
        };
        let router = Router::new().route("/ws/can_join", get(can_join));
        let listener = accept::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(accept::serve_http1(listener, router, lifecycle.clone(), lifecycle.drain().clone()));
        Self { address, asked, lifecycle }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.lifecycle.drain().cancel();
    }
}
