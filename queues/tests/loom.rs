//! Every interleaving of a few steps, by loom. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p queues --release --test loom`.
#![cfg(loom)]

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use bytes::Bytes;
use loom::{future::block_on, sync::Arc, thread};
use queues::{Interest, Limits, Outbox, PushError, Taken};

const ROOMY: Limits = Limits { frames: 10, bytes: 1000 };

/// The pump: takes until it is told to close; returns what it got and why it ended.
fn pump(outbox: &Outbox<u8>) -> (Vec<Bytes>, u8) {
    let mut got = Vec::new();
    let mut local = VecDeque::new();
    loop {
        match block_on(poll_fn(|cx| outbox.poll_take(cx, &mut local))) {
            Taken::Close(reason) => return (got, reason),
            Taken::Frames => {
                let bytes = local.iter().map(Bytes::len).sum();
                outbox.written(local.len(), bytes);
                got.extend(local.drain(..));
            }
        }
    }
}

#[test]
fn no_wake_up_is_lost_and_a_pusher_keeps_its_order() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::new());
        let pusher = outbox.clone();
        let pushing = thread::spawn(move || {
            pusher.push(Bytes::from_static(b"1"), ROOMY, 0).unwrap();
            pusher.push(Bytes::from_static(b"2"), ROOMY, 0).unwrap();
            assert!(pusher.finish(7));
        });
        let (got, reason) = pump(&outbox);
        assert_eq!((got.as_slice(), reason), (&[Bytes::from_static(b"1"), Bytes::from_static(b"2")][..], 7));
        pushing.join().unwrap();
    });
}

#[test]
fn two_pushers_exceed_the_limit_together_exactly_once() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::new());
        let tight = Limits { frames: 1, bytes: 1000 };
        let pushers: Vec<_> = (0..2)
            .map(|_| {
                let outbox = outbox.clone();
                thread::spawn(move || outbox.push(Bytes::from_static(b"x"), tight, 8))
            })
            .collect();
        let results: Vec<_> = pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect();
        assert_eq!(results.iter().filter(|result| **result == Err(PushError::Full)).count(), 1);
        // Nothing that was queued outlives the cut.
        assert_eq!(pump(&outbox), (vec![], 8));
    });
}

#[test]
fn a_pump_that_waits_for_the_socket_hears_of_a_cut() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::<u8>::new());
        let cutter = outbox.clone();
        let cutting = thread::spawn(move || assert!(cutter.cut(8)));
        // As the pump does while the socket takes nothing.
        block_on(poll_fn(|cx| if outbox.poll_cut(cx) { Poll::Ready(()) } else { Poll::Pending }));
        cutting.join().unwrap();
    });
}

#[test]
fn a_filler_hears_when_there_is_room() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::<u8>::new());
        outbox.push(Bytes::from_static(b"1"), ROOMY, 0).unwrap();
        let pumping = outbox.clone();
        let writing = thread::spawn(move || pumping.written(1, 1));
        block_on(poll_fn(|cx| outbox.poll_low(cx, Limits { frames: 0, bytes: 0 })));
        writing.join().unwrap();
    });
}

#[test]
fn of_two_ends_one_wins() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::<u8>::new());
        let other = outbox.clone();
        let cutting = thread::spawn(move || other.cut(1));
        let finished = outbox.finish(2);
        let cut = cutting.join().unwrap();
        assert!(cut != finished);
        assert_eq!(pump(&outbox).1, if cut { 1 } else { 2 });
    });
}

#[test]
fn the_link_sees_the_latest_wish() {
    loom::model(|| {
        let interest = Arc::new(Interest::<u8, u8>::new());
        let setter = interest.clone();
        let setting = thread::spawn(move || {
            setter.set(1, 10);
            setter.set(1, 11);
        });
        let mut seen = Vec::new();
        while seen.last() != Some(&(1, 11)) {
            block_on(poll_fn(|cx| interest.poll_drain(cx, 10, &mut seen)));
        }
        setting.join().unwrap();
        assert!(interest.is_empty());
    });
}
