//! Listening sockets, and an HTTP/1.1 accept loop that bounds what a client can make the process hold before it has
//! said what it wants. `axum::serve` has no limit on the time a request's head may take, and forgets upgraded
//! connections at shutdown; so the loop is our own, with axum's router on it.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{Lifecycle, Socket, tls::ServerTls};

/// Connections the kernel keeps for us between two accepts; it caps the number by `net.core.somaxconn` (4096 since 5.4).
const BACKLOG: i32 = 4096;

/// From the first byte, or the end of the previous response, to the end of the next request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest head of a request, and so hyper's read buffer.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Connections open at a time that are plain HTTP so far; an upgrade gives its place back. With the time their heads may
/// take, so many slow clients cost at most so many files and buffers.
const MAX_OPEN: usize = 2048;

/// Pause after an accept that failed for want of something (files, memory), so as not to spin on it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds a TCP listener. `send_buffer` is set on it so that every accepted socket inherits it.
pub fn bind(address: SocketAddr, send_buffer: Option<usize>) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old sockets' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if let Some(bytes) = send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection, without Nagle's delay. Failures of a single accept are not ours to end on.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Fails only on a socket that is already gone; its first read will tell.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
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

/// Serves HTTP/1.1 with upgrades on every connection until `closing`; each is a task of its own, which then finishes the
/// request under way.
pub async fn serve_http1(listener: TcpListener, router: Router, lifecycle: Lifecycle, closing: CancellationToken) {
    serve_https1(listener, None, router, lifecycle, closing).await;
}

/// As [`serve_http1`], by TLS if there is any.
pub async fn serve_https1(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    router: Router,
    lifecycle: Lifecycle,
    closing: CancellationToken,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let places = Arc::new(Semaphore::new(MAX_OPEN));
    let next = async || {
        // The kernel's backlog holds those that wait. The semaphore is never closed.
        let place = places.clone().acquire_owned().await;
        (accept(&listener).await, place)
    };
    while let Some(((stream, peer), place)) = closing.run_until_cancelled(next()).await {
        let service = router.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            request
        });
        let (http, tls, closing) = (http.clone(), tls.clone(), closing.clone());
        lifecycle.spawn(async move {
            let socket = match secured(stream, tls.as_deref()).await {
                Ok(socket) => socket,
                Err(error) => return tracing::debug!(%peer, %error, "do a TLS handshake"),
            };
            let service = TowerToHyperService::new(service);
            let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service).with_upgrades());
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "serve an HTTP connection");
            }
            drop(place);
        });
    }
}

/// The connection, once its TLS handshake is done.
pub async fn secured(stream: TcpStream, tls: Option<&ServerTls>) -> io::Result<Socket> {
    match tls {
        Some(tls) => tls.accept(stream).await,
        None => Ok(Socket::Plain(stream)),
    }
}
