//! What can be set by flags and environment variables.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use service::settings::{Common, LinkTls, duration, listen_address, positive_duration, rate, size};

use crate::{
    authorize::{BackendUrl, JoinRoutes},
    keys::JwksUrl,
    upgrade::TrustedProxies,
    upstream::discovery::Discovery,
};

/// Where clients connect.
pub const CLIENT_PATH: &str = "/ws";

/// Holds browsers' sockets; meets the fanout tier over gRPC.
///
/// Each setting is a flag and an environment variable. Secrets are environment variables only, or files named by them:
/// JWT_SECRET or JWT_SECRET_FILE (this or JWKS_URL is required; all lines verify), GRANT_SECRET (default: the first of those), LINK_TOKEN or LINK_TOKEN_FILE.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Flags {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub link_tls: LinkTls,

    /// Where clients connect: `/ws`
    #[arg(long, env, default_value = "0.0.0.0:8080", value_parser = listen_address)]
    pub listen: SocketAddr,

    /// The certificate with which `wss://` is served, a chain in PEM; renewed while in use [default: no TLS]
    #[arg(long, env)]
    pub tls_cert: Option<PathBuf>,

    /// Its key, in PEM
    #[arg(long, env)]
    pub tls_key: Option<PathBuf>,

    /// `/livez`, `/readyz`, `/metrics`
    #[arg(long, env, default_value = "0.0.0.0:9100", value_parser = listen_address)]
    pub ops_listen: SocketAddr,

    /// Fanout nodes: `http://host:port`, comma-separated, or `dns://name:port`
    #[arg(long, env, default_value = "http://127.0.0.1:7000", value_parser = Discovery::parse)]
    pub fanout_addr: Discovery,

    /// Where the issuer of tokens publishes its keys, if there is no JWT_SECRET
    #[arg(long, env, value_parser = JwksUrl::try_new)]
    pub jwks_url: Option<JwksUrl>,

    /// What `iss` of a token must be
    #[arg(long, env)]
    pub jwt_issuer: Option<String>,

    /// What `aud` of a token must be, or contain
    #[arg(long, env)]
    pub jwt_audience: Option<String>,

    /// Origins of pages that may connect, comma-separated; `https://*.example.com` for sub-domains, `*` for all
    /// [default: the same origin]
    #[arg(long, env)]
    pub ws_origins: Option<String>,

    /// Who is asked whether a user may join a room [default: the token's claims decide]
    #[arg(long, env, value_parser = BackendUrl::try_new)]
    pub backend_url: Option<BackendUrl>,

    /// How long the backend may take to answer
    #[arg(long, env, default_value = "3s", value_parser = positive_duration)]
    pub backend_timeout: Duration,

    /// How long its answers are kept, at most 1h; 0s: not at all
    #[arg(long, env, default_value = "5s", value_parser = duration)]
    pub backend_cache_ttl: Duration,

    /// Questions to the backend under way at once
    #[arg(long, env, default_value_t = 64, value_parser = positive)]
    pub backend_max_inflight: usize,

    /// Questions that wait for one of those places
    #[arg(long, env, default_value_t = 4096, value_parser = positive)]
    pub backend_queue: usize,

    /// Whether the backend sees the client's token, as `Authorization: Bearer`
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub backend_forward_token: bool,

    /// Other paths to ask about rooms, comma-separated, first match wins: `order-{id}=/orders/{id}/can_access`
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = JoinRoutes::try_new)]
    pub join_routes: JoinRoutes,

    /// Largest message of a client
    #[arg(long, env, default_value = "8KiB", value_parser = size)]
    pub max_message_bytes: usize,

    /// Messages that wait for one client; more close it with 4008
    #[arg(long, env, default_value_t = 256, value_parser = positive)]
    pub send_queue: usize,

    /// Bytes that wait for one client; more close it with 4008
    #[arg(long, env, default_value = "1MiB", value_parser = size)]
    pub send_queue_bytes: usize,

    /// The kernel's send buffer of each socket
    #[arg(long, env, default_value = "128KiB", value_parser = size)]
    pub so_sndbuf: usize,

    /// A client of which nothing at all was received for so long is closed with 4009
    #[arg(long, env, default_value = "60s", value_parser = positive_duration)]
    pub pong_wait: Duration,

    /// How often a client is pinged; less than PONG_WAIT
    #[arg(long, env, default_value = "54s", value_parser = positive_duration)]
    pub ping_period: Duration,

    /// How long a write may make no progress, and a client take to answer a close
    #[arg(long, env, default_value = "10s", value_parser = positive_duration)]
    pub write_wait: Duration,

    /// How long a broadcast, or a join, waits for a fanout node; at most 1m
    #[arg(long, env, default_value = "5s", value_parser = positive_duration)]
    pub publish_timeout: Duration,

    /// Sockets on this edge [default: the limit of open files, less 512]
    #[arg(long, env, value_parser = positive)]
    pub max_connections: Option<usize>,

    /// Rooms that one connection may join, besides the automatic ones
    #[arg(long, env, default_value_t = 128, value_parser = positive)]
    pub max_rooms_per_connection: usize,

    /// Sockets of one user on this edge
    #[arg(long, env, default_value_t = 32, value_parser = positive)]
    pub max_connections_per_user: usize,

    /// Messages that one client may send in the long run; joins have an allowance of their own
    #[arg(long, env, default_value = "50/s", value_parser = rate)]
    pub client_rate: u32,

    /// Messages that one client may send at once; a debt as large again closes it with 4029
    #[arg(long, env, default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub client_burst: u32,

    /// How long a grant stands for the backend's answer, at most 1h; 0s: no grants
    #[arg(long, env, default_value = "30m", value_parser = duration)]
    pub grant_ttl: Duration,

    /// What recent publications of all rooms may take in memory, for clients that catch up
    #[arg(long, env, default_value = "64MiB", value_parser = size)]
    pub tail_bytes: usize,

    /// When the edge stops, its clients are moved on, spread over this time; with WRITE_WAIT at most SHUTDOWN_TIMEOUT
    #[arg(long, env, default_value = "20s", value_parser = duration)]
    pub drain_window: Duration,

    /// A connection that is so old is moved on, jittered by a tenth; 0s: never
    #[arg(long, env, default_value = "0s", value_parser = duration)]
    pub max_connection_age: Duration,

    /// How long a room that its last member left is kept
    #[arg(long, env, default_value = "5s", value_parser = duration)]
    pub room_linger: Duration,

    /// New sockets of one address in a second, as `10/s`; one of IPv6 counts with its /64 [default: no limit]
    #[arg(long, env, value_parser = rate)]
    pub address_rate: Option<u32>,

    /// Proxies whose `X-Forwarded-For` tells the address, comma-separated: `10.0.0.0/8,192.0.2.1`
    #[arg(long, env, default_value = "", hide_default_value = true, value_parser = TrustedProxies::try_new)]
    pub trusted_proxies: TrustedProxies,

    /// Memory of the process above which it takes no new sockets [default: 90 % of the control group's limit]
    #[arg(long, env, value_parser = size)]
    pub memory_limit: Option<usize>,

    /// Where conformance suites find an echo, open to anybody: not for production [default: nowhere]
    #[arg(long, env, value_parser = conformance_path)]
    pub ws_conformance_path: Option<String>,
}

/// A path of plain characters, which mean nothing to a router.
fn conformance_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    if text == CLIENT_PATH {
        Err("is where clients connect".to_owned())
    } else if text.starts_with('/') && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a path looks like /conformance".to_owned())
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must not be zero".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("is no whole number".to_owned()),
    }
}
