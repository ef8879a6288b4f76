//! Seeds by name and number.

use std::time::Duration;

use simulation::{Options, run};

use crate::campaign;

#[expect(clippy::disallowed_methods, reason = "how a person says which seed")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One seed, with its trace: `make simulate SEED=7`.
#[test]
fn replay() {
    let Some(seed) = number("SEED") else { return };
    let outcome = run(seed, Options { trace: true, off: None });
    println!("{:?}", outcome.counts);
    if let Some(failure) = outcome.failure {
        panic!("seed {seed}: {failure}");
    }
}

#[test]
fn explore() {
    let Some(first) = number("FROM") else { return };
    let most = number("COUNT").unwrap_or(100);
    let start = Duration::from_secs(number("SECONDS").unwrap_or(600));
    let campaign = campaign::run(first, most, start, number("FAILURES").unwrap_or(5) as usize, None);
    for (what, count) in &campaign.counts {
        println!("{count:>10} {what}");
    }
    println!("{} seeds {:?}", campaign.seeds, campaign.kinds);
    for (seed, failure) in &campaign.failures {
        println!("seed {seed}: {failure}");
    }
    assert!(campaign.failures.is_empty());
}
