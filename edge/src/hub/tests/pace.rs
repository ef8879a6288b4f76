//! A large room waits for its members when many lag.

use super::*;

const CROWD: usize = 64;
/// Messages of an outbox.
const QUEUE: u64 = 256;
/// How long a room waits for members that take nothing, and in all.
const STILL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

struct Crowd {
    h: Harness,
    members: Vec<Arc<Outbox>>,
    /// What the pumps of slow members have taken and not written.
    taken: Vec<VecDeque<Bytes>>,
    published: u64,
}

impl Crowd {
    fn of(count: usize) -> Self {
        let mut h = Harness::new();
        let members = (0..count).map(|_| h.member("r", "1-a", 0)).collect();
        let crowd = Self { h, members, taken: vec![VecDeque::new(); count], published: 0 };
        crowd.take(count);
        crowd
    }

    fn publish(&mut self, count: u64) {
        let first = self.published + 1;
        self.published += count;
        let taken = self.h.publish("r", "1-a", first..=self.published);
        assert_eq!(taken.fresh as u64, count);
        self.h.walk_all();
    }

    /// The pumps of the first so many do their work. What the first member got.
    fn take(&self, count: usize) -> Vec<String> {
        let mut got = self.members[..count].iter().map(|member| received(member));
        let first = got.next().unwrap_or_default();
        assert!(got.all(|other| other == first || first[0].starts_with("joined")), "all get the same");
        first
    }

    /// The pumps of the members from this one on write so many frames.
    fn write(&mut self, from: usize, count: usize) {
        for (member, taken) in self.members.iter().zip(&mut self.taken).skip(from) {
            let _ = member.queue().poll_take(&Context::from_waker(Waker::noop()), taken);
            for frame in taken.drain(..count.min(taken.len())) {
                member.queue().written(1, frame.len());
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.h.now += time;
        self.h.rooms.expire(self.h.now);
        self.h.walk_all();
    }

    fn open(&self) -> usize {
        self.members.iter().filter(|member| !member.queue().is_closed()).count()
    }

    /// What the link was told of publishers, in milliseconds.
    fn told(&self) -> Vec<u128> {
        let mut told = Vec::new();
        let _ = self.h.held_back.poll_drain(&Context::from_waker(Waker::noop()), 9, &mut told);
        told.into_iter().map(|(_, length)| length.as_millis()).collect()
    }
}

fn numbers(seqs: std::ops::RangeInclusive<u64>) -> Vec<String> {
    seqs.map(|seq| seq.to_string()).collect()
}

#[test]
fn a_large_room_waits_for_its_members() {
    let mut crowd = Crowd::of(CROWD);
    crowd.publish(3 * QUEUE);
    let handed = crowd.take(CROWD);
    assert!((handed.len() as u64) < QUEUE, "{}", handed.len());
    assert_eq!(crowd.told(), [1000]);
    let mut got = handed;
    while (got.len() as u64) < 3 * QUEUE {
        crowd.pass(Duration::from_millis(10));
        assert_eq!(crowd.open(), CROWD);
        let more = crowd.take(CROWD);
        assert!(!more.is_empty() && (more.len() as u64) < QUEUE);
        got.extend(more);
    }
    assert_eq!(got, numbers(1..=3 * QUEUE));
    assert_eq!(crowd.told(), [0], "publishers go on once all is handed out");
    crowd.publish(1);
    assert_eq!((crowd.take(CROWD), crowd.told()), (numbers(769..=769), vec![]));
}

#[test]
fn publishers_are_told_again_while_it_lasts() {
    let mut crowd = Crowd::of(CROWD);
    crowd.publish(2 * QUEUE);
    assert_eq!(crowd.told(), [1000]);
    crowd.pass(Duration::from_millis(100));
    assert_eq!(crowd.told(), [] as [u128; 0]);
    crowd.pass(Duration::from_millis(100));
    assert_eq!(crowd.told(), [1000]);
}

#[test]
fn a_few_that_are_slow_are_closed_and_delay_nobody() {
    let mut crowd = Crowd::of(CROWD);
    // Fewer than one in eight, whichever are looked at.
    let fast = CROWD - 3;
    let mut got = Vec::new();
    for _ in 0..6 {
        crowd.publish(QUEUE / 4);
        got.extend(crowd.take(fast));
    }
    assert_eq!(got, numbers(1..=6 * QUEUE / 4));
    assert_eq!((crowd.open(), crowd.told()), (fast, vec![]));
}

#[test]
fn for_many_that_are_dead_it_waits_once() {
    let mut crowd = Crowd::of(CROWD);
    let fast = CROWD / 2;
    let begun = crowd.h.now;
    let mut got = Vec::new();
    for _ in 0..6 {
        crowd.publish(QUEUE / 4);
        got.extend(crowd.take(fast));
    }
    assert_eq!((crowd.open(), crowd.told()), (CROWD, vec![1000]));
    assert!(got.len() as u64 <= QUEUE);
    while (got.len() as u64) < 6 * QUEUE / 4 {
        crowd.pass(Duration::from_millis(10));
        got.extend(crowd.take(fast));
    }
    assert_eq!(got, numbers(1..=6 * QUEUE / 4));
    assert!(crowd.h.now - begun <= STILL + Duration::from_millis(20));
    assert_eq!((crowd.open(), crowd.told()), (fast, vec![0]));
}

#[test]
fn for_those_who_never_read_it_does_not_wait_for_ever() {
    let mut crowd = Crowd::of(CROWD);
    crowd.publish(3 * QUEUE);
    let begun = crowd.h.now;
    while crowd.open() > 0 {
        assert!(crowd.h.now < begun + 2 * STILL);
        crowd.pass(Duration::from_millis(10));
    }
    assert!(crowd.h.now >= begun + STILL);
    assert_eq!(crowd.told(), [0]);
}

#[test]
fn for_those_who_read_too_little_it_waits_longer_and_not_for_ever_either() {
    let mut crowd = Crowd::of(CROWD);
    crowd.publish(3 * QUEUE);
    let begun = crowd.h.now;
    while crowd.open() == CROWD {
        assert!(crowd.h.now < begun + PATIENCE + STILL);
        crowd.pass(STILL / 2);
        crowd.write(0, 1);
    }
    assert!(crowd.h.now >= begun + PATIENCE);
}

/// Publishes one after the other as the room allows, with so many members who read that much every so often and lag
/// already. How many publications are handed out in a minute.
fn in_a_minute(slow: usize, frames: usize, every: Duration) -> u64 {
    let mut crowd = Crowd::of(CROWD);
    for _ in 0..3 {
        crowd.publish(QUEUE / 4 - 10);
        crowd.take(CROWD - slow);
    }
    let (begun, step) = (crowd.h.now, Duration::from_millis(10));
    let mut next = begun;
    let before = crowd.published;
    while crowd.h.now < begun + Duration::from_mins(1) {
        if !crowd.h.rooms.has_work() && crowd.take(CROWD - slow).last() == Some(&crowd.published.to_string())
            || crowd.published == before
        {
            crowd.publish(1);
        }
        crowd.pass(step);
        if crowd.h.now >= next {
            next += every;
            crowd.write(CROWD - slow, frames);
        }
    }
    crowd.published - before
}

#[test]
fn publishers_get_half_an_outbox_in_a_while_whatever_members_do() {
    let minute = |slow, frames, every| {
        let count = in_a_minute(slow, frames, Duration::from_millis(every));
        assert!(count > 60 * QUEUE / 10, "{slow} slow, {frames} each {every} ms: {count}");
    };
    minute(32, 0, 1000);
    minute(32, 1, 5000);
    minute(16, 1, 900);
    minute(8, 20, 4900);
}

#[test]
fn a_small_room_closes_them_as_ever() {
    let mut crowd = Crowd::of(CROWD - 1);
    crowd.publish(QUEUE / 2);
    assert_eq!(crowd.open(), CROWD - 1);
    crowd.publish(QUEUE);
    assert_eq!((crowd.open(), crowd.told()), (0, vec![]));
}
