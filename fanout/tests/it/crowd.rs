//! The publish API's connections have a limit, within which those that have shown a key keep their places.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    process::start_with_files,
    support::{Edge, eventually, http, soon},
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

#[tokio::test]
async fn who_has_shown_a_key_is_not_crowded_out_and_links_have_files_left() {
    let (_child, _lines, listening) =
        start_with_files(FILES, &[("API_KEYS", "shop:s3cret"), ("LOG_LEVEL", "info")]).await;
    let address = |name: &str| listening[name].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (api, link, ops) = (address("api"), address("link"), address("ops"));
    let cut = async |reason: &str| -> usize {
        let (_, metrics) = http(ops, "GET /metrics", b"").await;
        let series = format!("espigon_fanout_api_cut_total{{reason=\"{reason}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    };
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
