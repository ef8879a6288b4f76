use std::{fs, path::Path, time::Duration};

use serde::Serialize;

use super::plot;
use crate::swarm::{Offline, Report};

/// Reconnects are counted in steps of this.
const STEP_MS: i64 = 1000;

/// How much busier the busiest second of a window may be than its mean: twice, or by so many clients, as few are drawn
/// unevenly.
const UNEVEN: (u64, u64) = (2, 25);

/// The replacement of one process.
#[derive(Debug, Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
    /// Clients have to move.
    pub(super) moves: bool,
    /// So many did.
    pub(super) moved: usize,
}

/// How a rollout was. Times are in milliseconds from its begin.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    clients: usize,
    window_ms: u128,
    published: u64,
    delivered: u64,
    pub(super) phases: Vec<Phase>,
    /// Clients whose connection ended, by second.
    pub(super) reconnects: Vec<u64>,
    /// What the clients were without, from the end of a connection until all that was missed is there.
    offline_ms: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    count: usize,
    p50: u32,
    p99: u32,
    max: u32,
}

impl Figures {
    /// The report is of clients that have everything.
    pub(super) fn new(clients: usize, window: Duration, began_ms: i64, phases: Vec<Phase>, report: &Report) -> Self {
        let offline = &report.returns.offline;
        let since = |phase: Phase| {
            let within = |offline: &&Offline| (phase.from_ms..phase.to_ms).contains(&offline.since_ms);
            let moved = offline.iter().filter(within).count();
            Phase { from_ms: phase.from_ms - began_ms, to_ms: phase.to_ms - began_ms, moved, ..phase }
        };
        let phases: Vec<_> = phases.into_iter().map(since).collect();
        let end = phases.last().map_or(0, |phase| phase.to_ms);
        let mut reconnects = vec![0; usize::try_from(end / STEP_MS + 1).unwrap()];
        let mut times = Vec::new();
        for Offline { since_ms, for_ms } in offline {
            let step = usize::try_from((since_ms - began_ms) / STEP_MS).expect("nobody left before the rollout");
            reconnects[step] += 1;
            times.push(*for_ms);
        }
        times.sort_unstable();
        let quantile = |thousandths: usize| times.get(times.len() * thousandths / 1000).or(times.last()).copied();
        let quantile = |thousandths| quantile(thousandths).unwrap_or(0);
        let offline_ms = Quantiles { count: times.len(), p50: quantile(500), p99: quantile(990), max: quantile(1000) };
        let (published, delivered) = (report.published, report.delivered);
        let window_ms = window.as_millis();
        Self { clients, window_ms, published, delivered, phases, reconnects, offline_ms }
    }

    /// The steps of a phase, from its first reconnect to its last.
    fn steps(&self, phase: &Phase) -> &[u64] {
        let step = |ms: i64| usize::try_from(ms / STEP_MS).unwrap();
        let steps = &self.reconnects[step(phase.from_ms)..=step(phase.to_ms)];
        let first = steps.iter().position(|count| *count > 0).unwrap_or(0);
        let last = steps.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        &steps[first..last.max(first)]
    }

    /// Connections end only where they must, and evenly.
    pub(super) fn assert_unnoticed(&self) {
        let (times, clients) = UNEVEN;
        for phase in &self.phases {
            if phase.moves {
                let steps = self.steps(phase);
                let most = steps.iter().max().copied().unwrap_or(0);
                // Of the window's seconds, as the first and the last are cut.
                let mean = phase.moved as u64 / u64::try_from(self.window_ms / 1000).unwrap();
                assert!(mean > 0 && most <= (mean * times).max(mean + clients), "{}: {steps:?}", phase.name);
            } else {
                assert_eq!(phase.moved, 0, "{}: nobody is disconnected", phase.name);
            }
        }
    }

    pub(super) fn line(&self) -> String {
        let Quantiles { count, p50, p99, max } = &self.offline_ms;
        let moved = self.phases.iter().filter(|phase| phase.moves);
        let flat = moved.map(|phase| {
            let steps = self.steps(phase);
            let (least, most) = (steps.iter().min().unwrap_or(&0), steps.iter().max().unwrap_or(&0));
            format!("{}: {} in {} s, {least} to {most} a second", phase.name, phase.moved, steps.len())
        });
        let flat = flat.collect::<Vec<_>>().join(", ");
        format!("{} clients, {count} moves: {flat}; offline p50 {p50} ms, p99 {p99} ms, max {max} ms", self.clients)
    }

    /// Writes `<name>.json` and `<name>.svg`.
    pub(super) fn save(&self, directory: &Path, name: &str) {
        let json = serde_json::to_string_pretty(self).unwrap() + "\n";
        fs::write(directory.join(format!("{name}.json")), json).unwrap();
        fs::write(directory.join(format!("{name}.svg")), plot::svg(self)).unwrap();
    }
}
