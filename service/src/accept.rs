//! Listening sockets, and an HTTP/1.1 accept loop that bounds what a client can make the process hold before it has
//! said what it wants. `axum::serve` has no limit on the time a request's head may take, and forgets upgraded
//! connections at shutdown; so the loop is our own, with axum's router on it.

mod crowd;
mod switch;

use std::{fmt, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{Lifecycle, Socket, tls::ServerTls};
pub use crowd::{Crowd, Place, Speaker};
use switch::Holding;
pub use switch::{Switch, Switched};

/// Connections the kernel keeps for us between two accepts; it caps the number by `net.core.somaxconn` (4096 since 5.4).
const BACKLOG: i32 = 4096;

/// From the first byte, or the end of the previous response, to the end of the next request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest head of a request, and so hyper's read buffer.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Connections open at a time that are plain HTTP so far; an upgrade gives its place back. Slow clients cost at most so
/// many files and buffers, and when all places are taken, the one that is silent for longest goes.
const MAX_OPEN: usize = 2048;

/// Pause after an accept that failed for want of something (files, memory), so as not to spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds a TCP listener. What is set on it every accepted socket inherits: `send_buffer`, and that Nagle's algorithm, which
/// delays small writes, is off.
pub fn bind(address: SocketAddr, send_buffer: Option<usize>) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old sockets' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection. Failures of a single accept are not ours to end on.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_the_peer(&error) => tracing::debug!(%error, "accept a connection"),
            Err(error) => {
                tracing::error!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Why a connection was ended that had not said what it wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Others needed its place.
    Crowded,
    /// The head of its request took too long.
    Slow,
    /// It was no HTTP, or too much of it: answered with 400 or 431.
    Malformed,
}

/// An HTTP/1.1 server with upgrades.
#[derive(Clone)]
pub struct Http1 {
    router: Router,
    tls: Option<Arc<ServerTls>>,
    keep_alive: bool,
    on_cut: Arc<dyn Fn(Cut) + Send + Sync>,
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("keep_alive", &self.keep_alive).finish_non_exhaustive()
    }
}

impl Http1 {
    pub fn new(router: Router) -> Self {
        Self { router, tls: None, keep_alive: true, on_cut: Arc::new(|_| ()) }
    }

    /// For a public listener: a connection ends with its first answer unless that is an upgrade, so that nobody keeps a
    /// place by asking again and again; and each connection cut is told of.
    pub fn public(router: Router, tls: Option<Arc<ServerTls>>, on_cut: impl Fn(Cut) + Send + Sync + 'static) -> Self {
        Self { router, tls, keep_alive: false, on_cut: Arc::new(on_cut) }
    }

    /// Serves every connection until `closing`; each is a task of its own, which then finishes the request under way.
    pub async fn serve(self, listener: TcpListener, lifecycle: Lifecycle, closing: CancellationToken) {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
        let crowd = Crowd::new(MAX_OPEN);
        let next = async || {
            let accepted = accept(&listener).await;
            // While all places are taken by those that were asked for something, the kernel's backlog holds the others.
            (accepted, crowd.enter().await)
        };
        while let Some(((stream, peer), place)) = closing.run_until_cancelled(next()).await {
            let (speaker, keep_alive, switch) = (place.speaker(), self.keep_alive, Switch::default());
            let asked = switch.clone();
            let service = self.router.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
                speaker.spoke();
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(asked.clone());
                request
            });
            let service = service.map_response(move |mut response: Response| {
                if !keep_alive && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            });
            let (http, tls, closing, on_cut) = (http.clone(), self.tls.clone(), closing.clone(), self.on_cut.clone());
            lifecycle.spawn(async move {
                let socket = tokio::select! {
                    socket = secured(stream, tls.as_deref()) => socket,
                    () = place.cut() => return on_cut(Cut::Crowded),
                    () = closing.cancelled() => return,
                };
                let socket = match socket {
                    Ok(socket) => socket,
                    Err(error) => return tracing::debug!(%peer, %error, "do a TLS handshake"),
                };
                let service = TowerToHyperService::new(service);
                let mut connection = http.serve_connection(TokioIo::new(Holding::new(socket)), service);
                let served = tokio::select! {
                    served = &mut connection => Some(served),
                    () = place.cut() => return on_cut(Cut::Crowded),
                    () = closing.cancelled() => None,
                };
                let served = if let Some(served) = served {
                    served
                } else {
                    Pin::new(&mut connection).graceful_shutdown();
                    (&mut connection).await
                };
                if let Err(error) = served {
                    if error.is_timeout() {
                        on_cut(Cut::Slow);
                    } else if error.is_parse() {
                        on_cut(Cut::Malformed);
                    }
                    tracing::debug!(%peer, %error, "serve an HTTP connection");
                } else if let Some(take) = switch.take() {
                    let parts = connection.into_parts();
                    take(parts.io.into_inner().switched(parts.read_buf));
                }
            });
        }
    }
}

/// Serves what is not public.
pub async fn serve_http1(listener: TcpListener, router: Router, lifecycle: Lifecycle, closing: CancellationToken) {
    Http1::new(router).serve(listener, lifecycle, closing).await;
}

/// The connection, once its TLS handshake is done.
pub async fn secured(stream: TcpStream, tls: Option<&ServerTls>) -> io::Result<Socket> {
    match tls {
        Some(tls) => tls.accept(stream).await,
        None => Ok(Socket::Plain(stream)),
    }
}
