//! An edge: holds browsers' sockets. See the library's documentation for the code map.

use std::process::ExitCode;

use edge::config::Config;
use service::{Lifecycle, lifecycle::Signals, telemetry};

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(code) => return code,
    };
    telemetry::init(&config.common().log_level, config.common().log_format);
    match run(config) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "start");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<ExitCode> {
    // Caught from before the first word on: whoever reads it may send one at once.
    let signals = Signals::new()?;
    let lifecycle = Lifecycle::new();
    config.warn();
    let limit = config.common().shutdown_timeout;
    edge::serve(config, &lifecycle).await?;
    Ok(lifecycle.run(signals, limit).await)
}
