//! One connection, from the upgrade to the end of its close handshake: a read pump that feeds the session, and a write
//! pump that empties the outbox, each owning its half of the socket. The read pump has a task of its own; write pumps are
//! driven together ([`Pumps`]), so that a room's walk wakes one task rather than thousands.
//!
//! The end has two forms. Either we close: the outbox is finished, the close frame goes out behind what is queued, and
//! we read on until the peer's, so that the code arrives rather than a reset. Or the peer does: its code is echoed.

mod context;
mod conversation;
mod echo;
mod frame_watch;
mod guest;
mod heartbeat;
mod pumps;
mod read_pump;
mod replays;
mod socket;
#[cfg(test)]
mod tests;
mod write_pump;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{io::AsyncRead, time::timeout};

use crate::{
    close::CloseReason,
    defaults::{ECHO_MESSAGE_BYTES, FAREWELL},
    outbox::Outbox,
};
pub use context::{Context, Settings};
use conversation::Conversation;
pub use guest::{Arrival, Guest};
pub use pumps::Pumps;
use read_pump::ReadPump;
pub use socket::{SocketReader, SocketWriter, split};

/// How one half of the connection ended first.
enum Ended {
    /// Reading: with the peer's close, an error, or a reason of ours to close.
    Reading(CloseReason),
    /// The write pump: the outbox was closed by others, and the close frame is out.
    Writing(CloseReason),
}

/// Welcomes a client, and runs its connection to the end; its write pump is to be started. `answer`: what is to be sent
/// before the welcome, along with it. `leftover`: what the client sent right behind its request for the upgrade.
///
/// The future is what an idle connection costs. A future has a place for each value that is moved into it or within it,
/// and for each that it waits for; so what is large, or there only at times, is boxed.
pub fn run<R>(
    reader: R,
    answer: &[u8],
    leftover: &[u8],
    guest: Guest,
    outbox: Arc<Outbox>,
    context: Arc<Context>,
) -> impl Future<Output = ()> + Send + use<R>
where
    R: AsyncRead + Unpin + Send,
{
    let reader = ReadPump::new(reader, leftover, context.settings.max_message_bytes);
    let conversation = Box::new(Conversation::new(reader, guest, outbox, context));
    conversation.welcome(answer);
    run_to_end(conversation)
}

async fn run_to_end<R>(mut conversation: Box<Conversation<R>>)
where
    R: AsyncRead + Unpin + Send,
{
    let (outbox, context) = (conversation.outbox.clone(), conversation.context.clone());
    let ended = tokio::select! {
        // First, so that whoever wakes the outbox's owner wakes us before the conversation has looked for anything.
        biased;
        reason = outbox.ended() => Ended::Writing(reason),
        reason = conversation.run() => Ended::Reading(reason),
    };
    let reason = Box::pin(close(ended, &mut conversation.reader, &outbox, context.settings.write_wait)).await;
    // Whoever still holds the handle need not fill it.
    outbox.queue().cut(CloseReason::Gone);
    Box::pin(conversation.leave_all()).await;
    context.metrics.closed(reason);
    tracing::debug!(user = outbox.user(), reason = reason.label(), "connection closed");
}

/// Runs a connection that gets its messages back, to its end, for conformance suites: between the same two pumps as any
/// other.
pub async fn echo<R>(reader: R, leftover: &[u8], outbox: &Outbox, context: &Context)
where
    R: AsyncRead + Unpin,
{
    let settings = &context.settings;
    let mut reader = ReadPump::new(reader, leftover, ECHO_MESSAGE_BYTES);
    let ended = tokio::select! {
        reason = outbox.ended() => Ended::Writing(reason),
        reason = echo::echo(&mut reader, outbox, settings.pong_wait) => Ended::Reading(reason),
    };
    let reason = close(ended, &mut reader, outbox, settings.write_wait).await;
    outbox.queue().cut(CloseReason::Gone);
    context.metrics.closed(reason);
}

/// Closes a connection of which one half has ended. Returns why it ended.
async fn close<R>(ended: Ended, reader: &mut ReadPump<R>, outbox: &Outbox, write_wait: Duration) -> CloseReason
where
    R: AsyncRead + Unpin,
{
    match ended {
        Ended::Writing(reason) => {
            // The peer may never answer.
            let _ = timeout(write_wait, drain(reader, reason)).await;
            reason
        }
        Ended::Reading(CloseReason::Gone) => CloseReason::Gone,
        Ended::Reading(reason) => {
            outbox.finish(reason);
            // Reading on meanwhile, so that a peer that is writing is not stuck.
            let mut draining = pin!(drain(reader, reason));
            tokio::select! {
                biased;
                // If the outbox was closed before, that reason stands.
                reason = outbox.ended() => {
                    let _ = timeout(write_wait, draining).await;
                    reason
                }
                () = &mut draining => outbox.ended().await,
            }
        }
    }
}

/// Runs a connection whose outbox was finished before it began: what is queued is sent, and the peer closes.
pub async fn farewell<R>(reader: R, leftover: &[u8], outbox: &Outbox, context: &Context)
where
    R: AsyncRead + Unpin,
{
    let reason = outbox.ended().await;
    let mut reader = ReadPump::new(reader, leftover, context.settings.max_message_bytes);
    let _ = timeout(FAREWELL, drain(&mut reader, reason)).await;
    context.metrics.closed(reason);
}

/// Reads on until the peer has closed as well, as far as it makes sense after this reason.
async fn drain<R: AsyncRead + Unpin>(reader: &mut ReadPump<R>, reason: CloseReason) {
    match reason {
        CloseReason::Peer(_) | CloseReason::Gone | CloseReason::WriteTimeout => {}
        _ if reason.is_of_the_stream() => reader.drain_bytes().await,
        _ => reader.drain().await,
    }
}
