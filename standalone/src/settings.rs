//! The settings of both tiers in one place. Each tier's own are read from its environment variables as ever; what ties
//! the two together, and what makes development easy, is decided here.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use rand::distr::{Alphanumeric, SampleString as _};
use service::settings::{self, Common, LinkTls, Secret};

/// 62 to the power of 43 is about 2 to the power of 256, the strength of HS256.
const SECRET_LETTERS: usize = 43;

/// Both tiers in one process, on the memory broker: for development.
///
/// Other settings of the tiers (`edge --help`, `fanout --help`) are taken from their environment variables, but for
/// credentials, TLS and Redis. JWT_SECRET or JWT_SECRET_FILE: what signs tokens [default: random, new at each start].
#[derive(Debug, Parser)]
#[command(name = "standalone", version)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,

    /// Where clients connect: `/ws`
    #[arg(long, env, default_value = ":8080", value_parser = settings::listen_address)]
    listen: SocketAddr,

    /// The publish API; without API keys, so on loopback only
    #[arg(long, env, default_value = ":7100", value_parser = settings::listen_address)]
    api_listen: SocketAddr,

    /// Where the tiers meet; on loopback only
    #[arg(long, env, default_value = ":7000", value_parser = settings::listen_address)]
    link_listen: SocketAddr,

    /// The demo page; on loopback only, as it gives tokens to whoever asks
    #[arg(long, env, default_value = ":8088", value_parser = settings::listen_address)]
    demo_listen: SocketAddr,

    /// The edge's `/livez`, `/readyz`, `/metrics`
    #[arg(long, env, default_value = ":9100", value_parser = settings::listen_address)]
    ops_listen: SocketAddr,

    /// The fanout node's
    #[arg(long, env, default_value = ":9101", value_parser = settings::listen_address)]
    fanout_ops_listen: SocketAddr,

    /// Origins of pages that may connect. A token is needed all the same
    #[arg(long, env, default_value = "*")]
    ws_origins: String,

    /// How long clients get to move on when it stops: there is no other edge to go to
    #[arg(long, env, default_value = "0s", value_parser = settings::duration)]
    drain_window: Duration,
}

/// Checked as far as can be before anything is bound.
#[derive(Debug)]
pub(crate) struct Settings {
    common: Common,
    secret: Secret,
    demo_listen: SocketAddr,
    edge: edge::config::Flags,
    fanout: fanout::config::Config,
}

impl Settings {
    /// `Err` holds what to exit with, the reason having been printed.
    pub(crate) fn from_process() -> Result<Self, ExitCode> {
        let flags: Flags = settings::parse()?;
        Self::new(flags).map_err(settings::refuse)
    }

    fn new(flags: Flags) -> Result<Self, String> {
        if !flags.demo_listen.ip().is_loopback() {
            return Err("DEMO_LISTEN must be on loopback: the demo gives tokens to whoever asks".to_owned());
        }
        let secret = settings::secret("JWT_SECRET")?.unwrap_or_else(random_secret);
        let own = [
            format!("--listen={}", flags.listen),
            format!("--ops-listen={}", flags.ops_listen),
            format!("--ws-origins={}", flags.ws_origins),
            format!("--drain-window={}ms", flags.drain_window.as_millis()),
            // Known once the node listens.
            "--fanout-addr=http://127.0.0.1:7000".to_owned(),
        ];
        let mut edge = parse::<edge::config::Flags>("edge", own)?;
        (edge.jwks_url, edge.tls_cert, edge.tls_key, edge.link_tls) = (None, None, None, LinkTls::default());
        let own = [
            format!("--link-listen={}", flags.link_listen),
            format!("--api-listen={}", flags.api_listen),
            format!("--ops-listen={}", flags.fanout_ops_listen),
        ];
        let mut fanout = parse::<fanout::config::Config>("fanout", own)?;
        (fanout.redis_addr, fanout.redis_username) = (None, None);
        (fanout.api_tls_cert, fanout.api_tls_key, fanout.link_tls) = (None, None, LinkTls::default());
        fanout.check()?;
        let settings = Self { common: flags.common, secret, demo_listen: flags.demo_listen, edge, fanout };
        settings.edge(([127, 0, 0, 1], 7000).into()).map_err(|error| format!("{error:#}"))?;
        Ok(settings)
    }

    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn demo_listen(&self) -> SocketAddr {
        self.demo_listen
    }

    /// The edge's, once it is known where the fanout node listens.
    pub(crate) fn edge(&self, link: SocketAddr) -> anyhow::Result<edge::config::Config> {
        let discovery = edge::upstream::discovery::Discovery::parse(&format!("http://{link}"));
        let flags = edge::config::Flags {
            common: self.common.clone(),
            fanout_addr: discovery.map_err(anyhow::Error::msg).context("find the fanout node")?,
            ..self.edge.clone()
        };
        let mut secrets = edge::config::Secrets::default();
        secrets.keys.jwt = vec![self.secret.clone()];
        edge::config::Config::new(flags, secrets).map_err(anyhow::Error::msg)
    }

    pub(crate) fn fanout(&self) -> fanout::config::Config {
        self.fanout.clone()
    }
}

fn parse<T: Parser>(tier: &str, flags: impl IntoIterator<Item = String>) -> Result<T, String> {
    let args = std::iter::once(tier.to_owned()).chain(flags);
    T::try_parse_from(args).map_err(|error| settings::line(&error))
}

fn random_secret() -> Secret {
    Secret::new(Alphanumeric.sample_string(&mut rand::rng(), SECRET_LETTERS))
}
