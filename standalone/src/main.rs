//! Both tiers in one process on the memory broker, for development: `cargo run`.

mod demo;
mod paste;
mod settings;
mod token;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use service::{Lifecycle, lifecycle::Signals, telemetry};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::settings::Settings;

/// Loopback, and both ends in this process: more than this, and something is wrong.
const START_LIMIT: Duration = Duration::from_secs(10);
const READY_CHECK: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let settings = match Settings::from_process() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let common = settings.common();
    telemetry::init(&common.log_level, common.log_format);
    match run(&settings) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "start");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    // Two, as the edge's clients say goodbye while their links still work.
    let (fanout, edge) = (Lifecycle::new(), Lifecycle::new());
    let node = fanout::serve(settings.fanout(), &fanout).await?;
    let bound = edge::serve(settings.edge(node.link)?, &edge).await?;
    timeout(START_LIMIT, ready(bound.ops)).await.context("wait for the edge to reach the fanout node")?;
    let demo = demo::serve(settings, bound.ws, node.api, &edge)?;
    paste::print(settings, demo, bound.ws, node.api)?;

    let asked = tokio::select! {
        signal = signals.next() => { tracing::info!(signal, "shutting down"); true }
        () = edge.drain().cancelled() => false,
        () = fanout.drain().cancelled() => false,
    };
    let limit = settings.common().shutdown_timeout;
    let ended = tokio::select! {
        ended = async { edge.finish(limit).await & fanout.finish(limit).await } => ended,
        signal = signals.next() => {
            tracing::warn!(signal, "second signal: stopping at once");
            edge.finish(Duration::ZERO).await & fanout.finish(Duration::ZERO).await
        }
    };
    Ok(if asked && ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until the edge takes sockets, so that what is printed works at once.
async fn ready(ops: SocketAddr) {
    while !is_ready(ops).await.unwrap_or(false) {
        sleep(READY_CHECK).await;
    }
}

async fn is_ready(ops: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(ops).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
