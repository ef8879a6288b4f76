use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::broker::epoch_name;

fn entry(seq: u64) -> Bytes {
    Bytes::from(format!("entry {seq}"))
}

fn at(generation: u64, seq: u64) -> Position {
    Position::new(&epoch_name(generation, generation), seq)
}

fn page(position: Position, first_seq: u64, count: u64, complete: bool) -> Page {
    let entries: Vec<_> = (first_seq..first_seq + count).map(entry).collect();
    Page { position, prev: None, first_seq: if count == 0 { 0 } else { first_seq }, entries, complete }
}

fn started(position: &Position) -> RoomState {
    let mut room = RoomState::default();
    assert!(room.start(position.clone()).is_empty());
    room
}

fn delivered(effects: &Effects) -> Vec<u64> {
    let seqs = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(run) => Some(run.first_seq..=run.last_seq()),
        _ => None,
    });
    seqs.flatten().collect()
}

#[test]
fn the_next_is_delivered_and_what_is_older_dropped() {
    let mut room = started(&at(1, 4));
    assert_eq!(delivered(&room.announced(&at(1, 5), Some(entry(5)))), [5]);
    assert!(room.announced(&at(1, 5), Some(entry(5))).is_empty());
    assert!(room.announced(&at(1, 3), None).is_empty());
    assert_eq!(room.position(), Some(&at(1, 5)));
}

#[test]
fn a_first_publication_is_not_taken_back_by_a_read_from_before_it() {
    let mut room = started(&Position::default());
    assert_eq!(room.check().as_slice(), [Effect::Read(Position::default())]);
    assert_eq!(delivered(&room.announced(&at(1, 1), Some(entry(1)))), [1]);
    assert!(room.page(&page(Position::default(), 0, 0, true)).is_empty());
    assert_eq!(delivered(&room.announced(&at(1, 2), Some(entry(2)))), [2]);
}

#[test]
fn of_the_epoch_before_what_follows_on_is_delivered_however_old_the_read() {
    let mut room = started(&at(1, 4));
    assert_eq!(room.check().as_slice(), [Effect::Read(at(1, 4))]);
    assert_eq!(delivered(&room.announced(&at(1, 5), Some(entry(5)))), [5]);
    assert_eq!(delivered(&room.announced(&at(1, 6), Some(entry(6)))), [6]);
    // The history has lost 5 meanwhile, and the numbering is another since 8.
    let answer = Page { prev: Some(at(1, 8)), ..page(at(2, 9), 6, 4, false) };
    let effects = room.page(&answer);
    assert_eq!(delivered(&effects), [7, 8, 9]);
    assert!(effects.contains(&Effect::Lost(at(2, 8), LostReason::Failover)), "{effects:?}");
}

#[test]
fn a_gap_is_read_once_and_what_came_meanwhile_follows() {
    let mut room = started(&at(1, 4));
    assert_eq!(room.announced(&at(1, 7), Some(entry(7))).as_slice(), [Effect::Read(at(1, 4))]);
    assert!(room.announced(&at(1, 8), Some(entry(8))).is_empty());
    let effects = room.page(&page(at(1, 7), 5, 3, true));
    assert_eq!(delivered(&effects), [5, 6, 7, 8]);
    assert!(!room.is_reading());
    assert_eq!(delivered(&room.announced(&at(1, 9), Some(entry(9)))), [9]);
}

#[test]
fn what_is_held_has_a_limit_and_beyond_it_is_read_again() {
    let mut room = started(&at(1, 4));
    let last = 6 + HELD_ITEMS as u64;
    let effects: Vec<_> = (6..=last).flat_map(|seq| room.announced(&at(1, seq), Some(entry(seq)))).collect();
    assert_eq!(effects, [Effect::Read(at(1, 4)), Effect::HeldTooMuch]);
    let effects = room.page(&page(at(1, last - 1), 5, last - 5, true));
    assert_eq!(*delivered(&effects).last().unwrap(), last - 1);
    assert_eq!(effects.last(), Some(&Effect::Read(at(1, last - 1))));
    assert_eq!(delivered(&room.page(&page(at(1, last), last, 1, true))), [last]);
}

#[test]
fn a_duplicates_position_has_the_lost_announcement_read() {
    let mut room = started(&at(1, 4));
    assert_eq!(room.announced(&at(1, 5), None).as_slice(), [Effect::Read(at(1, 4))]);
    assert_eq!(delivered(&room.page(&page(at(1, 5), 5, 1, true))), [5]);
}

#[test]
fn what_the_history_no_longer_has_is_named_lost() {
    let mut room = started(&at(1, 4));
    let _ = room.announced(&at(1, 20), Some(entry(20)));
    let effects = room.page(&page(at(1, 20), 11, 10, false));
    assert_eq!(effects[0], Effect::Lost(at(1, 10), LostReason::History));
    assert_eq!(delivered(&effects), (11..=20).collect::<Vec<_>>());

    let mut room = started(&at(1, 4));
    let _ = room.announced(&at(1, 20), None);
    let effects = room.page(&page(at(1, 20), 0, 0, false));
    assert_eq!(effects.as_slice(), [Effect::Lost(at(1, 20), LostReason::History)]);
}

#[test]
fn a_store_behind_its_own_numbers_is_a_failover() {
    let mut room = started(&at(1, 9));
    assert_eq!(room.compare(&at(1, 9), &at(1, 6)).as_slice(), [Effect::Read(at(1, 9))]);
    let effects = room.page(&page(at(1, 6), 0, 0, false));
    assert_eq!(effects.as_slice(), [Effect::Lost(at(1, 6), LostReason::Failover)]);
}

#[test]
fn a_read_answered_before_a_newer_announcement_is_no_failover() {
    let mut room = started(&at(1, 4));
    let _ = room.check();
    assert_eq!(delivered(&room.announced(&at(1, 5), Some(entry(5)))), [5]);
    assert!(room.page(&page(at(1, 4), 0, 0, true)).is_empty());
    assert!(room.compare(&at(1, 4), &at(1, 4)).is_empty());
}

#[test]
fn the_previous_epoch_is_finished_before_the_failover_is_named() {
    let mut room = started(&at(1, 4));
    let first = room.announced(&at(2, 8), Some(entry(8)));
    assert_eq!(first.as_slice(), [Effect::Read(at(1, 4))]);
    let mut answer = page(at(2, 8), 5, 4, true);
    answer.prev = Some(at(1, 6));
    let effects = room.page(&answer);
    assert_eq!(effects.len(), 3);
    assert_eq!(delivered(&effects), [5, 6, 7, 8]);
    assert_eq!(effects[1], Effect::Lost(at(2, 6), LostReason::Failover));
    assert!(room.announced(&at(1, 9), Some(entry(9))).is_empty(), "an epoch left is not taken up again");
}

#[test]
fn what_is_left_of_the_previous_epoch_is_delivered_though_some_of_it_is_gone() {
    let mut room = started(&at(1, 4));
    let _ = room.announced(&at(2, 9), Some(entry(9)));
    let answer = Page { prev: Some(at(1, 8)), ..page(at(2, 9), 7, 3, false) };
    let effects = room.page(&answer);
    assert_eq!(effects[0], Effect::Lost(at(1, 6), LostReason::History), "who stands further on is not concerned");
    assert_eq!(effects[2], Effect::Lost(at(2, 8), LostReason::Failover));
    assert_eq!(delivered(&effects), [7, 8, 9]);
}

#[test]
fn any_other_epoch_is_a_loss_at_once() {
    let mut room = started(&at(1, 4));
    let _ = room.announced(&at(3, 8), Some(entry(8)));
    let mut answer = page(at(3, 8), 8, 1, false);
    answer.prev = Some(at(2, 7));
    let effects = room.page(&answer);
    assert_eq!(effects[0], Effect::Lost(at(3, 7), LostReason::Failover));
    assert_eq!(delivered(&effects), [8]);
}

#[test]
fn a_wiped_store_is_a_failover_and_its_new_epoch_goes_on_from_there() {
    let mut room = started(&at(1, 4));
    let _ = room.compare(&at(1, 4), &Position::default());
    let effects = room.page(&page(Position::default(), 0, 0, false));
    assert_eq!(effects.as_slice(), [Effect::Lost(Position::default(), LostReason::Failover)]);
    assert!(room.announced(&at(1, 1), Some(entry(1))).is_empty(), "left");
    assert_eq!(delivered(&room.announced(&at(2, 1), Some(entry(1)))), [1]);
}

#[test]
fn a_store_that_answers_from_an_epoch_left_is_not_believed() {
    let mut room = started(&at(2, 4));
    let _ = room.check();
    assert_eq!(room.page(&page(at(1, 9), 5, 5, true)).as_slice(), [Effect::AskLater]);
    assert_eq!(room.position(), Some(&at(2, 4)));
}

#[test]
fn nothing_is_delivered_before_the_start() {
    let mut room = RoomState::default();
    assert!(room.announced(&at(1, 5), Some(entry(5))).is_empty());
    assert!(room.announced(&at(1, 6), Some(entry(6))).is_empty());
    assert_eq!(delivered(&room.start(at(1, 5))), [6]);
    let mut room = RoomState::default();
    let _ = room.announced(&at(1, 5), Some(entry(5)));
    assert_eq!(room.start(at(1, 3)).as_slice(), [Effect::Read(at(1, 3))]);
}

/// A store, naively: every publication ever made, in order, by (generation, seq).
#[derive(Debug, Default)]
struct Model {
    generation: u64,
    prev: Option<(u64, u64)>,
    end: u64,
    kept_from: u64,
    log: HashMap<(u64, u64), Bytes>,
}

impl Model {
    fn position(&self) -> Position {
        at(self.generation, self.end)
    }

    fn publish(&mut self) -> (Position, Bytes) {
        self.end += 1;
        let body = Bytes::from(format!("{}/{}", self.generation, self.end));
        self.log.insert((self.generation, self.end), body.clone());
        (self.position(), body)
    }

    /// The store goes back by `back`, keeping at least what `kept_from` says, and numbers on in a new epoch.
    fn fail_over(&mut self, back: u64) {
        self.end = self.end.saturating_sub(back).max(self.kept_from - 1);
        self.prev = Some((self.generation, self.end));
        self.generation += 1;
    }

    fn body(&self, seq: u64) -> Bytes {
        let generation = match self.prev {
            Some((old, end)) if seq <= end => {
                (0..=old).rev().find(|g| self.log.contains_key(&(*g, seq))).unwrap_or(old)
            }
            _ => self.generation,
        };
        self.log[&(generation, seq)].clone()
    }

    fn read(&self, after: &Position, items: u64) -> Page {
        let prev = self.prev.map(|(generation, seq)| at(generation, seq));
        let current = after.epoch == self.position().epoch;
        let old = prev.as_ref().is_some_and(|prev| prev.epoch == after.epoch);
        let end_of_prev = prev.as_ref().map_or(0, |prev| prev.seq);
        let wanted = if current {
            after.seq + 1
        } else if old {
            after.seq.min(end_of_prev) + 1
        } else {
            end_of_prev + 1
        };
        let first = wanted.max(self.kept_from);
        let last = self.end.min(first + items - 1);
        let entries: Vec<_> = (first..=last).map(|seq| self.body(seq)).collect();
        let first_seq = if entries.is_empty() { 0 } else { first };
        let complete = (current || old) && wanted == first && (old || after.seq <= self.end);
        Page { position: self.position(), prev, first_seq, entries, complete }
    }
}

/// What happens between the store and the room.
#[derive(Debug, Clone)]
enum Step {
    Publish { heard: bool },
    Hear(prop::sample::Index),
    HearPosition,
    AnswerRead,
    Trim(u64),
    FailOver(u64),
    Compare,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(|heard| Step::Publish { heard }),
        4 => any::<prop::sample::Index>().prop_map(Step::Hear),
        1 => Just(Step::HearPosition),
        4 => Just(Step::AnswerRead),
        1 => (1u64..4).prop_map(Step::Trim),
        1 => (0u64..3).prop_map(Step::FailOver),
        1 => Just(Step::Compare),
    ]
}

/// Checks what members would see.
struct Witness {
    at: Position,
    model_bodies: HashMap<(u64, u64), Bytes>,
    reading: Option<Position>,
}

impl Witness {
    fn see(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Deliver(run) => {
                    assert_eq!(run.epoch, self.at.epoch, "a new epoch begins with a loss");
                    assert_eq!(run.first_seq, self.at.seq + 1, "consecutive");
                    self.at.seq = run.last_seq();
                    for (seq, entry) in (run.first_seq..).zip(&run.entries) {
                        // In a later epoch, what the earlier one left keeps its content.
                        let generation = run.epoch.generation();
                        let body = (0..=generation).rev().find_map(|g| self.model_bodies.get(&(g, seq)));
                        assert_eq!(body, Some(entry));
                    }
                }
                Effect::Lost(to, _) => {
                    let forward = to.epoch.generation() > self.at.epoch.generation()
                        || (to.epoch == self.at.epoch && to.seq > self.at.seq);
                    assert!(forward, "{} lost to {to}", self.at);
                    self.at = to;
                }
                Effect::Read(after) => {
                    assert_eq!(self.reading.replace(after), None, "one read at a time");
                }
                Effect::HeldTooMuch => {}
                Effect::AskLater => panic!("the model never answers from the past"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is lost, doubled or reordered on the way: exactly once, in order, or a loss is named; and in the end
    /// the room is where the store is.
    #[test]
    fn exactly_once_in_order_or_lost(steps in prop::collection::vec(step(), 1..80), items in 1u64..6) {
        let mut model = Model { generation: 1, kept_from: 1, ..Model::default() };
        let mut room = RoomState::default();
        prop_assert!(room.start(model.position()).is_empty());
        let mut witness = Witness { at: model.position(), model_bodies: HashMap::new(), reading: None };
        let mut announced: Vec<(Position, Bytes)> = Vec::new();
        for step in steps {
            let effects = match step {
                Step::Publish { heard } => {
                    let (position, body) = model.publish();
                    witness.model_bodies.clone_from(&model.log);
                    announced.push((position.clone(), body.clone()));
                    if heard { room.announced(&position, Some(body)) } else { Effects::new() }
                }
                Step::Hear(index) if !announced.is_empty() => {
                    let (position, body) = index.get(&announced).clone();
                    room.announced(&position, Some(body))
                }
                Step::HearPosition => room.announced(&model.position(), None),
                Step::AnswerRead => match witness.reading.take() {
                    Some(after) => room.page(&model.read(&after, items)),
                    None => Effects::new(),
                },
                Step::Trim(count) => {
                    model.kept_from = (model.kept_from + count).min(model.end + 1);
                    Effects::new()
                }
                Step::FailOver(back) => {
                    model.fail_over(back);
                    Effects::new()
                }
                Step::Compare => {
                    let then = room.position().cloned().unwrap_or_default();
                    room.compare(&then, &model.position())
                }
                Step::Hear(_) => Effects::new(),
            };
            witness.see(effects);
            prop_assert_eq!(room.position(), Some(&witness.at));
        }
        // In peace again: one announcement, and all reads answered.
        let (position, body) = model.publish();
        witness.model_bodies.clone_from(&model.log);
        let effects = room.announced(&position, Some(body));
        witness.see(effects);
        let mut reads = 0;
        while let Some(after) = witness.reading.take() {
            let effects = room.page(&model.read(&after, items));
            witness.see(effects);
            reads += 1;
            prop_assert!(reads < 200, "reads without end");
        }
        prop_assert_eq!(room.position(), Some(&position));
    }
}
