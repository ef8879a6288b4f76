#![cfg(not(loom))]

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use proptest::prelude::*;
use queues::{Interest, Limits, Outbox, PushError, Taken};

const LIMITS: Limits = Limits { frames: 3, bytes: 100 };

fn frame(len: usize) -> Bytes {
    Bytes::from(vec![b'x'; len])
}

fn take(outbox: &Outbox<&'static str>, into: &mut VecDeque<Bytes>) -> Poll<Taken<&'static str>> {
    outbox.poll_take(&Context::from_waker(Waker::noop()), into)
}

#[test]
fn frames_that_are_being_written_still_count() {
    let outbox = Outbox::new();
    let mut pump = VecDeque::new();
    for _ in 0..3 {
        outbox.push(frame(10), LIMITS, "slow").unwrap();
    }
    assert_eq!(take(&outbox, &mut pump), Poll::Ready(Taken::Frames));
    assert_eq!(pump.len(), 3);
    outbox.written(1, 10);
    outbox.push(frame(10), LIMITS, "slow").unwrap();
    assert_eq!(outbox.push(frame(10), LIMITS, "slow"), Err(PushError::Full));
    assert_eq!(outbox.push(frame(10), LIMITS, "slow"), Err(PushError::Closed));
    assert!(outbox.poll_cut(&Context::from_waker(Waker::noop())));
    assert_eq!(take(&outbox, &mut VecDeque::new()), Poll::Ready(Taken::Close("slow")));
}

#[test]
fn bytes_have_a_limit_of_their_own() {
    let outbox = Outbox::new();
    outbox.push(frame(60), LIMITS, "slow").unwrap();
    outbox.push(frame(40), LIMITS, "slow").unwrap();
    assert_eq!(outbox.push(frame(1), LIMITS, "slow"), Err(PushError::Full));
}

#[test]
fn a_finished_outbox_empties_before_it_closes() {
    let outbox = Outbox::new();
    let mut pump = VecDeque::new();
    outbox.push(frame(1), LIMITS, "slow").unwrap();
    assert!(outbox.finish("done"));
    assert!(!outbox.finish("again"));
    assert_eq!(outbox.push(frame(1), LIMITS, "slow"), Err(PushError::Closed));
    assert_eq!(take(&outbox, &mut pump), Poll::Ready(Taken::Frames));
    assert_eq!(take(&outbox, &mut pump), Poll::Ready(Taken::Close("done")));
}

#[test]
fn a_filler_stays_below_its_own_limits_and_hears_when_there_is_room() {
    let outbox = Outbox::new();
    let low = Limits { frames: 1, bytes: 50 };
    let cx = Context::from_waker(Waker::noop());
    assert!(outbox.try_push(frame(40), low));
    assert!(!outbox.try_push(frame(1), low), "frames");
    assert_eq!(outbox.poll_low(&cx, low), Poll::Ready(()));
    outbox.push(frame(10), LIMITS, "slow").unwrap();
    assert_eq!(outbox.poll_low(&cx, low), Poll::Pending);
    assert_eq!(take(&outbox, &mut VecDeque::new()), Poll::Ready(Taken::Frames));
    outbox.written(2, 50);
    assert_eq!(outbox.poll_low(&cx, low), Poll::Ready(()));
    assert!(outbox.try_push(frame(51), low), "one of any size, when nothing is held");
    outbox.finish("done");
    assert!(!outbox.try_push(frame(1), low));
}

#[test]
fn a_burst_gives_its_memory_back() {
    let outbox = Outbox::new();
    let mut pump = VecDeque::new();
    for _ in 0..200 {
        outbox.push(frame(1), Limits { frames: 256, bytes: 1 << 20 }, "slow").unwrap();
    }
    assert_eq!(take(&outbox, &mut pump), Poll::Ready(Taken::Frames));
    pump.clear();
    Outbox::<&str>::give_back(&mut pump);
    assert_eq!(pump.capacity(), 0);
}

proptest! {
    /// Against a naive model: a map of the latest wishes.
    #[test]
    fn interest_keeps_the_latest_wish_of_each_room(steps in prop::collection::vec((0u8..6, any::<bool>(), any::<bool>()), 0..60)) {
        let interest = Interest::new();
        let mut model = std::collections::BTreeMap::new();
        let mut link = std::collections::BTreeMap::new();
        for (room, wish, drain) in steps {
            interest.set(room, wish);
            model.insert(room, wish);
            if drain {
                let mut got = Vec::new();
                let drained = interest.poll_drain(&Context::from_waker(Waker::noop()), 2, &mut got);
                prop_assert_eq!(drained, Poll::Ready(()));
                prop_assert!(got.len() <= 2);
                link.extend(got);
            }
        }
        let mut rest = Vec::new();
        let _ = interest.poll_drain(&Context::from_waker(Waker::noop()), usize::MAX, &mut rest);
        link.extend(rest);
        prop_assert_eq!(link, model);
        prop_assert!(interest.is_empty());
    }
}
