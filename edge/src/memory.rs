//! Whether there is memory for more sockets (`MEMORY_LIMIT`).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use service::memory;

/// How often it is looked at: a flood of new sockets takes longer to fill what is kept free.
const LOOK: Duration = Duration::from_millis(250);

/// Above its limit an edge takes no new sockets, and keeps those it has.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    full: AtomicBool,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, full: AtomicBool::new(false) }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Looks again and again; never ends.
    pub(crate) async fn watch(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            match memory::resident() {
                Ok(bytes) => self.see(bytes),
                Err(error) => tracing::warn!(%error, "read how much memory is used"),
            }
        }
    }

    fn see(&self, bytes: u64) {
        let full = bytes > self.limit;
        if self.full.swap(full, Ordering::Relaxed) != full {
            let limit = self.limit;
            if full {
                tracing::warn!(bytes, limit, "over MEMORY_LIMIT: new sockets are refused");
            } else {
                tracing::info!(bytes, limit, "below MEMORY_LIMIT again: new sockets are taken");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_while_it_is_over_the_limit() {
        let memory = Memory::new(1000);
        for (bytes, full) in [(1000, false), (1001, true), (2000, true), (999, false)] {
            memory.see(bytes);
            assert_eq!(memory.is_full(), full, "{bytes}");
        }
    }
}
