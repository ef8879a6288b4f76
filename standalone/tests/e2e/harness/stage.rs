use std::{net::SocketAddr, path::Path, time::Duration};

use http::StatusCode;

use super::{Client, Process, Proxy, RawClient, RedisServer, Token, eventually, workspace_binary};

/// Signs the tests' tokens. No log may contain it.
pub(crate) const SECRET: &str = "the secret of the end-to-end tests, 32 bytes and more";

/// What edges show fanout nodes. No log may contain it either.
pub(crate) const LINK_TOKEN: &str = "the link token of the end-to-end tests";

type Settings = Vec<(String, String)>;

/// Fanout nodes and edges, and perhaps a Redis, as processes; in the making.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    redis: bool,
    fanouts: usize,
    edges: usize,
    proxied: bool,
    settings: Settings,
}

/// The same, up and ready.
#[derive(Debug)]
pub(crate) struct Stage {
    edges: Vec<Edge>,
    fanouts: Vec<Fanout>,
    /// By edge, then by node.
    links: Vec<Vec<Proxy>>,
    pub(crate) redis: Option<RedisServer>,
}

impl Stage {
    /// One edge, one fanout node, memory broker.
    pub(crate) fn plan() -> Plan {
        Plan { fanouts: 1, edges: 1, ..Plan::default() }
    }

    pub(crate) fn edge(&self, index: usize) -> &Edge {
        &self.edges[index]
    }

    pub(crate) fn fanout(&self, index: usize) -> &Fanout {
        &self.fanouts[index]
    }

    /// What is between an edge and a node, on a stage with proxies.
    pub(crate) fn link(&self, edge: usize, fanout: usize) -> &Proxy {
        &self.links[edge][fanout]
    }

    pub(crate) fn redis(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("a stage with Redis")
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.edges.iter().map(|edge| &edge.process).chain(self.fanouts.iter().map(|fanout| &fanout.process))
    }
}

impl Plan {
    pub(crate) fn redis(mut self) -> Self {
        self.redis = true;
        self
    }

    pub(crate) fn fanouts(mut self, count: usize) -> Self {
        self.fanouts = count;
        self
    }

    pub(crate) fn edges(mut self, count: usize) -> Self {
        self.edges = count;
        self
    }

    /// A proxy between each edge and each node.
    pub(crate) fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// A setting of all processes.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) async fn start(self) -> Stage {
        let redis = if self.redis { Some(RedisServer::start().await) } else { None };
        let mut settings = self.settings;
        if let Some(redis) = &redis {
            settings.push(("REDIS_ADDR".to_owned(), redis.address()));
        }
        let fanouts: Vec<_> = (0..self.fanouts).map(|_| Fanout::start(&settings)).collect();
        let direct: Vec<_> = fanouts.iter().map(|fanout| fanout.link).collect();
        let proxies = || direct.iter().map(|link| Proxy::to(Some(*link))).collect();
        let links: Vec<Vec<_>> = (0..self.edges).map(|_| if self.proxied { proxies() } else { Vec::new() }).collect();
        let edges = links.iter().map(|proxies| {
            let proxies: Vec<_> = proxies.iter().map(|proxy| proxy.address).collect();
            Edge::start(if self.proxied { &proxies } else { &direct }, &settings)
        });
        let stage = Stage { edges: edges.collect(), fanouts, links, redis };
        for ops in stage.fanouts.iter().map(|node| node.ops).chain(stage.edges.iter().map(|edge| edge.ops)) {
            eventually("ready", async || readyz(ops).await.0 == StatusCode::OK).await;
        }
        stage
    }
}

#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) process: Process,
    pub(crate) ws: SocketAddr,
    pub(crate) ops: SocketAddr,
}

impl Edge {
    pub(crate) fn start(links: &[SocketAddr], settings: &[(String, String)]) -> Self {
        Self::run(&workspace_binary("edge"), links, settings)
    }

    /// Another build's.
    pub(crate) fn run(binary: &Path, links: &[SocketAddr], settings: &[(String, String)]) -> Self {
        let links: Vec<_> = links.iter().map(|link| format!("http://{link}")).collect();
        let mut environment = vec![
            ("LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("FANOUT_ADDR".to_owned(), links.join(",")),
            // Long enough to be seen, short enough to be waited for.
            ("DRAIN_WINDOW".to_owned(), "300ms".to_owned()),
        ];
        if settings.iter().all(|(name, _)| name != "JWKS_URL") {
            environment.push(("JWT_SECRET".to_owned(), SECRET.to_owned()));
        }
        environment.extend(common());
        environment.extend_from_slice(settings);
        let process = Process::start(binary, &[], &environment);
        let at = process.listening();
        Self { ws: address(&at["ws"]), ops: address(&at["ops"]), process }
    }

    /// A client that speaks as this user, welcomed, and in its own room.
    pub(crate) async fn connect(&self, user: &str) -> Client {
        Client::connect(self.ws, &Token::of(user).sign()).await
    }

    pub(crate) async fn connect_with(&self, token: &Token) -> Client {
        Client::connect(self.ws, &token.sign()).await
    }

    /// A client that does nothing by itself: it neither reads nor answers.
    pub(crate) async fn connect_raw(&self, user: &str) -> RawClient {
        RawClient::connect(self.ws, &Token::of(user).sign()).await
    }
}

#[derive(Debug)]
pub(crate) struct Fanout {
    pub(crate) process: Process,
    pub(crate) link: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
}

impl Fanout {
    pub(crate) fn start(settings: &[(String, String)]) -> Self {
        Self::run(&workspace_binary("fanout"), settings)
    }

    /// Another build's.
    pub(crate) fn run(binary: &Path, settings: &[(String, String)]) -> Self {
        let any = |name: &str| (name.to_owned(), "127.0.0.1:0".to_owned());
        let mut environment = vec![any("LINK_LISTEN"), any("API_LISTEN")];
        environment.extend(common());
        environment.extend_from_slice(settings);
        let process = Process::start(binary, &[], &environment);
        let at = process.listening();
        Self { link: address(&at["link"]), api: address(&at["api"]), ops: address(&at["ops"]), process }
    }
}

fn common() -> [(String, String); 3] {
    [("OPS_LISTEN", "127.0.0.1:0"), ("LOG_FORMAT", "json"), ("LINK_TOKEN", LINK_TOKEN)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// For `standalone`: nothing fixed, so that it can be started beside others.
pub(crate) fn free_environment() -> Settings {
    let listeners = ["LISTEN", "DEMO_LISTEN", "API_LISTEN", "LINK_LISTEN", "OPS_LISTEN", "FANOUT_OPS_LISTEN"];
    listeners.map(|name| (name.to_owned(), "127.0.0.1:0".to_owned())).to_vec()
}

fn address(field: &serde_json::Value) -> SocketAddr {
    field.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address: {field}"))
}

/// What `/readyz` says.
pub(crate) async fn readyz(ops: SocketAddr) -> (StatusCode, String) {
    get(&format!("http://{ops}/readyz")).await
}

pub(crate) async fn get(url: &str) -> (StatusCode, String) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let response = client.get(url).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

/// A counter or gauge without labels, as `/metrics` shows it.
pub(crate) async fn metric(ops: SocketAddr, name: &str) -> u64 {
    find_metric(ops, name).await.unwrap_or_else(|text| panic!("no {name} in:\n{text}"))
}

/// Links of an edge that are up, in whatever state.
pub(crate) async fn links(ops: SocketAddr) -> u64 {
    let (_, text) = get(&format!("http://{ops}/metrics")).await;
    let states = text.lines().filter(|line| line.starts_with("espigon_edge_links{"));
    states.map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count")).sum()
}

/// Sockets that an edge refused with this code.
pub(crate) async fn refused(ops: SocketAddr, code: &str) -> u64 {
    // A label is not there until there is something to count.
    find_metric(ops, &format!("espigon_edge_refused_total{{code=\"{code}\"}}")).await.unwrap_or(0)
}

/// Connections of an edge that ended for this reason.
pub(crate) async fn closed(ops: SocketAddr, reason: &str) -> u64 {
    find_metric(ops, &format!("espigon_edge_closed_total{{reason=\"{reason}\"}}")).await.unwrap_or(0)
}

/// Requests of an edge's clients that were answered with this error.
pub(crate) async fn refusals(ops: SocketAddr, code: &str) -> u64 {
    find_metric(ops, &format!("espigon_edge_errors_total{{code=\"{code}\"}}")).await.unwrap_or(0)
}

/// `Err`: all there is.
async fn find_metric(ops: SocketAddr, name: &str) -> Result<u64, String> {
    let (_, text) = get(&format!("http://{ops}/metrics")).await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.ok_or(text)
}
