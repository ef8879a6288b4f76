//! An edge's pumps around a pipe in memory.

use std::{sync::Arc, time::Duration};

use edge::{
    authorize::Authorizer,
    connection::{self, Context, Pumps},
    connections::Connections,
    deliveries::Deliveries,
    hub::{self, Hub},
    keys::{self, Keys},
    metrics::Metrics,
    outbox::{Outbox, Rules},
    removals::Removals,
    session,
    upstream::{self, Grpc, Upstream, discovery::Discovery},
};
use prometheus_client::registry::Registry;
use queues::Limits;
use service::{Clock, Lifecycle};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split},
    runtime::Builder,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// What the pipe holds: more than any input brings back.
const PIPE: usize = 1 << 20;

const SECOND: Duration = Duration::from_secs(1);

/// Sends the bytes in pieces of these lengths, over and over, and returns all that came back.
pub(super) fn answer(bytes: &[u8], lengths: &[u8]) -> Vec<u8> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("make a runtime: {error}"));
    runtime.block_on(async {
        let lifecycle = Lifecycle::new();
        let (near, mut far) = duplex(PIPE);
        let (reader, writer) = split(near);
        let context = context();
        let rules = Rules { limits: Limits { frames: 1024, bytes: PIPE }, metrics: context.metrics.clone() };
        let outbox = Arc::new(Outbox::nobodys(Arc::new(rules)));
        let (pumps, drivers) = Pumps::new(1, &context.metrics.written, &CancellationToken::new());
        for driver in drivers {
            lifecycle.spawn(driver);
        }
        pumps.start(writer, outbox.clone(), SECOND);
        let echo = lifecycle.spawn(async move { connection::echo(reader, &[], &outbox, &context).await });
        let mut rest = bytes;
        for length in lengths.iter().cycle().chain(&[255]) {
            if rest.is_empty() {
                break;
            }
            let (piece, later) = rest.split_at(usize::from(*length).max(1).min(rest.len()));
            rest = later;
            if far.write_all(piece).await.is_err() {
                // It has closed, and reads no more.
                break;
            }
            // The clock moves once all are idle: the piece was read.
            sleep(Duration::from_millis(1)).await;
        }
        if lengths.is_empty() {
            let _ = far.write_all(rest).await;
            sleep(Duration::from_millis(1)).await;
        }
        let mut got = vec![0; PIPE];
        let mut have = 0;
        // All that there is; it is there.
        while let Ok(Ok(count @ 1..)) = tokio::time::timeout(Duration::from_millis(1), far.read(&mut got[have..])).await
        {
            have += count;
        }
        got.truncate(have);
        // And then the client is gone: nothing is left running.
        drop(far);
        let ended = tokio::time::timeout(SECOND * 60, echo).await;
        assert!(matches!(ended, Ok(Ok(Some(())))), "the connection did not end: {ended:?}");
        lifecycle.stop().await;
        got
    })
}

/// What the echo needs of an edge, and what it does not but must be there.
fn context() -> Context {
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let connections = Connections::new(usize::MAX, usize::MAX, metrics.clone());
    let settings = hub::Settings { shards: 1, linger: SECOND, join_timeout: SECOND, tail_bytes: 1, send_queue: 256 };
    let (clock, end) = (Clock::system(), CancellationToken::new());
    let (hub, _) = Hub::new(&settings, &connections.spread(), &clock, &Deliveries::default(), &metrics, &end);
    let keys = Keys::new(keys::Settings::default(), keys::Secrets::default());
    let discovery = Discovery::List(Vec::new());
    let transport = Arc::new(Grpc::new(&discovery, None));
    let upstream = upstream::Settings { discovery, keys: keys.clone(), name: String::new(), boot: 0, transport };
    let session = session::Settings { max_rooms: 1, publish_timeout: SECOND, rate: 1, burst: 1 };
    Context {
        settings: connection::Settings {
            ping_period: SECOND,
            pong_wait: SECOND * 30,
            write_wait: SECOND,
            max_age: None,
            max_message_bytes: 1,
            session: Arc::new(session),
        },
        hub,
        upstream: Upstream::new(upstream, metrics.clone()),
        keys,
        authorizer: Authorizer::Claims,
        removals: Arc::new(Removals::new(connections.clone(), metrics.clone())),
        connections,
        outbox_rules: Arc::new(Rules { limits: Limits { frames: 8, bytes: 1024 }, metrics: metrics.clone() }),
        metrics,
        clock,
    }
}
