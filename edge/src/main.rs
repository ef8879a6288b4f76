//! An edge: holds browsers' sockets. See the library's documentation for the code map.

use std::process::ExitCode;

use edge::config::Config;
use service::{Lifecycle, lifecycle::Signals, telemetry};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(code) => return code,
    };
    telemetry::init(&config.common().log_level, config.common().log_format);
    match runtime().and_then(|runtime| runtime.block_on(run(config))) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "start");
            ExitCode::FAILURE
        }
    }
}

/// Of so many tasks that a thread has run in a row, it looks what came from the network. Tokio's own choice is 61: those
/// who always have more then keep a thread from it for 61 of their turns.
const EVENT_INTERVAL: u32 = 8;

fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().event_interval(EVENT_INTERVAL).build()?)
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    // Caught from before the first word on: whoever reads it may send one at once.
    let signals = Signals::new()?;
    let lifecycle = Lifecycle::new();
    config.warn();
    let limit = config.common().shutdown_timeout;
    edge::serve(config, &lifecycle).await?;
    Ok(lifecycle.run(signals, limit).await)
}
