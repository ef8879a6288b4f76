use std::collections::{VecDeque, vec_deque};

use bytes::Bytes;
use proto::{Epoch, Position};

/// A run of a room's publications as frames, consecutive and of one epoch.
#[derive(Debug)]
pub(super) struct Tail {
    epoch: Epoch,
    /// `seq` of the first frame, or of the next if there is none.
    first_seq: u64,
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Tail {
    /// A run that begins with the first publication after the position.
    pub(super) fn after(position: &Position) -> Self {
        let (epoch, first_seq) = (position.epoch.clone(), position.seq + 1);
        Self { epoch, first_seq, frames: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// The position after its last publication.
    pub(super) fn end(&self) -> Position {
        Position { epoch: self.epoch.clone(), seq: self.first_seq + self.frames.len() as u64 - 1 }
    }

    /// Whether it goes back to the first publication of its epoch.
    pub(super) fn is_whole(&self) -> bool {
        self.first_seq == 1
    }

    /// Adds the publication at its end.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Forgets the first. Returns its size.
    pub(super) fn pop_front(&mut self) -> Option<usize> {
        let frame = self.frames.pop_front()?;
        self.first_seq += 1;
        self.bytes -= frame.len();
        Some(frame.len())
    }

    /// What follows the position; none if it does not go back that far, or not forward.
    pub(super) fn from(&self, position: &Position) -> Option<vec_deque::Iter<'_, Bytes>> {
        let skip = usize::try_from((position.seq + 1).checked_sub(self.first_seq)?).ok()?;
        let reaches = position.epoch == self.epoch && skip <= self.frames.len();
        reaches.then(|| self.frames.range(skip..))
    }

    /// Whether the other run ends where this one begins, or further on, and begins earlier.
    pub(super) fn meets(&self, earlier: &Self) -> bool {
        let gap = earlier.first_seq + (earlier.frames.len() as u64) < self.first_seq;
        earlier.epoch == self.epoch && !gap && earlier.first_seq < self.first_seq
    }

    /// Takes in a run that ends where this one begins, or further on. Returns how many frames that added.
    pub(super) fn prepend(&mut self, earlier: Self) -> usize {
        if !self.meets(&earlier) {
            return 0;
        }
        let new = usize::try_from(self.first_seq - earlier.first_seq).unwrap_or(0);
        for frame in earlier.frames.into_iter().take(new).rev() {
            self.bytes += frame.len();
            self.frames.push_front(frame);
            self.first_seq -= 1;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, last: u64) -> Tail {
        let mut tail = Tail::after(&Position::new("e", first - 1));
        (first..=last).for_each(|seq| tail.push(Bytes::from(seq.to_string())));
        tail
    }

    fn seqs(tail: &Tail, epoch: &str, seq: u64) -> Option<Vec<String>> {
        let frames = tail.from(&Position::new(epoch, seq))?;
        Some(frames.map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect())
    }

    #[test]
    fn it_knows_how_far_it_reaches() {
        let mut tail = run(5, 7);
        assert_eq!(seqs(&tail, "e", 4).unwrap(), ["5", "6", "7"]);
        assert_eq!(seqs(&tail, "e", 6).unwrap(), ["7"]);
        assert!(seqs(&tail, "e", 7).unwrap().is_empty());
        assert_eq!(seqs(&tail, "e", 8), None);
        assert_eq!(seqs(&tail, "e", 3), None);
        assert_eq!(seqs(&tail, "f", 5), None);
        assert_eq!((tail.end(), tail.bytes(), tail.is_whole()), (Position::new("e", 7), 3, false));
        assert_eq!(tail.pop_front(), Some(1));
        assert_eq!(seqs(&tail, "e", 4), None);
    }

    #[test]
    fn an_earlier_run_is_taken_in_if_it_meets_this_one() {
        for (first, last, added) in [(1, 4, 4), (1, 6, 4), (3, 9, 2), (1, 3, 0), (5, 9, 0)] {
            let mut tail = run(5, 7);
            assert_eq!(tail.prepend(run(first, last)), added, "{first}-{last}");
            let start = if added == 0 { 5 } else { first };
            assert_eq!(seqs(&tail, "e", start - 1).unwrap().len() as u64, 8 - start);
            assert_eq!(tail.end().seq, 7);
        }
        assert!(run(1, 2).is_whole());
    }
}
