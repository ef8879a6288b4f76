//! What a fanout node sends on a link, to an edge with a client in two rooms, through link, hub, session, pumps and socket.
//! Whatever it is: the client's socket stays and is answered; what it gets are whole frames of the protocol, and of each
//! room consecutive publications from where it was told that they begin, or `lost` and where they go on.

mod client;

use std::{sync::Mutex, time::Duration};

use edge::upstream::{Incoming, LinkError, Transport};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use prost::Message as _;
use proto::{
    VERSION,
    wire::{
        Drain, EdgeMessage, Entry, FanoutBeat, FanoutHello, FanoutMessage, LinkError as WireError, Lost, Position,
        Publications, PublicationsBatch, ReadResult, Receipt, Remove, State, Stored, fanout_message::Kind, receipt,
    },
};
use service::settings::Secret;
use tokio::{sync::mpsc, time::sleep};
use tonic::Status;

use crate::{input::Input, link};

const PAUSE: Duration = Duration::from_millis(10);

/// See the module. A byte that says whether a good hello comes first, and the messages.
///
/// # Panics
/// If it does not hold.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let greets = input.byte().is_multiple_of(2);
    let mut messages: Vec<FanoutMessage> = link::messages(input);
    if greets {
        messages.insert(0, hello());
    }
    client::check(&client::received(Script(Mutex::new(messages))));
}

/// A node that says what it was given, on the first link; on those after it only hello.
#[derive(Debug)]
struct Script(Mutex<Vec<FanoutMessage>>);

impl Transport for Script {
    fn attach(
        &self,
        _: &str,
        _: Option<&Secret>,
        heard: mpsc::Receiver<EdgeMessage>,
    ) -> BoxFuture<'static, Result<Incoming, LinkError>> {
        let script = self.0.lock().map(|mut script| std::mem::take(&mut *script)).unwrap_or_default();
        let said = if script.is_empty() { vec![hello()] } else { script };
        // Between two the edge gets to do what the first one means.
        let said = stream::iter(said).then(async |message| {
            if !matches!(message.kind, Some(Kind::Hello(_))) {
                sleep(PAUSE).await;
            }
            Ok::<_, Status>(message)
        });
        // The link lasts as long as the edge wants it: silence ends it.
        let rest = stream::unfold(heard, |mut heard| async { heard.recv().await.map(|_| (None, heard)) });
        async { Ok(said.chain(rest.filter_map(std::future::ready)).boxed()) }.boxed()
    }
}

fn message(kind: Kind) -> FanoutMessage {
    FanoutMessage { kind: Some(kind) }
}

fn hello() -> FanoutMessage {
    let (node, store) = ("node".into(), "store".into());
    message(Kind::Hello(FanoutHello { version: VERSION, node, boot: 7, store, dedup_ms: 1000 }))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let at = |epoch: &str, seq| Some(Position { epoch: epoch.into(), seq });
    let state = |room: &str, position, complete| {
        message(Kind::State(State { room: room.into(), position, complete, after: at("1-a", 1) }))
    };
    let entry = |key: &str| {
        let body = "{\"n\":1}".into();
        Entry { from: "7".into(), ts_ms: 1, body, key: key.into(), traceparent: String::new() }.encode_to_vec().into()
    };
    let run = |room: &str, epoch: &str, first_seq, count| Publications {
        room: room.into(),
        epoch: epoch.into(),
        first_seq,
        entries: (0..count).map(|number: u64| entry(if number == 0 { "k" } else { "" })).collect(),
    };
    let runs = |room: &str, epoch: &str, first, count| message(Kind::Publications(run(room, epoch, first, count)));
    let lost = |room: &str, position, reason| {
        message(Kind::Lost(Lost { room: room.into(), position, reason, after: at("1-a", 2) }))
    };
    let page = |id, room: &str, position, first_seq, complete| {
        let entries = vec![entry(""), entry("")];
        let (room, prev) = (room.into(), at("1-a", 3));
        message(Kind::ReadResult(ReadResult { id, room, position, complete, first_seq, entries, error: None, prev }))
    };
    let stored = |id| {
        let stored = Stored { position: at("1-a", 2), duplicate: false };
        message(Kind::Receipt(Receipt { id, result: Some(receipt::Result::Stored(stored)) }))
    };
    let failed = message(Kind::Receipt(Receipt { id: 1, result: Some(receipt::Result::Error(WireError::default())) }));
    let remove = |user: &str, room: &str| {
        message(Kind::Remove(Remove { user: user.into(), room: room.into(), at_ms: i64::MAX }))
    };
    let beat = |heard_ms_ago| message(Kind::Beat(FanoutBeat { number: 1, heard_ms_ago, store: "other".into() }));
    let batch = message(Kind::PublicationsBatch(PublicationsBatch {
        runs: vec![run("a", "1-a", 1, 2), run("b", "1-a", 3, 1)],
    }));
    let sessions = [
        vec![state("a", at("", 0), true), runs("a", "1-a", 1, 3), runs("a", "1-a", 2, 2), runs("a", "1-a", 4, 1)],
        vec![state("a", at("1-a", 1), true), state("b", at("1-a", 2), true), batch, stored(1), failed],
        vec![
            state("a", at("1-a", 1), true),
            runs("a", "1-a", 5, 1),
            page(1, "a", at("1-a", 3), 2, true),
            runs("a", "1-a", 4, 2),
        ],
        vec![
            state("a", at("1-a", 1), true),
            runs("a", "1-a", 2, 1),
            lost("a", at("1-a", 9), 1),
            runs("a", "1-a", 10, 1),
        ],
        vec![
            state("a", at("1-a", 1), true),
            lost("a", at("2-b", 3), 2),
            runs("a", "2-b", 4, 1),
            runs("a", "1-a", 2, 1),
        ],
        vec![
            state("b", at("1-a", 3), true),
            page(1, "b", at("1-a", 3), 2, true),
            page(2, "b", at("2-b", 5), 4, true),
            runs("b", "1-a", 4, 1),
        ],
        vec![state("a", at("1-a", 1), false), state("a", at("1-a", 7), true), runs("a", "1-a", 8, 1)],
        vec![
            remove("8", "a"),
            remove("@", ""),
            remove("8", " "),
            remove("7", "a"),
            state("a", at("1-a", u64::MAX), true),
            runs("a", "1-a", 0, 1),
        ],
        vec![state("a", at("1-a", u64::MAX), true), runs("a", "1-a", u64::MAX, 2), lost("a", at("1-a", u64::MAX), 1)],
        vec![state("a", at("1-a", 1), true), remove("7", ""), runs("a", "1-a", 2, 1)],
        vec![beat(9999), beat(0), message(Kind::Drain(Drain {})), state("nobody's", at("1-a", 1), true)],
    ];
    sessions.iter().flat_map(|session| [0, 1].map(|first| [&[first][..], &link::bytes(session)].concat())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inputs reach what they are for: else nothing that is checked could fail.
    #[test]
    fn a_client_gets_what_a_seed_says() {
        let told = |input: &[u8]| {
            let messages = link::messages(Input::new(&input[1..]));
            let mut script = vec![hello()];
            script.extend::<Vec<FanoutMessage>>(messages);
            let got = client::received(Script(Mutex::new(script)));
            String::from_utf8_lossy(&got).into_owned()
        };
        let all: Vec<_> = seeds().iter().map(|seed| told(seed)).collect();
        assert_eq!(all[0].matches(r#"{"type":"message","room":"a""#).count(), 4, "{}", all[0]);
        for part in [r#""type":"joined""#, r#""type":"lost""#, r#""room":"b","seq":3"#, r#""type":"left""#] {
            assert!(all.iter().any(|told| told.contains(part)), "no seed brings {part}: {all:#?}");
        }
    }
}
