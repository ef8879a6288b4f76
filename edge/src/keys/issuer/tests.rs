//! Against a real HTTP server on a port of loopback. The clock stands still only while it is put forward.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::State, response::IntoResponse};
use futures_util::future::join_all;
use service::{Clock, Lifecycle};
use tokio::{net::TcpListener, time};

use super::*;
use crate::{
    auth::{
        Claims, TokenError,
        jwks::tests::{TestKey, document},
    },
    keys::{Secrets, Settings},
};

const LATER: i64 = 4_000_000_000;

/// An issuer whose document a test changes.
#[derive(Clone, Default)]
struct Server {
    reply: Arc<Mutex<(StatusCode, Vec<u8>)>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn reply(&self, status: StatusCode, body: Vec<u8>) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = (status, body);
    }

    fn publish(&self, keys: &[&TestKey]) {
        self.reply(StatusCode::OK, document(keys.iter().map(|key| &key.public)));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn handle(State(server): State<Server>) -> impl IntoResponse {
    server.asked.fetch_add(1, Ordering::SeqCst);
    server.reply.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Stage {
    server: Server,
    keys: Keys,
    metrics: Metrics,
    last: watch::Receiver<Option<Fetch>>,
}

impl Stage {
    /// With what the issuer answers first. Returns when it has been asked once.
    async fn start(prepare: impl FnOnce(&Server)) -> Self {
        let server = Server::default();
        prepare(&server);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let lifecycle = Lifecycle::new();
        let router = Router::new().route("/keys", axum::routing::get(handle)).with_state(server.clone());
        let (serving, closing) = (lifecycle.clone(), lifecycle.drain().clone());
        lifecycle.spawn(service::accept::serve_http1(listener, router, serving, closing));
        let url = JwksUrl::try_new(&url).unwrap();
        let (keys, issuer) = Keys::of_issuer(url, Settings::default(), Secrets::default()).unwrap();
        let (metrics, last) = (issuer.metrics().clone(), issuer.last.subscribe());
        lifecycle.spawn(issuer.keep(keys.clone()));
        let mut stage = Self { server, keys, metrics, last };
        stage.fetched().await;
        stage
    }

    /// Waits for the next fetch to end.
    async fn fetched(&mut self) {
        timeout(Duration::from_secs(20), self.last.changed()).await.unwrap().unwrap();
        self.last.borrow_and_update();
    }

    async fn verify(&self, key: &TestKey) -> Result<Claims, TokenError> {
        self.keys.verify(&key.sign(LATER), &Clock::system()).await
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        self.metrics.fetches.get_or_create(&OutcomeLabel { outcome }).get()
    }
}

async fn pass(duration: Duration) {
    time::pause();
    time::advance(duration).await;
    time::resume();
}

#[tokio::test]
async fn without_keys_nobody_is_called_an_impostor() {
    let key = TestKey::ed25519("one");
    let mut stage = Stage::start(|server| server.reply(StatusCode::BAD_GATEWAY, Vec::new())).await;
    assert!(!stage.keys.are_there());
    assert_eq!(stage.verify(&key).await, Err(TokenError::Unavailable));
    assert!(stage.counted("status") >= 1);
    stage.server.publish(&[&key]);
    // By itself, and soon.
    while stage.verify(&key).await.is_err() {
        stage.fetched().await;
    }
    assert!(stage.keys.are_there());
    assert_eq!(stage.metrics.keys.get(), 1);
}

#[tokio::test]
async fn a_key_that_is_new_is_asked_for_and_an_old_one_dropped() {
    let (old, new) = (TestKey::ed25519("old"), TestKey::ed25519("new"));
    let stage = Stage::start(|server| server.publish(&[&old])).await;
    assert!(stage.verify(&old).await.is_ok());
    stage.server.publish(&[&new]);
    // Asked only just before: perhaps there is such a key, so this is not the last word.
    assert_eq!(stage.verify(&new).await, Err(TokenError::Unavailable));
    pass(PAUSE).await;
    assert!(stage.verify(&new).await.is_ok());
    assert_eq!(stage.server.asked(), 2);
    assert_eq!(stage.verify(&old).await, Err(TokenError::Unavailable));
    pass(PAUSE).await;
    assert!(matches!(stage.verify(&old).await, Err(TokenError::Invalid(_))));
    assert_eq!(stage.server.asked(), 3);
}

#[tokio::test]
async fn unknown_keys_cost_the_issuer_one_question_at_a_time() {
    let key = TestKey::ed25519("one");
    let unknown = TestKey::ed25519("unknown");
    let stage = Stage::start(|server| server.publish(&[&key])).await;
    pass(PAUSE).await;
    let refused = join_all((0..100).map(|_| stage.verify(&unknown))).await;
    assert!(refused.iter().all(|verified| matches!(verified, Err(TokenError::Invalid(_)))), "{refused:?}");
    assert_eq!(stage.server.asked(), 2);
    for _ in 0..100 {
        assert_eq!(stage.verify(&unknown).await, Err(TokenError::Unavailable));
    }
    assert_eq!(stage.server.asked(), 2);
}

#[tokio::test]
async fn while_the_issuer_is_down_its_keys_stand() {
    let (key, unknown) = (TestKey::ed25519("one"), TestKey::ed25519("unknown"));
    let mut stage = Stage::start(|server| server.publish(&[&key])).await;
    for (status, body, outcome) in [
        (StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), "status"),
        (StatusCode::FOUND, Vec::new(), "status"),
        (StatusCode::OK, b"{}".to_vec(), "malformed"),
        (StatusCode::OK, vec![b' '; MAX_DOCUMENT_BYTES + 1], "too_long"),
    ] {
        stage.server.reply(status, body);
        let before = stage.counted(outcome);
        pass(PAUSE).await;
        assert_eq!(stage.verify(&unknown).await, Err(TokenError::Unavailable));
        assert!(stage.counted(outcome) > before, "{outcome}");
        assert!(stage.verify(&key).await.is_ok());
    }
    assert_eq!(stage.metrics.keys.get(), 1);
    // It comes back by itself.
    stage.server.publish(&[&unknown]);
    while stage.counted("fetched") < 2 {
        stage.fetched().await;
    }
    assert!(stage.verify(&unknown).await.is_ok());
}

#[test]
fn a_url_is_open_where_others_are_on_the_way() {
    for (url, open) in [
        ("https://id.example/keys", false),
        ("http://localhost:8080/keys", false),
        ("http://127.0.0.1/keys", false),
        ("http://id.example/keys?tenant=7", true),
    ] {
        assert_eq!(JwksUrl::try_new(url).unwrap().is_open(), open, "{url}");
    }
}
