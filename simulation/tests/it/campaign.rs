//! Many seeds on all processors.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use service::simulation::Check;
use simulation::{Kind, Options, Plan, run::run_caught};

/// How many seeds were run, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Campaign {
    pub(crate) seeds: u64,
    pub(crate) kinds: BTreeMap<Kind, u64>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// The first few.
    pub(crate) failures: BTreeMap<u64, String>,
}

impl Campaign {
    /// Says how to see what went wrong.
    pub(crate) fn assert_well(&self) {
        let told = self.failures.iter().map(|(seed, failure)| format!("{failure}\n  make simulate SEED={seed}\n"));
        assert!(self.failures.is_empty(), "{} seeds; failed:\n{}", self.seeds, told.collect::<String>());
    }
}

/// Runs seeds from `first` on until there are so many, or the time is up, or so many have failed.
#[expect(clippy::disallowed_methods, reason = "real time, to keep within it")]
pub(crate) fn run(first: u64, most: u64, limit: Duration, failures: usize, off: Option<Check>) -> Campaign {
    let (next, all) = (AtomicU64::new(first), Mutex::new(Campaign::default()));
    let end = Instant::now() + limit;
    let last = first.saturating_add(most);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = all.lock().unwrap().failures.len() >= failures;
                    if seed >= last || Instant::now() >= end || enough {
                        return;
                    }
                    let outcome = run_caught(seed, Options { off, trace: false });
                    let mut all = all.lock().unwrap();
                    all.seeds += 1;
                    *all.kinds.entry(Plan::of(seed).kind).or_default() += 1;
                    for (what, count) in outcome.counts {
                        *all.counts.entry(what).or_default() += count;
                    }
                    if let Some(failure) = outcome.failure {
                        all.failures.insert(seed, failure);
                    }
                }
            });
        }
    });
    all.into_inner().unwrap()
}
