//! An edge whose tasks all run on the test's thread, and only while the test waits.

use std::{net::SocketAddr, thread::JoinHandle, time::Duration};

use allocation_counter::{AllocationInfo, measure};
use clap::Parser as _;
use edge::config::{Config, Flags, Secrets};
use service::{Lifecycle, settings::Secret};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::node::Node;

pub(crate) const SECRET: &str = "the secret of the gates, 32 bytes and more";

/// For anything that must happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// For what is under way when the clients have what they wait for. If it is not done by then, it counts, and a gate fails
/// rather than passes.
const SETTLING: Duration = Duration::from_millis(300);

/// See the module.
pub(crate) struct Subject {
    runtime: Runtime,
    lifecycle: Lifecycle,
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
}

impl Subject {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let lifecycle = Lifecycle::new();
        let node = Node::start();
        let flags = [
            "edge".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--ops-listen=127.0.0.1:0".to_owned(),
            format!("--fanout-addr=http://{}", node.address),
        ];
        let mut secrets = Secrets::default();
        secrets.keys.jwt = vec![Secret::new(SECRET.to_owned())];
        let config = Config::new(Flags::try_parse_from(flags).unwrap(), secrets).unwrap();
        let bound = runtime.block_on(edge::serve(config, &lifecycle)).unwrap();
        let mut subject = Self { runtime, lifecycle, node, address: bound.ws };
        let linked = subject.node.linked();
        subject.runtime.block_on(async { timeout(PATIENCE, linked).await }).unwrap().unwrap();
        subject
    }

    /// Runs the edge until the clients' work is done; what they bring, and what the edge allocated and freed meanwhile.
    pub(crate) fn during<T: Send + 'static>(
        &self,
        clients: impl FnOnce() -> T + Send + 'static,
    ) -> (T, AllocationInfo) {
        let (done, told) = oneshot::channel();
        let clients: JoinHandle<T> = std::thread::spawn(move || {
            let result = clients();
            let _ = done.send(());
            result
        });
        let info = measure(|| {
            self.runtime.block_on(async {
                // Also ends if the clients panicked.
                let _ = timeout(PATIENCE, told).await.unwrap();
                sleep(SETTLING).await;
            });
        });
        (clients.join().unwrap(), info)
    }

    /// Ends the edge, once its clients are gone.
    pub(crate) fn finish(self) {
        let Self { runtime, lifecycle, node, .. } = self;
        assert!(runtime.block_on(lifecycle.finish(PATIENCE)), "every task ended");
        node.finish();
    }
}
