use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use serde::Deserialize;

/// Who published: a room's publisher has the room's number, a client its own after all of those.
pub(super) type Source = u32;

/// What a publication says of itself: the how manieth it is of its source in its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Publication {
    pub(super) by: Source,
    pub(super) n: u32,
}

/// What has its place where, as far as anybody saw it or was told.
#[derive(Debug)]
pub(super) struct Ledger {
    rooms: Vec<Mutex<Room>>,
    wrong: Mutex<Vec<String>>,
}

/// How many publications of each source were begun in each room.
pub(super) type Issued = Vec<HashMap<Source, u32>>;

#[derive(Debug, Default)]
struct Room {
    /// By `seq`, from 1.
    kept: Vec<Option<Publication>>,
    issued: HashMap<Source, u32>,
    acknowledged: HashMap<Source, u32>,
}

impl Publication {
    /// Its body, of which each byte counts.
    pub(super) fn body(self) -> String {
        let Self { by, n } = self;
        // About as much as a small update of an application.
        format!(
            "{{\"by\":{by}, \"n\":{n},\"text\":\"as it was published \\u00e9 \u{1f30a}, byte for byte: {:>40}\"}}",
            by ^ n
        )
    }

    /// The same for all repeats, so that it is stored once.
    pub(super) fn key(self) -> String {
        format!("{}-{}", self.by, self.n)
    }

    pub(super) fn parse(body: &str) -> Option<Self> {
        serde_json::from_str(body).ok().filter(|publication: &Self| publication.body() == body)
    }
}

impl Ledger {
    pub(super) fn new(rooms: usize) -> Self {
        Self { rooms: (0..rooms).map(|_| Mutex::default()).collect(), wrong: Mutex::default() }
    }

    fn room(&self, room: usize) -> MutexGuard<'_, Room> {
        self.rooms[room].lock().unwrap()
    }

    /// The next of this source.
    pub(super) fn issue(&self, room: usize, by: Source) -> Publication {
        let mut room = self.room(room);
        let count = room.issued.entry(by).or_default();
        *count += 1;
        Publication { by, n: *count - 1 }
    }

    /// Its source was told its place.
    pub(super) fn acknowledged(&self, room: usize, seq: u64, publication: Publication) {
        self.seen(room, seq, publication);
        let Publication { by, n } = publication;
        let acknowledged = self.room(room).acknowledged.insert(by, n + 1).unwrap_or(0);
        if acknowledged != n {
            self.wrong(format!("room {room}: {by} had {acknowledged} acknowledged, then its number {n}"));
        }
    }

    /// Somebody got it there.
    pub(super) fn seen(&self, room: usize, seq: u64, publication: Publication) {
        let mut held = self.room(room);
        let Some(index) = usize::try_from(seq).ok().and_then(|seq| seq.checked_sub(1)) else {
            return self.wrong(format!("room {room}: a publication at {seq}"));
        };
        if held.kept.len() <= index {
            held.kept.resize(index + 1, None);
        }
        let there = *held.kept[index].get_or_insert(publication);
        if there != publication {
            self.wrong(format!("room {room}, {seq}: {there:?} and {publication:?}"));
        }
    }

    pub(super) fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        // What comes first tells most.
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    pub(super) fn assert_well(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// The highest `seq` known of a room.
    pub(super) fn last(&self, room: usize) -> u64 {
        self.room(room).kept.len() as u64
    }

    pub(super) fn lasts(&self) -> Vec<u64> {
        (0..self.rooms.len()).map(|room| self.last(room)).collect()
    }

    pub(super) fn published(&self) -> u64 {
        self.lasts().iter().sum()
    }

    pub(super) fn issued(&self) -> Issued {
        (0..self.rooms.len()).map(|room| self.room(room).issued.clone()).collect()
    }

    pub(super) fn has_acknowledged(&self, issued: &Issued) -> bool {
        self.open(issued).is_empty()
    }

    /// What was begun and is not acknowledged: room, source, how many.
    pub(super) fn open(&self, issued: &Issued) -> Vec<(usize, Source, u32)> {
        let of_room = |(room, issued): (usize, &HashMap<Source, u32>)| {
            let held = self.room(room);
            let open = |(by, issued): (&Source, &u32)| {
                let open = issued.saturating_sub(*held.acknowledged.get(by).unwrap_or(&0));
                (open > 0).then_some((room, *by, open))
            };
            issued.iter().filter_map(open).collect::<Vec<_>>()
        };
        issued.iter().enumerate().flat_map(of_room).collect()
    }

    /// Every number has a publication, and each source's are all there, once, in order, and acknowledged.
    pub(super) fn assert_complete(&self) {
        self.assert_well();
        for number in 0..self.rooms.len() {
            let room = self.room(number);
            assert_eq!(room.issued, room.acknowledged, "room {number}");
            let mut next: HashMap<Source, u32> = HashMap::new();
            for (index, kept) in room.kept.iter().enumerate() {
                let Some(Publication { by, n }) = *kept else { panic!("room {number}: nothing at {}", index + 1) };
                let next = next.entry(by).or_default();
                assert_eq!(n, *next, "room {number}, {}: of {by}", index + 1);
                *next += 1;
            }
            assert_eq!(next, room.issued, "room {number}");
        }
    }
}

#[test]
fn what_is_missing_doubled_moved_or_changed_is_wrong() {
    let of = |by, n| Publication { by, n };
    let room = |places: &[(u64, Publication)]| {
        let ledger = Ledger::new(1);
        for _ in 0..2 {
            ledger.issue(0, 7);
        }
        for (seq, publication) in places {
            ledger.acknowledged(0, *seq, *publication);
        }
        std::panic::catch_unwind(|| ledger.assert_complete()).is_ok()
    };
    assert!(room(&[(1, of(7, 0)), (2, of(7, 1))]));
    for wrong in [
        &[(1, of(7, 0))][..],
        &[(1, of(7, 0)), (3, of(7, 1))],
        &[(2, of(7, 0)), (1, of(7, 1))],
        &[(1, of(7, 0)), (2, of(7, 0))],
        &[(1, of(7, 0)), (2, of(7, 1)), (3, of(7, 1))],
        &[(1, of(7, 0)), (1, of(7, 1))],
        &[(0, of(7, 0)), (1, of(7, 1))],
        &[(1, of(7, 0)), (2, of(8, 1))],
    ] {
        assert!(!room(wrong), "{wrong:?}");
    }
    // What nobody was told of, and somebody saw.
    let ledger = Ledger::new(1);
    ledger.seen(0, 1, of(7, 0));
    assert!(std::panic::catch_unwind(|| ledger.assert_complete()).is_err());
    let body = of(7, 1).body();
    assert_eq!(Publication::parse(&body), Some(of(7, 1)));
    assert_eq!(Publication::parse(&body.replace(", ", ",")), None, "each byte counts");
}
