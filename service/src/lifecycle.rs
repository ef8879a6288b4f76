//! Two-stage shutdown. First *drain*: unready, no new work, what is open is brought to an orderly end. When all tasks
//! are done, or the time is up, *stop*: every task still running is dropped. The last wait has a limit, too.

mod until_stopped;

use std::{future::Future, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use until_stopped::UntilStopped;

/// How long tasks may take to be dropped once stopped. They only have to reach their next await.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The tasks of one tier and the two signals that end them. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    drain: CancellationToken,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    pub fn new() -> Self {
        let stop = CancellationToken::new();
        // To stop is also to drain: what waits for the softer signal must not outlive the harder one.
        Self { drain: stop.child_token(), stop, tracker: TaskTracker::new() }
    }

    /// Cancelled when the tier should bring what is open to an end.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Tasks still running.
    pub fn tasks(&self) -> usize {
        self.tracker.len()
    }

    /// Spawns a task that ends by itself when draining, and is dropped when stopped.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[cfg(simulation)]
        let task = crate::simulation::shaken(task);
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns, on the tracker")]
        tokio::spawn(self.tracker.track_future(UntilStopped::new(self.stop.clone(), task)))
    }

    /// As [`Self::spawn`], for a task without which the tier is no use: when it ends, even by a panic, the tier drains.
    pub fn spawn_vital<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard: DropGuard = self.drain.clone().drop_guard();
        self.spawn(async move {
            let output = task.await;
            drop(guard);
            output
        })
    }

    /// As [`Self::spawn_vital`], for a task that this token ends: that end was asked for, and is no reason to drain.
    pub fn spawn_vital_until<F>(&self, end: CancellationToken, task: F) -> JoinHandle<Option<()>>
    where
        F: Future + Send + 'static,
    {
        let guard: DropGuard = self.drain.clone().drop_guard();
        self.spawn(async move {
            end.run_until_cancelled(task).await;
            // Whichever of the two was seen first.
            if end.is_cancelled() {
                guard.disarm();
            }
        })
    }

    /// Drains, waits for all tasks up to `limit`, then stops those left. True when every task ended, by itself or not.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.drain.cancel();
        self.tracker.close();
        if timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), ?limit, "drain took too long: stopping what is left");
        }
        self.stop().await
    }

    /// Drops every task that is left. True when all ended.
    pub async fn stop(&self) -> bool {
        self.tracker.close();
        self.stop.cancel();
        let empty = timeout(STOP_LIMIT, self.tracker.wait()).await.is_ok();
        if !empty {
            tracing::error!(tasks = self.tracker.len(), "tasks did not end");
        }
        empty
    }

    /// Waits for SIGTERM, SIGINT or the end of a vital task, then finishes. A second signal stops at once. The signals are
    /// caught from an earlier moment on: one that comes between a process's first word and this call counts as well.
    /// Success is an end that was asked for, with every task ended.
    pub async fn run(&self, mut signals: Signals, limit: Duration) -> ExitCode {
        let asked = tokio::select! {
            name = signals.next() => { tracing::info!(signal = name, "shutting down"); true }
            () = self.drain.cancelled() => { tracing::error!("a vital task ended: shutting down"); false }
        };
        let empty = tokio::select! {
            empty = self.finish(limit) => empty,
            name = signals.next() => {
                tracing::warn!(signal = name, "second signal: stopping at once");
                self.finish(Duration::ZERO).await
            }
        };
        tracing::info!(tasks = self.tracker.len(), "shut down");
        if asked && empty { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The signals that ask a process to end.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_end_by_themselves_when_draining() {
        let lifecycle = Lifecycle::new();
        let drain = lifecycle.drain().clone();
        let task = lifecycle.spawn(async move { drain.cancelled().await });
        assert!(lifecycle.finish(Duration::from_secs(1)).await);
        assert_eq!(task.await.unwrap(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_do_not_are_dropped_after_the_limit() {
        let lifecycle = Lifecycle::new();
        let task = lifecycle.spawn(std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        assert!(lifecycle.finish(Duration::from_secs(40)).await);
        assert_eq!(start.elapsed().as_secs(), 40);
        assert_eq!(task.await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_vital_task_drains() {
        let lifecycle = Lifecycle::new();
        let task = lifecycle.spawn_vital(async { panic!("on purpose") });
        lifecycle.drain().cancelled().await;
        assert!(task.await.is_err());
        assert!(lifecycle.finish(Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_task_may_be_ended_by_its_token_and_by_nothing_else() {
        let lifecycle = Lifecycle::new();
        let end = CancellationToken::new();
        let hangs = lifecycle.spawn_vital_until(end.clone(), std::future::pending::<()>());
        let looks = lifecycle.spawn_vital_until(end.clone(), end.clone().cancelled_owned());
        end.cancel();
        hangs.await.unwrap().unwrap();
        looks.await.unwrap().unwrap();
        assert!(!lifecycle.is_draining());
        let task = lifecycle.spawn_vital_until(CancellationToken::new(), async {});
        task.await.unwrap().unwrap();
        assert!(lifecycle.is_draining());
    }
}
