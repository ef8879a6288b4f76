//! Figure: what it costs to open a connection, with a token to verify, its personal room and its welcome, and to close it
//! again, up to the last trace of its room.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    processes::{Cluster, Shape},
    report::{Figure, spread},
    scrape::Scrape,
    swarm::{Opening, Swarm},
};

/// Until all rooms are given up, which takes them `ROOM_LINGER`.
const PATIENCE: Duration = Duration::from_mins(1);

type Cpu = Vec<(&'static str, Duration)>;

pub(crate) async fn figure(count: usize, redis: bool, repeats: usize) -> anyhow::Result<Figure> {
    let cluster = Cluster::start(Shape { edges: 1, redis, redis_apart: false })?;
    let mut samples: Vec<[Cpu; 3]> = Vec::new();
    // The first time is a warm-up.
    for _ in 0..=repeats {
        let before = cluster.cpu()?;
        let swarm = Swarm::connect(&cluster.edges, vec![Opening::Personal; count], 1).await?;
        let open = cluster.cpu()?;
        drop(swarm);
        timeout(PATIENCE, until_empty(&cluster)).await??;
        samples.push([before, open, cluster.cpu()?]);
    }
    samples.remove(0);
    let mut figure = Figure::new("handshakes", &format!("handshakes-{count}"));
    figure.parameter("connections", count as f64);
    for (name, from, to) in [("open", 0, 1), ("close", 1, 2), ("churn", 0, 2)] {
        let us = |sample: &[Cpu; 3], index: usize| {
            sample[to][index].1.saturating_sub(sample[from][index].1).as_secs_f64() * 1e6 / count as f64
        };
        for (index, (process, _)) in samples[0][0].iter().enumerate() {
            figure.push(
                "ours",
                &format!("{process}_us_per_{name}"),
                spread(samples.iter().map(|sample| us(sample, index))),
            );
        }
        let all = samples.iter().map(|sample| (0..sample[0].len()).map(|index| us(sample, index)).sum());
        figure.push("ours", &format!("cpu_us_per_{name}"), spread(all));
    }
    Ok(figure)
}

async fn until_empty(cluster: &Cluster) -> anyhow::Result<()> {
    while Scrape::take(&cluster.ops)?.get("espigon_edge_rooms") > 0.0 {
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
