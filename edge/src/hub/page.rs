use bytes::Bytes;
use prost::Message as _;
use proto::{
    Epoch, Position, Room,
    wire::{Entry, ReadResult},
};

use super::tail::Tail;
use crate::protocol::Envelope;

/// A page of a room's history, as frames.
#[derive(Debug)]
pub(super) struct Page {
    /// The room's position when it was read.
    pub(super) position: Position,
    /// Where the epoch before ended.
    pub(super) prev: Option<Position>,
    /// Consecutive from where it was asked to begin.
    pub(super) complete: bool,
    /// What was read, of one epoch: of the one before if it begins there, else of the present one.
    pub(super) run: Tail,
}

impl Page {
    /// `present`: all of it counts as of the present epoch, whatever epoch it was stored under.
    pub(super) fn new(room: &Room, result: ReadResult, present: bool) -> Self {
        let ReadResult { position, prev, complete, first_seq, entries, .. } = result;
        let position = Position::from(position.unwrap_or_default());
        let prev = prev.map(Position::from);
        let older = prev.as_ref().filter(|_| !present);
        let old = older.map_or(0, |prev| (prev.seq + 1).saturating_sub(first_seq));
        let old = usize::try_from(old).unwrap_or(usize::MAX).min(entries.len());
        // What an incomplete page has of the epoch before does not follow on anything.
        let (epoch, skip, take) = match older {
            Some(prev) if old > 0 && complete => (prev.epoch.clone(), 0, old),
            _ => (position.epoch.clone(), old, usize::MAX),
        };
        let begin = match entries.len() - skip {
            // What the present epoch has comes after what was left out.
            0 if skip > 0 => older.map_or(0, |prev| prev.seq),
            0 => position.seq,
            _ => (first_seq + skip as u64).saturating_sub(1),
        };
        let mut run = Tail::after(&Position { epoch: epoch.clone(), seq: begin });
        for (seq, entry) in (begin + 1..).zip(entries.into_iter().skip(skip).take(take)) {
            run.push(frame(room, &epoch, seq, entry));
        }
        Self { position, prev, complete, run }
    }

    /// Whether the store has left the epoch behind, as far as could be known then.
    pub(super) fn has_left(&self, epoch: &Epoch) -> bool {
        let prev = self.prev.as_ref().is_some_and(|prev| prev.epoch == *epoch);
        let known = epoch.is_empty() || *epoch == self.position.epoch || prev;
        !known && epoch.generation() <= self.position.epoch.generation()
    }

    /// Whether the room has been handed more since it was read.
    pub(super) fn is_older_than(&self, handed: &Position) -> bool {
        let Position { epoch, seq } = &self.position;
        let (then, now) = (epoch.generation(), handed.epoch.generation());
        then < now || *epoch == handed.epoch && *seq < handed.seq
    }

    /// Where the run begins.
    pub(super) fn start(&self) -> Position {
        Position { seq: self.run.end().seq - self.run.len() as u64, ..self.run.end() }
    }

    /// Before the last so many publications of it.
    pub(super) fn before_last(&self, count: u32) -> Position {
        let back = self.run.len().min(count as usize) as u64;
        Position { seq: self.run.end().seq - back, ..self.run.end() }
    }
}

/// The frame of one publication, encoded as stored.
pub(super) fn frame(room: &Room, epoch: &Epoch, seq: u64, entry: Bytes) -> Bytes {
    let entry = Entry::decode(entry).unwrap_or_else(|error| {
        // Broken in the store, the same for everybody; the others are still to be told apart by their numbers.
        tracing::error!(%room, seq, %error, "decode a publication");
        Entry { from: "@".to_owned(), body: Bytes::from_static(b"null"), ..Entry::default() }
    });
    let epoch = (seq == 1).then_some(epoch.as_str());
    Envelope { room, seq, epoch, entry: &entry }.frame()
}

#[cfg(test)]
mod tests {
    use proto::wire;

    use super::*;

    fn result(epoch: &str, seq: u64, prev: Option<(&str, u64)>, entries: std::ops::RangeInclusive<u64>) -> ReadResult {
        let position = |(epoch, seq): (&str, u64)| wire::Position { epoch: epoch.to_owned(), seq };
        ReadResult {
            position: Some(position((epoch, seq))),
            prev: prev.map(position),
            complete: true,
            first_seq: *entries.start(),
            entries: entries.map(|_| Entry::default().encode_to_vec().into()).collect(),
            ..ReadResult::default()
        }
    }

    fn page(result: ReadResult) -> Page {
        Page::new(&Room::try_new("r").unwrap(), result, false)
    }

    #[test]
    fn a_page_is_of_one_epoch() {
        let plain = page(result("e", 9, None, 5..=9));
        assert_eq!((plain.start(), plain.run.end()), (Position::new("e", 4), Position::new("e", 9)));
        assert_eq!((plain.before_last(2), plain.before_last(99)), (Position::new("e", 7), Position::new("e", 4)));
        let both = page(result("f", 9, Some(("e", 6)), 5..=9));
        assert_eq!((both.start(), both.run.end()), (Position::new("e", 4), Position::new("e", 6)));
        let broken = page(ReadResult { complete: false, ..result("f", 9, Some(("e", 6)), 5..=9) });
        assert_eq!((broken.start(), broken.run.end()), (Position::new("f", 6), Position::new("f", 9)));
        // All of it is of the epoch before: what the present one has is still to come.
        let old = page(ReadResult { complete: false, ..result("f", 20, Some(("e", 9)), 5..=9) });
        assert_eq!((old.start(), old.run.end()), (Position::new("f", 9), Position::new("f", 9)));
        let empty = page(ReadResult { entries: Vec::new(), ..result("e", 9, None, 0..=0) });
        assert_eq!((empty.start(), empty.run.end()), (Position::new("e", 9), Position::new("e", 9)));
    }

    #[test]
    fn a_page_knows_what_was_before_it_was_read() {
        let read = page(result("2-f", 9, Some(("1-e", 6)), 5..=9));
        assert!(read.has_left(&Epoch::new("1-d")) && !read.has_left(&Epoch::new("1-e")));
        assert!(!read.has_left(&Epoch::new("3-g")), "a later one");
        assert!(read.is_older_than(&Position::new("2-f", 10)) && read.is_older_than(&Position::new("3-g", 1)));
        assert!(!read.is_older_than(&Position::new("2-f", 9)) && !read.is_older_than(&Position::new("1-e", 90)));
    }

    #[test]
    fn what_cannot_be_decoded_keeps_its_number() {
        let room = Room::try_new("r").unwrap();
        let frame = frame(&room, &Epoch::new("e"), 7, Bytes::from_static(b"\xff\xff"));
        assert_eq!(crate::test_support::json_of(&frame)["seq"], 7);
    }
}
