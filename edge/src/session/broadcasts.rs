use std::collections::VecDeque;

use bytes::Bytes;
use proto::Key;
use tokio::time::Instant;

use super::{Failure, Id, OpId, Receipt, Stored};
use crate::{interest::LinkId, protocol::ErrorCode};

/// The broadcasts of one connection to one room that have no receipt yet, in the order sent.
///
/// They are forwarded one after the other without waiting. When the link they went over is lost, nobody knows which were
/// stored: once all are resolved, those that failed are repeated one by one, with their keys, before anything newer.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    list: VecDeque<Broadcast>,
    /// The link that those without a receipt went over.
    via: Option<LinkId>,
}

#[derive(Debug)]
struct Broadcast {
    op: OpId,
    id: Id,
    body: Bytes,
    key: Key,
    /// The client gave none: it is for us alone.
    key_is_ours: bool,
    deadline: Instant,
    state: State,
    /// It may have been stored, by an earlier try.
    unsure: bool,
}

#[derive(Debug)]
enum State {
    /// Without a receipt so far. Alone: nothing newer is sent before it has one. Repeated: not for the first time.
    Sent { alone: bool, repeated: bool },
    /// To be repeated.
    Failed(Failure),
    /// Behind one that failed.
    Waiting,
}

/// One to be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub op: OpId,
    pub body: Bytes,
    pub key: Key,
    pub key_is_ours: bool,
    pub deadline: Instant,
    /// Nothing newer goes before it has a receipt: it may wait until there is a link.
    pub alone: bool,
    /// Others are under way over this link: it must go over the same, or it could overtake them.
    pub via: Option<LinkId>,
}

/// What became of one, to be told to its sender.
pub(super) type Answer = (Id, Receipt);

impl Broadcasts {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.list.iter().map(|broadcast| broadcast.body.len()).sum()
    }

    /// Takes one more. Returns what is to be forwarded now, unless it has to wait.
    pub(super) fn push(&mut self, id: Id, forward: Forward) -> Option<Forward> {
        let waits = self.is_repeating();
        let state = if waits { State::Waiting } else { State::Sent { alone: false, repeated: false } };
        let Forward { op, body, key, key_is_ours, deadline, .. } = forward.clone();
        let via = self.via.filter(|_| !self.list.is_empty());
        self.list.push_back(Broadcast { op, id, body, key, key_is_ours, deadline, state, unsure: false });
        (!waits).then_some(Forward { via, ..forward })
    }

    pub(super) fn via(&self) -> Option<LinkId> {
        self.via
    }

    /// What was forwarded last went over this link.
    pub(super) fn sent(&mut self, via: LinkId) {
        self.via = Some(via);
    }

    /// Takes a receipt. Returns the answers that are final, and what is to be forwarded next.
    pub(super) fn receipt(&mut self, op: OpId, receipt: Receipt, now: Instant) -> (Vec<Answer>, Option<Forward>) {
        let mut answers = Vec::new();
        if let Some(index) = self.list.iter().position(|broadcast| broadcast.op == op) {
            let broadcast = &mut self.list[index];
            match receipt {
                Err(failure) if failure.again && now < broadcast.deadline => {
                    broadcast.unsure |= failure.code == ErrorCode::Unknown;
                    broadcast.state = State::Failed(failure);
                }
                receipt => answers.extend(self.list.remove(index).map(|broadcast| broadcast.answer(receipt))),
            }
        }
        let next = self.next(now, &mut answers);
        (answers, next)
    }

    fn is_repeating(&self) -> bool {
        self.list.iter().any(|broadcast| !matches!(broadcast.state, State::Sent { alone: false, .. }))
    }

    /// Once all are resolved, the first that is not done.
    fn next(&mut self, now: Instant, answers: &mut Vec<Answer>) -> Option<Forward> {
        if self.list.iter().any(|broadcast| matches!(broadcast.state, State::Sent { .. })) {
            return None;
        }
        #[cfg(simulation)]
        if service::simulation::is_off(service::simulation::Check::RepeatOrder) {
            self.list.make_contiguous().reverse();
        }
        while let Some(mut first) = self.list.pop_front() {
            let repeated = matches!(first.state, State::Failed(_));
            match first.state {
                State::Failed(failure) if now >= first.deadline => {
                    first.state = State::Waiting;
                    answers.push(first.answer(Err(failure)));
                }
                _ => {
                    first.state = State::Sent { alone: true, repeated };
                    let Broadcast { op, key_is_ours, deadline, .. } = first;
                    let (body, key) = (first.body.clone(), first.key.clone());
                    self.list.push_front(first);
                    return Some(Forward { op, body, key, key_is_ours, deadline, alone: true, via: None });
                }
            }
        }
        None
    }
}

impl Broadcast {
    fn answer(self, receipt: Receipt) -> Answer {
        let repeated = matches!(self.state, State::Sent { repeated: true, .. });
        let unsure = self.unsure;
        let receipt = receipt.map_err(|failure| match failure.code {
            // This try was not stored; but an earlier one may have been.
            ErrorCode::Unavailable if unsure => Failure { code: ErrorCode::Unknown, ..failure },
            _ => failure,
        });
        let receipt = receipt.map(|stored| Stored {
            // What only we had to repeat is a first send to its sender.
            duplicate: stored.duplicate && !repeated && !self.key_is_ours,
            ..stored
        });
        (self.id, receipt)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::Position;

    use super::*;

    fn forward(op: OpId, deadline: Instant) -> Forward {
        let key = Key::try_new(&format!("k{op}")).unwrap().unwrap();
        Forward { op, body: Bytes::new(), key, key_is_ours: false, deadline, alone: false, via: None }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a receipt that is good")]
    fn stored(seq: u64, duplicate: bool) -> Receipt {
        Ok(Stored { position: Position::new("e", seq), duplicate })
    }

    fn lost() -> Receipt {
        Err(Failure { code: ErrorCode::Unknown, text: String::new(), again: true })
    }

    fn push(broadcasts: &mut Broadcasts, op: OpId, deadline: Instant) -> Option<OpId> {
        broadcasts.push(Some(op.to_string().into()), forward(op, deadline)).map(|forward| forward.op)
    }

    /// The ids answered, and whether as duplicates; what is forwarded next.
    fn receipt(
        broadcasts: &mut Broadcasts,
        op: OpId,
        receipt: Receipt,
        now: Instant,
    ) -> (Vec<(String, Option<bool>)>, Option<OpId>) {
        let (answers, next) = broadcasts.receipt(op, receipt, now);
        let answers = answers
            .into_iter()
            .map(|(id, receipt)| (id.unwrap().to_string(), receipt.ok().map(|stored| stored.duplicate)))
            .collect();
        (answers, next.map(|forward| forward.op))
    }

    #[tokio::test(start_paused = true)]
    async fn receipts_are_answered_and_nothing_waits() {
        let (now, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let mut all = Broadcasts::default();
        assert_eq!((push(&mut all, 1, deadline), push(&mut all, 2, deadline)), (Some(1), Some(2)));
        assert_eq!(receipt(&mut all, 2, stored(8, true), now), (vec![("2".into(), Some(true))], None));
        assert_eq!(receipt(&mut all, 1, stored(7, false), now), (vec![("1".into(), Some(false))], None));
        assert_eq!(all.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lost_link_left_open_is_repeated_in_order_before_anything_newer() {
        let (now, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let mut all = Broadcasts::default();
        for op in 1..=3 {
            assert_eq!(push(&mut all, op, deadline), Some(op));
        }
        assert_eq!(receipt(&mut all, 2, lost(), now), (vec![], None), "not while others are open");
        assert_eq!(push(&mut all, 4, deadline), None, "waits behind the one that failed");
        assert_eq!(receipt(&mut all, 1, stored(1, false), now), (vec![("1".into(), Some(false))], None));
        assert_eq!(receipt(&mut all, 3, lost(), now), (vec![], Some(2)));
        // It had been stored: to its sender that is a first send.
        assert_eq!(receipt(&mut all, 2, stored(2, true), now), (vec![("2".into(), Some(false))], Some(3)));
        assert_eq!(receipt(&mut all, 3, lost(), now), (vec![], Some(3)), "and again");
        assert_eq!(receipt(&mut all, 3, stored(3, false), now), (vec![("3".into(), Some(false))], Some(4)));
        assert_eq!(push(&mut all, 5, deadline), None, "the fourth may have to wait for a link");
        assert_eq!(receipt(&mut all, 4, stored(4, true), now), (vec![("4".into(), Some(true))], Some(5)));
        assert_eq!(receipt(&mut all, 5, stored(5, false), now), (vec![("5".into(), Some(false))], None));
        assert_eq!(push(&mut all, 6, deadline), Some(6), "all is well again");
    }

    #[tokio::test(start_paused = true)]
    async fn those_under_way_together_go_over_one_link() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut all = Broadcasts::default();
        assert_eq!(all.push(None, forward(1, deadline)).unwrap().via, None);
        all.sent(LinkId(7));
        assert_eq!(all.push(None, forward(2, deadline)).unwrap().via, Some(LinkId(7)));
        all.receipt(1, stored(1, false), Instant::now());
        all.receipt(2, stored(2, false), Instant::now());
        assert_eq!(all.push(None, forward(3, deadline)).unwrap().via, None);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_deadline_the_failure_is_told() {
        let (now, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let mut all = Broadcasts::default();
        push(&mut all, 1, deadline);
        push(&mut all, 2, deadline + Duration::from_secs(1));
        assert_eq!(receipt(&mut all, 1, lost(), now), (vec![], None));
        let late = deadline + Duration::from_millis(1);
        assert_eq!(receipt(&mut all, 2, lost(), late), (vec![("1".into(), None)], Some(2)));
        assert_eq!(receipt(&mut all, 2, lost(), deadline + Duration::from_secs(1)), (vec![("2".into(), None)], None));
        assert_eq!(all.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_that_is_not_stored_says_nothing_of_the_first_try() {
        let (now, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let refused = |again| Err(Failure { code: ErrorCode::Unavailable, text: String::new(), again });
        let code = |all: &mut Broadcasts, op, receipt| {
            let (answers, _) = all.receipt(op, receipt, now);
            answers.into_iter().next().map(|(_, receipt)| receipt.unwrap_err().code)
        };
        let mut all = Broadcasts::default();
        push(&mut all, 1, deadline);
        assert_eq!(code(&mut all, 1, lost()), None);
        assert_eq!(code(&mut all, 1, refused(false)), Some(ErrorCode::Unknown));
        push(&mut all, 2, deadline);
        assert_eq!(code(&mut all, 2, refused(true)), None);
        assert_eq!(code(&mut all, 2, refused(false)), Some(ErrorCode::Unavailable), "it was never sent");
    }
}
