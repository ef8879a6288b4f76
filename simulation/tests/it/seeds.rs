//! Single seeds: those that once found something, and those that somebody asks for.

use std::time::Duration;

use simulation::{Options, run, run::run_caught};

use crate::campaign;

/// Seeds and what they found. Whatever draws from the seed changes what happens in it; what was found is kept by unit
/// tests as well (`edge/src/hub/tests/found.rs` and others).
const FOUND: &[(u64, &str)] = &[
    (3, "a closed connection that catches up asks the hub without end"),
    (8, "a member that joined with the last so many after a failover is never served"),
    (23, "a page larger than TAIL_BYTES allows is read for ever"),
    (82, "a loss overtakes what the hub had no place for"),
    (228, "a repeat that is certainly not stored hides that the first try may have been"),
    (250, "an incomplete page with nothing of the present epoch skips all of it"),
    (437, "a page read from before the room's position loses what follows on it"),
    (577, "an answer of the past says that there is no more"),
    (747, "a page asked for over a link that the room has left is waited for without end"),
    (758, "a broadcast that the store refused is stored behind the next, as its edge repeats it"),
    (770, "a node that is behind by more than the history has takes from those further on what it still has"),
    (974, "a second join without an answer ends the first"),
    (2567, "an incomplete answer from where the room was is believed where it is"),
    (2689, "a first publication is taken back by a read from before it, and its epoch left for good"),
    (3072, "the same, told as a loss"),
    (5167, "an answer without a position hides what lies between"),
    (1_010_820, "a loss within an epoch is told as a failover, by a link that stood in the one before"),
    (5_100_119, "the answer to an earlier question is taken for that to a later one, and its loss told too early"),
    (1_795_962_261, "a loss is told from an epoch before ours, and what is left of ours is skipped"),
];

#[test]
fn what_was_found_stays_mended() {
    for (seed, what) in FOUND {
        let failure = run_caught(*seed, Options::default()).failure;
        assert_eq!(failure, None, "seed {seed}, which once found that {what}");
    }
}

#[expect(clippy::disallowed_methods, reason = "how somebody says which seed")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[ignore = "by hand: make simulate SEED=7"]
fn replay() {
    let seed = number("SEED").expect("SEED=<number>");
    let outcome = run(seed, Options { trace: true, off: None });
    println!("{:#?}", outcome.counts);
    assert_eq!(outcome.failure, None, "seed {seed}");
}

#[test]
#[ignore = "by hand, and in make test-deep: FROM=<first seed> SECONDS=<how long>"]
fn explore() {
    let first = number("FROM").expect("FROM=<number>");
    let limit = Duration::from_secs(number("SECONDS").unwrap_or(300));
    println!("from seed {first} on, for {limit:?}");
    let campaign = campaign::run(first, number("COUNT").unwrap_or(u64::MAX - first), limit, 5, None);
    for (what, count) in &campaign.counts {
        println!("{count:>10} {what}");
    }
    println!("{} seeds: {:?}", campaign.seeds, campaign.kinds);
    campaign.assert_well();
}
