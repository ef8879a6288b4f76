//! Against a real HTTP server on a port of loopback.

use std::{net::SocketAddr, sync::atomic::AtomicUsize};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use service::Lifecycle;
use tokio::{net::TcpListener, sync::Notify};

use super::*;

type Choose = dyn Fn(&Uri, &HeaderMap) -> Reply + Send + Sync;

/// A backend whose answer a test chooses. It counts its requests, and those whose client is still there.
#[derive(Clone)]
struct Server {
    reply: Arc<Choose>,
    seen: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

enum Reply {
    Now(Response),
    /// Sent once this is notified.
    After(Arc<Notify>, Response),
    Never,
}

struct Open(Server);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Server {
    async fn start(reply: impl Fn(&Uri, &HeaderMap) -> Reply + Send + Sync + 'static) -> (Self, SocketAddr) {
        let server =
            Self { reply: Arc::new(reply), seen: Arc::default(), open: Arc::default(), changed: Arc::default() };
        let router = Router::new().fallback(handle).with_state(server.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        lifecycle.clone().spawn(service::accept::serve_http1(
            listener,
            router,
            lifecycle.clone(),
            lifecycle.drain().clone(),
        ));
        (server, address)
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Waits until this many requests are under way.
    async fn until_open(&self, count: usize) {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if self.open.load(Ordering::SeqCst) == count {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("requests under way");
    }
}

async fn handle(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    server.seen.fetch_add(1, Ordering::SeqCst);
    server.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(server.clone());
    server.changed.notify_waiters();
    match (server.reply)(&uri, &headers) {
        Reply::Now(response) => response,
        Reply::After(notify, response) => {
            notify.notified().await;
            response
        }
        Reply::Never => std::future::pending().await,
    }
}

fn config(address: SocketAddr) -> BackendConfig {
    BackendConfig {
        url: BackendUrl::try_new(&format!("http://{address}")).unwrap(),
        routes: JoinRoutes::default(),
        forward_token: false,
        timeout: Duration::from_secs(10),
        cache_ttl: Duration::from_mins(10),
        max_inflight: 64,
        queue: 4096,
    }
}

fn backend(config: BackendConfig) -> Backend {
    Backend::new(config).unwrap()
}

async fn decide(backend: &Backend, room: &str, user: &str) -> Decision {
    decide_by(backend, room, user, "token").await
}

async fn decide_by(backend: &Backend, room: &str, user: &str, token: &str) -> Decision {
    backend.decide(&Room::try_new(room).unwrap(), &UserId::try_new(user).unwrap(), token, 0).await
}

/// What comes of a server that answers thus, asked once.
async fn decision(reply: impl Fn() -> Response + Send + Sync + 'static) -> Decision {
    let (_server, address) = Server::start(move |_, _| Reply::Now(reply())).await;
    decide(&backend(config(address)), "order-42", "7").await
}

const ALLOWED: Decision = Decision::Allowed { publish: true };
const YES: &str = r#"{"allowed":true}"#;

#[tokio::test]
async fn the_question_is_as_agreed() {
    let (_server, address) = Server::start(|uri, headers| {
        let asked =
            uri == "/ws/can_join?room=two%20words%26&user_id=7%2F8" && headers[header::ACCEPT] == "application/json";
        // The token is not the backend's to see.
        let forwarded = headers.contains_key(header::AUTHORIZATION);
        let traced = headers.get("traceparent").is_some_and(|trace| trace.as_bytes().starts_with(b"00-"));
        Reply::Now(if asked && traced && !forwarded {
            YES.into_response()
        } else {
            StatusCode::IM_A_TEAPOT.into_response()
        })
    })
    .await;
    assert_eq!(decide(&backend(config(address)), "two words&", "7/8").await, ALLOWED);
}

#[tokio::test]
async fn routes_choose_the_path() {
    let (_server, address) = Server::start(|uri, _| {
        let asked = uri == "/api/orders/4%2F2/can_access?user_id=7" || uri == "/api/ws/can_join?room=lobby&user_id=7";
        Reply::Now(if asked { YES.into_response() } else { StatusCode::IM_A_TEAPOT.into_response() })
    })
    .await;
    let backend = backend(BackendConfig {
        url: BackendUrl::try_new(&format!("http://{address}/api/")).unwrap(),
        routes: JoinRoutes::try_new("order-{id}=/orders/{id}/can_access").unwrap(),
        ..config(address)
    });
    for room in ["order-4/2", "lobby"] {
        assert_eq!(decide(&backend, room, "7").await, ALLOWED, "{room}");
    }
    assert_eq!(decide(&backend, "order-..", "7").await, Decision::Denied);
}

#[tokio::test]
async fn a_forwarded_token_is_part_of_the_question() {
    let (server, address) = Server::start(|_, headers| {
        let allowed = headers[header::AUTHORIZATION] == "Bearer a.good.token";
        Reply::Now(format!(r#"{{"allowed":{allowed}}}"#).into_response())
    })
    .await;
    let backend = backend(BackendConfig { forward_token: true, ..config(address) });
    for _ in 0..2 {
        assert_eq!(decide_by(&backend, "order-42", "7", "a.good.token").await, ALLOWED);
        assert_eq!(decide_by(&backend, "order-42", "7", "another.good.token").await, Decision::Denied);
    }
    assert_eq!(server.seen(), 2);
    assert!(!format!("{backend:?}").contains("good.token"));
}

#[tokio::test]
async fn answers_are_understood() {
    assert_eq!(decision(|| YES.into_response()).await, ALLOWED);
    let listen_only = || r#"{"allowed":true,"publish":false}"#.into_response();
    assert_eq!(decision(listen_only).await, Decision::Allowed { publish: false });
    assert_eq!(decision(|| r#"{"allowed":false}"#.into_response()).await, Decision::Denied);
    assert_eq!(decision(|| "yes".into_response()).await, Decision::Unavailable);
    assert_eq!(decision(|| (StatusCode::CREATED, YES).into_response()).await, Decision::Denied);
    assert_eq!(decision(|| (StatusCode::NOT_FOUND, YES).into_response()).await, Decision::Denied);
    assert_eq!(decision(|| (StatusCode::TOO_MANY_REQUESTS, YES).into_response()).await, Decision::Unavailable);
    assert_eq!(decision(|| (StatusCode::BAD_GATEWAY, YES).into_response()).await, Decision::Unavailable);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (server, address) = Server::start(|uri, _| {
        let response = if uri.path() == "/else" {
            YES.into_response()
        } else {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/else")]).into_response()
        };
        Reply::Now(response)
    })
    .await;
    assert_eq!(decide(&backend(config(address)), "order-42", "7").await, Decision::Unavailable);
    assert_eq!(server.seen(), 1);
}

#[tokio::test]
async fn a_huge_answer_is_cut_as_it_comes() {
    // Without end: only who reads piece by piece comes back at all.
    let endless = || {
        let pieces = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(" ".repeat(512)));
        Body::from_stream(pieces).into_response()
    };
    assert_eq!(decision(endless).await, Decision::Unavailable);
    assert_eq!(decision(|| format!("{YES}{}", " ".repeat(4096 - YES.len())).into_response()).await, ALLOWED);
    let too_long = || format!("{YES}{}", " ".repeat(4097 - YES.len())).into_response();
    assert_eq!(decision(too_long).await, Decision::Unavailable);
}

#[tokio::test]
async fn a_backend_that_hangs_or_breaks_is_unavailable() {
    let (server, address) = Server::start(|_, _| Reply::Never).await;
    let hasty = backend(BackendConfig { timeout: Duration::from_millis(50), ..config(address) });
    assert_eq!(decide(&hasty, "order-42", "7").await, Decision::Unavailable);
    assert_eq!(hasty.0.metrics.outcomes("timeout"), 1);
    server.until_open(0).await;

    // A body that never ends counts as well.
    let (_server, address) = Server::start(|_, _| {
        let stuck = futures_util::stream::pending::<Result<String, std::io::Error>>();
        Reply::Now(Body::from_stream(stuck).into_response())
    })
    .await;
    let hasty = backend(BackendConfig { timeout: Duration::from_millis(50), ..config(address) });
    assert_eq!(decide(&hasty, "order-42", "7").await, Decision::Unavailable);

    let broken =
        || Body::from_stream(futures_util::stream::iter([Ok("{"), Err(std::io::Error::other("gone"))])).into_response();
    assert_eq!(decision(broken).await, Decision::Unavailable);

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let lonely = backend(config(nobody));
    assert_eq!(decide(&lonely, "order-42", "7").await, Decision::Unavailable);
    assert_eq!(lonely.0.metrics.outcomes("transport"), 1);
}

#[tokio::test]
async fn answers_are_kept_by_room_and_user() {
    let (server, address) = Server::start(|uri, _| {
        let allowed = uri.query().is_some_and(|query| query.ends_with("user_id=7"));
        Reply::Now(format!(r#"{{"allowed":{allowed}}}"#).into_response())
    })
    .await;
    let backend = backend(config(address));
    for _ in 0..3 {
        assert_eq!(decide(&backend, "order-42", "7").await, ALLOWED);
        assert_eq!(decide(&backend, "order-42", "8").await, Decision::Denied);
        assert_eq!(decide(&backend, "order-43", "7").await, ALLOWED);
    }
    assert_eq!(server.seen(), 3);
    assert_eq!(backend.0.metrics.cached.get(), 6);
    assert_eq!((backend.0.metrics.outcomes("allowed"), backend.0.metrics.outcomes("denied")), (2, 1));
}

#[tokio::test]
async fn answers_from_before_a_removal_are_not_for_those_who_ask_after_it() {
    let gate = Arc::new(Notify::new());
    let allowed = Arc::new(AtomicUsize::new(1));
    let (server, address) = {
        let (gate, allowed) = (gate.clone(), allowed.clone());
        Server::start(move |_, _| match allowed.load(Ordering::SeqCst) {
            1 => Reply::Now(YES.into_response()),
            2 => Reply::After(gate.clone(), YES.into_response()),
            _ => Reply::Now(r#"{"allowed":false}"#.into_response()),
        })
        .await
    };
    let backend = backend(config(address));
    let (room, user) = (Room::try_new("order-42").unwrap(), UserId::try_new("7").unwrap());
    let after = |removed| backend.decide(&room, &user, "token", removed);
    assert_eq!((after(0).await, after(0).await, server.seen()), (ALLOWED, ALLOWED, 1));
    // One is kept, the next is under way.
    allowed.store(2, Ordering::SeqCst);
    let mut under_way = Box::pin(after(1));
    tokio::select! {
        _ = &mut under_way => panic!("answered too early"),
        () = server.until_open(1) => {}
    }
    allowed.store(0, Ordering::SeqCst);
    assert_eq!(after(2).await, Decision::Denied);
    gate.notify_one();
    assert_eq!(under_way.await, ALLOWED);
    assert_eq!((after(2).await, server.seen()), (Decision::Denied, 3));
}

#[tokio::test]
async fn answers_are_kept_for_their_time_only() {
    let (server, address) = Server::start(|_, _| Reply::Now(YES.into_response())).await;
    let off = backend(BackendConfig { cache_ttl: Duration::ZERO, ..config(address) });
    for _ in 0..3 {
        assert_eq!(decide(&off, "order-42", "7").await, ALLOWED);
    }
    assert_eq!(server.seen(), 3);

    let short = backend(BackendConfig { cache_ttl: Duration::from_millis(20), ..config(address) });
    let asked_again = async {
        while server.seen() < 5 {
            assert_eq!(decide(&short, "order-42", "7").await, ALLOWED);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asked_again).await.expect("asked again after its time");
}

#[tokio::test]
async fn failures_are_not_kept() {
    let failing = Arc::new(AtomicUsize::new(1));
    let (server, address) = Server::start(move |_, _| {
        let down = failing.fetch_sub(1, Ordering::SeqCst) == 1;
        Reply::Now(if down { StatusCode::BAD_GATEWAY.into_response() } else { YES.into_response() })
    })
    .await;
    let backend = backend(config(address));
    assert_eq!(decide(&backend, "order-42", "7").await, Decision::Unavailable);
    assert_eq!(decide(&backend, "order-42", "7").await, ALLOWED);
    assert_eq!(server.seen(), 2);
}

#[tokio::test]
async fn equal_questions_are_asked_once_and_one_may_give_up() {
    let gate = Arc::new(Notify::new());
    let (server, address) = {
        let gate = gate.clone();
        Server::start(move |_, _| Reply::After(gate.clone(), YES.into_response())).await
    };
    let backend = backend(config(address));
    let mut first = Box::pin(decide(&backend, "order-42", "7"));
    let mut others: Vec<_> = (0..5).map(|_| Box::pin(decide(&backend, "order-42", "7"))).collect();
    tokio::select! {
        _ = &mut first => panic!("answered too early"),
        _ = futures_util::future::select_all(&mut others) => panic!("answered too early"),
        () = server.until_open(1) => {}
    }
    // It was the one that asked.
    drop(first);
    gate.notify_one();
    for other in others {
        assert_eq!(other.await, ALLOWED);
    }
    assert_eq!(server.seen(), 1);
}

#[tokio::test]
async fn limits_hold_and_who_gives_up_makes_room() {
    let (server, address) = Server::start(|uri, _| {
        let hangs = uri.query().is_some_and(|query| query.starts_with("room=slow"));
        if hangs { Reply::Never } else { Reply::Now(YES.into_response()) }
    })
    .await;
    let backend = backend(BackendConfig { max_inflight: 1, queue: 1, ..config(address) });
    let mut slow = Box::pin(decide(&backend, "slow", "7"));
    tokio::select! {
        _ = &mut slow => panic!("the server hangs"),
        () = server.until_open(1) => {}
    }
    let mut waiting = Box::pin(decide(&backend, "next", "7"));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(decide(&backend, "one too many", "7").await, Decision::Unavailable);
    assert_eq!(backend.0.metrics.queue_full.get(), 1);

    drop(slow);
    assert_eq!(waiting.await, ALLOWED);
    // Not only the place: the request itself is given up.
    server.until_open(0).await;
}

#[test]
fn a_failing_backend_does_not_flood_the_log() {
    let complaints = Complaints::default();
    assert_eq!(complaints.due(), Some(0));
    assert_eq!((complaints.due(), complaints.due()), (None, None));
    assert_eq!(complaints.skipped.load(Ordering::Relaxed), 2);
}
