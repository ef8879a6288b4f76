//! Logs: as text for people, as JSON for collectors.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What a `LOG_LEVEL` may be: a level, or directives such as `info,edge::upstream=debug`.
pub fn parse_level(text: &str) -> Result<String, String> {
    // The parser cuts the text at any byte, and panics within a character.
    if !text.is_ascii() {
        return Err("it has other characters than those of ASCII".to_owned());
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// These libraries log what passes through them at `trace`: tokens, grants and bodies, which no log may hold.
const CAPPED: [&str; 6] = ["tungstenite", "tokio_tungstenite", "h2", "hyper", "hyper_util", "redis"];

/// Installs the process's subscriber. Without a format: text on a terminal, else JSON. Logs go to standard error;
/// standard output is for what a command was asked to print.
pub fn init(level: &str, format: Option<LogFormat>) {
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    // Fails only if one is installed already, as in a test that runs a tier in its own process.
    let _ = match format {
        LogFormat::Text => filtered(level, lines).try_init(),
        LogFormat::Json => filtered(level, lines.json().flatten_event(true)).try_init(),
    };
}

/// What is asked for, less what no log may hold.
fn filtered(level: &str, lines: impl Layer<Registry> + Send + Sync) -> impl Subscriber + Send + Sync {
    let caps = CAPPED.map(|library| (library, LevelFilter::DEBUG));
    let caps = Targets::new().with_default(LevelFilter::TRACE).with_targets(caps);
    tracing_subscriber::registry().with(lines.with_filter(EnvFilter::new(level).and(caps)))
}

#[cfg(test)]
mod tests {
    use tracing::{Level, subscriber::with_default};

    use super::*;

    #[test]
    fn a_level_is_a_filter_or_refused() {
        for good in ["info", "info,edge::upstream=debug"] {
            assert_eq!(parse_level(good).as_deref(), Ok(good));
        }
        for bad in ["edge=loud", "d\u{b}d\u{fffd}=@r", "é=info"] {
            assert!(parse_level(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_cap_takes_away_and_never_adds() {
        let lines = || tracing_subscriber::fmt::layer().with_writer(std::io::sink);
        with_default(filtered("info", lines()), || {
            assert!(tracing::enabled!(target: "h2::codec", Level::INFO));
            assert!(!tracing::enabled!(target: "h2::codec", Level::DEBUG));
            assert!(!tracing::enabled!(target: "edge::hub", Level::DEBUG));
        });
        with_default(filtered("trace", lines()), || {
            assert!(tracing::enabled!(target: "h2::codec", Level::DEBUG));
            assert!(!tracing::enabled!(target: "h2::codec", Level::TRACE));
            assert!(tracing::enabled!(target: "edge::hub", Level::TRACE));
        });
    }
}
