//! Figure: what it costs to open a connection, with a token to verify, its personal room and its welcome, and to close it
//! again, up to the last trace of its room; and what a bare program needs for as many.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    handshake_floor::Floor,
    processes::{Cluster, Shape},
    report::{Figure, spread},
    scrape::Scrape,
    swarm::{Opening, Swarm},
};

/// Until all rooms are given up, which takes them `ROOM_LINGER`.
const PATIENCE: Duration = Duration::from_mins(1);

type Cpu = Vec<(&'static str, Duration)>;

/// CPU before, once all are open, and once all are closed.
type Sample = [Cpu; 3];

const PARTS: [(&str, usize, usize); 3] = [("open", 0, 1), ("close", 1, 2), ("churn", 0, 2)];

pub(crate) async fn figure(count: usize, redis: bool, repeats: usize) -> anyhow::Result<Figure> {
    let cluster = Cluster::start(Shape { edges: 1, redis, redis_apart: false })?;
    let mut floor = Floor::start().await?;
    let (mut ours, mut floors): (Vec<Sample>, Vec<Sample>) = Default::default();
    // The first time is a warm-up.
    for _ in 0..=repeats {
        floors.push(of_floor(&mut floor, count).await?);
        ours.push(of_ours(&cluster, count).await?);
    }
    let mut figure = Figure::new("handshakes", &format!("handshakes-{count}"));
    figure.parameter("connections", count as f64);
    push(&mut figure, "floor", &floors[1..], count);
    push(&mut figure, "ours", &ours[1..], count);
    Ok(figure)
}

async fn of_floor(floor: &mut Floor, count: usize) -> anyhow::Result<Sample> {
    let cpu = |floor: &Floor| anyhow::Ok(vec![("floor", floor.cpu()?)]);
    let before = cpu(floor)?;
    let swarm = floor.open(count).await?;
    let open = cpu(floor)?;
    drop(swarm);
    floor.done().await?;
    Ok([before, open, cpu(floor)?])
}

async fn of_ours(cluster: &Cluster, count: usize) -> anyhow::Result<Sample> {
    let before = cluster.cpu()?;
    let swarm = Swarm::connect(&cluster.edges, vec![Opening::Personal; count], 1).await?;
    let open = cluster.cpu()?;
    drop(swarm);
    timeout(PATIENCE, until_empty(cluster)).await??;
    Ok([before, open, cluster.cpu()?])
}

fn push(figure: &mut Figure, target: &str, samples: &[Sample], count: usize) {
    for (name, from, to) in PARTS {
        let us = |sample: &Sample, index: usize| {
            sample[to][index].1.saturating_sub(sample[from][index].1).as_secs_f64() * 1e6 / count as f64
        };
        for (index, (process, _)) in samples[0][0].iter().enumerate().filter(|(_, (process, _))| *process != target) {
            let of_it = samples.iter().map(|sample| us(sample, index));
            figure.push(target, &format!("{process}_us_per_{name}"), spread(of_it));
        }
        let all = samples.iter().map(|sample| (0..sample[0].len()).map(|index| us(sample, index)).sum());
        figure.push(target, &format!("cpu_us_per_{name}"), spread(all));
    }
}

async fn until_empty(cluster: &Cluster) -> anyhow::Result<()> {
    while Scrape::take(&cluster.ops)?.get("espigon_edge_rooms") > 0.0 {
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
