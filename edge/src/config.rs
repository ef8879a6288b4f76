//! All settings of an edge, parsed and checked together before any port is bound.

mod flags;
mod secrets;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use prometheus_client::metrics::counter::Counter;
use queues::Limits;
use service::{
    invocation::{self, Task},
    memory,
    settings::{self, Common},
    tls::{ClientTls, Files, Protocols, ServerTls, TlsError},
    watch::SecretFile,
};

pub(crate) use self::secrets::Named;
pub use self::{
    flags::{CLIENT_PATH, Flags},
    secrets::Secrets,
};
use crate::{
    auth::Origins,
    authorize::BackendConfig,
    connection,
    defaults::RESERVED_FILES,
    hub,
    keys::{self, Issuer, Keys},
    outbound::ClientError,
    session,
    upgrade::{Addresses, TrustedProxies},
    upstream,
};

/// Below so many bytes a secret is too easily guessed (RFC 7518, section 3.2, for HS256).
const SHORT_SECRET_BYTES: usize = 32;

/// A welcome, the automatic rooms' answers and an error must fit.
const MIN_SEND_QUEUE: usize = 8;

/// What a grant says cannot be taken back before it ends, but for a removal.
const MAX_GRANT_TTL: Duration = Duration::from_hours(1);

/// Fanout nodes keep a broadcast, and the keys that edges give them, no longer.
const MAX_PUBLISH_TIMEOUT: Duration = Duration::from_mins(1);

/// WebSockets begin with HTTP/1.1, links are HTTP/2.
const WS_PROTOCOLS: Protocols = &[b"http/1.1"];
const LINK_PROTOCOLS: Protocols = &[b"h2"];

/// Settings that go together.
#[derive(Debug, Clone)]
pub struct Config {
    flags: Flags,
    secrets: Secrets,
    origins: Arc<Origins>,
    tls: Option<Files>,
    link_tls: Option<ClientTls>,
}

impl Config {
    /// From the process's flags and environment. `Err` holds what to exit with when there is nothing to serve: what was
    /// asked for is done, or the reason was printed.
    pub fn from_process() -> Result<Self, ExitCode> {
        let (flags, task): (Flags, Task) = invocation::parse()?;
        task.healthcheck(flags.ops_listen)?;
        let config = Secrets::from_environment().and_then(|secrets| Self::new(flags, secrets));
        task.check(config.map_err(settings::refuse)?)
    }

    /// Checks what one setting alone does not show. `Err` is one line that names the setting.
    pub fn new(flags: Flags, secrets: Secrets) -> Result<Self, String> {
        match (secrets.keys.jwt.is_empty(), &flags.jwks_url) {
            (true, None) => {
                return Err(
                    "JWT_SECRET, JWT_SECRET_FILE or JWKS_URL is required: without it nobody could connect".into()
                );
            }
            (false, Some(_)) => return Err("JWT_SECRET and JWKS_URL exclude each other: one signs tokens".into()),
            _ => {}
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
        if flags.address_rate.is_none() && flags.trusted_proxies != TrustedProxies::default() {
            return Err("TRUSTED_PROXIES are asked for addresses: ADDRESS_RATE must be set".to_owned());
        }
        if flags.backend_cache_ttl > MAX_GRANT_TTL {
            return Err("BACKEND_CACHE_TTL must not be more than 1h: removals are known no longer than that".to_owned());
        }
        if flags.grant_ttl > MAX_GRANT_TTL {
            return Err("GRANT_TTL must not be more than 1h".to_owned());
        }
        if flags.publish_timeout > MAX_PUBLISH_TIMEOUT {
            return Err("PUBLISH_TIMEOUT must not be more than 1m: fanout nodes keep a broadcast no longer".to_owned());
        }
        let (cert, key) = (("TLS_CERT", flags.tls_cert.as_deref()), ("TLS_KEY", flags.tls_key.as_deref()));
        let tls = Files::of(cert, key, None)?;
        if let Some(files) = &tls {
            ServerTls::new(files.clone(), WS_PROTOCOLS, Counter::default())
                .map_err(|error| format!("TLS_CERT, TLS_KEY: {error}"))?;
        }
        let link_tls = flags.link_tls.files()?.map(|files| ClientTls::new(files, LINK_PROTOCOLS)).transpose();
        let link_tls = link_tls.map_err(|error| format!("LINK_TLS_CERT, LINK_TLS_KEY, LINK_TLS_CA: {error}"))?;
        let origins = Origins::parse(flags.ws_origins.as_deref()).map_err(|error| format!("WS_ORIGINS: {error}"))?;
        Ok(Self { flags, secrets, origins: Arc::new(origins), tls, link_tls })
    }

    /// Says what is allowed but unwise; to be called once there is a log.
    pub fn warn(&self) {
        if self.secrets.keys.jwt.iter().any(|secret| secret.expose().len() < SHORT_SECRET_BYTES) {
            tracing::warn!("a JWT_SECRET has less than {SHORT_SECRET_BYTES} bytes: it is easily guessed");
        }
        if let Some(path) = self.conformance_path() {
            tracing::warn!(path, "WS_CONFORMANCE_PATH is set: an echo for conformance suites, open to anybody");
        }
        if self.tls.is_none() && !self.flags.listen.ip().is_loopback() {
            tracing::warn!("LISTEN is without TLS: something before the edge must end it");
        }
        let Some(jwks) = &self.flags.jwks_url else { return };
        if jwks.is_open() {
            tracing::warn!("JWKS_URL is http: whoever is on the way can sign tokens");
        }
        if self.secrets.keys.grant.is_empty() && !self.flags.grant_ttl.is_zero() {
            tracing::warn!("grants are off: with JWKS_URL they need GRANT_SECRET");
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

    /// `failures` counts handshakes that fail.
    pub(crate) fn tls(&self, failures: &Counter) -> Result<Option<ServerTls>, TlsError> {
        let files = self.tls.clone();
        files.map(|files| ServerTls::new(files, WS_PROTOCOLS, failures.clone())).transpose()
    }

    pub(crate) fn addresses(&self) -> Option<Addresses> {
        Some(Addresses::new(self.flags.address_rate?, self.flags.trusted_proxies.clone()))
    }

    /// In bytes; there may be none to be found.
    pub(crate) fn memory_limit(&self) -> u64 {
        let set = self.flags.memory_limit.map(|bytes| bytes as u64);
        set.or_else(|| memory::cgroup_limit().map(|limit| limit / 10 * 9)).unwrap_or(u64::MAX)
    }

    pub(crate) fn conformance_path(&self) -> Option<&str> {
        self.flags.ws_conformance_path.as_deref()
    }

    pub(crate) fn drain_window(&self) -> Duration {
        self.flags.drain_window
    }

    pub(crate) fn max_connections_per_user(&self) -> usize {
        self.flags.max_connections_per_user
    }

    /// With the task that keeps an issuer's keys, if they are an issuer's.
    pub(crate) fn keys(&self) -> Result<(Keys, Option<Issuer>), ClientError> {
        let (issuer, audience) = (self.flags.jwt_issuer.clone(), self.flags.jwt_audience.clone());
        let settings = keys::Settings { issuer, audience, grant_ttl: self.flags.grant_ttl };
        let secrets = self.secrets.keys.clone();
        match self.flags.jwks_url.clone() {
            Some(url) => Keys::of_issuer(url, settings, secrets).map(|(keys, issuer)| (keys, Some(issuer))),
            None => Ok((Keys::new(settings, secrets), None)),
        }
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
            session: Arc::new(session::Settings {
                max_rooms: self.flags.max_rooms_per_connection,
                publish_timeout: self.flags.publish_timeout,
                rate: self.flags.client_rate,
                burst: self.flags.client_burst,
            }),
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
        upstream::Settings {
            discovery: self.flags.fanout_addr.clone(),
            keys,
            name: format!("edge-{boot:016x}"),
            boot,
            transport: Arc::new(upstream::Grpc::new(&self.flags.fanout_addr, self.link_tls.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use service::settings::Secret;

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
            (&["--publish-timeout", "61s"], "PUBLISH_TIMEOUT"),
            (&["--backend-cache-ttl", "61m"], "BACKEND_CACHE_TTL"),
            (&["--client-rate", "50"], "--client-rate"),
            (&["--client-burst", "0"], "--client-burst"),
            (&["--max-message-bytes", "2MiB"], "MAX_MESSAGE_BYTES"),
            (&["--ws-origins", "nonsense"], "WS_ORIGINS"),
            (&["--tls-cert", "/nowhere.pem"], "TLS_KEY"),
            (&["--link-tls-cert", "/nowhere.pem", "--link-tls-key", "/nowhere.key"], "LINK_TLS_CA"),
            (&["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"], "/nowhere.pem"),
            (&["--jwks-url", "ftp://id.example/jwks"], "--jwks-url"),
            (&["--jwks-url", "https://id.example/jwks"], "JWKS_URL"),
            (&["--backend-url", "ftp://x"], "--backend-url"),
            (&["--backend-url", "http://x/?a=b"], "--backend-url"),
            (&["--join-routes", "order-{id}=/orders/{id}"], "JOIN_ROUTES"),
            (&["--join-routes", "order-{id}", "--backend-url", "http://x"], "--join-routes"),
            (&["--backend-forward-token", "perhaps"], "--backend-forward-token"),
            (&["--fanout-addr", "nowhere"], "--fanout-addr"),
            (&["--send-queue", "0"], "--send-queue"),
            (&["--send-queue", "7"], "SEND_QUEUE"),
            (&["--pong-wait", "0s"], "--pong-wait"),
            (&["--ws-conformance-path", "/ws"], "--ws-conformance-path"),
            (&["--ws-conformance-path", "echo"], "--ws-conformance-path"),
            (&["--ws-conformance-path", "/{echo}"], "--ws-conformance-path"),
            (&["--address-rate", "0/s"], "--address-rate"),
            (&["--trusted-proxies", "10.0.0.0/8"], "TRUSTED_PROXIES"),
            (&["--trusted-proxies", "a.example", "--address-rate", "1/s"], "--trusted-proxies"),
            (&["--memory-limit", "0"], "--memory-limit"),
            (&["--no-such-flag"], "--no-such-flag"),
        ] {
            assert!(config(args).unwrap_err().contains(name), "{args:?}");
        }
        let flags = Flags::try_parse_from(["edge"]).unwrap();
        assert!(Config::new(flags, Secrets::default()).unwrap_err().contains("JWT_SECRET"));
        let flags = Flags::try_parse_from(["edge", "--jwks-url", "https://id.example/jwks"]).unwrap();
        assert!(Config::new(flags, Secrets::default()).is_ok());
    }
}
