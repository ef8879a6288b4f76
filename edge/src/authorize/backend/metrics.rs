use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{answer::Answer, question::Failure};

/// What is counted of the questions to the backend. Cloning shares the counters.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) questions: Family<OutcomeLabel, Counter>,
    pub(super) cached: Counter,
    pub(super) queue_full: Counter,
    /// From the sending of a question to the end of its answer, or to its failure.
    pub(super) seconds: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            questions: Family::default(),
            cached: Counter::default(),
            queue_full: Counter::default(),
            // 1 ms to 8 s.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        }
    }
}

impl Metrics {
    /// Registers all of them. Handles are shared: the registry reads what we count.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("backend");
        r.register("questions", "Questions to the backend, by outcome", self.questions.clone());
        r.register("cached", "Joins decided by an answer that was kept", self.cached.clone());
        r.register("queue_full", "Questions not asked as too many wait", self.queue_full.clone());
        r.register("seconds", "Time a question was under way", self.seconds.clone());
    }

    pub(super) fn count(&self, result: &Result<Answer, Failure>) {
        let outcome = match result {
            Ok(Answer::Yes { .. }) => "allowed",
            Ok(Answer::No) => "denied",
            Err(failure) => failure.label(),
        };
        self.questions.get_or_create(&OutcomeLabel { outcome }).inc();
        if matches!(result, Err(Failure::QueueFull)) {
            self.queue_full.inc();
        }
    }

    #[cfg(test)]
    pub(super) fn outcomes(&self, outcome: &'static str) -> u64 {
        self.questions.get_or_create(&OutcomeLabel { outcome }).get()
    }
}
