//! What an edge sends on its link, to a fanout node on the memory broker. Whatever it is: each read and each broadcast is
//! answered once, and stored if and only if it is what it must be; of each room the link gets consecutive publications from
//! where it was told that they begin; a link that breaks the protocol is ended; and another edge is served as ever.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use proto::{
    VERSION,
    wire::{
        Accepts, EdgeBeat, EdgeHello, EdgeMessage, Entry, FanoutMessage, Interest, LinkPublish, Position, Publications,
        Read, RoomInterest, RoomMembers, Stats, edge_message::Kind, fanout_message::Kind as Out, read::From, receipt,
    },
};
use tokio::time::timeout;

use crate::{
    input::Input,
    link,
    names::{is_key, is_room, is_sender},
    node,
};

/// After this long without anything, all was said: beats come each second.
const PAUSE: Duration = Duration::from_millis(900);

/// See the module. A byte that says whether a good hello comes first, and the messages.
///
/// # Panics
/// If it does not hold.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let greets = input.byte().is_multiple_of(2);
    let mut messages: Vec<EdgeMessage> = link::messages(input);
    if greets {
        messages.insert(0, hello(VERSION));
    }
    node::with(async |node| {
        let sent = understood(&messages);
        let said = stream::iter(messages.into_iter().map(Ok)).chain(stream::pending());
        let mut told = node.attach(said).unwrap_or_else(|status| panic!("attach: {status}"));
        let mut seen = Seen::default();
        let mut ended = false;
        while let Ok(next) = timeout(PAUSE, told.next()).await {
            let Some(Ok(message)) = next else {
                ended = true;
                break;
            };
            seen.see(message);
        }
        assert_eq!(ended, sent.breaks, "a link ends if it breaks the protocol, and only then");
        // What was on its way when a link ended is of no use to anybody.
        if !ended {
            assert_eq!(seen.reads, sent.reads);
            assert_eq!(seen.receipts, sent.publishes);
        }
        drop(told);
        another(&node).await;
    });
}

/// What a plain reading of the protocol makes of the messages.
#[derive(Default)]
struct Sent {
    breaks: bool,
    /// How often each id was used.
    reads: BTreeMap<u64, usize>,
    /// And how many of them are to be stored.
    publishes: BTreeMap<u64, (usize, usize)>,
}

fn understood(messages: &[EdgeMessage]) -> Sent {
    let (mut sent, mut greeted) = (Sent::default(), false);
    let mut known = Known::default();
    for message in messages {
        match &message.kind {
            Some(Kind::Hello(hello)) if hello.version > 0 && hello.version.abs_diff(VERSION) <= 1 => greeted = true,
            Some(Kind::Hello(_)) => sent.breaks = true,
            _ if !greeted => sent.breaks = true,
            Some(Kind::Read(read)) => *sent.reads.entry(read.id).or_default() += 1,
            Some(Kind::Publish(publish)) => {
                let (all, good) = sent.publishes.entry(publish.id).or_default();
                *all += 1;
                *good += usize::from(known.takes(publish));
            }
            _ => {}
        }
        if sent.breaks {
            break;
        }
    }
    sent
}

/// Keys of what is stored, by room and sender, each with how many were stored before it.
#[derive(Default)]
struct Known(BTreeMap<[String; 3], usize>);

impl Known {
    /// Whether it is answered as stored, as a duplicate is too.
    fn takes(&mut self, publish: &LinkPublish) -> bool {
        let LinkPublish { room, from, key, unless, .. } = publish;
        let is_good = is_room(room)
            && is_sender(from)
            && is_key(key)
            && unless.len() <= 256
            && unless.iter().all(|key| is_key(key));
        let name = |key: &String| [room.clone(), from.clone(), key.clone()];
        let first_later = unless.iter().filter_map(|later| self.0.get(&name(later))).min();
        match (self.0.get(&name(key)), first_later) {
            _ if !is_good => false,
            (Some(at), first_later) => first_later.is_none_or(|later| at <= later),
            (None, Some(_)) => false,
            (None, None) => {
                if !key.is_empty() {
                    self.0.insert(name(key), self.0.len());
                }
                true
            }
        }
    }
}

/// What the link was told.
#[derive(Default)]
struct Seen {
    positions: HashMap<String, Position>,
    reads: BTreeMap<u64, usize>,
    receipts: BTreeMap<u64, (usize, usize)>,
}

impl Seen {
    fn see(&mut self, message: FanoutMessage) {
        match message.kind {
            Some(Out::State(state)) => self.stands(state.room, state.position),
            Some(Out::Lost(lost)) => self.stands(lost.room, lost.position),
            Some(Out::Publications(run)) => self.run(run),
            Some(Out::PublicationsBatch(batch)) => batch.runs.into_iter().for_each(|run| self.run(run)),
            Some(Out::ReadResult(result)) => {
                *self.reads.entry(result.id).or_default() += 1;
                assert!(result.error.is_none() || result.entries.is_empty(), "{result:?}");
                result.entries.iter().for_each(check_entry);
            }
            Some(Out::Receipt(receipt)) => {
                let (all, good) = self.receipts.entry(receipt.id).or_default();
                *all += 1;
                *good += usize::from(matches!(receipt.result, Some(receipt::Result::Stored(_))));
            }
            Some(Out::Hello(_) | Out::Beat(_)) => {}
            other => panic!("told {other:?}"),
        }
    }

    fn stands(&mut self, room: String, position: Option<Position>) {
        assert!(is_room(&room), "{room:?}");
        self.positions.insert(room, position.unwrap_or_default());
    }

    fn run(&mut self, run: Publications) {
        let Publications { room, epoch, first_seq, entries } = run;
        let position = self.positions.get_mut(&room).unwrap_or_else(|| panic!("{room:?} before its state"));
        assert!(position.epoch == epoch || position.epoch.is_empty(), "{room:?} is at {position:?}, not in {epoch}");
        assert_eq!(first_seq, position.seq + 1, "{room:?}");
        position.seq += entries.len() as u64;
        position.epoch = epoch;
        entries.iter().for_each(check_entry);
    }
}

fn check_entry(entry: &Bytes) {
    assert!(Entry::decode(entry.clone()).is_ok_and(|entry| entry.ts_ms > 0), "{entry:?}");
}

/// Another edge joins a room, and gets what is published there.
async fn another(node: &fanout::simulation::Node) {
    const ROOM: &str = "a room of another edge";
    let wants = Interest { rooms: vec![RoomInterest { room: ROOM.into(), wanted: true, position: None }] };
    let said = [hello(VERSION), message(Kind::Interest(wants))].map(Ok);
    let told = node.attach(stream::iter(said).chain(stream::pending()));
    let mut told = told.unwrap_or_else(|status| panic!("attach another: {status}"));
    let mut next = async |what| match timeout(PAUSE * 2, told.next()).await {
        Ok(Some(Ok(FanoutMessage { kind: Some(kind) }))) => kind,
        other => panic!("{other:?}, and not {what}"),
    };
    while !matches!(next("where the room stands").await, Out::State(_)) {}
    let stored = node.publish(ROOM, "1".into(), "", Duration::from_secs(1)).await;
    assert!(stored.is_ok(), "{stored:?}");
    loop {
        if let Out::Publications(run) = next("the publication").await {
            assert_eq!((&*run.room, run.entries.len()), (ROOM, 1));
            break;
        }
    }
}

fn message(kind: Kind) -> EdgeMessage {
    EdgeMessage { kind: Some(kind) }
}

fn hello(version: u32) -> EdgeMessage {
    message(Kind::Hello(EdgeHello { version, edge: "edge".into(), boot: 7 }))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let wish = |room: &str, wanted, position| RoomInterest { room: room.into(), wanted, position };
    let at = |epoch: &str, seq| Position { epoch: epoch.into(), seq };
    let interest = |rooms| message(Kind::Interest(Interest { rooms }));
    let publish = |id, room: &str, from: &str, key: &str| {
        let body = "{\"n\":1}".into();
        let (room, from, key) = (room.into(), from.into(), key.into());
        message(Kind::Publish(LinkPublish { id, room, from, body, key, deadline_ms: 1000, ..LinkPublish::default() }))
    };
    let late = |id, key: &str, unless: &[&str]| {
        let (room, from, body, key) = ("a".into(), "7".into(), "1".into(), key.into());
        let unless = unless.iter().map(ToString::to_string).collect();
        message(Kind::Publish(LinkPublish { id, room, from, body, key, unless, ..LinkPublish::default() }))
    };
    let read = |id, room: &str, from| message(Kind::Read(Read { id, room: room.into(), from, limit: 2 }));
    let top = vec![RoomMembers { room: "a".into(), members: 3 }];
    let accepts = || message(Kind::Accepts(Accepts { publications_batch: true }));
    let sessions = [
        vec![
            interest(vec![wish("a", true, None)]),
            publish(1, "a", "7", ""),
            publish(2, "a", "8", "k"),
            publish(3, "a", "8", "k"),
        ],
        vec![
            accepts(),
            interest(vec![wish("a", true, None), wish("b", true, None)]),
            publish(1, "a", "7", ""),
            publish(2, "b", "7", ""),
        ],
        vec![
            publish(1, "a", "7", ""),
            publish(2, "a", "7", ""),
            interest(vec![wish("a", true, Some(at("", 0)))]),
            publish(3, "a", "7", ""),
        ],
        vec![
            interest(vec![wish("a", true, Some(at("1-x", 9)))]),
            publish(1, "a", "7", ""),
            interest(vec![wish("a", false, None)]),
            publish(2, "a", "7", ""),
        ],
        vec![
            publish(1, "a", "7", ""),
            read(1, "a", Some(From::Last(5))),
            read(2, "a", Some(From::After(at("", 0)))),
            read(3, "a", None),
        ],
        vec![
            publish(1, " a", "7", ""),
            publish(1, "a", "@7", ""),
            publish(2, "a", "", ""),
            read(2, "", Some(From::Last(u32::MAX))),
        ],
        vec![
            interest(vec![wish("", true, None), wish("a", true, Some(at("ffffffffffffffff-x", u64::MAX)))]),
            publish(1, "a", "7", ""),
        ],
        vec![
            publish(1, "a", "7", "k"),
            late(2, "j", &["k"]),
            late(3, "k", &["j"]),
            late(4, "i", &["j", ""]),
            late(5, "i", &["k"]),
            late(6, "h", &["k"; 257]),
        ],
        vec![hello(VERSION + 1), hello(0), publish(1, "a", "7", "")],
        vec![
            message(Kind::Stats(Stats { connections: 1, top, ages: vec![1; 50], ..Stats::default() })),
            message(Kind::Beat(EdgeBeat { number: 1 })),
        ],
    ];
    sessions.iter().flat_map(|session| [0, 1].map(|first| [&[first][..], &link::bytes(session)].concat())).collect()
}
