//! All settings of an edge, parsed and checked together before any port is bound.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use queues::Limits;
use service::{
    settings::{self, Common, Secret, duration, listen_address, positive_duration, rate, size},
    watch::{self, Found, SecretFile},
};

use crate::{
    auth::Origins,
    authorize::{BackendConfig, BackendUrl, JoinRoutes},
    connection,
    defaults::RESERVED_FILES,
    hub,
    keys::{self, Keys},
    session,
    upstream::{self, discovery::Discovery},
};

/// Below so many bytes a secret is too easily guessed (RFC 7518, section 3.2, for HS256).
const SHORT_SECRET_BYTES: usize = 32;

/// A welcome, the automatic rooms' answers and an error must fit.
const MIN_SEND_QUEUE: usize = 8;

/// What a grant says cannot be taken back before it ends, but for a removal.
const MAX_GRANT_TTL: Duration = Duration::from_hours(1);

/// Holds browsers' sockets; meets the fanout tier over gRPC.
///
/// Each setting is a flag and an environment variable. Secrets are environment variables only, or files named by them:
/// JWT_SECRET or JWT_SECRET_FILE (required; all lines verify), GRANT_SECRET (default: the first of those), LINK_TOKEN or LINK_TOKEN_FILE.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Flags {
    #[command(flatten)]
    pub common: Common,

    /// Where clients connect: `/ws`
    #[arg(long, env, default_value = "0.0.0.0:8080", value_parser = listen_address)]
    pub listen: SocketAddr,

    /// `/livez`, `/readyz`, `/metrics`
    #[arg(long, env, default_value = "0.0.0.0:9100", value_parser = listen_address)]
    pub ops_listen: SocketAddr,

    /// Fanout nodes: `http://host:port`, comma-separated, or `dns://name:port`
    #[arg(long, env, default_value = "http://127.0.0.1:7000", value_parser = Discovery::parse)]
    pub fanout_addr: Discovery,

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

    /// How long its answers are kept; 0s: not at all
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

    /// How long a broadcast, or a join, waits for a fanout node
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
}

/// What is never a flag, and the files it came from, which are watched.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    pub keys: keys::Secrets,
    files: Vec<(Named, SecretFile)>,
}

/// Which secret a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Jwt,
    Grant,
    LinkToken,
}

impl Named {
    /// Puts the secret in its place.
    pub(crate) fn set(self, secret: &Secret, keys: &mut keys::Secrets) {
        match self {
            Self::Jwt => keys.jwt = keys::lines(secret),
            Self::Grant => keys.grant = keys::lines(secret),
            Self::LinkToken => keys.link_token = Some(secret.clone()),
        }
    }
}

/// Settings that go together.
#[derive(Debug, Clone)]
pub struct Config {
    flags: Flags,
    secrets: Secrets,
    origins: Arc<Origins>,
}

impl Secrets {
    fn from_environment() -> Result<Self, String> {
        let mut secrets = Self::default();
        let names = [("JWT_SECRET", Named::Jwt), ("GRANT_SECRET", Named::Grant), ("LINK_TOKEN", Named::LinkToken)];
        for (name, named) in names {
            let Some(Found { secret, file }) = watch::secret(name)? else { continue };
            named.set(&secret, &mut secrets.keys);
            secrets.files.extend(file.map(|file| (named, file)));
        }
        Ok(secrets)
    }
}

impl Config {
    /// From the process's flags and environment. `Err` holds what to exit with, the reason having been printed.
    pub fn from_process() -> Result<Self, ExitCode> {
        let flags = settings::parse()?;
        Secrets::from_environment().and_then(|secrets| Self::new(flags, secrets)).map_err(settings::refuse)
    }

    /// Checks what one setting alone does not show. `Err` is one line that names the setting.
    pub fn new(flags: Flags, secrets: Secrets) -> Result<Self, String> {
        if secrets.keys.jwt.is_empty() {
            return Err("JWT_SECRET or JWT_SECRET_FILE is required: without it nobody could connect".to_owned());
        }
        if flags.ping_period >= flags.pong_wait {
            return Err("PING_PERIOD must be less than PONG_WAIT".to_owned());
        }
        if flags.drain_window + flags.write_wait > flags.common.shutdown_timeout {
            return Err("DRAIN_WINDOW and WRITE_WAIT together must not be more than SHUTDOWN_TIMEOUT".to_owned());
        }
        if flags.send_queue < MIN_SEND_QUEUE {
            return Err(format!("SEND_QUEUE must be at least {MIN_SEND_QUEUE}: a welcome and some answers must fit"));
        }
        if flags.max_message_bytes > flags.send_queue_bytes {
            return Err("MAX_MESSAGE_BYTES must not be more than SEND_QUEUE_BYTES".to_owned());
        }
        if flags.backend_url.is_none() && !flags.join_routes.is_empty() {
            return Err("JOIN_ROUTES are routes of the backend: BACKEND_URL must be set".to_owned());
        }
        if flags.grant_ttl > MAX_GRANT_TTL {
            return Err("GRANT_TTL must not be more than 1h".to_owned());
        }
        let origins = Origins::parse(flags.ws_origins.as_deref()).map_err(|error| format!("WS_ORIGINS: {error}"))?;
        Ok(Self { flags, secrets, origins: Arc::new(origins) })
    }

    /// Says what is allowed but unwise; to be called once there is a log.
    pub fn warn(&self) {
        if self.secrets.keys.jwt.iter().any(|secret| secret.expose().len() < SHORT_SECRET_BYTES) {
            tracing::warn!("a JWT_SECRET has less than {SHORT_SECRET_BYTES} bytes: it is easily guessed");
        }
    }

    pub fn common(&self) -> &Common {
        &self.flags.common
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.flags.listen
    }

    pub(crate) fn ops_listen(&self) -> SocketAddr {
        self.flags.ops_listen
    }

    pub(crate) fn send_buffer(&self) -> usize {
        self.flags.so_sndbuf
    }

    pub(crate) fn max_connections(&self, files: u64) -> usize {
        let below = usize::try_from(files.saturating_sub(RESERVED_FILES)).unwrap_or(usize::MAX).max(1);
        self.flags.max_connections.map_or(below, |max| max.min(below))
    }

    pub(crate) fn outbox_limits(&self) -> Limits {
        Limits { frames: self.flags.send_queue, bytes: self.flags.send_queue_bytes }
    }

    pub(crate) fn origins(&self) -> Arc<Origins> {
        self.origins.clone()
    }

    pub(crate) fn drain_window(&self) -> Duration {
        self.flags.drain_window
    }

    pub(crate) fn max_connections_per_user(&self) -> usize {
        self.flags.max_connections_per_user
    }

    pub(crate) fn keys(&self) -> Keys {
        let (issuer, audience) = (self.flags.jwt_issuer.clone(), self.flags.jwt_audience.clone());
        let settings = keys::Settings { issuer, audience, grant_ttl: self.flags.grant_ttl };
        Keys::new(settings, self.secrets.keys.clone())
    }

    pub(crate) fn secret_files(&self) -> Vec<(Named, SecretFile)> {
        self.secrets.files.clone()
    }

    pub(crate) fn backend(&self) -> Option<BackendConfig> {
        Some(BackendConfig {
            url: self.flags.backend_url.clone()?,
            routes: self.flags.join_routes.clone(),
            forward_token: self.flags.backend_forward_token,
            timeout: self.flags.backend_timeout,
            cache_ttl: self.flags.backend_cache_ttl,
            max_inflight: self.flags.backend_max_inflight,
            queue: self.flags.backend_queue,
        })
    }

    pub(crate) fn connection(&self) -> connection::Settings {
        connection::Settings {
            ping_period: self.flags.ping_period,
            pong_wait: self.flags.pong_wait,
            write_wait: self.flags.write_wait,
            max_age: (!self.flags.max_connection_age.is_zero()).then_some(self.flags.max_connection_age),
            max_message_bytes: self.flags.max_message_bytes,
            session: session::Settings {
                max_rooms: self.flags.max_rooms_per_connection,
                publish_timeout: self.flags.publish_timeout,
                rate: self.flags.client_rate,
                burst: self.flags.client_burst,
            },
        }
    }

    pub(crate) fn hub(&self) -> hub::Settings {
        hub::Settings {
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            linger: self.flags.room_linger,
            join_timeout: self.flags.publish_timeout,
            tail_bytes: self.flags.tail_bytes,
            send_queue: self.flags.send_queue,
        }
    }

    pub(crate) fn upstream(&self, keys: Keys) -> upstream::Settings {
        let boot = rand::random();
        upstream::Settings { discovery: self.flags.fanout_addr.clone(), keys, name: format!("edge-{boot:016x}"), boot }
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must not be zero".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("is no whole number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("edge").chain(args.iter().copied());
        let flags = Flags::try_parse_from(args).map_err(|error| error.to_string())?;
        Config::new(
            flags,
            Secrets {
                keys: keys::Secrets { jwt: vec![Secret::new("s")], ..keys::Secrets::default() },
                files: Vec::new(),
            },
        )
    }

    #[test]
    fn defaults_go_together() {
        let config = config(&[]).unwrap();
        assert_eq!(config.max_connections(20_000), 19_488);
        assert_eq!(config.max_connections(10), 1);
        assert!(config.backend().is_none());
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (args, name) in [
            (&["--ping-period", "60s"][..], "PING_PERIOD"),
            (&["--write-wait", "21s"], "WRITE_WAIT"),
            (&["--drain-window", "31s"], "DRAIN_WINDOW"),
            (&["--grant-ttl", "61m"], "GRANT_TTL"),
            (&["--client-rate", "50"], "--client-rate"),
            (&["--client-burst", "0"], "--client-burst"),
            (&["--max-message-bytes", "2MiB"], "MAX_MESSAGE_BYTES"),
            (&["--ws-origins", "nonsense"], "WS_ORIGINS"),
            (&["--backend-url", "ftp://x"], "--backend-url"),
            (&["--backend-url", "http://x/?a=b"], "--backend-url"),
            (&["--join-routes", "order-{id}=/orders/{id}"], "JOIN_ROUTES"),
            (&["--join-routes", "order-{id}", "--backend-url", "http://x"], "--join-routes"),
            (&["--backend-forward-token", "perhaps"], "--backend-forward-token"),
            (&["--fanout-addr", "nowhere"], "--fanout-addr"),
            (&["--send-queue", "0"], "--send-queue"),
            (&["--send-queue", "7"], "SEND_QUEUE"),
            (&["--pong-wait", "0s"], "--pong-wait"),
            (&["--no-such-flag"], "--no-such-flag"),
        ] {
            assert!(config(args).unwrap_err().contains(name), "{args:?}");
        }
        let flags = Flags::try_parse_from(["edge"]).unwrap();
        assert!(Config::new(flags, Secrets::default()).unwrap_err().contains("JWT_SECRET"));
    }
}
