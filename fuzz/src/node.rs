//! A fanout node on the memory broker, under a clock that stands still.

use std::{sync::Arc, time::Duration};

use fanout::{
    broker::{Keep, memory::Memory},
    simulation::{Node, Settings},
};
use prometheus_client::registry::Registry;
use service::{Clock, Lifecycle};
use tokio::runtime::Builder;

const MINUTE: Duration = Duration::from_mins(1);

/// Has something done with a node, and ends it: every task of it must end by itself.
pub(crate) fn with<F: Future<Output = ()>>(act: impl FnOnce(Node) -> F) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("make a runtime: {error}"));
    runtime.block_on(async {
        let lifecycle = Lifecycle::new();
        let settings = Settings { name: "node".to_owned(), shards: 1, sweep: MINUTE, dedup_window: MINUTE };
        let keep = Keep { history_size: 100, history_ttl: MINUTE, dedup_window: MINUTE };
        let broker = |events, _| Arc::new(Memory::new(keep, Clock::system(), events)) as Arc<_>;
        let node = Node::start(&settings, &mut Registry::default(), Clock::system(), broker, &lifecycle);
        act(node).await;
        lifecycle.stop().await;
    });
}
