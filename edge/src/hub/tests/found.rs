//! What the simulation found.

use proto::wire;

use super::{
    replay::{page, since},
    *,
};
use crate::{interest::ReadFrom, protocol::Since};

#[test]
fn an_answer_from_another_position_is_asked_for_again() {
    let mut h = Harness::new();
    let member = h.member("r", "e", 3);
    // It was asked before we knew where we stand: what lies between was never sent.
    h.rooms.state(LINK, "r", Position::new("e", 7), None);
    let asked = Wish { wanted: true, position: Some(Position::new("e", 3)) };
    assert_eq!(h.wishes(), [(Room::try_new("r").unwrap(), asked.clone())]);
    // We have moved on since: from here nothing may be missing.
    h.publish("r", "e", 4..=5);
    h.rooms.state(LINK, "r", Position::new("e", 9), Some(&Position::new("e", 3)));
    assert_eq!(h.wishes()[0].1.position, Some(Position::new("e", 5)));
    // So it is when the answer to an earlier question comes after that.
    h.rooms.state(LINK, "r", Position::new("e", 9), Some(&Position::new("e", 3)));
    h.rooms.state(LINK, "r", Position::new("e", 5), None);
    h.publish("r", "e", 6..=6);
    h.walk_all();
    assert_eq!(received(&member), ["joined 3", "4", "5", "6"]);
}

#[test]
fn a_page_that_cannot_be_kept_serves_who_waits() {
    let mut h = Harness::new();
    h.rooms = Rooms::new(LINGER, 0, 256, 1, Box::new(|| 7));
    h.place(h.placement(LINK));
    h.member("r", "e", 9);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, since(4));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    h.answer(page("r", from, 9, 0));
    let mut progress = h.more("r", &back);
    let [(_, from)] = &h.reads()[..] else { panic!("nothing was kept") };
    h.answer(page("r", from, 9, 0));
    assert_eq!(progress.try_recv(), Ok(Progress::Live));
    assert_eq!(received(&back), ["joined 4", "5", "6", "7", "8", "9"]);
}

#[test]
fn a_read_over_a_link_that_the_room_has_left_is_given_up_with_it() {
    let mut h = Harness::new();
    h.member("r", "e", 9);
    let back = test_support::outbox();
    let mut outcome = h.join_since("r", &back, since(4));
    assert_eq!(h.reads().len(), 1);
    let both = |eligible: bool| {
        let link = |id: u64, eligible| {
            PlacedLink::new(LinkId(id), "a:1", h.interest.clone(), h.reads.clone(), h.held_back.clone(), eligible)
        };
        Arc::new(Placement::new(vec![link(1, !eligible), link(2, eligible)], false))
    };
    let placement = both(true);
    h.place(placement);
    h.rooms.state(LinkId(2), "r", Position::new("e", 9), None);
    assert!(h.reads().is_empty(), "the old link may still answer");
    h.place(h.placement(LinkId(2)));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    h.rooms.page(LinkId(2), page("r", from, 9, 0), h.now);
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::CatchingUp));
}

#[test]
fn an_answer_of_the_past_does_not_say_that_there_is_no_more() {
    let mut h = Harness::new();
    h.rooms = Rooms::new(LINGER, 0, 256, 1, Box::new(|| 7));
    h.place(h.placement(LINK));
    h.member("r", "e", 6);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, since(4));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    h.answer(page("r", from, 6, 0));
    let mut progress = h.more("r", &back);
    let [(_, from)] = &h.reads()[..] else { panic!("nothing was kept") };
    h.publish("r", "e", 7..=8);
    h.walk_all();
    h.answer(page("r", from, 6, 0));
    // It stands at 6 now, where the store stood then.
    assert_eq!(progress.try_recv(), Ok(Progress::More));
    let _progress = h.more("r", &back);
    let [(_, (_, from))] = &h.reads()[..] else { panic!() };
    assert_eq!(*from, ReadFrom::After(Position::new("e", 6)));
}

#[test]
fn who_joins_again_while_it_catches_up_goes_on_if_there_is_no_answer() {
    let mut h = Harness::new();
    h.member("r", "e", 9);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, since(4));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    h.answer(page("r", from, 9, 0));
    let mut progress = h.more("r", &back);
    assert!(progress.try_recv().is_ok());
    let slow = test_support::outbox();
    let _outcome = h.join_since("r", &slow, since(4));
    let mut again = h.join_since("r", &slow, Since::Position(Position::new("d", 1)));
    let mut more = h.more("r", &slow);
    h.now += LINGER;
    h.rooms.expire(h.now);
    h.walk_all();
    assert_eq!(again.try_recv(), Ok(JoinOutcome::Unavailable));
    assert_eq!(more.try_recv(), Ok(Progress::Live), "where it was");
    assert_eq!(received(&slow), ["joined 4", "5", "6", "7", "8", "9"]);
}

#[test]
fn who_stands_in_the_present_epoch_gets_what_the_one_before_left_under_it() {
    let mut h = Harness::new();
    h.rooms = Rooms::new(LINGER, 0, 256, 1, Box::new(|| 7));
    h.place(h.placement(LINK));
    h.member("r", "2-f", 9);
    let back = test_support::outbox();
    let _outcome = h.join_since("r", &back, Since::Last(3));
    let result = |id, first_seq, last| wire::ReadResult {
        id,
        room: "r".to_owned(),
        position: Some(wire::Position { epoch: "2-f".into(), seq: 9 }),
        prev: Some(wire::Position { epoch: "1-e".into(), seq: 8 }),
        complete: true,
        first_seq,
        entries: (first_seq..=last).map(entry).collect(),
        ..wire::ReadResult::default()
    };
    let [(_, (id, ReadFrom::Last(3)))] = h.reads()[..] else { panic!() };
    h.answer(result(id, 7, 9));
    let mut progress = h.more("r", &back);
    let [(_, (id, ReadFrom::After(_)))] = h.reads()[..] else { panic!("nothing was kept") };
    h.answer(result(id, 7, 9));
    assert_eq!(progress.try_recv(), Ok(Progress::Live));
    assert_eq!(received(&back), ["joined 6", "7", "8", "9"]);
}

#[test]
fn who_catches_up_while_there_is_no_link_goes_on_over_the_next() {
    let mut h = Harness::new();
    h.member("r", "e", 9);
    let back = test_support::outbox();
    let mut outcome = h.join_since("r", &back, since(4));
    assert_eq!(h.reads().len(), 1);
    h.place(Arc::new(Placement::new(Vec::new(), false)));
    assert!(h.reads().is_empty());
    h.place(h.placement(LinkId(2)));
    let [(_, from)] = &h.reads()[..] else { panic!() };
    h.rooms.page(LinkId(2), page("r", from, 9, 0), h.now);
    assert_eq!(outcome.try_recv(), Ok(JoinOutcome::CatchingUp));
}

#[test]
fn a_loss_is_believed_only_from_where_it_begins() {
    let mut h = Harness::new();
    let member = h.member("r", "1-e", 3);
    let lost = |h: &mut Harness, after| {
        let after = Position::new("1-e", after);
        h.rooms.lost(LINK, "r", Position::new("2-f", 5), LostReason::Failover, Some(&after));
    };
    lost(&mut h, 5);
    assert_eq!(h.wishes()[0].1.position, Some(Position::new("1-e", 3)), "4 and 5 were dropped on the way");
    h.publish("r", "1-e", 4..=5);
    lost(&mut h, 5);
    h.publish("r", "2-f", 6..=6);
    h.walk_all();
    assert_eq!(received(&member), ["joined 3", "4", "5", "lost 5", "6"]);
}

#[test]
fn a_loss_from_an_epoch_that_was_left_is_asked_about() {
    let mut h = Harness::new();
    let member = h.member("r", "2-f", 3);
    // The link was asked before we left that epoch, and does not know of 4, which the store still has.
    let after = Position::new("1-e", 7);
    h.rooms.lost(LINK, "r", Position::new("3-g", 4), LostReason::Failover, Some(&after));
    h.publish("r", "3-g", 5..=5);
    assert_eq!(h.wishes()[0].1.position, Some(Position::new("2-f", 3)));
    h.publish("r", "2-f", 4..=4);
    let after = Position::new("2-f", 4);
    h.rooms.lost(LINK, "r", Position::new("3-g", 4), LostReason::Failover, Some(&after));
    h.publish("r", "3-g", 5..=5);
    h.walk_all();
    assert_eq!(received(&member), ["joined 3", "4", "lost 4", "5"]);
}

#[test]
fn what_is_lost_within_an_epoch_is_lost_to_history_whatever_a_link_says() {
    let mut h = Harness::new();
    let member = h.member("r", "2-f", 3);
    let after = Position::new("2-f", 3);
    h.rooms.lost(LINK, "r", Position::new("2-f", 9), LostReason::Failover, Some(&after));
    h.walk_all();
    let reasons: Vec<_> =
        take(&member).iter().map(|frame| test_support::json_of(frame)["payload"]["reason"].clone()).collect();
    assert_eq!(reasons, [serde_json::Value::Null, "history".into()]);
}
