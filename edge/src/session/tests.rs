mod any_order;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::authorize::{Admission, Decision};

const TIMEOUT: Duration = Duration::from_secs(5);
const SETTINGS: Settings = Settings { max_rooms: 2, publish_timeout: TIMEOUT, rate: 1000, burst: 1000 };

fn room(name: &str) -> Room {
    Room::try_new(name).unwrap()
}

/// A session, and the actions it wants done.
struct Harness {
    session: Session,
    actions: Vec<Action>,
    now: Instant,
}

impl Harness {
    fn new() -> Self {
        Self::with(own(), SETTINGS)
    }

    fn with(automatic: Vec<AutomaticRoom>, settings: Settings) -> Self {
        let now = Instant::now();
        let session = Session::new("c".into(), automatic, settings.into(), Counter::default(), now);
        Self { session, actions: Vec::new(), now }
    }

    fn send(&mut self, message: &Value) -> &mut Self {
        match Request::parse(&message.to_string()) {
            Ok(request) => self.session.request(request, self.now, &mut self.actions),
            Err(malformed) => self.session.malformed(&malformed, self.now, &mut self.actions),
        }
        self
    }

    fn join(&mut self, id: &str, name: &str) -> &mut Self {
        self.send(&json!({"type": "join", "id": id, "payload": {"room": name}}))
    }

    fn broadcast(&mut self, id: &str, name: &str) -> &mut Self {
        // The body is the id, to tell them apart.
        let body: u32 = id.parse().unwrap();
        self.send(&json!({"type": "broadcast", "id": id, "payload": {"room": name, "body": body}}))
    }

    fn leave(&mut self, id: &str, name: &str) -> &mut Self {
        self.send(&json!({"type": "leave", "id": id, "payload": {"room": name}}))
    }

    /// The messages wanted to be sent, and the other actions in short.
    fn done(&mut self) -> Vec<String> {
        self.actions.drain(..).map(|action| describe(&action)).collect()
    }

    fn op(&self) -> OpId {
        self.session.next_op
    }

    fn authorized(&mut self, name: &str, decision: Decision) -> &mut Self {
        self.session.authorized(self.session.next_op, &room(name), admission(decision), &mut self.actions);
        self
    }

    fn joined(&mut self, name: &str) -> &mut Self {
        self.session.joined(self.session.next_op, &room(name), JoinOutcome::Joined, &mut self.actions);
        self
    }

    fn left(&mut self, name: &str) -> &mut Self {
        self.session.left(self.session.next_op, &room(name), &mut self.actions);
        self
    }

    fn member(name: &str, publish: bool) -> Self {
        let mut harness = Self::new();
        harness.join("0", name).authorized(name, Decision::Allowed { publish }).joined(name).done();
        harness
    }
}

fn own() -> Vec<AutomaticRoom> {
    vec![AutomaticRoom { room: room("user:7"), publish: false }]
}

fn admission(decision: Decision) -> Admission {
    Admission { decision, grant: None }
}

fn describe(action: &Action) -> String {
    let id = |id: &Id| id.as_deref().unwrap_or("-").to_owned();
    match action {
        Action::Send(frame) | Action::Refuse(_, frame) => {
            let json = crate::test_support::json_of(frame);
            let kind = json["payload"]["code"].as_str().or(json["type"].as_str()).unwrap().to_owned();
            format!("{kind} {}", json["id"].as_str().unwrap_or("-"))
        }
        Action::Authorize { room, .. } => format!("Authorize {room}"),
        Action::Join { room, id: i, publish, .. } => format!("Join {room} {} {publish}", id(i)),
        Action::Leave { room, id: i, reason, .. } => format!("Leave {room} {} {}", id(i), reason.unwrap_or("-")),
        Action::Publish { room, forward } => format!("Publish {room} {}", String::from_utf8_lossy(&forward.body)),
        Action::Close(reason) => format!("Close {}", reason.label()),
        Action::Authenticate { id: i, .. } => format!("Authenticate {}", id(i)),
    }
}

#[test]
fn a_join_is_authorized_then_given_to_the_hub() {
    let mut h = Harness::new();
    assert_eq!(h.join("1", "a").done(), ["Authorize a"]);
    assert_eq!(h.authorized("a", Decision::Allowed { publish: true }).done(), ["Join a 1 true"]);
    assert_eq!(h.joined("a").broadcast("2", "a").done(), ["Publish a 2"]);
}

#[test]
fn refusals_and_outages_answer_the_request() {
    let mut h = Harness::new();
    assert_eq!(h.join("1", "a").authorized("a", Decision::Denied).done()[1], "not_authorized 1");
    assert_eq!(h.join("2", "a").authorized("a", Decision::Unavailable).done()[1], "authorization_unavailable 2");
    h.join("3", "a").authorized("a", Decision::Allowed { publish: true }).done();
    h.session.joined(h.op(), &room("a"), JoinOutcome::Unavailable, &mut h.actions);
    assert_eq!(h.done(), ["unavailable 3"]);
    assert_eq!(h.broadcast("4", "a").done(), ["not_joined 4"]);
    assert_eq!(h.session.rooms().count(), 0);
}

#[test]
fn requests_on_one_room_wait_for_the_join_and_keep_their_order() {
    let mut h = Harness::new();
    h.join("1", "a").broadcast("2", "a").broadcast("3", "a").join("4", "b");
    assert_eq!(h.done(), ["Authorize a", "Authorize b"]);
    let (op_a, op_b) = (h.op() - 1, h.op());
    h.session.authorized(op_a, &room("a"), admission(Decision::Allowed { publish: true }), &mut h.actions);
    h.session.joined(h.op(), &room("a"), JoinOutcome::Joined, &mut h.actions);
    assert_eq!(h.done(), ["Join a 1 true", "Publish a 2", "Publish a 3"]);
    h.session.authorized(op_b, &room("b"), admission(Decision::Denied), &mut h.actions);
    assert_eq!(h.done(), ["not_authorized 4"]);
}

#[test]
fn leave_cancels_a_join_that_waits_for_the_backend() {
    let mut h = Harness::new();
    h.join("1", "a").broadcast("2", "a").done();
    let op = h.op();
    assert_eq!(h.leave("3", "a").done(), ["cancelled 1", "not_joined 2", "left 3"]);
    h.session.authorized(op, &room("a"), admission(Decision::Allowed { publish: true }), &mut h.actions);
    assert_eq!(h.done(), [""; 0], "the late answer is ignored");
    assert_eq!(h.session.rooms().count(), 0);
}

#[test]
fn leave_cancels_a_join_that_waits_for_the_hub() {
    let mut h = Harness::new();
    h.join("1", "a").authorized("a", Decision::Allowed { publish: true }).done();
    let op = h.op();
    assert_eq!(h.leave("2", "a").done(), ["cancelled 1", "Leave a 2 -"]);
    assert_eq!(h.join("3", "a").done(), [""; 0], "waits for the leave");
    h.session.joined(op, &room("a"), JoinOutcome::Joined, &mut h.actions);
    assert_eq!(h.done(), [""; 0], "the late answer is ignored");
    assert_eq!(h.left("a").done(), ["Authorize a"]);
}

#[test]
fn leave_of_a_member_and_of_a_stranger() {
    let mut h = Harness::member("a", true);
    assert_eq!(h.leave("1", "a").done(), ["Leave a 1 -"]);
    assert_eq!(h.left("a").leave("2", "a").done(), ["left 2"]);
}

#[test]
fn joining_again_asks_again_and_a_no_ends_the_membership() {
    let mut h = Harness::member("a", true);
    assert_eq!(h.join("1", "a").done(), ["Authorize a"]);
    assert_eq!(h.authorized("a", Decision::Allowed { publish: false }).done(), ["Join a 1 false"]);
    assert_eq!(h.joined("a").broadcast("2", "a").done(), ["not_authorized 2"], "the right may have changed");
    h.join("3", "a").done();
    assert_eq!(h.authorized("a", Decision::Denied).done(), ["not_authorized 3", "Leave a - not_authorized"]);
    h.left("a");
    assert_eq!(h.broadcast("4", "a").done(), ["not_joined 4"]);
}

#[test]
fn no_answer_leaves_a_member_where_it_is() {
    let mut h = Harness::member("a", true);
    h.join("1", "a").authorized("a", Decision::Unavailable).done();
    assert_eq!(h.broadcast("2", "a").done(), ["Publish a 2"]);
}

#[test]
fn automatic_rooms_ask_nobody_do_not_count_and_are_for_listening() {
    let mut h = Harness::new();
    h.session.auto_join(&mut h.actions);
    assert_eq!(h.done(), ["Join user:7 - false"]);
    assert_eq!(h.joined("user:7").broadcast("1", "user:7").done(), ["not_authorized 1"]);
    assert_eq!(h.join("2", "user:7").done(), ["Join user:7 2 false"]);
    h.joined("user:7");
    h.now += Duration::from_secs(10);
    assert_eq!(
        h.join("3", "a").join("4", "b").join("5", "c").done(),
        ["Authorize a", "Authorize b", "too_many_rooms 5"]
    );
    h.now += Duration::from_secs(10);
    assert_eq!(h.join("6", "a").done(), [""; 0], "a room already there is no further one");
}

#[test]
fn the_queue_of_waiting_requests_has_a_limit() {
    let mut h = Harness::new();
    h.join("1", "a").done();
    for _ in 0..MAX_WAITING {
        assert_eq!(h.broadcast("2", "a").done(), [""; 0]);
    }
    assert_eq!(h.broadcast("3", "a").done(), ["rate_limited 3"]);
    assert_eq!(h.session.full.get(), 1);
    assert_eq!(h.leave("4", "a").done().len(), 1 + MAX_WAITING + 1);
    assert_eq!(h.session.waiting, 0);
}

#[test]
fn pings_receipts_and_malformed_messages_are_answered() {
    let mut h = Harness::new();
    assert_eq!(h.send(&json!({"type": "ping", "id": "1"})).done(), ["pong 1"]);
    assert_eq!(h.send(&json!({"type": "dance", "id": "2"})).done(), ["unknown_type 2"]);
    assert_eq!(h.send(&json!({"type": "auth", "id": "3", "payload": {"token": "t"}})).done(), ["Authenticate 3"]);
}

#[test]
fn receipts_are_told_to_who_gave_an_id() {
    let mut h = Harness::member("a", true);
    let stored = |seq| Ok(Stored { position: Position::new("e", seq), duplicate: false });
    let failed = |again| Err(Failure { code: ErrorCode::Unknown, text: "may have been stored".to_owned(), again });
    h.broadcast("1", "a").broadcast("2", "a").done();
    let (first, second) = (h.op() - 1, h.op());
    h.session.receipt(first, &room("a"), stored(1), h.now, &mut h.actions);
    h.session.receipt(second, &room("a"), failed(false), h.now, &mut h.actions);
    assert_eq!(h.done(), ["ack 1", "unknown 2"]);
    h.send(&json!({"type": "broadcast", "payload": {"room": "a", "body": 3}})).done();
    h.session.receipt(h.op(), &room("a"), stored(2), h.now, &mut h.actions);
    assert_eq!(h.done(), [""; 0]);
    assert_eq!(h.session.waiting, 0);
}

#[test]
fn a_broadcast_whose_link_is_lost_is_repeated_with_its_key_also_after_leaving() {
    let mut h = Harness::member("a", true);
    let lost = || Err(Failure { code: ErrorCode::Unknown, text: String::new(), again: true });
    h.broadcast("1", "a");
    let [Action::Publish { forward: first, .. }] = &h.actions[..] else { panic!() };
    let first = first.clone();
    assert!(first.key_is_ours && first.key.starts_with("c-"), "{first:?}");
    h.done();
    assert_eq!(h.leave("2", "a").done(), ["Leave a 2 -"]);
    h.left("a").done();
    h.session.receipt(first.op, &room("a"), lost(), h.now, &mut h.actions);
    let [Action::Publish { forward, .. }] = &h.actions[..] else { panic!() };
    assert_eq!(*forward, Forward { alone: true, ..first.clone() });
    h.done();
    let stored = Ok(Stored { position: Position::new("e", 1), duplicate: true });
    h.session.receipt(first.op, &room("a"), stored, h.now, &mut h.actions);
    assert_eq!(h.done(), ["ack 1"]);
    assert_eq!(h.session.rooms().count(), 0);
}

#[test]
fn too_many_errors_in_a_row_close() {
    let mut h = Harness::new();
    for _ in 0..19 {
        h.send(&json!({"type": "dance"}));
    }
    assert!(h.send(&json!({"type": "ping"})).done().iter().all(|done| !done.starts_with("Close")));
    for _ in 0..19 {
        h.join("1", " bad room ");
    }
    assert!(h.done().iter().all(|done| done == "bad_room 1"));
    assert_eq!(h.send(&json!({"type": "dance", "id": "2"})).done(), ["unknown_type 2", "Close too_many_errors"]);
}

#[test]
fn a_client_over_its_rate_is_told_and_then_closed() {
    let mut h = Harness::with(Vec::new(), Settings { rate: 1, burst: 5, ..SETTINGS });
    for _ in 0..5 {
        assert_eq!(h.send(&json!({"type": "ping", "id": "1"})).done(), ["pong 1"]);
    }
    assert_eq!(h.join("2", "a").done(), ["Authorize a"], "joins have an allowance of their own");
    for _ in 0..4 {
        assert_eq!(h.leave("3", "a").done(), ["rate_limited 3"], "not done");
    }
    assert_eq!(h.send(&json!({"type": "ping"})).done(), ["Close rate_limited"]);
    let mut h = Harness::with(Vec::new(), Settings { rate: 1, burst: 5, ..SETTINGS });
    assert_eq!(h.join("1", "a").join("2", "b").done(), ["Authorize a", "Authorize b"]);
    assert_eq!(h.join("3", "c").done(), ["rate_limited 3"]);
    assert_eq!(h.join("4", "c").done(), ["Close rate_limited"]);
}

#[test]
fn rooms_that_a_newer_token_does_not_cover_are_left() {
    let mut h = Harness::member("a", true);
    h.session.auto_join(&mut h.actions);
    h.joined("user:7").done();
    h.join("1", "b").done();
    h.session.claims_changed(own(), |room| room.as_str() == "a", &mut h.actions);
    assert_eq!(h.done(), ["cancelled 1"]);
    h.session.claims_changed(own(), |_| false, &mut h.actions);
    assert_eq!(h.done(), ["Leave a - not_authorized"], "the automatic room stays");
}

#[test]
fn leaves_in_a_row_are_answered_in_order() {
    let mut h = Harness::member("a", true);
    assert_eq!(h.leave("1", "a").leave("2", "a").done(), ["Leave a 1 -"]);
    assert_eq!(h.left("a").done(), ["left 2"]);
}

#[test]
fn what_is_asked_after_a_leave_that_waits_is_not_cancelled() {
    let mut h = Harness::member("a", true);
    h.leave("1", "a").join("2", "a").leave("3", "a").join("4", "a");
    assert_eq!(h.done(), ["Leave a 1 -", "cancelled 2"]);
    assert_eq!(h.left("a").done(), ["left 3", "Authorize a"]);
    h.authorized("a", Decision::Allowed { publish: true });
    assert_eq!(h.joined("a").done(), ["Join a 4 true"]);
}

#[test]
fn the_bodies_that_wait_have_a_limit() {
    let mut h = Harness::new();
    h.join("1", "a").done();
    let body = "x".repeat(100 << 10);
    let broadcast = json!({"type": "broadcast", "id": "2", "payload": {"room": "a", "body": body}});
    assert_eq!(h.send(&broadcast).send(&broadcast).done(), [""; 0]);
    assert_eq!(h.send(&broadcast).done(), ["rate_limited 2"]);
    h.authorized("a", Decision::Allowed { publish: true }).joined("a").done();
    assert_eq!(h.send(&broadcast).done(), ["rate_limited 2"], "they still wait for their receipts");
}

#[test]
fn rooms_that_only_the_older_token_named_are_left() {
    let named = |name: &str| AutomaticRoom { room: room(name), publish: true };
    let mut h = Harness::with(vec![named("news"), named("more")], SETTINGS);
    h.session.auto_join(&mut h.actions);
    for (op, name) in [(1, "news"), (2, "more")] {
        h.session.joined(op, &room(name), JoinOutcome::Joined, &mut h.actions);
    }
    h.done();
    h.session.claims_changed(vec![named("news")], |_| false, &mut h.actions);
    assert_eq!(h.done(), ["Leave more - not_authorized"]);
    h.left("more");
    assert_eq!(h.join("1", "more").done(), ["Authorize more"]);
}

#[test]
fn grants_are_passed_on() {
    let mut h = Harness::new();
    h.send(&json!({"type": "join", "payload": {"room": "a", "grant": "v1.x"}}));
    let asked = Action::Authorize { op: 1, room: room("a"), grant: Some("v1.x".into()) };
    assert_eq!(h.actions.drain(..).collect::<Vec<_>>(), [asked]);
    let yes = Admission { decision: Decision::Allowed { publish: true }, grant: Some("v1.y".into()) };
    h.session.authorized(1, &room("a"), yes, &mut h.actions);
    assert!(matches!(&h.actions[..], [Action::Join { grant: Some(grant), .. }] if **grant == *"v1.y"));
}

#[test]
fn a_removal_ends_memberships_and_asks_again_for_those_who_wait() {
    let mut h = Harness::member("a", true);
    assert!(!h.session.removed(&room("b"), &mut h.actions));
    assert_eq!(h.done(), [""; 0]);
    assert!(h.session.removed(&room("a"), &mut h.actions));
    assert_eq!(h.broadcast("1", "a").done(), ["Leave a - removed"]);
    assert!(!h.session.removed(&room("a"), &mut h.actions), "it is on its way out");
    assert_eq!(h.left("a").done(), ["not_joined 1"]);
    assert_eq!(h.session.rooms().count(), 0);

    // The answer to come is from before it: another one is asked for, and the first does not count.
    h.join("2", "a").broadcast("3", "a").done();
    let before = h.op();
    assert!(!h.session.removed(&room("a"), &mut h.actions));
    assert_eq!(h.done(), ["Authorize a"]);
    h.session.authorized(before, &room("a"), admission(Decision::Allowed { publish: true }), &mut h.actions);
    assert_eq!(h.done(), [""; 0]);
    assert_eq!(h.authorized("a", Decision::Denied).done(), ["not_authorized 2", "not_joined 3"]);

    // Allowed before it, and not yet in.
    h.join("4", "a").authorized("a", Decision::Allowed { publish: true }).broadcast("5", "a").done();
    assert!(h.session.removed(&room("a"), &mut h.actions));
    assert_eq!(h.done(), ["cancelled 4", "not_joined 5", "Leave a - removed"]);
}

#[test]
fn a_removal_of_a_member_that_asks_again_ends_both() {
    let mut h = Harness::member("a", true);
    h.join("1", "a").broadcast("2", "a").done();
    assert!(h.session.removed(&room("a"), &mut h.actions));
    assert_eq!(h.done(), ["cancelled 1", "not_joined 2", "Leave a - removed"]);
}
