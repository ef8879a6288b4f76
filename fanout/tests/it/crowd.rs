//! The connections of each listener have a limit, within which those that have shown a key or a token keep their places.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    process::start_with_files,
    support::{Edge, eventually, metric, soon},
};

/// Files of the node, and places: a quarter.
const FILES: u64 = 128;
const PLACES: usize = 32;

/// A connection of a backend.
struct Backend(TcpStream);

impl Backend {
    async fn connect(to: SocketAddr) -> Self {
        Self(TcpStream::connect(to).await.unwrap())
    }

    /// The status of a request over it; `None` if the connection ended.
    async fn ask(&mut self, key: &str) -> Option<u16> {
        let request = format!("GET /v1/rooms/a HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.ok()?;
        let mut answer = [0; 4096];
        let length = soon("an answer", self.0.read(&mut answer)).await.unwrap_or(0);
        String::from_utf8_lossy(&answer[..length]).split(' ').nth(1).map(|status| status.parse().unwrap())
    }
}

/// Connections of a listener that were cut.
async fn cut(ops: SocketAddr, listener: &str, reason: &str) -> usize {
    metric(ops, &format!("{listener}_cut_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn who_has_shown_a_key_is_not_crowded_out_and_links_have_files_left() {
    let (_child, _lines, listening) =
        start_with_files(FILES, &[("API_KEYS", "shop:s3cret"), ("LOG_LEVEL", "info")]).await;
    let address = |name: &str| listening[name].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (api, link, ops) = (address("api"), address("link"), address("ops"));
    let cut = async |reason| cut(ops, "api", reason).await;
    // Those who have none ask in vain, and stay.
    let mut strangers = Vec::new();
    for _ in 0..3 * PLACES {
        let mut stranger = Backend::connect(api).await;
        assert_eq!(stranger.ask("wrong").await, Some(401), "the newest is served");
        strangers.push(stranger);
    }
    eventually("those cut", async || cut("keyless").await == 2 * PLACES).await;
    assert_eq!(strangers[0].ask("wrong").await, None, "the oldest made room");
    // With a key there is a place.
    let mut backends = Vec::new();
    for _ in 0..PLACES {
        let mut backend = Backend::connect(api).await;
        assert_eq!(backend.ask("s3cret").await, Some(200));
        backends.push(backend);
    }
    // Now all have shown one: whoever comes is closed at once, and nobody else.
    for key in ["wrong", "s3cret"] {
        assert_eq!(Backend::connect(api).await.ask(key).await, None);
    }
    eventually("those turned away", async || cut("full").await == 2).await;
    assert_eq!(cut("keyless").await, 3 * PLACES);
    for backend in &mut backends {
        assert_eq!(backend.ask("s3cret").await, Some(200));
    }
    let mut edge = Edge::attach(link).await;
    edge.want("a", None).await;
    edge.state("a").await;
    drop(backends.pop());
    eventually("a place", async || Backend::connect(api).await.ask("s3cret").await == Some(200)).await;
}

#[tokio::test]
async fn a_link_is_not_crowded_out_and_the_api_has_files_left() {
    let (_child, _lines, listening) = start_with_files(FILES, &[("LINK_TOKEN", "t0ken"), ("LOG_LEVEL", "info")]).await;
    let address = |name: &str| listening[name].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (api, link, ops) = (address("api"), address("link"), address("ops"));
    let mut edge = Edge::attach_with(link, 1, Some("t0ken")).await;
    // They speak HTTP/2, ask for nothing, and stay.
    let mut strangers = Vec::new();
    for _ in 0..3 * PLACES {
        let mut stranger = TcpStream::connect(link).await.unwrap();
        stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        assert!(soon("settings", stranger.read(&mut [0; 4096])).await.unwrap() > 0, "the newest is served");
        strangers.push(stranger);
    }
    eventually("those cut", async || cut(ops, "link", "tokenless").await == 2 * PLACES + 1).await;
    edge.want("a", None).await;
    edge.state("a").await;
    let mut edges = Vec::new();
    for _ in 1..PLACES {
        edges.push(Edge::attach_with(link, 1, Some("t0ken")).await);
    }
    eventually("all have attached", async || metric::<usize>(ops, "attachments").await == PLACES).await;
    let mut turned_away = TcpStream::connect(link).await.unwrap();
    assert_eq!(soon("its end", turned_away.read(&mut [0; 1])).await.unwrap_or(0), 0);
    assert_eq!((cut(ops, "link", "tokenless").await, cut(ops, "link", "full").await), (3 * PLACES, 1));
    edge.want("b", None).await;
    edge.state("b").await;
    assert_eq!(Backend::connect(api).await.ask("any").await, Some(200));
}
