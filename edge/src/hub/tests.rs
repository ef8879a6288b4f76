mod census;
mod found;
mod pace;
mod replay;
mod walks;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use proto::{Position, Room, wire::Entry};
use queues::Limits;
use tokio::{sync::oneshot, time::Instant};

use super::{
    replay::Progress,
    room::{Taken, Waiting},
    rooms::Rooms,
};
use crate::{
    interest::{HeldBack, Interest, LinkId, PlacedLink, Placement, Reads, Wish},
    outbox::Outbox,
    protocol::server::LostReason,
    session::JoinOutcome,
    test_support,
};

const LINGER: Duration = Duration::from_secs(5);
const LINK: LinkId = LinkId(1);

/// A table of rooms with one link, which a test plays the other end of.
struct Harness {
    rooms: Rooms,
    interest: Arc<Interest>,
    reads: Arc<Reads>,
    held_back: Arc<HeldBack>,
    now: Instant,
}

impl Harness {
    fn new() -> Self {
        Self::with_queue(256)
    }

    /// With outboxes of this many messages.
    fn with_queue(send_queue: usize) -> Self {
        let mut harness = Self {
            rooms: Rooms::new(LINGER, 1 << 20, send_queue, 1, Box::new(|| 7)),
            interest: Arc::default(),
            reads: Arc::default(),
            held_back: Arc::default(),
            now: Instant::now(),
        };
        harness.place(harness.placement(LINK));
        harness
    }

    /// The links change, and every room that does so has moved.
    fn place(&mut self, placement: Arc<Placement>) {
        self.rooms.place(placement, self.now);
        self.walk_all();
        self.now += Duration::from_millis(10);
        self.rooms.expire(self.now);
    }

    fn placement(&self, link: LinkId) -> Arc<Placement> {
        Arc::new(Placement::new(
            vec![PlacedLink::new(link, "a:1", self.interest.clone(), self.reads.clone(), self.held_back.clone(), true)],
            false,
        ))
    }

    fn join(&mut self, room: &str, member: &Arc<Outbox>) -> oneshot::Receiver<JoinOutcome> {
        let (done, outcome) = oneshot::channel();
        let deadline = self.now + LINGER;
        let joining =
            Waiting { member: member.clone(), id: None, publish: true, grant: None, since: None, deadline, done };
        self.rooms.join(Room::try_new(room).unwrap(), joining);
        outcome
    }

    fn leave(&mut self, room: &str, member: &Arc<Outbox>) {
        self.rooms.leave(&Room::try_new(room).unwrap(), member, self.now);
    }

    /// A member of a room that stands at the position.
    fn member(&mut self, room: &str, epoch: &str, seq: u64) -> Arc<Outbox> {
        let member = test_support::outbox();
        let mut outcome = self.join(room, &member);
        self.state(room, epoch, seq);
        assert_eq!(outcome.try_recv(), Ok(JoinOutcome::Joined));
        self.wishes();
        member
    }

    /// The link says where a room stands, and those who waited for it are admitted.
    fn state(&mut self, room: &str, epoch: &str, seq: u64) {
        self.rooms.state(LINK, room, Position::new(epoch, seq), None);
        self.walk_all();
    }

    fn publish(&mut self, room: &str, epoch: &str, seqs: std::ops::RangeInclusive<u64>) -> Taken {
        let first = *seqs.start();
        let entries: Vec<_> = seqs.map(entry).collect();
        self.rooms.publications(room, epoch, first, &entries)
    }

    fn walk_all(&mut self) {
        while self.rooms.has_work() {
            self.rooms.walk(3, self.now);
        }
    }

    fn wishes(&self) -> Vec<(Room, Wish)> {
        let mut wishes = Vec::new();
        let _ = self.interest.poll_drain(&Context::from_waker(Waker::noop()), usize::MAX, &mut wishes);
        wishes
    }
}

fn entry(seq: u64) -> Bytes {
    let body = Bytes::from(seq.to_string());
    Entry { from: "7".into(), ts_ms: 0, body, key: String::new(), traceparent: String::new() }.encode_to_vec().into()
}

/// What is in an outbox, in short: `joined 3`, `4`, `lost 9`.
fn received(outbox: &Outbox) -> Vec<String> {
    take(outbox).iter().map(describe).collect()
}

/// What the write pump does.
fn take(outbox: &Outbox) -> VecDeque<Bytes> {
    let mut frames = VecDeque::new();
    let _ = outbox.queue().poll_take(&Context::from_waker(Waker::noop()), &mut frames);
    outbox.queue().written(frames.len(), frames.iter().map(Bytes::len).sum());
    frames
}

fn describe(frame: &Bytes) -> String {
    let json = test_support::json_of(frame);
    match json["type"].as_str().unwrap() {
        "message" => {
            assert_eq!(json["seq"], json["body"], "the body of its own publication");
            json["seq"].to_string()
        }
        kind => format!("{kind} {}", json["payload"]["seq"]),
    }
}

#[test]
fn a_first_member_waits_for_the_state_and_asks_for_it_once() {
    let mut h = Harness::new();
    let (one, two) = (test_support::outbox(), test_support::outbox());
    let (mut first, mut second) = (h.join("r", &one), h.join("r", &two));
    let wish = Wish { wanted: true, position: None };
    assert_eq!(h.wishes(), [(Room::try_new("r").unwrap(), wish)]);
    assert!(first.try_recv().is_err());
    h.state("r", "e", 3);
    assert_eq!((first.try_recv(), second.try_recv()), (Ok(JoinOutcome::Joined), Ok(JoinOutcome::Joined)));
    h.publish("r", "e", 4..=5);
    h.walk_all();
    assert_eq!(received(&one), ["joined 3", "4", "5"]);
    assert_eq!(received(&two), ["joined 3", "4", "5"]);
}

#[test]
fn a_member_that_joins_during_a_burst_gets_the_rest_of_it() {
    let mut h = Harness::with_queue(4);
    let limits = Limits { frames: 4, bytes: 1 << 20 };
    let (early, late) = (test_support::outbox_with(limits), test_support::outbox_with(limits));
    let _outcome = h.join("r", &early);
    h.state("r", "e", 0);
    assert_eq!(received(&early), ["joined 0"]);
    h.publish("r", "e", 1..=6);
    // One slice: half of the outbox.
    h.rooms.walk(100, h.now);
    assert_eq!(received(&early), ["1", "2"]);
    let _outcome = h.join("r", &late);
    h.rooms.walk(100, h.now);
    assert_eq!(
        (received(&early), received(&late)),
        (vec!["3".into(), "4".into()], vec!["joined 2".into(), "3".into(), "4".into()])
    );
}

#[test]
fn a_burst_longer_than_the_outbox_is_not_slowness() {
    let mut h = Harness::with_queue(4);
    let member = test_support::outbox_with(Limits { frames: 4, bytes: 1 << 20 });
    let _outcome = h.join("r", &member);
    h.state("r", "e", 0);
    h.publish("r", "e", 1..=50);
    let mut got = received(&member);
    while h.rooms.has_work() {
        h.rooms.walk(1024, h.now);
        got.extend(received(&member));
    }
    assert_eq!(got.len(), 51);
    assert!(!member.queue().is_closed());
}

#[test]
fn repeats_are_dropped_and_gaps_are_asked_for() {
    let mut h = Harness::new();
    let member = h.member("r", "e", 3);
    assert_eq!(h.publish("r", "e", 2..=5), Taken { fresh: 2, duplicates: 2, ..Taken::default() });
    assert_eq!(h.publish("r", "e", 8..=9), Taken { gap: true, ..Taken::default() });
    let wish = Wish { wanted: true, position: Some(Position::new("e", 5)) };
    assert_eq!(h.wishes(), [(Room::try_new("r").unwrap(), wish)]);
    assert_eq!(h.publish("r", "e", 10..=10), Taken { gap: true, ..Taken::default() });
    assert!(h.wishes().is_empty(), "asked already");
    h.state("r", "e", 5);
    h.publish("r", "e", 6..=10);
    h.walk_all();
    assert_eq!(received(&member), ["joined 3", "4", "5", "6", "7", "8", "9", "10"]);
}

#[test]
fn a_room_that_was_never_published_to_learns_its_epoch() {
    let mut h = Harness::new();
    let member = h.member("r", "", 0);
    assert_eq!(h.publish("r", "e", 2..=2), Taken { gap: true, ..Taken::default() });
    h.rooms.state(LINK, "r", Position::default(), None);
    h.publish("r", "e", 1..=2);
    h.walk_all();
    assert_eq!(received(&member), ["joined 0", "1", "2"]);
}

#[test]
fn another_epoch_is_not_delivered_until_the_loss_is_told() {
    let mut h = Harness::new();
    let member = h.member("r", "e", 3);
    h.rooms.lost(LinkId(9), "r", Position::new("f", 8), LostReason::Failover, None);
    assert!(h.publish("r", "f", 4..=4).gap);
    h.rooms.lost(LINK, "r", Position::new("f", 9), LostReason::Failover, None);
    assert_eq!(h.publish("r", "e", 4..=4).fresh, 1, "what was asked for again is answered first");
    h.state("r", "e", 3);
    h.rooms.lost(LINK, "r", Position::new("f", 3), LostReason::Failover, None);
    h.rooms.lost(LINK, "r", Position::new("f", 3), LostReason::Failover, None);
    h.publish("r", "f", 4..=4);
    h.walk_all();
    assert_eq!(received(&member), ["joined 3", "4", "lost 3", "4"], "another link's word is of the past");
}

#[test]
fn a_state_that_is_not_complete_is_a_loss() {
    let mut h = Harness::new();
    let member = h.member("r", "e", 3);
    h.place(h.placement(LinkId(2)));
    h.rooms.state(LINK, "r", Position::new("e", 50), Some(&Position::new("e", 3)));
    h.rooms.state(LinkId(2), "r", Position::new("e", 9), Some(&Position::new("e", 3)));
    h.publish("r", "e", 10..=10);
    h.walk_all();
    assert_eq!(received(&member), ["joined 3", "lost 9", "10"], "a link that is gone says nothing");
}

#[test]
fn a_room_moves_make_before_break() {
    let mut h = Harness::new();
    let _member = h.member("r", "e", 3);
    let (old, new) = (h.interest.clone(), Arc::new(Interest::new()));
    // Ids decide between equal weights; the old one is not eligible any more.
    let links = vec![
        PlacedLink::new(LINK, "a:1", old, Arc::default(), Arc::default(), false),
        PlacedLink::new(LinkId(2), "b:1", new.clone(), Arc::default(), Arc::default(), true),
    ];
    h.place(Arc::new(Placement::new(links, false)));
    assert!(h.wishes().is_empty(), "kept until the new one has answered");
    h.publish("r", "e", 4..=4);
    h.rooms.state(LinkId(2), "r", Position::new("e", 3), None);
    assert_eq!(h.wishes(), [(Room::try_new("r").unwrap(), Wish { wanted: false, position: None })]);
    let mut asked = Vec::new();
    let _ = new.poll_drain(&Context::from_waker(Waker::noop()), 9, &mut asked);
    assert_eq!(asked[0].1, Wish { wanted: true, position: Some(Position::new("e", 3)) });
}

#[test]
fn a_room_that_moves_back_before_the_other_answered_is_not_given_up() {
    let mut h = Harness::new();
    let _member = h.member("r", "e", 3);
    let other = || PlacedLink::new(LinkId(2), "b:1", Arc::default(), Arc::default(), Arc::default(), true);
    let own =
        |eligible| PlacedLink::new(LINK, "a:1", h.interest.clone(), h.reads.clone(), h.held_back.clone(), eligible);
    let (moving, back) = (vec![own(false), other()], vec![own(true)]);
    h.place(Arc::new(Placement::new(moving, false)));
    h.place(Arc::new(Placement::new(back, false)));
    assert!(h.wishes()[0].1.wanted, "asked again");
    h.state("r", "e", 3);
    assert_eq!(h.wishes(), [], "the link that serves it is not told that it is no longer wanted");
}

#[test]
fn rooms_are_given_up_after_lingering_and_joins_after_waiting() {
    let mut h = Harness::new();
    let member = h.member("r", "e", 3);
    h.leave("r", &member);
    h.publish("r", "e", 4..=6);
    assert!(!h.rooms.has_work(), "nobody to hand it to");
    h.now += LINGER / 2;
    let back = test_support::outbox();
    let _outcome = h.join("r", &back);
    assert_eq!(received(&back), ["joined 6"]);
    h.leave("r", &back);
    h.now += LINGER / 2;
    h.rooms.expire(h.now);
    assert_eq!(h.rooms.len(), 1, "it was joined meanwhile: the time counts anew");
    h.now += LINGER;
    h.rooms.expire(h.now);
    assert_eq!(h.rooms.len(), 0);
    assert_eq!(h.wishes(), [(Room::try_new("r").unwrap(), Wish { wanted: false, position: None })]);
    assert_eq!(h.rooms.next_deadline(), None);

    let mut outcome = h.join("s", &member);
    h.now += LINGER;
    h.rooms.expire(h.now);
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::Unavailable));
    h.now += LINGER;
    h.rooms.expire(h.now);
    assert_eq!((h.rooms.len(), h.rooms.members()), (0, 0));
}

#[test]
fn a_walk_meets_no_more_members_than_its_budget_and_rooms_take_turns() {
    let mut h = Harness::new();
    let mut crowd: Vec<_> = (0..10).map(|_| h.member("crowd", "e", 0)).collect();
    let lonely = h.member("lonely", "e", 0);
    crowd.iter().chain([&lonely]).for_each(|member| drop(received(member)));
    h.publish("crowd", "e", 1..=1);
    h.publish("lonely", "e", 1..=1);
    assert_eq!(h.rooms.walk(4, h.now).members, 4);
    assert_eq!(h.rooms.walk(4, h.now).members, 4);
    assert_eq!(received(&lonely), ["1"], "did not wait for the crowd");
    h.walk_all();
    assert!(crowd.drain(..).all(|member| received(&member) == ["1"]));
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize, usize),
    Leave(usize, usize),
    Publish(usize, u64),
    /// Something again, from so far back.
    Repeat(usize, u64),
    /// Some are dropped on the way; the link answers when asked again.
    Drop(usize, u64),
    Walk(usize),
}

const ROOMS: [&str; 2] = ["a", "b"];
const MEMBERS: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    let (room, member) = (0..ROOMS.len(), 0..MEMBERS);
    prop_oneof![
        3 => (room.clone(), member.clone()).prop_map(|(room, member)| Step::Join(room, member)),
        2 => (room.clone(), member).prop_map(|(room, member)| Step::Leave(room, member)),
        4 => (room.clone(), 1u64..5).prop_map(|(room, count)| Step::Publish(room, count)),
        1 => (room.clone(), 1u64..5).prop_map(|(room, back)| Step::Repeat(room, back)),
        1 => (room, 1u64..4).prop_map(|(room, count)| Step::Drop(room, count)),
        4 => (1usize..4).prop_map(Step::Walk),
    ]
}

proptest! {
    /// Against a naive model: whatever happens on the way, each member gets consecutive publications, from the position
    /// it was told when it joined up to where the room stands, or to where it was when it left.
    #[test]
    fn members_get_consecutive_publications(steps in prop::collection::vec(step(), 0..120)) {
        let mut h = Harness::with_queue(6);
        let members: Vec<_> = (0..MEMBERS).map(|_| test_support::outbox_with(Limits { frames: 6, bytes: 1 << 20 })).collect();
        let mut stands = [0u64; 2];
        let mut joined = BTreeSet::new();
        // What each member received, by room.
        let mut got: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Join(room, member) => {
                    let mut outcome = h.join(ROOMS[room], &members[member]);
                    if outcome.try_recv().is_err() {
                        h.rooms.state(LINK, ROOMS[room], Position::new("e", stands[room]), None);
                        // Nothing is pending in a room whose position was not known.
                        while outcome.is_empty() {
                            h.rooms.walk(1, h.now);
                            collect(&members, &mut got);
                        }
                        prop_assert_eq!(outcome.try_recv(), Ok(JoinOutcome::Joined));
                    }
                    joined.insert((room, member));
                }
                Step::Leave(room, member) => {
                    h.leave(ROOMS[room], &members[member]);
                    joined.remove(&(room, member));
                }
                Step::Publish(room, count) => {
                    h.publish(ROOMS[room], "e", stands[room] + 1..=stands[room] + count);
                    stands[room] += count;
                }
                Step::Repeat(room, back) => {
                    let first = stands[room].saturating_sub(back) + 1;
                    h.publish(ROOMS[room], "e", first..=stands[room]);
                }
                Step::Drop(room, count) => {
                    let first = stands[room] + 1;
                    stands[room] += count + 1;
                    let taken = h.publish(ROOMS[room], "e", stands[room]..=stands[room]);
                    if taken.gap {
                        h.rooms.state(LINK, ROOMS[room], Position::new("e", first - 1), None);
                        h.publish(ROOMS[room], "e", first..=stands[room]);
                    }
                }
                Step::Walk(budget) => { h.rooms.walk(budget, h.now); }
            }
            collect(&members, &mut got);
        }
        while h.rooms.has_work() {
            h.rooms.walk(2, h.now);
            collect(&members, &mut got);
        }
        for ((room, number), got) in got {
            let mut next = None;
            for item in got {
                if let Some(seq) = item.strip_prefix("joined ") {
                    let seq: u64 = seq.parse().unwrap();
                    // Joining again as a member answers with where it stands.
                    next = Some(seq + 1);
                } else {
                    let seq: u64 = item.parse().unwrap();
                    prop_assert_eq!(Some(seq), next);
                    next = Some(seq + 1);
                }
            }
            if joined.contains(&(room, number)) {
                prop_assert_eq!(next, Some(stands[room] + 1));
            }
        }
        prop_assert!(members.iter().all(|member| !member.queue().is_closed()));
        prop_assert_eq!(h.rooms.members(), joined.len());
    }
}

/// Empties the outboxes of all members.
fn collect(members: &[Arc<Outbox>], got: &mut BTreeMap<(usize, usize), Vec<String>>) {
    for (number, member) in members.iter().enumerate() {
        for frame in take(member) {
            let json = test_support::json_of(&frame);
            let room = json["room"].as_str().or(json["payload"]["room"].as_str()).unwrap();
            let room = ROOMS.iter().position(|name| *name == room).unwrap();
            got.entry((room, number)).or_default().push(describe(&frame));
        }
    }
}
