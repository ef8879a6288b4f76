//! An edge in memory with one client, and what the client must see.

use std::{collections::HashMap, sync::Arc, time::Duration};

use edge::{
    auth::{Claims, RoomClaims, UserId},
    authorize::Authorizer,
    connection::{self, Context, Guest, Pumps},
    connections::Connections,
    deliveries::Deliveries,
    hub::{self, Hub},
    keys::{self, Keys},
    metrics::Metrics,
    outbox::{Outbox, Rules},
    removals::Removals,
    session,
    upstream::{self, Upstream, discovery::Discovery},
};
use prometheus_client::registry::Registry;
use queues::Limits;
use serde_json::Value;
use service::{Clock, Lifecycle};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split},
    runtime::Builder,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Script;
use crate::socket::frame;

const PIPE: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What the client asks for, in this order; in between the node has its say.
const JOINS: [&str; 2] =
    [r#"{"type":"join","payload":{"room":"a"}}"#, r#"{"type":"join","payload":{"room":"b","since":{"last":5}}}"#];
const BROADCAST: &str = r#"{"type":"broadcast","id":"1","payload":{"room":"a","body":1,"key":"k"}}"#;
const PING: &str = r#"{"type":"ping","id":"last"}"#;

/// All that a client's socket brought.
pub(super) fn received(script: Script) -> Vec<u8> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("make a runtime: {error}"));
    runtime.block_on(async {
        let (lifecycle, end) = (Lifecycle::new(), CancellationToken::new());
        let context = Arc::new(context(script, &lifecycle, &end));
        let (near, mut far) = duplex(PIPE);
        let (reader, writer) = split(near);
        let (pumps, drivers) = Pumps::new(1, &context.metrics.written, &end);
        for driver in drivers {
            lifecycle.spawn(driver);
        }
        let guest = guest(&context);
        let outbox = Arc::new(Outbox::new(guest.claims.user.clone(), context.outbox_rules.clone()));
        let mut place = context.connections.reserve().unwrap_or_else(|| panic!("no place"));
        place.fill(outbox.clone());
        pumps.start(writer, outbox.clone(), SECOND);
        let served = context.clone();
        let connection = lifecycle.spawn(async move {
            connection::run(reader, &[], &[], guest, outbox, served).await;
            drop(place);
        });
        for text in JOINS {
            let _ = far.write_all(&frame(0x81, text.as_bytes())).await;
        }
        // All that can happen by itself has happened: joins are given up after a second.
        context.upstream.spawn(&context.hub, &context.connections, &context.removals, &lifecycle, &end);
        sleep(SECOND / 2).await;
        let _ = far.write_all(&frame(0x81, BROADCAST.as_bytes())).await;
        sleep(SECOND * 2).await;
        let _ = far.write_all(&frame(0x81, PING.as_bytes())).await;
        let (mut got, mut have) = (vec![0; PIPE], 0);
        while let Ok(Ok(count @ 1..)) = timeout(SECOND / 2, far.read(&mut got[have..])).await {
            have += count;
        }
        got.truncate(have);
        drop(far);
        let ended = timeout(SECOND * 60, connection).await;
        assert!(matches!(ended, Ok(Ok(Some(())))), "the connection did not end: {ended:?}");
        end.cancel();
        lifecycle.stop().await;
        got
    })
}

fn guest(context: &Context) -> Guest {
    let user = UserId::try_new("7").unwrap_or_else(|error| panic!("{error}"));
    let claims = Claims { user, expires: i64::MAX / 2000, rooms: RoomClaims::All, auto_join: Box::default() };
    let arrival = context.arrival();
    Guest { id: "c".into(), claims: Arc::new(claims), token: "".into(), auto_join: false, arrival }
}

fn context(script: Script, lifecycle: &Lifecycle, end: &CancellationToken) -> Context {
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let connections = Connections::new(usize::MAX, usize::MAX, metrics.clone());
    let settings =
        hub::Settings { shards: 1, linger: SECOND, join_timeout: SECOND, tail_bytes: 1 << 16, send_queue: 256 };
    let clock = Clock::system();
    let (hub, shards) = Hub::new(&settings, &connections.spread(), &clock, &Deliveries::default(), &metrics, end);
    for shard in shards {
        lifecycle.spawn_vital(shard);
    }
    let keys = Keys::new(keys::Settings::default(), keys::Secrets::default());
    let discovery = Discovery::List(vec!["node:1".to_owned()]);
    let transport = Arc::new(script);
    let upstream = upstream::Settings { discovery, keys: keys.clone(), name: String::new(), boot: 0, transport };
    let session = session::Settings { max_rooms: 10, publish_timeout: SECOND, rate: 100, burst: 100 };
    Context {
        settings: connection::Settings {
            ping_period: SECOND * 30,
            pong_wait: SECOND * 60,
            write_wait: SECOND,
            max_age: None,
            max_message_bytes: 1024,
            session: Arc::new(session),
        },
        hub,
        upstream: Upstream::new(upstream, metrics.clone()),
        keys,
        authorizer: Authorizer::Claims,
        removals: Arc::new(Removals::new(connections.clone(), metrics.clone())),
        connections,
        outbox_rules: Arc::new(Rules { limits: Limits { frames: 256, bytes: PIPE }, metrics: metrics.clone() }),
        metrics,
        clock,
    }
}

/// # Panics
/// If it is not what a client must see.
pub(super) fn check(mut bytes: &[u8]) {
    let mut rooms: HashMap<String, Standing> = HashMap::new();
    let (mut closed, mut answered) = (None, false);
    while !bytes.is_empty() {
        let (opcode, payload, rest) = cut(bytes).unwrap_or_else(|| panic!("no whole frame: {bytes:02x?}"));
        assert_eq!(closed, None, "something after the close frame");
        match opcode {
            0x81 => answered |= see(payload, &mut rooms),
            0x88 => closed = Some(u16::from_be_bytes([payload[0], payload[1]])),
            other => panic!("a frame of kind {other:02x}"),
        }
        bytes = rest;
    }
    // A node may remove the user, and nothing else that it says ends the connection.
    assert!(matches!((closed, answered), (None, true) | (Some(4003), _)), "closed {closed:?}, pong {answered}");
}

/// Where a client is in a room.
struct Standing {
    epoch: String,
    seq: u64,
}

/// The first frame: as servers send them, not masked.
fn cut(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(2)?;
    let (length, rest) = match head[1] {
        length @ 0..126 => (usize::from(length), rest),
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
        }
        _ => return None,
    };
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((head[0], payload, rest))
}

/// True for the pong.
fn see(payload: &[u8], rooms: &mut HashMap<String, Standing>) -> bool {
    const BODY: &[u8] = b",\"body\":";
    // A body is what the node says it is; what comes before it is the edge's. Quotes are escaped in names.
    let is_message = payload.starts_with(b"{\"type\":\"message\"");
    let end = payload.windows(BODY.len()).position(|window| window == BODY).filter(|_| is_message);
    let text = end.map_or_else(|| payload.to_vec(), |end| [&payload[..end], b"}"].concat());
    let json: Value =
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(payload)));
    let of = if is_message { &json } else { &json["payload"] };
    let room = of["room"].as_str().unwrap_or_default().to_owned();
    let stands = || Standing {
        epoch: of["epoch"].as_str().unwrap_or_else(|| panic!("no epoch in {json}")).to_owned(),
        seq: of["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {json}")),
    };
    match json["type"].as_str() {
        Some("joined" | "lost") => {
            assert!(matches!(&*room, "a" | "b"), "{json}");
            rooms.insert(room, stands());
        }
        Some("left") => drop(rooms.remove(&room)),
        Some("message") => {
            let standing = rooms.get_mut(&room).unwrap_or_else(|| panic!("not in {room:?}: {json}"));
            assert_eq!(json["seq"].as_u64(), standing.seq.checked_add(1), "{json} after {}", standing.seq);
            standing.seq += 1;
            if let Some(epoch) = json["epoch"].as_str() {
                assert!(standing.epoch.is_empty() || standing.epoch == epoch, "{json} in {}", standing.epoch);
                epoch.clone_into(&mut standing.epoch);
            }
        }
        Some("pong") => return json["id"] == "last",
        Some("welcome" | "ack" | "error" | "reconnect") => {}
        other => panic!("told {other:?}: {json}"),
    }
    false
}
