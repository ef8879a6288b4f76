use std::time::Duration;

use tokio::time::Instant;

use super::Harness;
use crate::hub::census::{Census, MAX_LOOK, Top};

#[test]
fn the_largest_and_the_busiest_rooms_are_found() {
    let mut h = Harness::new();
    for (room, members) in [("a", 1), ("b", 3), ("c", 2)] {
        (0..members).for_each(|_| drop(h.member(room, "e", 0)));
    }
    h.member("left", "e", 0);
    h.publish("a", "e", 1..=7);
    h.publish("c", "e", 1..=2);
    let census = |h: &mut Harness| {
        let mut census = Census::new(2);
        assert_eq!(h.rooms.look(0, &mut census), None);
        let names = |top: Top| top.into_rooms().map(|(room, count)| format!("{room} {count}")).collect::<Vec<_>>();
        (names(census.largest), names(census.busiest))
    };
    assert_eq!(census(&mut h), (vec!["b 3".into(), "c 2".into()], vec!["a 7".into(), "c 2".into()]));
    h.publish("b", "e", 1..=1);
    assert_eq!(census(&mut h).1, ["b 1"], "since somebody looked");
    assert_eq!(h.rooms.members(), 7);
}

#[test]
fn rooms_are_looked_at_a_few_at_a_time() {
    let mut h = Harness::new();
    (0..2 * MAX_LOOK + 5).for_each(|number| drop(h.member(&number.to_string(), "e", 0)));
    let (mut census, mut from, mut looks) = (Census::new(100), Some(0), Vec::new());
    while let Some(at) = from {
        looks.push(at);
        from = h.rooms.look(at, &mut census);
    }
    assert_eq!(looks, [0, MAX_LOOK, 2 * MAX_LOOK]);
    assert_eq!(census.largest.into_rooms().count(), 100);
    assert_eq!(h.rooms.look(usize::MAX, &mut Census::new(1)), None);
}

/// `cargo test --release -p edge --lib -- --ignored deep_ --nocapture`: no look delays what else a shard has to do.
#[test]
#[ignore = "a million rooms take half a gigabyte and some seconds"]
fn deep_a_census_of_a_million_rooms_is_made_of_short_looks() {
    let mut h = Harness::new();
    (0..1_000_000).for_each(|number| drop(h.member(&number.to_string(), "e", 0)));
    let (mut census, mut from, mut times) = (Census::new(100), Some(0), Vec::new());
    while let Some(at) = from {
        let start = Instant::now();
        from = h.rooms.look(at, &mut census);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (total, median) = (times.iter().sum::<Duration>(), times[times.len() / 2]);
    println!("1,000,000 rooms: {} looks, {total:?} in all, median {median:?}, longest {:?}", times.len(), times.last());
    // A machine that does something else meanwhile is not what is measured.
    assert!(median < Duration::from_millis(1), "{median:?}");
}
