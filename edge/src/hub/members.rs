use std::{
    hash::{BuildHasher as _, RandomState},
    ops::Range,
    sync::Arc,
};

use hashbrown::HashTable;
use queues::Limits;

use crate::outbox::Outbox;

/// From so many members on, one is found through an index rather than by looking at all.
const INDEXED: usize = 32;

/// From one that is looked at to the next: a prime.
const SPREAD: usize = 7919;

/// The members of one room: a dense list, so that a walk over it is a walk over an array; a member is known by its
/// outbox's address.
///
/// A walk may be interrupted after any member, and members may join and leave meanwhile: it still meets every member
/// that was there when it began, and has not left, exactly once, and none that joined since.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Vec<Arc<Outbox>>,
    /// Positions in `list`, once it is long.
    index: Option<Box<Index>>,
    /// What the walk under way has still to meet. Before it: those met. After it: those who joined since it began.
    rest: Range<usize>,
}

#[derive(Debug, Default)]
struct Index {
    positions: HashTable<usize>,
    hasher: RandomState,
}

fn address(member: &Arc<Outbox>) -> usize {
    Arc::as_ptr(member).addr()
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The outbox limits of the members, which are the same for all.
    pub(super) fn first_limits(&self) -> Option<Limits> {
        self.list.first().map(|member| member.limits())
    }

    /// Looks at so many of them, or all if they are fewer, spread over all from a place on: how many were seen, how many of
    /// these lag, and the frames that wait for those. Not by an even step: members are dealt out to the drivers of the pumps
    /// in turn, and then only one driver's would be seen.
    pub(super) fn look(&self, start: usize, sample: usize) -> (usize, usize, usize) {
        let count = self.list.len();
        let seen = sample.min(count);
        let step = if count.is_multiple_of(SPREAD) { 1 } else { SPREAD };
        let (mut lag, mut left) = (0, 0);
        for n in 0..seen {
            let frames = self.list[(start % count + n * step) % count].lag();
            lag += usize::from(frames > 0);
            left += frames;
        }
        (seen, lag, left)
    }

    pub(super) fn contains(&self, member: &Arc<Outbox>) -> bool {
        self.position(member).is_some()
    }

    /// Whether the walk under way has still to meet it.
    pub(super) fn is_awaited(&self, member: &Arc<Outbox>) -> bool {
        self.is_walking() && self.position(member).is_some_and(|position| self.rest.contains(&position))
    }

    /// False if it was there already.
    pub(super) fn insert(&mut self, member: Arc<Outbox>) -> bool {
        if self.contains(&member) {
            return false;
        }
        if self.list.is_empty() {
            // Most rooms are somebody's personal room.
            self.list.reserve_exact(1);
        }
        self.list.push(member);
        if self.index.is_some() {
            self.set_position(self.list.len() - 1);
        } else if self.list.len() >= INDEXED {
            self.index = Some(Box::default());
            (0..self.list.len()).for_each(|position| self.set_position(position));
        }
        true
    }

    /// False if it was not there.
    pub(super) fn remove(&mut self, member: &Arc<Outbox>) -> bool {
        let Some(mut hole) = self.position(member) else { return false };
        self.unset_position(hole);
        // The hole moves to the end of its region, then of the next, until it is at the end of the list.
        if hole < self.rest.start {
            hole = self.fill(hole, self.rest.start - 1);
            self.rest.start -= 1;
        }
        if hole < self.rest.end {
            hole = self.fill(hole, self.rest.end - 1);
            self.rest.end -= 1;
        }
        self.fill(hole, self.list.len() - 1);
        self.list.pop();
        if self.list.is_empty() {
            *self = Self::default();
        }
        true
    }

    /// Begins a walk over all present members.
    pub(super) fn begin_walk(&mut self) {
        self.rest = 0..self.list.len();
    }

    /// The next at most `limit` members of the walk; none when it is over.
    pub(super) fn walk(&mut self, limit: usize) -> &[Arc<Outbox>] {
        let start = self.rest.start;
        let end = self.rest.end.min(start + limit);
        self.rest.start = end;
        &self.list[start..end]
    }

    pub(super) fn is_walking(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Moves the member at `from` into the hole; the hole is then at `from`.
    fn fill(&mut self, hole: usize, from: usize) -> usize {
        if hole != from {
            self.unset_position(from);
            self.list.swap(hole, from);
            self.set_position(hole);
        }
        from
    }

    fn position(&self, member: &Arc<Outbox>) -> Option<usize> {
        match &self.index {
            None => self.list.iter().position(|other| Arc::ptr_eq(other, member)),
            Some(index) => {
                let hash = index.hasher.hash_one(address(member));
                index.positions.find(hash, |position| Arc::ptr_eq(&self.list[*position], member)).copied()
            }
        }
    }

    fn set_position(&mut self, position: usize) {
        let Some(index) = &mut self.index else { return };
        let Index { positions, hasher } = &mut **index;
        let hash = |position: &usize| hasher.hash_one(address(&self.list[*position]));
        positions.insert_unique(hash(&position), position, hash);
    }

    fn unset_position(&mut self, position: usize) {
        let Some(index) = &mut self.index else { return };
        let hash = index.hasher.hash_one(address(&self.list[position]));
        if let Ok(entry) = index.positions.find_entry(hash, |other| *other == position) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::test_support;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(usize),
        Remove(usize),
        Begin,
        Walk(usize),
    }

    fn steps(members: usize) -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..members).prop_map(Step::Insert),
            3 => (0..members).prop_map(Step::Remove),
            1 => Just(Step::Begin),
            3 => (1usize..6).prop_map(Step::Walk),
        ];
        prop::collection::vec(step, 0..150)
    }

    fn check(members: usize, steps: Vec<Step>) {
        let outboxes: Vec<_> = (0..members).map(|_| test_support::outbox()).collect();
        let number = |member: &Arc<Outbox>| outboxes.iter().position(|other| Arc::ptr_eq(other, member)).unwrap();
        let mut real = Members::default();
        let mut model = BTreeSet::new();
        // Those a walk has still to meet.
        let mut rest = BTreeSet::new();
        for step in steps {
            match step {
                Step::Insert(n) => assert_eq!(real.insert(outboxes[n].clone()), model.insert(n)),
                Step::Remove(n) => {
                    assert_eq!(real.remove(&outboxes[n]), model.remove(&n));
                    rest.remove(&n);
                }
                Step::Begin => {
                    real.begin_walk();
                    rest = model.clone();
                }
                Step::Walk(limit) => {
                    let met: Vec<_> = real.walk(limit).iter().map(number).collect();
                    assert_eq!(met.len(), limit.min(rest.len()));
                    assert!(met.iter().all(|n| rest.remove(n)), "met twice, or not to be met");
                }
            }
            assert_eq!(real.is_walking(), !rest.is_empty());
            assert_eq!(real.len(), model.len());
            for (n, outbox) in outboxes.iter().enumerate() {
                assert_eq!(real.contains(outbox), model.contains(&n));
            }
        }
    }

    proptest! {
        #[test]
        fn walks_meet_each_once_without_an_index(steps in steps(8)) {
            check(8, steps);
        }

        #[test]
        fn walks_meet_each_once_with_an_index(steps in steps(INDEXED * 2), full in any::<bool>()) {
            let fill = (0..if full { INDEXED * 2 } else { INDEXED }).map(Step::Insert);
            check(INDEXED * 2, fill.chain(steps).collect());
        }
    }
}
