use std::collections::VecDeque;

use bytes::Bytes;
use proto::Key;
use tokio::time::Instant;

use super::{Failure, Id, OpId, Receipt, Stored};
use crate::{interest::LinkId, protocol::ErrorCode};

/// The broadcasts of one connection to one room that have no receipt yet, in the order sent.
///
/// They are forwarded one after the other without waiting, and answered in their order. When the link they went over is
/// lost, nobody knows which were stored: once all are resolved, those that failed are repeated one by one, with their keys,
/// before anything newer. A node may have refused one and stored the next: a repeat names those after it that may have been
/// stored, and the store refuses it if one was.
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
    /// It has been sent more than once.
    repeated: bool,
}

#[derive(Debug)]
enum State {
    /// Without a receipt so far. Alone: nothing newer is sent before it has one.
    Sent { alone: bool },
    /// Its receipt; those before it are not done.
    Done(Receipt),
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
    /// Keys of later ones that may have been stored: then this one must not be.
    pub unless: Vec<Key>,
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
        let state = if waits { State::Waiting } else { State::Sent { alone: false } };
        let Forward { op, body, key, key_is_ours, deadline, .. } = forward.clone();
        let via = self.via.filter(|_| !self.list.is_empty());
        let (unsure, repeated) = (false, false);
        self.list.push_back(Broadcast { op, id, body, key, key_is_ours, deadline, state, unsure, repeated });
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
        if let Some(broadcast) = self.list.iter_mut().find(|broadcast| broadcast.op == op) {
            broadcast.receipt(receipt, now);
        }
        for broadcast in &mut self.list {
            broadcast.give_up(now);
        }
        let mut answers = Vec::new();
        let is_done = |first: &mut Broadcast| matches!(first.state, State::Done(_));
        while let Some(Broadcast { id, state: State::Done(receipt), .. }) = self.list.pop_front_if(is_done) {
            answers.push((id, receipt));
        }
        (answers, self.next())
    }

    fn is_repeating(&self) -> bool {
        let goes_on = |state: &State| matches!(state, State::Sent { alone: false } | State::Done(_));
        !self.list.iter().all(|broadcast| goes_on(&broadcast.state))
    }

    /// Once all are resolved, the first that is not done.
    fn next(&mut self) -> Option<Forward> {
        if self.list.iter().any(|broadcast| matches!(broadcast.state, State::Sent { .. })) {
            return None;
        }
        #[cfg(simulation)]
        if service::simulation::is_off(service::simulation::Check::RepeatOrder) {
            self.list.retain(|broadcast| !matches!(broadcast.state, State::Done(_)));
            self.list.make_contiguous().reverse();
        }
        let later = self.list.iter().skip(1).filter(|later| later.may_be_stored());
        let unless: Vec<Key> = later.map(|later| later.key.clone()).collect();
        #[cfg(simulation)]
        let unless =
            if service::simulation::is_off(service::simulation::Check::RepeatUnless) { Vec::new() } else { unless };
        let first = self.list.front_mut()?;
        first.repeated |= matches!(first.state, State::Failed(_));
        first.state = State::Sent { alone: true };
        let Broadcast { op, key_is_ours, deadline, .. } = *first;
        let (body, key) = (first.body.clone(), first.key.clone());
        Some(Forward { op, body, key, key_is_ours, deadline, alone: true, via: None, unless })
    }
}

impl Broadcast {
    fn receipt(&mut self, receipt: Receipt, now: Instant) {
        match receipt {
            Err(failure) if failure.again && now < self.deadline => {
                self.unsure |= failure.code == ErrorCode::Unknown;
                self.state = State::Failed(failure);
            }
            receipt => self.done(receipt),
        }
    }

    /// It is not repeated past its deadline.
    fn give_up(&mut self, now: Instant) {
        if let State::Failed(failure) = &self.state
            && now >= self.deadline
        {
            let failure = failure.clone();
            self.done(Err(failure));
        }
    }

    fn done(&mut self, receipt: Receipt) {
        let receipt = receipt.map_err(|failure| match failure.code {
            // This try was not stored; but an earlier one may have been.
            ErrorCode::Unavailable if self.unsure => {
                let text = format!("an earlier try may have been stored; the last: {}", failure.text);
                Failure { code: ErrorCode::Unknown, text, ..failure }
            }
            _ => failure,
        });
        let receipt = receipt.map(|stored| Stored {
            // What only we had to repeat is a first send to its sender.
            duplicate: stored.duplicate && !self.repeated && !self.key_is_ours,
            ..stored
        });
        self.body = Bytes::new();
        self.state = State::Done(receipt);
    }

    fn may_be_stored(&self) -> bool {
        self.unsure
            || match &self.state {
                State::Done(Ok(_)) => true,
                State::Done(Err(failure)) => failure.code == ErrorCode::Unknown,
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::Position;

    use super::*;

    fn forward(op: OpId, deadline: Instant) -> Forward {
        let key = Key::try_new(&format!("k{op}")).unwrap().unwrap();
        let (body, unless) = (Bytes::new(), Vec::new());
        Forward { op, body, key, key_is_ours: false, deadline, alone: false, via: None, unless }
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
        assert_eq!(receipt(&mut all, 2, stored(8, true), now), (vec![], None), "in their order");
        let both = vec![("1".into(), Some(false)), ("2".into(), Some(true))];
        assert_eq!(receipt(&mut all, 1, stored(7, false), now), (both, None));
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
    async fn a_repeat_names_those_after_it_that_may_have_been_stored() {
        let (now, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(5));
        let failed = |code, again| Err(Failure { code, text: String::new(), again });
        let unless = |(_, next): (Vec<Answer>, Option<Forward>)| {
            next.map(|forward| (forward.op, forward.unless.iter().map(ToString::to_string).collect::<Vec<_>>()))
        };
        let named = |op, keys: &[&str]| Some((op, keys.iter().map(ToString::to_string).collect()));
        let mut all = Broadcasts::default();
        for op in 1..=7 {
            push(&mut all, op, deadline);
        }
        assert_eq!(unless(all.receipt(3, stored(3, false), now)), None);
        assert_eq!(unless(all.receipt(4, failed(ErrorCode::Unknown, false), now)), None);
        assert_eq!(unless(all.receipt(5, failed(ErrorCode::MessageTooLarge, false), now)), None);
        assert_eq!(unless(all.receipt(6, failed(ErrorCode::Unavailable, true), now)), None);
        assert_eq!(push(&mut all, 8, deadline), None, "never sent");
        for op in [1, 2] {
            assert_eq!(unless(all.receipt(op, lost(), now)), None);
        }
        assert_eq!(unless(all.receipt(7, lost(), now)), named(1, &["k2", "k3", "k4", "k7"]));
        assert_eq!(unless(all.receipt(1, lost(), now)), named(1, &["k2", "k3", "k4", "k7"]), "and again");
        let (answers, next) = all.receipt(1, failed(ErrorCode::Unavailable, false), now);
        assert_eq!(answers[0].1.as_ref().unwrap_err().code, ErrorCode::Unknown);
        assert_eq!((answers.len(), unless((answers, next))), (1, named(2, &["k3", "k4", "k7"])));
        let (answers, next) = all.receipt(2, stored(2, true), now);
        assert_eq!((answers.len(), unless((answers, next))), (4, named(6, &["k7"])));
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
