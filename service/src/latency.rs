//! How long each stage of a publication's way takes: histograms that take no lock, as all rooms count into them.

use std::{
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, family::Family},
    registry::{Registry, Unit},
};

/// Upper ends of the buckets, in microseconds: 50 µs to 10 s. What took longer is in one more.
const ENDS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// A histogram of durations, in seconds. To observe is two atomic additions. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Latency(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    buckets: [AtomicU64; ENDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.buckets[ENDS_US.partition_point(|end| *end < us)].fetch_add(1, Ordering::Relaxed);
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Between two readings of wall time, in Unix milliseconds, perhaps of two machines: none if the later one is behind.
    pub fn observe_ms(&self, from: i64, to: i64) {
        self.observe(Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or(0)));
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to centuries of microseconds")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let ends = ENDS_US.into_iter().map(seconds).chain(iter::once(f64::INFINITY));
        let buckets: Vec<_> =
            ends.zip(&self.0.buckets).map(|(end, count)| (end, count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(seconds(self.0.sum_us.load(Ordering::Relaxed)), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The histograms of a tier's stages: `<prefix>_stage_seconds`, labelled by stage.
#[derive(Debug)]
pub struct Stages(Family<Stage, Latency>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

impl Stages {
    pub fn register(registry: &mut Registry) -> Self {
        let stages = Family::default();
        let help = "How long publications take, by stage";
        registry.register_with_unit("stage", help, Unit::Seconds, stages.clone());
        Self(stages)
    }

    /// The handle to one of them, which is shown from now on.
    pub fn stage(&self, stage: &'static str) -> Latency {
        self.0.get_or_create_owned(&Stage { stage })
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn what_was_observed_is_in_its_bucket_and_in_all_above() {
        let mut registry = Registry::default();
        let stage = Stages::register(&mut registry).stage("stored");
        for us in [50, 51, 3_000_000, 60_000_000] {
            stage.observe(Duration::from_micros(us));
        }
        stage.observe_ms(1_700_000_000_000, 1_700_000_000_007);
        stage.observe_ms(1_700_000_000_000, 1_699_999_999_999);
        assert_eq!(stage.count(), 6);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("stage_seconds_{name} ")));
            value.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
        };
        let expected = [("0.00005", 2), ("0.0001", 3), ("0.005", 3), ("0.01", 4), ("5.0", 5), ("10.0", 5), ("+Inf", 6)];
        for (end, count) in expected {
            let name = format!("bucket{{le=\"{end}\",stage=\"stored\"}}");
            assert_eq!(value(&name), count.to_string(), "{end}");
        }
        assert_eq!(value("count{stage=\"stored\"}"), "6");
        assert_eq!(value("sum{stage=\"stored\"}"), "63.007101");
    }
}
