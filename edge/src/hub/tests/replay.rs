//! Members that join with `since`, against a model of the store that keeps only so much.

use std::collections::HashMap;

use proto::wire;

use super::*;
use crate::{interest::ReadFrom, protocol::Since};

/// What the model of the store keeps of each room.
const KEPT: u64 = 12;

impl Harness {
    pub(super) fn join_since(
        &mut self,
        room: &str,
        member: &Arc<Outbox>,
        since: Since,
    ) -> oneshot::Receiver<JoinOutcome> {
        let (done, outcome) = oneshot::channel();
        let deadline = self.now + LINGER;
        let member = member.clone();
        let since = Some(since);
        let joining = Waiting { member, id: None, publish: true, grant: None, since, deadline, done };
        self.rooms.join(Room::try_new(room).unwrap(), joining);
        outcome
    }

    pub(super) fn more(&mut self, room: &str, member: &Arc<Outbox>) -> oneshot::Receiver<Progress> {
        let (done, progress) = oneshot::channel();
        self.rooms.more(room, member, done);
        progress
    }

    pub(super) fn answer(&mut self, result: wire::ReadResult) {
        self.rooms.page(LINK, result, self.now);
        self.walk_all();
    }

    /// What is to be read, as a link would send it.
    pub(super) fn reads(&self) -> Vec<(Room, (u64, ReadFrom))> {
        let mut reads = Vec::new();
        let _ = self.reads.poll_drain(&Context::from_waker(Waker::noop()), usize::MAX, &mut reads);
        reads
    }
}

/// The answer of a store that stands at `seq` and keeps what follows `kept_from`.
pub(super) fn page(room: &str, (id, from): &(u64, ReadFrom), seq: u64, kept_from: u64) -> wire::ReadResult {
    let (after, complete) = match from {
        ReadFrom::After(position) if position.epoch.as_str() == "e" || position.seq == 0 => {
            let known = position.seq >= kept_from && position.seq <= seq;
            (if known { position.seq } else { kept_from }, known)
        }
        ReadFrom::After(_) => (kept_from, false),
        ReadFrom::Last(count) => (seq.saturating_sub((*count).into()).max(kept_from), true),
    };
    // Pages are short, so that several are needed.
    let last = if matches!(from, ReadFrom::After(_)) { seq.min(after + 5) } else { seq };
    wire::ReadResult {
        id: *id,
        room: room.to_owned(),
        position: Some(wire::Position { epoch: "e".into(), seq }),
        complete,
        first_seq: if last > after { after + 1 } else { 0 },
        entries: (after + 1..=last).map(entry).collect(),
        ..wire::ReadResult::default()
    }
}

pub(super) fn since(seq: u64) -> Since {
    Since::Position(Position::new("e", seq))
}

#[test]
fn who_is_where_the_room_stands_is_live_at_once() {
    let mut h = Harness::new();
    h.member("r", "e", 3);
    let back = test_support::outbox();
    let mut outcome = h.join_since("r", &back, since(3));
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::CatchingUp));
    assert_eq!(h.more("r", &back).try_recv(), Ok(Progress::Live));
    h.publish("r", "e", 4..=4);
    h.walk_all();
    assert_eq!(received(&back), ["joined 3", "4"]);
    assert!(h.reads().is_empty());
}

#[test]
fn what_the_tail_has_is_not_read() {
    let mut h = Harness::new();
    h.member("r", "e", 3);
    h.publish("r", "e", 4..=9);
    h.walk_all();
    let (back, last, all) = (test_support::outbox(), test_support::outbox(), test_support::outbox());
    let _outcome = h.join_since("r", &back, since(5));
    let _outcome = h.join_since("r", &last, Since::Last(2));
    assert_eq!(h.more("r", &back).try_recv(), Ok(Progress::Live));
    assert_eq!(h.more("r", &last).try_recv(), Ok(Progress::Live));
    h.publish("r", "e", 10..=10);
    h.walk_all();
    assert_eq!(received(&back), ["joined 5", "6", "7", "8", "9", "10"]);
    assert_eq!(received(&last), ["joined 7", "8", "9", "10"]);
    assert!(h.reads().is_empty());
    // More than the tail has: the store is asked.
    let _outcome = h.join_since("r", &all, Since::Last(99));
    assert!(matches!(&h.reads()[..], [(_, (_, ReadFrom::Last(99)))]));
}

#[test]
fn a_read_from_the_lowest_position_serves_the_others_and_becomes_the_tail() {
    let mut h = Harness::new();
    h.member("r", "e", 9);
    let low = test_support::outbox();
    let mut outcome = h.join_since("r", &low, since(4));
    let high = test_support::outbox();
    let mut second = h.join_since("r", &high, since(6));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    assert_eq!(from.1, ReadFrom::After(Position::new("e", 4)));
    assert!(outcome.try_recv().is_err(), "not before it is known what is missing");
    h.answer(page("r", from, 9, 0));
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::CatchingUp));
    assert_eq!(second.try_recv(), Ok(JoinOutcome::CatchingUp));
    assert_eq!(h.more("r", &low).try_recv(), Ok(Progress::Live));
    assert_eq!(h.more("r", &high).try_recv(), Ok(Progress::Live));
    let third = test_support::outbox();
    let _outcome = h.join_since("r", &third, since(5));
    assert_eq!(h.more("r", &third).try_recv(), Ok(Progress::Live));
    assert!(h.reads().is_empty());
    assert_eq!(received(&low), ["joined 4", "5", "6", "7", "8", "9"]);
    assert_eq!(received(&high), ["joined 6", "7", "8", "9"]);
    assert_eq!(received(&third), ["joined 5", "6", "7", "8", "9"]);
}

#[test]
fn what_cannot_be_recovered_is_said() {
    let mut h = Harness::new();
    h.member("r", "e", 30);
    for lost in [since(3), since(31), Since::Position(Position::new("d", 7))] {
        let back = test_support::outbox();
        let _outcome = h.join_since("r", &back, lost.clone());
        let [(_, from)] = &h.reads()[..] else { panic!("{lost:?}") };
        h.answer(page("r", from, 30, 10));
        assert_eq!(h.more("r", &back).try_recv(), Ok(Progress::Live));
        let frames = take(&back);
        let joined = test_support::json_of(&frames[0]);
        assert_eq!((&joined["payload"]["recovered"], &joined["payload"]["seq"]), (&false.into(), &30.into()));
        assert_eq!(frames.len(), 1);
    }
}

#[test]
fn a_since_of_the_epoch_before_gets_the_rest_of_it_and_then_lost() {
    let mut h = Harness::new();
    h.member("r", "f", 9);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, since(4));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    let both = wire::ReadResult {
        position: Some(wire::Position { epoch: "f".into(), seq: 9 }),
        prev: Some(wire::Position { epoch: "e".into(), seq: 6 }),
        entries: (5..=9).map(entry).collect(),
        ..page("r", from, 9, 0)
    };
    h.answer(both);
    assert_eq!(h.more("r", &back).try_recv(), Ok(Progress::More));
    let mut progress = h.more("r", &back);
    let [(_, from)] = &h.reads()[..] else { panic!() };
    assert_eq!(from.1, ReadFrom::After(Position::new("f", 6)));
    let rest = wire::ReadResult {
        position: Some(wire::Position { epoch: "f".into(), seq: 9 }),
        first_seq: 7,
        entries: (7..=9).map(entry).collect(),
        complete: true,
        ..page("r", from, 9, 0)
    };
    h.answer(rest);
    assert_eq!(progress.try_recv(), Ok(Progress::Live));
    assert_eq!(received(&back), ["joined 4", "5", "6", "lost 6", "7", "8", "9"]);
}

#[test]
fn a_since_before_the_first_publication_of_all_gets_everything() {
    let mut h = Harness::new();
    h.member("r", "e", 5);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, Since::Position(Position::default()));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    h.answer(page("r", from, 5, 0));
    assert_eq!(h.more("r", &back).try_recv(), Ok(Progress::Live));
    assert_eq!(received(&back), ["joined 0", "1", "2", "3", "4", "5"]);
    assert!(h.reads().is_empty());
}

#[test]
fn who_has_seen_more_than_the_epoch_left_is_told_where_the_next_goes_on() {
    let mut h = Harness::new();
    h.member("r", "f", 9);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, since(100));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    let position = |epoch: &str, seq| Some(wire::Position { epoch: epoch.into(), seq });
    let of_f = |first: u64| wire::ReadResult {
        position: position("f", 9),
        prev: position("e", 6),
        first_seq: first,
        entries: (first..=9).map(entry).collect(),
        complete: true,
        ..wire::ReadResult::default()
    };
    h.answer(wire::ReadResult { id: from.0, room: "r".into(), ..of_f(7) });
    assert_eq!(h.more("r", &back).try_recv(), Ok(Progress::Live));
    assert_eq!(received(&back), ["joined 100", "lost 6", "7", "8", "9"]);
}

#[test]
fn a_late_answer_is_not_taken_for_that_of_another_read() {
    let mut h = Harness::new();
    h.member("r", "e", 30);
    let (one, two) = (test_support::outbox(), test_support::outbox());
    let _outcome = h.join_since("r", &one, since(5));
    let [(_, first)] = &h.reads()[..] else { panic!() };
    h.leave("r", &one);
    let mut outcome = h.join_since("r", &two, since(25));
    let [(_, second)] = &h.reads()[..] else { panic!() };
    h.answer(page("r", first, 30, 10));
    assert!(outcome.try_recv().is_err(), "that was not its answer");
    h.answer(page("r", second, 30, 10));
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::CatchingUp));
    assert_eq!(h.more("r", &two).try_recv(), Ok(Progress::Live));
    assert_eq!(received(&two), ["joined 25", "26", "27", "28", "29", "30"]);
}

#[test]
fn a_member_that_asks_for_more_of_the_past_stays_live_until_it_is_answered() {
    let mut h = Harness::new();
    let member = h.member("r", "e", 9);
    let mut outcome = h.join_since("r", &member, since(3));
    h.publish("r", "e", 10..=10);
    h.walk_all();
    h.now += LINGER;
    h.rooms.expire(h.now);
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::Unavailable));
    h.publish("r", "e", 11..=11);
    h.walk_all();
    assert_eq!(received(&member), ["joined 9", "10", "11"]);
}

#[test]
fn a_frame_larger_than_the_share_goes_alone() {
    let mut h = Harness::new();
    h.member("r", "e", 0);
    h.publish("r", "e", 1..=3);
    h.walk_all();
    let back = test_support::outbox_with(Limits { frames: 20, bytes: 200 });
    let _outcome = h.join_since("r", &back, since(0));
    let mut got = received(&back);
    for _ in 0..3 {
        let _progress = h.more("r", &back).try_recv().unwrap();
        got.extend(received(&back));
    }
    assert_eq!(got, ["joined 0", "1", "2", "3"]);
}

#[test]
fn what_was_kept_for_one_that_left_is_given_back() {
    let mut h = Harness::new();
    h.rooms = Rooms::new(LINGER, 5000, 256, 1, Box::new(|| 7));
    h.place(h.placement(LINK));
    for round in 0..50 {
        let room = format!("r{round}");
        let first = h.member(&room, "e", 100);
        let back = test_support::outbox();
        let _outcome = h.join_since(&room, &back, since(5));
        let [(_, from)] = &h.reads()[..] else { panic!() };
        h.answer(page(&room, from, 100, 0));
        h.leave(&room, &back);
        h.leave(&room, &first);
        h.now += LINGER;
        h.rooms.expire(h.now);
    }
    assert_eq!(h.rooms.len(), 0);
    // The budget is as good as new: a tail is kept.
    h.member("s", "e", 0);
    h.publish("s", "e", 1..=3);
    h.walk_all();
    let back = test_support::outbox();
    let _outcome = h.join_since("s", &back, since(1));
    assert!(h.reads().is_empty());
}

#[test]
fn a_client_without_room_waits_and_most_of_its_outbox_stays_free() {
    let mut h = Harness::new();
    h.member("r", "e", 0);
    h.publish("r", "e", 1..=100);
    h.walk_all();
    let back = test_support::outbox_with(Limits { frames: 20, bytes: 1 << 20 });
    let _outcome = h.join_since("r", &back, since(0));
    let mut got = Vec::new();
    loop {
        let progress = h.more("r", &back).try_recv().unwrap();
        assert!(back.queue().held().frames <= 5);
        got.extend(received(&back));
        if progress == Progress::Live {
            break;
        }
    }
    assert_eq!(got.len(), 101);
}

#[test]
fn a_read_that_fails_is_tried_again_and_one_lost_with_its_link_too() {
    let mut h = Harness::new();
    h.member("r", "e", 9);
    let back = test_support::outbox();
    let mut outcome = h.join_since("r", &back, since(4));
    assert_eq!(h.reads().len(), 1);
    let failed =
        wire::ReadResult { id: 1, room: "r".into(), error: Some(wire::LinkError::default()), ..Default::default() };
    h.rooms.page(LINK, failed, h.now);
    assert!(h.reads().is_empty(), "not at once");
    h.now += Duration::from_millis(250);
    h.rooms.expire(h.now);
    h.walk_all();
    assert_eq!(h.reads().len(), 1);
    h.place(h.placement(LinkId(2)));
    h.walk_all();
    assert_eq!(h.reads().len(), 1);
    h.now += LINGER;
    h.rooms.expire(h.now);
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::Unavailable));
    assert_eq!(h.rooms.members(), 1);
}

#[test]
fn tails_keep_to_their_budget() {
    let mut h = Harness::new();
    h.rooms = Rooms::new(LINGER, 1000, 256, 1, Box::new(|| 7));
    h.place(h.placement(LINK));
    for room in ["a", "b"] {
        h.member(room, "e", 0);
        h.publish(room, "e", 1..=50);
        h.walk_all();
    }
    let (one, two) = (test_support::outbox(), test_support::outbox());
    let _outcome = h.join_since("a", &one, since(49));
    assert_eq!(h.reads().len(), 1, "the oldest went first");
    let _outcome = h.join_since("b", &two, since(49));
    assert!(h.reads().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize, Option<u64>),
    Last(usize, u32),
    Leave(usize),
    /// The store takes so many.
    Store(u64),
    /// The link brings so many of them.
    Bring(u64),
    /// The link answers what is to be read.
    Answer,
    Walk(usize),
    /// The connection writes all it has, and asks for more.
    Pump(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..MEMBERS;
    prop_oneof![
        3 => (member.clone(), prop::option::of(0u64..20)).prop_map(|(member, back)| Step::Join(member, back)),
        1 => (member.clone(), 0u32..20).prop_map(|(member, count)| Step::Last(member, count)),
        1 => member.clone().prop_map(Step::Leave),
        4 => (1u64..5).prop_map(Step::Store),
        4 => (1u64..5).prop_map(Step::Bring),
        3 => Just(Step::Answer),
        3 => (1usize..4).prop_map(Step::Walk),
        6 => member.prop_map(Step::Pump),
    ]
}

/// The room, the store, the link, and the members' connections.
struct World {
    h: Harness,
    members: Vec<Arc<Outbox>>,
    stored: u64,
    brought: u64,
    wanted: VecDeque<(u64, ReadFrom)>,
    joining: HashMap<usize, oneshot::Receiver<JoinOutcome>>,
    asking: HashMap<usize, oneshot::Receiver<Progress>>,
    turns: BTreeSet<usize>,
    /// What each got next, once it has joined.
    next: HashMap<usize, u64>,
}

impl World {
    fn new() -> Self {
        let mut h = Harness::with_queue(8);
        // The room's position is known; all members have outboxes of the same size.
        let first = h.member("r", "e", 0);
        h.leave("r", &first);
        let members = (0..MEMBERS).map(|_| test_support::outbox_with(Limits { frames: 8, bytes: 1 << 20 })).collect();
        let (wanted, joining, asking) = (VecDeque::new(), HashMap::new(), HashMap::new());
        Self {
            h,
            members,
            stored: 0,
            brought: 0,
            wanted,
            joining,
            asking,
            turns: BTreeSet::new(),
            next: HashMap::new(),
        }
    }

    fn join(&mut self, member: usize, since: Option<Since>) {
        self.forget(member);
        let outbox = self.members[member].clone();
        let outcome = match since {
            None => self.h.join("r", &outbox),
            Some(since) => self.h.join_since("r", &outbox, since),
        };
        self.joining.insert(member, outcome);
    }

    fn forget(&mut self, member: usize) {
        self.joining.remove(&member);
        self.asking.remove(&member);
        self.turns.remove(&member);
        self.h.leave("r", &self.members[member].clone());
        self.read_all(member);
        self.next.remove(&member);
    }

    fn bring(&mut self, count: u64) {
        let to = self.stored.min(self.brought + count);
        if to > self.brought {
            self.h.publish("r", "e", self.brought + 1..=to);
            self.brought = to;
        }
    }

    fn answer(&mut self) {
        self.wanted.extend(self.h.reads().into_iter().map(|(_, from)| from));
        if let Some(from) = self.wanted.pop_front() {
            let kept_from = self.stored.saturating_sub(KEPT);
            self.h.rooms.page(LINK, page("r", &from, self.stored, kept_from), self.h.now);
        }
    }

    fn read_all(&mut self, member: usize) {
        for frame in take(&self.members[member]) {
            let json = test_support::json_of(&frame);
            let seq = json["seq"].as_u64().or(json["payload"]["seq"].as_u64()).unwrap();
            let expected = self.next.get(&member).copied();
            match json["type"].as_str().unwrap() {
                "joined" => {}
                "lost" => assert!(expected.is_some_and(|next| next <= seq + 1), "lost what it had"),
                _ => assert_eq!(Some(seq), expected, "member {member}"),
            }
            self.next.insert(member, seq + 1);
        }
    }

    fn pump(&mut self, member: usize) {
        self.read_all(member);
        if let Some(outcome) = self.joining.get_mut(&member)
            && let Ok(outcome) = outcome.try_recv()
        {
            self.joining.remove(&member);
            if outcome == JoinOutcome::CatchingUp {
                self.turns.insert(member);
            }
        }
        if let Some(progress) = self.asking.get_mut(&member) {
            match progress.try_recv() {
                Ok(Progress::More) => drop((self.asking.remove(&member), self.turns.insert(member))),
                Ok(Progress::Live) => drop(self.asking.remove(&member)),
                Err(_) => {}
            }
        }
        if self.turns.remove(&member) {
            let outbox = self.members[member].clone();
            let progress = self.h.more("r", &outbox);
            self.asking.insert(member, progress);
        }
        self.read_all(member);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Join(member, None) => self.join(member, None),
            Step::Join(member, Some(back)) => self.join(member, Some(since(self.stored.saturating_sub(back)))),
            Step::Last(member, count) => self.join(member, Some(Since::Last(count))),
            Step::Leave(member) => self.forget(member),
            Step::Store(count) => self.stored += count,
            Step::Bring(count) => self.bring(count),
            Step::Answer => self.answer(),
            Step::Walk(budget) => drop(self.h.rooms.walk(budget, self.h.now)),
            Step::Pump(member) => self.pump(member),
        }
    }

    /// Nothing more is published, and everybody does what there is to do.
    fn settle(&mut self) {
        self.bring(u64::MAX / 2);
        for _ in 0..200 {
            self.answer();
            self.h.rooms.walk(2, self.h.now);
            (0..MEMBERS).for_each(|member| self.pump(member));
        }
    }
}

proptest! {
    /// Whatever happens on the way, each member gets consecutive publications from the position it was told, is told of
    /// a loss, and in the end is where the room stands.
    #[test]
    fn members_that_catch_up_get_everything_or_are_told(steps in prop::collection::vec(step(), 0..150)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            for member in 0..MEMBERS {
                // An outbox is read before it is full: slowness has tests of its own.
                if world.members[member].queue().held().frames > 4 {
                    world.read_all(member);
                }
            }
        }
        world.settle();
        prop_assert!(world.joining.is_empty() && world.asking.is_empty() && world.turns.is_empty());
        for (member, next) in &world.next {
            prop_assert_eq!(*next, world.stored + 1, "member {}", member);
        }
        prop_assert!(world.members.iter().all(|member| !member.queue().is_closed()));
    }
}
