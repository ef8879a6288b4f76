use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pin_project! {
    /// A task until it ends, or is told to stop. Like `CancellationToken::run_until_cancelled_owned`, which takes three
    /// times the memory, as each of its steps keeps a place for the task: for an idle connection that is the most it has.
    pub(super) struct UntilStopped<F> {
        #[pin]
        stop: WaitForCancellationFutureOwned,
        #[pin]
        task: F,
    }
}

impl<F> UntilStopped<F> {
    pub(super) fn new(stop: CancellationToken, task: F) -> Self {
        Self { stop: stop.cancelled_owned(), task }
    }
}

impl<F: Future> Future for UntilStopped<F> {
    /// None if it was stopped.
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.stop.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        this.task.poll(cx).map(Some)
    }
}
