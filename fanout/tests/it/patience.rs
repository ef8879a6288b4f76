//! Waiting for what is to come, with a limit.

use std::time::Duration;

use service::Lifecycle;
use tokio::time::timeout;

/// How long an event may take to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// Asks until the answer is true.
pub(crate) async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Ends what runs on the lifecycle; every task must end by itself.
pub(crate) async fn finish(lifecycle: &Lifecycle) {
    assert!(soon("the end", lifecycle.finish(10 * PATIENCE)).await);
    assert_eq!(lifecycle.tasks(), 0);
}
