use bytes::Bytes;
use proto::Epoch;

use super::*;

fn run(first_seq: u64, sizes: &[usize]) -> Run {
    let entries = sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect();
    Run { epoch: Epoch::new("1-a"), first_seq, entries }
}

fn queue() -> Queue {
    Queue::new(Arc::new(Metrics::default()), Traces::default())
}

fn room(name: &str) -> Room {
    Room::try_new(name).unwrap()
}

#[tokio::test]
async fn consecutive_runs_leave_as_one_message() {
    let queue = queue();
    assert!(queue.push_run(&room("a"), run(1, &[1]), 0));
    assert!(queue.push_run(&room("a"), run(2, &[1, 1]), 0));
    assert!(queue.push_run(&room("b"), run(9, &[1]), 0));
    assert!(queue.push_run(&room("a"), run(4, &[1]), 0));
    let mut out = VecDeque::new();
    assert_eq!(queue.pop(&mut out).await, Ok(0));
    let firsts = out.iter().map(|message| match message {
        Message::Publications(room, run) => (room.as_str().to_owned(), run.first_seq, run.entries.len()),
        Message::Control(_) => unreachable!(),
    });
    assert_eq!(firsts.collect::<Vec<_>>(), [("a".into(), 1, 3), ("b".into(), 9, 1), ("a".into(), 4, 1)]);
    assert_eq!(queue.bytes(), 0);
}

#[tokio::test]
async fn a_room_gets_a_quarter_and_whoever_was_refused_is_woken_at_half() {
    let queue = queue();
    let big = LINK_QUEUE_BYTES / 8;
    for (name, seq) in [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1), ("c", 2), ("d", 1), ("d", 2)] {
        assert!(queue.push_run(&room(name), run(seq * 10, &[big]), 0), "{name}");
    }
    assert!(!queue.push_run(&room("a"), run(30, &[1]), 3), "the quarter of a room");
    assert!(!queue.push_run(&room("e"), run(1, &[1]), 5), "the whole");
    assert_eq!(queue.space(&room("e"), 6), Space::QueueFull);
    let mut woken = Vec::new();
    while queue.bytes() > 0 {
        woken.push(queue.pop(&mut VecDeque::new()).await.unwrap());
    }
    assert_eq!(woken.iter().filter(|mask| **mask != 0).collect::<Vec<_>>(), [&0b110_1000]);
    assert!(woken[..3].iter().all(|mask| *mask == 0), "not before it is half empty");
    assert_eq!(queue.space(&room("e"), 6), Space::Yes);
}

#[tokio::test]
async fn what_is_queued_is_still_sent_after_the_end() {
    let queue = queue();
    assert!(queue.push_run(&room("a"), run(1, &[1]), 0));
    queue.end(Some(End::Stopping));
    assert!(queue.push_run(&room("a"), run(2, &[1]), 0), "ignored, not refused");
    let mut out = VecDeque::new();
    assert_eq!(queue.pop(&mut out).await, Ok(0));
    assert_eq!(out.len(), 1);
    assert_eq!(queue.pop(&mut out).await, Err(Some(End::Stopping)));
}

#[test]
fn what_cannot_be_dropped_has_a_limit_too() {
    let queue = queue();
    let beat = || Control { kind: wire::fanout_message::Kind::Drain(wire::Drain {}), permit: None };
    for _ in 0..LINK_QUEUE_CONTROLS {
        assert!(queue.push_control(beat()));
    }
    assert!(!queue.push_control(beat()));
}
