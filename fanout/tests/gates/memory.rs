//! Bytes that a room on a link keeps allocated.

use std::{net::SocketAddr, thread, time::Duration};

use allocation_counter::{AllocationInfo, measure};
use fanout::config::Config;
use service::Lifecycle;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::edge::Edge;

const PATIENCE: Duration = Duration::from_mins(1);

/// For what is under way when the edge has its answers. If it is not done by then, it counts.
const SETTLING: Duration = Duration::from_millis(300);

/// Half-way between two powers of two, so that what grows by doubling counts with its mean slack.
const ROOMS: usize = 12 << 10;

const WARM: usize = 1024;

const BYTES_PER_ROOM: i64 = 300;

/// Runs the node until the edge's work is done.
fn during<T: Send + 'static>(runtime: &Runtime, edge: impl FnOnce() -> T + Send + 'static) -> (T, AllocationInfo) {
    let (done, told) = oneshot::channel();
    let edge = thread::spawn(move || {
        let result = edge();
        let _ = done.send(());
        result
    });
    let info = measure(|| {
        runtime.block_on(async {
            // Also ends if the edge panicked.
            let _ = timeout(PATIENCE, told).await.unwrap();
            sleep(SETTLING).await;
        });
    });
    (edge.join().unwrap(), info)
}

/// Bytes for each room that an edge wants, and for each that a second edge wants as well.
fn bytes(runtime: &Runtime, to: SocketAddr) -> (i64, i64) {
    let attach_and_want = move || {
        let mut edge = Edge::attach(to);
        // Buffers have grown by then to what one message takes.
        edge.want(0..WARM);
        edge
    };
    let mut edges = Vec::new();
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let (mut edge, _) = during(runtime, attach_and_want);
        let (edge, info) = during(runtime, move || {
            edge.want(WARM..WARM + ROOMS);
            edge
        });
        bytes.push(info.bytes_current / i64::try_from(ROOMS).unwrap());
        edges.push(edge);
    }
    drop(edges);
    (bytes[0], bytes[1])
}

#[test]
fn a_room_on_a_link() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let lifecycle = Lifecycle::new();
    let bound = runtime.block_on(fanout::serve(Config::for_development(), &lifecycle)).unwrap();
    let (first, second) = bytes(&runtime, bound.link);
    println!("{first} bytes per room of one link, {second} more for a second one");
    assert!(first <= BYTES_PER_ROOM, "{first} bytes per room of one link");
    assert!(second <= BYTES_PER_ROOM, "{second} bytes per room of a further link");
    assert!(first > 64 && second > 32, "not counted right");
    assert!(runtime.block_on(lifecycle.finish(PATIENCE)), "every task ended");
}
