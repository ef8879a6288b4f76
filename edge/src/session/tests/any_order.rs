//! Whatever a client sends, and however backend, hub and links answer, stale answers included: against a model that
//! knows only what was asked and what came out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::Key;

use super::*;
use crate::{
    interest::LinkId,
    session::{JoinOutcome, MAX_WAITING, MAX_WAITING_BYTES},
};

const NAMES: [&str; 5] = ["a", "b", "c", "user:7", "news"];
const SETTINGS: Settings = Settings { max_rooms: 2, publish_timeout: TIMEOUT, rate: 40, burst: 40 };

#[derive(Debug, Clone, Copy)]
enum Step {
    Join(usize),
    Leave(usize),
    /// With a body of so many KiB.
    Broadcast(usize, usize),
    Ping,
    Malformed,
    /// A result of one of the operations under way.
    Answer(prop::sample::Index, Ending),
    /// The same, `n` times the oldest, all well.
    AnswerOldest(u8),
    Removed(usize),
    /// A newer token: with `news` or without, and whether it covers what was joined.
    Claims(bool, bool),
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Well,
    ListenOnly,
    Refused,
    Unavailable,
    LinkLost,
}

fn step() -> impl Strategy<Value = Step> {
    let room = || 0..NAMES.len();
    let ending = prop_oneof![
        4 => Just(Ending::Well),
        1 => Just(Ending::ListenOnly),
        1 => Just(Ending::Refused),
        1 => Just(Ending::Unavailable),
        2 => Just(Ending::LinkLost),
    ];
    prop_oneof![
        5 => room().prop_map(Step::Join),
        3 => room().prop_map(Step::Leave),
        8 => (room(), prop_oneof![12 => Just(0usize), 1 => Just(100)]).prop_map(|(room, kib)| Step::Broadcast(room, kib)),
        1 => Just(Step::Ping),
        1 => Just(Step::Malformed),
        8 => (any::<prop::sample::Index>(), ending).prop_map(|(index, ending)| Step::Answer(index, ending)),
        3 => (1u8..5).prop_map(Step::AnswerOldest),
        1 => room().prop_map(Step::Removed),
        1 => any::<(bool, bool)>().prop_map(|(news, covers)| Step::Claims(news, covers)),
        3 => prop_oneof![0u64..300, 4000u64..6000].prop_map(Step::Pass),
    ]
}

/// What somebody else is to answer.
#[derive(Debug)]
enum Pending {
    Authorize(OpId, Room),
    Join { op: OpId, room: Room, id: Id, publish: bool },
    Leave(OpId, Room),
    Publish(Forward, Room, LinkId),
}

#[derive(Default)]
struct Asked {
    room: Option<Room>,
    broadcast: bool,
    answers: usize,
}

/// The client, and all whom the session asks.
struct World {
    h: Harness,
    pending: Vec<Pending>,
    /// By number, which is the id and what a body begins with.
    asked: Vec<Asked>,
    /// The last `Join` for the hub of each room, until a `Leave`.
    joining: BTreeMap<Room, OpId>,
    members: BTreeMap<Room, bool>,
    /// When the client last could publish: before this request.
    could_publish: BTreeMap<Room, usize>,
    /// The newest broadcast of each room that was forwarded.
    forwarded: BTreeMap<Room, usize>,
    /// What was answered last in each room: of joins and leaves, and of broadcasts.
    answered: BTreeMap<(Room, bool), usize>,
    seen: BTreeSet<OpId>,
    /// Keys of broadcasts that may have been stored, by room and number.
    may_be_stored: BTreeMap<(Room, usize), Key>,
    closed: bool,
    links: u64,
    granted: [f64; 2],
    began: Instant,
}

fn number_of(forward: &Forward) -> usize {
    let number = forward.body[1..].split(|byte| *byte == b' ').next().unwrap();
    str::from_utf8(number).unwrap().parse().unwrap()
}

fn automatic(news: bool) -> Vec<AutomaticRoom> {
    let news = news.then(|| AutomaticRoom { room: room("news"), publish: true });
    own().into_iter().chain(news).collect()
}

impl World {
    fn new() -> Self {
        let h = Harness::with(automatic(true), SETTINGS);
        let began = h.now;
        let (pending, asked) = (Vec::new(), Vec::new());
        let (joining, members, could_publish) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (forwarded, answered, seen) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let may_be_stored = BTreeMap::new();
        let (closed, links, granted) = (false, 0, [0.0; 2]);
        #[rustfmt::skip]
        let mut world = Self {
            h, pending, asked, joining, members, could_publish, forwarded, answered, seen, may_be_stored, closed, links,
            granted, began,
        };
        world.h.session.auto_join(&mut world.h.actions);
        world.perform();
        world
    }

    fn ask(&mut self, kind: &str, name: Option<&str>, kib: Option<usize>) {
        let (number, room) = (self.asked.len(), name.map(room));
        self.asked.push(Asked { room, broadcast: kib.is_some(), answers: 0 });
        let body = kib.map(|kib| format!("{number} {}", "x".repeat(kib << 10)));
        let own = self.own_rooms();
        let full = self.h.session.full.get();
        self.h.send(&json!({"type": kind, "id": number.to_string(), "payload": {"room": name, "body": body}}));
        let refused = match self.h.actions.first() {
            Some(Action::Close(_)) => true,
            Some(Action::Refuse(ErrorCode::RateLimited, _)) => self.h.session.full.get() == full,
            _ => false,
        };
        if refused {
            assert_eq!(self.h.actions.len(), 1, "what is over the rate has no other effect");
        } else {
            self.granted[usize::from(kind == "join")] += 1.0;
        }
        self.perform();
        assert!(self.own_rooms() <= own.max(SETTINGS.max_rooms), "rooms are bounded");
    }

    fn own_rooms(&self) -> usize {
        self.h.session.rooms().filter(|room| !self.h.session.is_automatic(room)).count()
    }

    /// The request with this id has an answer.
    fn answer(&mut self, id: Option<&str>, code: Option<ErrorCode>) {
        let Some(number) = id.map(|id| id.parse::<usize>().unwrap()) else { return };
        let Asked { room, broadcast, answers } = &mut self.asked[number];
        *answers += 1;
        assert_eq!(*answers, 1, "one answer to {number}");
        let at_once = match code {
            Some(ErrorCode::RateLimited) => true,
            Some(ErrorCode::NotJoined | ErrorCode::NotAuthorized) => *broadcast,
            _ => false,
        };
        if let (Some(room), false) = (room, at_once) {
            let before = self.answered.insert((room.clone(), *broadcast), number);
            assert!(before < Some(number), "{before:?} of {room} was answered before {number}");
        }
    }

    fn perform(&mut self) {
        for action in std::mem::take(&mut self.h.actions) {
            match action {
                Action::Send(frame) => self.answer(crate::test_support::json_of(&frame)["id"].as_str(), None),
                Action::Refuse(code, frame) => {
                    self.answer(crate::test_support::json_of(&frame)["id"].as_str(), Some(code));
                }
                Action::Authorize { op, room, .. } => self.pending.push(Pending::Authorize(op, room)),
                Action::Join { op, room, id, publish, .. } => {
                    assert_eq!(self.joining.insert(room.clone(), op), None, "one join at a time");
                    self.pending.push(Pending::Join { op, room, id, publish });
                }
                Action::Leave { op, room, id, .. } => {
                    let known = self.joining.remove(&room).is_some() | self.members.remove(&room).is_some();
                    assert!(known, "the hub knows of {room}");
                    self.answer(id.as_deref(), None);
                    self.pending.push(Pending::Leave(op, room));
                }
                Action::Publish { room, forward } => self.publish(room, forward),
                Action::Authenticate { .. } => panic!("nobody asked for it"),
                Action::Close(_) => self.closed = true,
            }
        }
        self.check();
    }

    fn publish(&mut self, room: Room, forward: Forward) {
        let forward = self.h.session.forward(&room, forward);
        let number = number_of(&forward);
        assert_eq!(self.asked[number].answers, 0, "{number} has its answer");
        assert!(self.could_publish.get(&room) >= Some(&number), "{number} to {room}, without the right to");
        let under_way = self.pending.iter().filter_map(|pending| match pending {
            Pending::Publish(other, of, via) if *of == room => Some((other.alone, *via)),
            _ => None,
        });
        let under_way: Vec<_> = under_way.collect();
        assert!(under_way.iter().all(|(alone, _)| !alone), "one that is alone is alone");
        assert!(!forward.alone || under_way.is_empty(), "{number} is to be alone");
        assert!(under_way.iter().all(|(_, via)| forward.via == Some(*via)), "together over one link");
        let later = self.may_be_stored.range((room.clone(), number + 1)..=(room.clone(), usize::MAX));
        assert!(later.map(|(_, key)| key).eq(&forward.unless), "{number} must not be stored behind those after it");
        if self.seen.insert(forward.op) {
            let before = self.forwarded.insert(room.clone(), number);
            assert!(before < Some(number), "{before:?} of {room} was forwarded before {number}");
        } else {
            assert!(forward.alone, "a repeat");
        }
        self.links += 1;
        let via = forward.via.unwrap_or(LinkId(self.links));
        self.h.session.sent(&room, via);
        self.pending.push(Pending::Publish(forward, room, via));
    }

    /// Between two calls nothing is half done, and what is held is counted and bounded.
    fn check(&mut self) {
        let session = &mut self.h.session;
        let rooms: Vec<_> = session.rooms().cloned().collect();
        let mut waiting = 0;
        for room in &rooms {
            if let Some(busy) = session.rooms.busy(room) {
                assert!(!matches!(busy.step, rooms::Step::Idle), "{room} waits for nothing");
                waiting += busy.queue.len();
            }
            waiting += session.rooms.broadcasts(room).map_or(0, |broadcasts| broadcasts.len());
        }
        assert_eq!(session.waiting, waiting);
        assert!(waiting <= MAX_WAITING && session.rooms.held_bytes() <= MAX_WAITING_BYTES);
        for (room, publish) in &self.members {
            assert_eq!(session.rooms.membership(room).map(|membership| membership.publish), Some(*publish), "{room}");
            if *publish {
                self.could_publish.insert(room.clone(), self.asked.len());
            }
        }
    }

    fn end(&mut self, index: usize, ending: Ending) {
        let (session, actions) = (&mut self.h.session, &mut self.h.actions);
        match self.pending.remove(index) {
            Pending::Authorize(op, room) => {
                let decision = match ending {
                    Ending::Well => Decision::Allowed { publish: true },
                    Ending::ListenOnly => Decision::Allowed { publish: false },
                    Ending::Refused => Decision::Denied,
                    Ending::Unavailable | Ending::LinkLost => Decision::Unavailable,
                };
                session.authorized(op, &room, admission(decision), actions);
            }
            Pending::Join { op, room, id, publish } => {
                let outcome = match ending {
                    Ending::Well | Ending::ListenOnly => JoinOutcome::Joined,
                    Ending::Refused => JoinOutcome::CatchingUp,
                    Ending::Unavailable | Ending::LinkLost => JoinOutcome::Unavailable,
                };
                // The hub says `joined`, unless a leave came first; a member that joins again and is not heard stays one.
                let current = self.joining.get(&room) == Some(&op);
                if current {
                    self.joining.remove(&room);
                }
                if current && outcome != JoinOutcome::Unavailable {
                    self.members.insert(room.clone(), publish);
                    if publish {
                        self.could_publish.insert(room.clone(), self.asked.len());
                    }
                    self.answer(id.as_deref(), None);
                }
                self.h.session.joined(op, &room, outcome, &mut self.h.actions);
            }
            Pending::Leave(op, room) => session.left(op, &room, actions),
            Pending::Publish(forward, room, _) => {
                let number = number_of(&forward);
                let Forward { op, key, .. } = forward;
                if matches!(ending, Ending::Well | Ending::ListenOnly | Ending::LinkLost) {
                    self.may_be_stored.insert((room.clone(), number), key);
                }
                let failure = |code, again| Err(Failure { code, text: String::new(), again });
                let receipt = match ending {
                    Ending::Well => Ok(Stored { position: Position::new("e", 1), duplicate: false }),
                    Ending::ListenOnly => Ok(Stored { position: Position::new("e", 1), duplicate: true }),
                    Ending::Refused => failure(ErrorCode::MessageTooLarge, false),
                    Ending::Unavailable => failure(ErrorCode::Unavailable, true),
                    Ending::LinkLost => failure(ErrorCode::Unknown, true),
                };
                session.receipt(op, &room, receipt, self.h.now, actions);
            }
        }
        self.perform();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Answer(index, ending) if !self.pending.is_empty() => {
                self.end(index.index(self.pending.len()), ending);
            }
            Step::AnswerOldest(count) => {
                for _ in 0..usize::from(count).min(self.pending.len()) {
                    self.end(0, Ending::Well);
                }
            }
            Step::Answer(..) => {}
            Step::Pass(ms) => self.h.now += Duration::from_millis(ms),
            // It is over for the client; what it asked for may still end.
            _ if self.closed => {}
            Step::Join(room) => self.ask("join", Some(NAMES[room]), None),
            Step::Leave(room) => self.ask("leave", Some(NAMES[room]), None),
            Step::Broadcast(room, kib) => self.ask("broadcast", Some(NAMES[room]), Some(kib)),
            Step::Ping => self.ask("ping", None, None),
            Step::Malformed => self.ask("dance", None, None),
            Step::Removed(name) => {
                let room = room(NAMES[name]);
                let member = self.members.contains_key(&room) || self.joining.contains_key(&room);
                assert_eq!(self.h.session.removed(&room, &mut self.h.actions), member);
                self.perform();
                assert!(!self.members.contains_key(&room), "removed, and still a member");
            }
            Step::Claims(news, covers) => {
                self.h.session.claims_changed(automatic(news), |_| covers, &mut self.h.actions);
                self.perform();
                let lost = |room: &&Room| !covers && !self.h.session.is_automatic(room);
                assert_eq!(self.members.keys().find(lost), None, "not covered, and still a member");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_request_has_one_answer_and_nothing_exceeds_its_bounds(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        while !world.pending.is_empty() {
            world.end(0, Ending::Well);
        }
        let unanswered = world.asked.iter().position(|asked| asked.answers == 0);
        prop_assert!(unanswered.is_none() || world.closed, "no answer to {unanswered:?}");
        let rooms: BTreeSet<_> = world.h.session.rooms().cloned().collect();
        prop_assert_eq!(rooms, world.members.keys().cloned().collect(), "at rest it has the rooms that it is in");
        prop_assert_eq!((world.h.session.waiting, world.h.session.rooms.held_bytes()), (0, 0));
        let seconds = world.h.now.duration_since(world.began).as_secs_f64();
        let joins = f64::from(4u8);
        let most = [40.0 + seconds * 40.0, joins + seconds * joins / 10.0];
        for (granted, most) in world.granted.into_iter().zip(most) {
            prop_assert!(granted <= most + 0.1, "{granted} granted of {most}");
        }
    }
}

/// Found by the above.
#[test]
fn what_waited_for_a_room_together_goes_over_one_link() {
    let mut h = Harness::new();
    h.join("1", "a").authorized("a", Decision::Allowed { publish: true }).done();
    h.broadcast("2", "a").broadcast("3", "a").joined("a");
    let mut vias = Vec::new();
    for action in std::mem::take(&mut h.actions) {
        let Action::Publish { room, forward } = action else { panic!("{action:?}") };
        vias.push(h.session.forward(&room, forward).via);
        h.session.sent(&room, LinkId(7));
    }
    assert_eq!(vias, [None, Some(LinkId(7))], "the second may not overtake the first by another");
}
