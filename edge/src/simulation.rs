//! What the simulation needs beside what is public.

use std::{sync::Arc, time::Duration};

use service::Lifecycle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::connections::Connections;

/// Brings an edge to its end once its lifecycle drains: the paced goodbye, then hub and links.
pub async fn drain(
    lifecycle: Lifecycle,
    connections: Arc<Connections>,
    window: Duration,
    sockets: TaskTracker,
    end: CancellationToken,
) {
    crate::server::drain(lifecycle, connections, window, sockets, end, CancellationToken::new()).await;
}
