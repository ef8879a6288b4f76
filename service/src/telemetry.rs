//! Logs: as text for people, as JSON for collectors.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What a `LOG_LEVEL` may be: a level, or directives such as `info,edge::upstream=debug`.
pub fn parse_level(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// These libraries log what passes through them at `trace`: tokens, grants and bodies, which no log may hold.
const CAPS: &str = "tungstenite=debug,tokio_tungstenite=debug,h2=debug,hyper=debug,hyper_util=debug,redis=debug";

/// Installs the process's subscriber. Without a format: text on a terminal, else JSON. Logs go to standard error;
/// standard output is for what a command was asked to print.
pub fn init(level: &str, format: Option<LogFormat>) {
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    let registry = tracing_subscriber::registry().with(EnvFilter::new(format!("{level},{CAPS}")));
    // Fails only if one is installed already, as in a test that runs a tier in its own process.
    let _ = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}
