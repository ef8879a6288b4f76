//! `PublishStream`: results in the order of the requests, many under way; read no faster than the store takes.

use std::{collections::VecDeque, future::poll_fn, task::Poll, time::Duration};

use futures_util::{Stream, stream::unfold};
use proto::wire::{PublishRequest, PublishResult};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{offer, result, settle};
use crate::{
    auth::Caller,
    broker::{Receipt, StoreError},
    defaults::{BUSY_PAUSE, BUSY_PAUSE_MAX, STREAM_PUBLISH_BYTES, STREAM_PUBLISHES},
    grpc::status,
    publishing::{Accepted, Begun, PublishError, Publishing},
};

/// One stream's state.
struct Results {
    publishing: Publishing,
    from: Caller,
    requests: Streaming<PublishRequest>,
    /// Offered, with the bytes each holds.
    offered: VecDeque<(Result<Accepted, PublishError>, usize)>,
    bytes: usize,
    /// Taken from the stream, but the queue was full.
    refused: Option<Refused>,
    ended: bool,
    /// The node drains: no more is read, what was is answered, and the client told.
    drain: CancellationToken,
}

/// One that is to be offered again.
struct Refused {
    request: PublishRequest,
    begun: Begun,
    again: Instant,
    pause: Duration,
}

pub(super) fn results(
    publishing: Publishing,
    from: Caller,
    requests: Streaming<PublishRequest>,
    drain: CancellationToken,
) -> impl Stream<Item = Result<PublishResult, Status>> {
    let offered = VecDeque::new();
    let results = Results { publishing, from, requests, offered, bytes: 0, refused: None, ended: false, drain };
    unfold(Some(results), |results| async {
        let mut results = results?;
        match results.next().await {
            Ok(Some(published)) => Some((Ok(result(published)), Some(results))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl Results {
    /// The next result, taking in requests meanwhile.
    async fn next(&mut self) -> Result<Option<Result<Receipt, PublishError>>, Status> {
        loop {
            let more = !self.ended
                && self.refused.is_none()
                && self.offered.len() < STREAM_PUBLISHES
                && self.bytes < STREAM_PUBLISH_BYTES;
            let again = self.refused.as_ref().map(|refused| refused.again);
            tokio::select! {
                biased;
                request = self.requests.message(), if more => match request.map_err(|status| self.unread(status))? {
                    Some(request) => {
                        let begun = self.publishing.begin(&request.traceparent);
                        self.offer(request, begun, None);
                    }
                    None => self.ended = true,
                },
                result = first(&mut self.offered), if !self.offered.is_empty() => {
                    if let Some((_, bytes)) = self.offered.pop_front() {
                        self.bytes -= bytes;
                    }
                    return Ok(Some(settle(&self.publishing, result.map(std::future::ready)).await));
                }
                // Before anything newer: requests to one room are stored in order.
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    if let Some(Refused { request, begun, pause, .. }) = self.refused.take() {
                        self.offer(request, begun, Some(pause));
                    }
                }
                () = self.drain.cancelled(), if !self.ended => self.ended = true,
                else => return if self.drain.is_cancelled() { Err(status::draining()) } else { Ok(None) },
            }
        }
    }

    /// The stream ends with it. One that is too large is no fault of the connection's.
    fn unread(&self, status: Status) -> Status {
        let status = status::of_requests(status);
        if status.code() == Code::InvalidArgument {
            self.publishing.metrics.called("PublishStream", status::label(status.code()));
        }
        status
    }

    /// `paused`: it was offered before, so long ago.
    fn offer(&mut self, request: PublishRequest, begun: Begun, paused: Option<Duration>) {
        let pending = self.publishing.publish(offer(&self.from, &request, begun.clone()));
        if matches!(pending, Err(PublishError::Store(StoreError::Busy))) {
            self.publishing.metrics.stream_full.inc_by(paused.is_none().into());
            let pause = paused.map_or(BUSY_PAUSE, |paused| (2 * paused).min(BUSY_PAUSE_MAX));
            self.refused = Some(Refused { request, begun, again: Instant::now() + pause, pause });
        } else {
            let bytes = request.body.len();
            self.bytes += bytes;
            self.offered.push_back((pending, bytes));
        }
    }
}

/// The result of the oldest, left in place. Cancel-safe.
async fn first(
    offered: &mut VecDeque<(Result<Accepted, PublishError>, usize)>,
) -> Result<Result<Receipt, StoreError>, PublishError> {
    poll_fn(|cx| match offered.front_mut() {
        Some((Ok(pending), _)) => std::pin::Pin::new(pending).poll(cx).map(Ok),
        Some((Err(error), _)) => Poll::Ready(Err(*error)),
        None => Poll::Pending,
    })
    .await
}
