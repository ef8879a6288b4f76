//! What CI runs: thousands of seeds; what they must have met; the same again, exactly; and each check switched off.

use std::time::Duration;

use service::simulation::Check;
use simulation::{Options, run};

use crate::campaign::{self, Campaign};

/// How many seeds, and how long they may take on a slow machine.
const SEEDS: u64 = 3000;
const LIMIT: Duration = Duration::from_mins(5);

/// Of the same seeds, so many may pass before a check that is switched off is noticed.
const NOTICED_WITHIN: u64 = 1000;

/// What must happen at some time in so many seeds, or they have become weak.
const MUST_HAPPEN: &[&str] = &[
    "announcement: doubled",
    "announcement: dropped",
    "announcement: late, out of order",
    "client: closed with 1012",
    "client: closed with 4008",
    "client: cut off",
    "client: error rate_limited",
    "client: error unavailable",
    "client: error unknown",
    "client: join cancelled",
    "client: joined with the last",
    "client: lost failover",
    "client: lost history",
    "client: not recovered",
    "client: reads slowly",
    "client: recovered",
    "espigon_edge_broadcasts_total{outcome=\"repeated\"}",
    "espigon_edge_duplicates_total",
    "espigon_edge_gaps_total",
    "espigon_edge_hold_backs_total",
    "espigon_edge_link_losses_total",
    "espigon_edge_pages_failed_total",
    "espigon_edge_pages_total",
    "espigon_edge_queue_full_total{queue=\"link_broadcasts\",rule=\"unavailable\"}",
    "espigon_edge_queue_full_total{queue=\"link_inflight\",rule=\"unavailable\"}",
    "espigon_edge_queue_full_total{queue=\"outbox\",rule=\"close_4008\"}",
    "espigon_edge_queue_full_total{queue=\"room\",rule=\"ask_again\"}",
    "espigon_edge_queue_full_total{queue=\"session\",rule=\"rate_limited\"}",
    "espigon_edge_queue_full_total{queue=\"shard\",rule=\"ask_again\"}",
    "espigon_fanout_gap_repairs_total",
    "espigon_fanout_hold_backs_total",
    "espigon_fanout_lost_total{reason=\"failover\"}",
    "espigon_fanout_lost_total{reason=\"history\"}",
    "espigon_fanout_queue_full_total{queue=\"link\",rule=\"behind\"}",
    "espigon_fanout_queue_full_total{queue=\"link_publishes\",rule=\"busy\"}",
    "espigon_fanout_queue_full_total{queue=\"link_room\",rule=\"behind\"}",
    "espigon_fanout_queue_full_total{queue=\"room_held\",rule=\"read_again\"}",
    "espigon_fanout_queue_full_total{queue=\"shard\",rule=\"read_again\"}",
    "espigon_fanout_queue_full_total{queue=\"shard_interests\",rule=\"link_waits\"}",
    "espigon_fanout_replays_total",
    "espigon_fanout_sweep_behind_total",
    "fault: a connection for commands is lost",
    "fault: a link breaks",
    "fault: a link is a black hole",
    "fault: a link is slow",
    "fault: a node drains",
    "fault: a node is deaf",
    "fault: a node is killed",
    "fault: a node starts",
    "fault: a replica takes over",
    "fault: a subscriber connection is lost",
    "fault: an edge drains",
    "fault: an edge is killed",
    "fault: an edge starts",
    "fault: the store is restarted",
    "fault: the store is wiped",
    "members in the end",
    "publisher: Busy",
    "publisher: Unavailable",
    "publisher: duplicate",
    "publisher: unknown",
    "store: a read failed",
    "store: publishers held back",
    "store: refused before the write",
    "store: too late, Unavailable",
    "store: unknown, and not stored",
    "store: unknown, and stored late",
    "store: unknown, but stored",
    "subscriber: deaf, given up",
];

#[test]
fn thousands_of_schedules_and_nobody_loses_or_doubles_anything() {
    let campaign = campaign::run(1, SEEDS, LIMIT, 3, None);
    campaign.assert_well();
    assert_eq!(campaign.seeds, SEEDS, "not all of them within {LIMIT:?}");
    let happened = |what: &&&str| campaign.counts.get(**what).is_some_and(|count| *count > 0);
    let never: Vec<_> = MUST_HAPPEN.iter().filter(|what| !happened(what)).collect();
    assert!(never.is_empty(), "in {SEEDS} seeds never happened: {never:#?}");
}

#[test]
fn a_seed_is_the_same_every_time() {
    for seed in 1..=40 {
        let (one, other) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(one.hash, other.hash, "the trace of seed {seed}");
        assert_eq!(one.counts, other.counts, "what happened in seed {seed}");
    }
}

#[test]
fn each_check_that_is_switched_off_is_missed() {
    let mut unnoticed = Vec::new();
    for check in Check::ALL {
        let Campaign { seeds, failures, .. } = campaign::run(1, NOTICED_WITHIN, LIMIT, 1, Some(check));
        match failures.first_key_value() {
            Some((seed, failure)) => println!("without {check:?}, after {seeds} seeds: {seed}: {failure}"),
            None => unnoticed.push(check),
        }
    }
    assert!(unnoticed.is_empty(), "{NOTICED_WITHIN} seeds pass without {unnoticed:?}");
}
