//! What makes a test read as a sentence:
//! `Stage::plan().redis().fanouts(2).edges(2).start().await`, `stage.edge(0).connect("ana").await.join("lobby").await`.

mod backend;
mod binaries;
mod client;
mod collector;
mod issuer;
mod opening;
mod process;
mod proxy;
mod publisher;
mod raw;
mod redis;
mod serial;
mod stage;
mod token;

use std::{fmt::Arguments, future::Future, io::Write as _, time::Duration};

pub(crate) use self::{
    backend::{Backend, Question, Reply},
    binaries::{repository, workspace_binary},
    client::{Client, Message},
    collector::{Collector, Span},
    issuer::{Issuer, SigningKey},
    opening::Opening,
    process::{Process, free_port, run},
    proxy::Proxy,
    publisher::publish_body,
    raw::RawClient,
    redis::RedisServer,
    serial::serial,
    stage::{
        Edge, Fanout, LINK_TOKEN, Plan, SECRET, Stage, closed, free_environment, get, links, metric, readyz, refusals,
        refused,
    },
    token::{Token, now_s},
};

/// How long anything may take that should happen at once: long, as the machine may be busy building.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const CHECK: Duration = Duration::from_millis(20);

/// Waits for it, within [`PATIENCE`].
pub(crate) async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, it).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Asks again until it holds, within [`PATIENCE`].
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(CHECK).await;
        }
    })
    .await;
}

/// A figure of a test that passes, for people: past the runner, which shows only what failing tests print.
pub(crate) fn tell(figure: Arguments<'_>) {
    std::io::stderr().write_all(format!("{figure}\n").as_bytes()).unwrap();
}
