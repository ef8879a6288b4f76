//! The fanout process: settings, listeners, signals, exit code.

use std::process::ExitCode;

use fanout::config::Config;
use service::{Lifecycle, lifecycle::Signals, telemetry};

fn main() -> ExitCode {
    let config = match Config::load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    telemetry::init(&config.common.log_level, config.common.log_format);
    match run(config) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "fanout could not start");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let limit = config.common.shutdown_timeout;
    let signals = Signals::new()?;
    let lifecycle = Lifecycle::new();
    if let Err(error) = fanout::serve(config, &lifecycle).await {
        lifecycle.finish(std::time::Duration::ZERO).await;
        return Err(error);
    }
    Ok(lifecycle.run(signals, limit).await)
}
