//! Figures: fan-out to one room, or to many; CPU per delivery and latency, against the floor of the same run.

use std::{process, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    clock::now_ns,
    cpu,
    report::{Figure, spread},
    scrape::Scrape,
    target::Target,
};

/// Longest wait for publications under way.
const PATIENCE: Duration = Duration::from_secs(15);

/// How publications are sent.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum Pace {
    /// Deliveries a second, whatever happens.
    PerSecond(f64),
    /// As fast as can be kept up with, with so many publications under way.
    Window(usize),
    /// As fast as it is accepted, whoever keeps up.
    Accepted,
}

/// One measurement of one target.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) deliveries_per_second: f64,
    /// CPU time of each kind of server process per delivery, in microseconds.
    pub(crate) cpu_us: Vec<(&'static str, f64)>,
    /// All of them.
    pub(crate) total_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Share of its core that the generator used. Above 0.8 a figure at a fixed rate is void.
    pub(crate) generator_busy: f64,
    /// Deliveries that did not come, or not in order.
    pub(crate) lost: u64,
    /// What ours say of themselves; nothing for a floor.
    pub(crate) counted: Vec<(String, f64)>,
}

/// Measures for this long, after a second to warm up.
pub(crate) async fn measure(target: &mut Target, pace: Pace, length: Duration) -> anyhow::Result<Sample> {
    drive(target, pace, Duration::from_secs(1)).await?;
    settle(target).await;
    target.swarm.tally.take_latencies();
    let tally = target.swarm.tally.clone();
    let (before, delivered, own) = (target.cpu()?, tally.delivered(), cpu::time_of(process::id())?);
    let counted = target.counted()?;
    let start = Instant::now();
    drive(target, pace, length).await?;
    settle(target).await;
    let elapsed = start.elapsed();
    let generator_busy = cpu::time_of(process::id())?.saturating_sub(own).as_secs_f64() / elapsed.as_secs_f64();
    target.swarm.check()?;
    let deliveries = (tally.delivered() - delivered) as f64;
    let after = target.cpu()?;
    let cpu_us: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|((name, before), (_, after))| (*name, after.saturating_sub(*before).as_secs_f64() * 1e6 / deliveries))
        .collect();
    let latencies = tally.take_latencies();
    Ok(Sample {
        deliveries_per_second: deliveries / elapsed.as_secs_f64(),
        total_us: cpu_us.iter().map(|(_, us)| us).sum(),
        cpu_us,
        p50_us: latencies.value_at_quantile(0.5) as f64 / 1000.0,
        p99_us: latencies.value_at_quantile(0.99) as f64 / 1000.0,
        generator_busy,
        lost: tally.lost(),
        counted: counts(&target.counted()?.since(&counted)),
    })
}

/// What a publication took between the tiers and to Redis, and how long the stages of its way took, in milliseconds.
fn counts(since: &Scrape) -> Vec<(String, f64)> {
    let publications = since.get("espigon_fanout_publications_total{outcome=\"stored\"}");
    if publications == 0.0 {
        return Vec::new();
    }
    let per = [
        ("link_messages", "espigon_fanout_link_messages_total"),
        ("link_writes", "espigon_fanout_writes_total{listener=\"link\"}"),
        ("redis_round_trips", "espigon_fanout_redis_roundtrip_seconds_count"),
    ];
    let per = per.map(|(name, series)| (format!("{name}_per_publication"), since.get(series) / publications));
    let stages = [
        ("fanout", "accepted"),
        ("fanout", "stored"),
        ("fanout", "announced"),
        ("edge", "received"),
        ("edge", "written"),
    ];
    let stages = stages.into_iter().flat_map(|(tier, stage)| {
        [("p50", 0.5), ("p99", 0.99)].map(|(name, share)| {
            (format!("{stage}_{name}_ms_below"), since.stage(tier, stage, share).unwrap_or(0.0) * 1000.0)
        })
    });
    per.into_iter().chain(stages).collect()
}

async fn drive(target: &mut Target, pace: Pace, length: Duration) -> anyhow::Result<()> {
    let tally = target.swarm.tally.clone();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < length {
        match pace {
            Pace::PerSecond(deliveries) => {
                let every = Duration::from_secs_f64(target.load.audience() as f64 / deliveries);
                sleep_until(start + every * sent).await;
                sent += 1;
            }
            Pace::Window(size) => {
                while tally.under_way() >= size {
                    timeout(PATIENCE, tally.any_done()).await?;
                }
            }
            Pace::Accepted => tokio::task::yield_now().await,
        }
        target.publish(now_ns()).await?;
    }
    Ok(())
}

/// Waits until nothing is under way, or nothing comes any more.
async fn settle(target: &Target) {
    let tally = &target.swarm.tally;
    while tally.under_way() > 0 && timeout(PATIENCE, tally.any_done()).await.is_ok() {}
}

/// Ours and both floors in turn, several times. The floor at our frames' size is shown once beside them.
pub(crate) async fn figure(
    mut figure: Figure,
    targets: &mut [(&'static str, &mut Target)],
    pace: Pace,
    length: Duration,
    repeats: usize,
) -> anyhow::Result<Figure> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); targets.len()];
    for _ in 0..repeats {
        for ((_, target), samples) in targets.iter_mut().zip(&mut samples) {
            samples.push(measure(target, pace, length).await?);
        }
    }
    for ((name, _), samples) in targets.iter().zip(samples) {
        let of = |value: fn(&Sample) -> f64| spread(samples.iter().map(value));
        figure.push(name, "cpu_us_per_delivery", of(|sample| sample.total_us));
        for (index, (process, _)) in samples[0].cpu_us.iter().enumerate() {
            let values = samples.iter().map(|sample| sample.cpu_us[index].1);
            figure.push(name, &format!("{process}_us_per_delivery"), spread(values));
        }
        figure.push(name, "deliveries_per_second", of(|sample| sample.deliveries_per_second));
        figure.push(name, "latency_p50_us", of(|sample| sample.p50_us));
        figure.push(name, "latency_p99_us", of(|sample| sample.p99_us));
        figure.push(name, "generator_busy", of(|sample| sample.generator_busy));
        figure.push(name, "lost", of(|sample| sample.lost as f64));
        for (index, (counted, _)) in samples[0].counted.iter().enumerate() {
            figure.push(name, counted, spread(samples.iter().map(|sample| sample.counted[index].1)));
        }
    }
    Ok(figure)
}
