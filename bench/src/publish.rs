//! Figure: publications that one fanout node takes, without edges. Its Redis runs on the generator's core, so that the
//! node has its own to itself.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use proto::wire::{PublishRequest, publish_result, publisher_client::PublisherClient};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use crate::{
    clock::now_ns,
    payload::Stamp,
    processes::{Cluster, Shape},
    publisher::room_name,
    report::{Figure, spread},
};

/// Rooms that are published to in turn.
const ROOMS: u64 = 100;

/// Calls under way with unary ones; a stream has its own limit.
const CALLS: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    Unary,
    Stream,
}

pub(crate) async fn figure(mode: Mode, redis: bool, length: Duration, repeats: usize) -> anyhow::Result<Figure> {
    let cluster = Cluster::start(Shape { edges: 0, redis, redis_apart: true })?;
    let client = PublisherClient::connect(format!("http://{}", cluster.api)).await?;
    let stored = Rc::new(Cell::new(0_u64));
    let mut tasks = start(mode, &client, &stored);
    sleep(Duration::from_secs(1)).await;
    let mut samples = Vec::new();
    for _ in 0..repeats {
        let (before, count, start) = (cluster.cpu()?, stored.get(), Instant::now());
        sleep(length).await;
        let (after, elapsed) = (cluster.cpu()?, start.elapsed());
        let count = (stored.get() - count) as f64;
        if let Some(ended) = tasks.try_join_next() {
            ended??;
        }
        let us: Vec<_> = before
            .iter()
            .zip(&after)
            .map(|((_, before), (_, after))| after.saturating_sub(*before).as_secs_f64() * 1e6 / count)
            .collect();
        samples.push((count / elapsed.as_secs_f64(), us));
    }
    let kind = if mode == Mode::Stream { "stream" } else { "unary" };
    let mut figure = Figure::new("publish", &format!("publish-{kind}-{}", if redis { "redis" } else { "memory" }));
    figure.push("ours", "publications_per_second", spread(samples.iter().map(|sample| sample.0)));
    for (index, (process, _)) in cluster.cpu()?.iter().enumerate() {
        figure.push(
            "ours",
            &format!("{process}_us_per_publication"),
            spread(samples.iter().map(|sample| sample.1[index])),
        );
        if *process == "fanout" {
            let of_a_core = samples.iter().map(|sample| 1e6 / sample.1[index]);
            figure.push("ours", "publications_per_second_of_a_core", spread(of_a_core));
        }
    }
    Ok(figure)
}

fn request(next: &AtomicU64) -> PublishRequest {
    let number = next.fetch_add(1, Ordering::Relaxed);
    let body = Stamp { sent_ns: now_ns(), number }.body().into();
    let room = usize::try_from(number % ROOMS).unwrap_or(0);
    PublishRequest { room: room_name(room), body, ..PublishRequest::default() }
}

/// Publishes as fast as it is taken.
fn start(mode: Mode, client: &PublisherClient<Channel>, stored: &Rc<Cell<u64>>) -> JoinSet<anyhow::Result<()>> {
    // Atomic, as the stream of requests must be `Send`.
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    match mode {
        Mode::Stream => {
            let (mut client, stored) = (client.clone(), stored.clone());
            let requests = tokio_stream::iter(std::iter::repeat_with(move || request(&next)));
            tasks.spawn_local(async move {
                let mut results = client.publish_stream(requests).await?.into_inner();
                while let Some(result) = results.message().await? {
                    if let Some(publish_result::Result::Error(error)) = result.result {
                        bail!("a publication was refused: {}", error.message);
                    }
                    stored.set(stored.get() + 1);
                }
                Ok(())
            });
        }
        Mode::Unary => {
            for _ in 0..CALLS {
                let (mut client, stored, next) = (client.clone(), stored.clone(), next.clone());
                tasks.spawn_local(async move {
                    loop {
                        client.publish(request(&next)).await?;
                        stored.set(stored.get() + 1);
                    }
                });
            }
        }
    }
    tasks
}
