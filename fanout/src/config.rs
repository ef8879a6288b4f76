//! The settings: environment variables, each but the secrets also a flag. All are parsed and checked together before
//! any port is bound.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use prometheus_client::metrics::counter::Counter;
use service::{
    invocation::{self, Task},
    settings::{self, Common, LinkTls, Secret},
    tls::{Files, ServerTls},
    watch::{self, Found, SecretFile},
};

use crate::{
    auth::ApiKeys,
    broker::redis::{Place, RedisAddress, RedisSettings, authorities},
};

/// Keeps rooms' histories and announces what is published to them.
#[derive(Debug, Clone, Parser)]
#[command(name = "fanout", version, about, max_term_width = 100)]
pub struct Config {
    #[command(flatten)]
    pub common: Common,

    #[command(flatten)]
    pub link_tls: LinkTls,

    /// The certificate of the publish API, a chain in PEM; renewed while in use [default: no TLS]
    #[arg(long, env)]
    pub api_tls_cert: Option<PathBuf>,

    /// Its key, in PEM
    #[arg(long, env)]
    pub api_tls_key: Option<PathBuf>,

    /// Where `/livez`, `/readyz` and `/metrics` are served
    #[arg(long, env, default_value = "0.0.0.0:9101", value_parser = settings::listen_address)]
    pub ops_listen: SocketAddr,

    /// gRPC for edges. Beyond loopback it needs `LINK_TOKEN` or `LINK_TLS_CERT`
    #[arg(long, env, default_value = ":7000", value_parser = settings::listen_address)]
    pub link_listen: SocketAddr,

    /// gRPC and JSON over HTTP for backends. Beyond loopback it needs `API_KEYS`
    #[arg(long, env, default_value = ":7100", value_parser = settings::listen_address)]
    pub api_listen: SocketAddr,

    /// `host:port`, `redis://host:port/<db>`, `rediss://host:port/<db>` (TLS) or
    /// `redis+sentinel://host:port,host:port/<name>/<db>`; without it, history lives in this process's memory
    #[arg(long, env)]
    pub redis_addr: Option<RedisAddress>,

    #[arg(long, env)]
    pub redis_username: Option<String>,

    /// A file with the certificates, in PEM, that vouch for a Redis at `rediss://`; without it, the system's
    #[arg(long, env)]
    pub redis_ca: Option<PathBuf>,

    /// `REDIS_ADDR` is that of any server of a Redis Cluster
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub redis_cluster: bool,

    /// What the names of all keys and channels begin with
    #[arg(long, env, default_value = "rt", value_parser = prefix)]
    pub redis_prefix: String,

    /// Publications kept of each room
    #[arg(long, env, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub history_size: u64,

    /// A room's history is forgotten this long after its last publication
    #[arg(long, env, default_value = "300s", value_parser = settings::positive_duration)]
    pub history_ttl: Duration,

    /// How long an idempotency key is remembered
    #[arg(long, env, default_value = "300s", value_parser = settings::positive_duration)]
    pub dedup_window: Duration,

    /// Largest body of a publication
    #[arg(long, env, default_value = "64KiB", value_parser = settings::size)]
    pub max_publish_bytes: usize,

    /// How often each room is compared with the store, should its announcements have been lost without a trace; longer
    /// with more rooms than 5000 for each second of it
    #[arg(long, env, default_value = "15s", value_parser = settings::positive_duration)]
    pub position_check_interval: Duration,

    #[clap(skip)]
    pub secrets: Secrets,
}

/// From the environment (`NAME`) or a file (`NAME_FILE`), never from a flag.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// `LINK_TOKEN`
    pub link_token: Option<Secret>,
    /// `API_KEYS`
    pub api_keys: ApiKeys,
    /// `REDIS_PASSWORD`
    pub redis_password: Option<Secret>,
    /// Watched, if that is where the token came from.
    pub link_token_file: Option<SecretFile>,
    /// Watched, if that is where the keys came from.
    pub api_keys_file: Option<SecretFile>,
}

/// Largest `MAX_PUBLISH_BYTES`: a page of a read holds at least one publication, and must fit in a link message.
const MAX_BODY: usize = 1 << 20;

impl Config {
    /// Reads flags and environment. `Err` is what the process should exit with when there is nothing to serve: what was
    /// asked for is done, or the reason was printed.
    pub fn load() -> Result<Self, ExitCode> {
        let (config, task): (Self, Task) = invocation::parse()?;
        task.healthcheck(config.ops_listen)?;
        let config = config.with_secrets().and_then(|config| config.check().map(|()| config));
        task.check(config.map_err(settings::refuse)?)
    }

    /// The defaults, with the memory broker and every listener on a free port of loopback. Reads no environment.
    pub fn for_development() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            common: Common {
                log_level: "info".to_owned(),
                log_format: None,
                shutdown_timeout: Duration::from_secs(40),
                allow_plaintext: false,
                otel_exporter_otlp_endpoint: None,
            },
            link_tls: LinkTls::default(),
            api_tls_cert: None,
            api_tls_key: None,
            ops_listen: loopback,
            link_listen: loopback,
            api_listen: loopback,
            redis_addr: None,
            redis_username: None,
            redis_ca: None,
            redis_cluster: false,
            redis_prefix: "rt".to_owned(),
            history_size: 1000,
            history_ttl: Duration::from_mins(5),
            dedup_window: Duration::from_mins(5),
            max_publish_bytes: 64 << 10,
            position_check_interval: Duration::from_secs(15),
            secrets: Secrets::default(),
        }
    }

    fn with_secrets(mut self) -> Result<Self, String> {
        self.secrets.redis_password = settings::secret("REDIS_PASSWORD")?;
        if let Some(Found { secret, file }) = watch::secret("LINK_TOKEN")? {
            (self.secrets.link_token, self.secrets.link_token_file) = (Some(secret), file);
        }
        if let Some(Found { secret, file }) = watch::secret("API_KEYS")? {
            self.secrets.api_keys = ApiKeys::parse(secret.expose()).map_err(|error| format!("API_KEYS: {error}"))?;
            self.secrets.api_keys_file = file;
        }
        Ok(self)
    }

    /// How to reach Redis, if that is the broker.
    pub(crate) fn redis(&self) -> Option<RedisSettings> {
        self.redis_addr.clone().map(|address| RedisSettings {
            address,
            username: self.redis_username.clone(),
            password: self.secrets.redis_password.clone(),
            ca: self.redis_ca.clone(),
            prefix: self.redis_prefix.clone(),
            cluster: self.redis_cluster,
        })
    }

    /// `failures` counts handshakes that fail. `Err` names the setting that is wrong.
    pub(crate) fn link_tls(&self, failures: &Counter) -> Result<Option<ServerTls>, String> {
        let tls = self.link_tls.files()?.map(|files| ServerTls::new(files, &[b"h2"], failures.clone()));
        tls.transpose().map_err(|error| format!("LINK_TLS_CERT, LINK_TLS_KEY, LINK_TLS_CA: {error}"))
    }

    pub(crate) fn api_tls(&self, failures: &Counter) -> Result<Option<ServerTls>, String> {
        let cert = ("API_TLS_CERT", self.api_tls_cert.as_deref());
        let files = Files::of(cert, ("API_TLS_KEY", self.api_tls_key.as_deref()), None)?;
        let tls = files.map(|files| ServerTls::new(files, &[b"h2", b"http/1.1"], failures.clone()));
        tls.transpose().map_err(|error| format!("API_TLS_CERT, API_TLS_KEY: {error}"))
    }

    /// Whether the settings fit together. The error names the setting to change.
    pub fn check(&self) -> Result<(), String> {
        let (link_tls, api_tls) = (self.link_tls(&Counter::default())?, self.api_tls(&Counter::default())?);
        let plaintext = self.common.allow_plaintext;
        let proof = self.secrets.link_token.is_some() || link_tls.is_some();
        exposure("LINK_LISTEN", self.link_listen, "LINK_TOKEN", proof, plaintext || link_tls.is_some())?;
        let keys = !self.secrets.api_keys.is_empty();
        exposure("API_LISTEN", self.api_listen, "API_KEYS", keys, plaintext || api_tls.is_some())?;
        if self.max_publish_bytes > MAX_BODY {
            return Err("MAX_PUBLISH_BYTES: at most 1MiB".to_owned());
        }
        if self.redis_addr.is_none() && (self.redis_username.is_some() || self.secrets.redis_password.is_some()) {
            return Err("REDIS_ADDR is not set, but REDIS_USERNAME or REDIS_PASSWORD is".to_owned());
        }
        if self.redis_cluster && !matches!(&self.redis_addr, Some(RedisAddress { place: Place::At(_), db: 0, .. })) {
            return Err("REDIS_CLUSTER: REDIS_ADDR must be a server of the Cluster, which has no databases".to_owned());
        }
        if let Some(ca) = &self.redis_ca {
            if !self.redis_addr.as_ref().is_some_and(|address| address.tls) {
                return Err("REDIS_CA is set, but REDIS_ADDR is no rediss:// address".to_owned());
            }
            authorities(ca).map_err(|error| format!("REDIS_CA={}: {error}", ca.display()))?;
        }
        Ok(())
    }
}

/// Architecture, rule 7: no credentials, no listening beyond loopback; and none in the clear unless allowed.
fn exposure(name: &str, listen: SocketAddr, credential: &str, given: bool, plaintext: bool) -> Result<(), String> {
    if listen.ip().is_loopback() {
        Ok(())
    } else if !given {
        Err(format!("{name}={listen} is not loopback: set {credential} first"))
    } else if !plaintext {
        Err(format!("{name}={listen} would carry {credential} in the clear: set ALLOW_PLAINTEXT=true if that is meant"))
    } else {
        Ok(())
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let fits =
        !text.is_empty() && text.len() <= 64 && !text.contains(['{', '}', ':']) && !text.contains(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| "1 to 64 bytes without { } :".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_code_are_those_of_the_flags() {
        let parsed = Config::try_parse_from(["fanout"]).unwrap();
        let built = Config::for_development();
        assert_eq!(parsed.history_size, built.history_size);
        assert_eq!(parsed.history_ttl, built.history_ttl);
        assert_eq!(parsed.dedup_window, built.dedup_window);
        assert_eq!(parsed.max_publish_bytes, built.max_publish_bytes);
        assert_eq!(parsed.position_check_interval, built.position_check_interval);
        assert_eq!(parsed.redis_prefix, built.redis_prefix);
        assert_eq!(parsed.common.shutdown_timeout, built.common.shutdown_timeout);
        assert_eq!(parsed.link_listen, ([127, 0, 0, 1], 7000).into());
        built.check().unwrap();
    }

    #[test]
    fn beyond_loopback_takes_credentials_and_consent() {
        let mut config = Config::for_development();
        config.link_listen = ([0, 0, 0, 0], 7000).into();
        assert!(config.check().unwrap_err().contains("LINK_TOKEN"));
        config.secrets.link_token = Some(Secret::new("t"));
        assert!(config.check().unwrap_err().contains("ALLOW_PLAINTEXT"));
        config.common.allow_plaintext = true;
        config.check().unwrap();
        config.api_listen = ([0, 0, 0, 0], 7100).into();
        assert!(config.check().unwrap_err().contains("API_KEYS"));
        config.secrets.api_keys = ApiKeys::parse("a:b").unwrap();
        config.check().unwrap();
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let mut config = Config::for_development();
        config.max_publish_bytes = 2 << 20;
        assert!(config.check().unwrap_err().contains("MAX_PUBLISH_BYTES"));
        let mut config = Config::for_development();
        config.api_tls_cert = Some("/nowhere.pem".into());
        assert!(config.check().unwrap_err().contains("API_TLS_KEY"));
        config.api_tls_key = Some("/nowhere.key".into());
        assert!(config.check().unwrap_err().contains("/nowhere.pem"));
        let mut config = Config::for_development();
        config.link_tls.link_tls_cert = Some("/nowhere.pem".into());
        config.link_tls.link_tls_key = Some("/nowhere.key".into());
        assert!(config.check().unwrap_err().contains("LINK_TLS_CA"));
        let mut config = Config::for_development();
        config.secrets.redis_password = Some(Secret::new("x"));
        assert!(config.check().unwrap_err().contains("REDIS_ADDR"));
        let mut config = Config::for_development();
        config.redis_ca = Some("/nowhere.pem".into());
        assert!(config.check().unwrap_err().contains("rediss://"));
        config.redis_addr = Some("rediss://a:1".parse().unwrap());
        assert!(config.check().unwrap_err().contains("/nowhere.pem"));
        let mut config = Config::for_development();
        config.redis_cluster = true;
        for bad in ["redis://a:1/2", "redis+sentinel://a:1/main"] {
            config.redis_addr = Some(bad.parse().unwrap());
            assert!(config.check().unwrap_err().contains("REDIS_CLUSTER"), "{bad}");
        }
        for bad in [["fanout", "--history-size=0"], ["fanout", "--redis-prefix={x}"], ["fanout", "--redis-addr=x:y:z"]]
        {
            assert!(Config::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
