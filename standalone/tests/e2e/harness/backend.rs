use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use service::{Lifecycle, accept};
use tokio::sync::watch;

use super::eventually;

/// A backend that is asked who may join, and answers as its test says.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    lifecycle: Lifecycle,
}

/// One question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Path and query, as sent.
    pub(crate) target: String,
    pub(crate) room: String,
    pub(crate) user: String,
    pub(crate) headers: HeaderMap,
}

/// What becomes of one.
#[derive(Debug)]
pub(crate) enum Reply {
    Yes,
    No,
    ListenOnly,
    Json(String),
    Status(u16),
    /// The beginning of an answer, then the connection breaks.
    Broken,
    Never,
    /// Yes, once [`Backend::release`] is called.
    Held,
}

#[derive(Debug, Default)]
struct Seen {
    questions: Mutex<Vec<Question>>,
    under_way: AtomicUsize,
    released: watch::Sender<bool>,
}

struct UnderWay(Arc<Seen>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend {
    /// Answers yes for rooms `…-<user>`, listen-only for `news`, 503 for `broken`, else no.
    pub(crate) fn start() -> Self {
        Self::answering(|Question { room, user, .. }| match room.as_str() {
            "broken" => Reply::Status(503),
            "news" => Reply::ListenOnly,
            room if room.ends_with(&format!("-{user}")) => Reply::Yes,
            _ => Reply::No,
        })
    }

    pub(crate) fn answering(choose: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        let (seen, choose) = (Arc::new(Seen::default()), Arc::new(choose));
        let shared = seen.clone();
        let handle = move |Query(mut query): Query<HashMap<String, String>>, request: Request| {
            let (seen, choose) = (shared.clone(), choose.clone());
            seen.under_way.fetch_add(1, Ordering::SeqCst);
            let under_way = UnderWay(seen.clone());
            let mut part = |name: &str| query.remove(name).unwrap_or_default();
            let question = Question {
                target: request.uri().to_string(),
                room: part("room"),
                user: part("user_id"),
                headers: request.headers().clone(),
            };
            seen.questions.lock().unwrap().push(question.clone());
            async move {
                let response = answer(choose(&question), &seen).await;
                drop(under_way);
                response
            }
        };
        let listener = accept::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let router = Router::new().fallback(handle);
        lifecycle.spawn(accept::serve_http1(listener, router, lifecycle.clone(), lifecycle.drain().clone()));
        Self { address, seen, lifecycle }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn asked(&self) -> usize {
        self.seen.questions.lock().unwrap().len()
    }

    pub(crate) fn questions(&self) -> Vec<Question> {
        self.seen.questions.lock().unwrap().clone()
    }

    /// Answers what is held, and holds no more.
    pub(crate) fn release(&self) {
        self.seen.released.send_replace(true);
    }

    /// Waits until this many questions are under way.
    pub(crate) async fn until_under_way(&self, count: usize) {
        eventually("questions under way", async || self.seen.under_way.load(Ordering::SeqCst) == count).await;
    }
}

async fn answer(reply: Reply, seen: &Seen) -> Response {
    match reply {
        Reply::Yes => r#"{"allowed":true}"#.into_response(),
        Reply::No => r#"{"allowed":false}"#.into_response(),
        Reply::ListenOnly => r#"{"allowed":true,"publish":false}"#.into_response(),
        Reply::Json(text) => text.into_response(),
        // With a yes that is not to be read, and a place to go that is not to be gone to.
        Reply::Status(status) => {
            let (status, yes) = (StatusCode::from_u16(status).unwrap(), r#"{"allowed":true}"#);
            (status, [("location", "/elsewhere")], yes).into_response()
        }
        Reply::Broken => {
            let pieces = [Ok(r#"{"allowed":"#), Err(std::io::Error::other("broken"))];
            Body::from_stream(futures_util::stream::iter(pieces)).into_response()
        }
        Reply::Never => std::future::pending().await,
        Reply::Held => {
            let _ = seen.released.subscribe().wait_for(|released| *released).await;
            r#"{"allowed":true}"#.into_response()
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.lifecycle.drain().cancel();
    }
}
