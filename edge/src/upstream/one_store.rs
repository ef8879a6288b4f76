use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long nodes may name different stores, as during a change of it, before the edge takes no more sockets.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether all fanout nodes share one store. If not, a room's members see different publications, depending on which
/// node serves them: somebody must act.
#[derive(Debug, Default)]
pub(super) struct OneStore {
    split_since: Mutex<Option<Instant>>,
}

impl OneStore {
    /// So many different stores are named by the nodes that are up.
    pub(super) fn seen(&self, stores: usize) {
        let mut since = self.split_since.lock().unwrap_or_else(PoisonError::into_inner);
        match (stores > 1, *since) {
            (true, None) => {
                tracing::error!(stores, "fanout nodes do not share one store: check REDIS_ADDR and REDIS_PREFIX");
                *since = Some(Instant::now());
            }
            (false, Some(_)) => {
                tracing::info!("fanout nodes share one store again");
                *since = None;
            }
            _ => {}
        }
    }

    /// False once it has lasted too long.
    pub(super) fn is_well(&self) -> bool {
        let since = self.split_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| since.elapsed() < PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_stores_are_no_matter_for_a_while() {
        let one_store = OneStore::default();
        one_store.seen(1);
        one_store.seen(2);
        tokio::time::advance(Duration::from_secs(29)).await;
        one_store.seen(2);
        assert!(one_store.is_well());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!one_store.is_well());
        one_store.seen(1);
        assert!(one_store.is_well());
        one_store.seen(2);
        assert!(one_store.is_well());
    }
}
