//! One connection, from the upgrade to the end of its close handshake: a read pump that feeds the session, and a write
//! pump that empties the outbox. Both run in one task, each owning its half of the socket.
//!
//! The end has two forms. Either we close: the outbox is finished, the close frame goes out behind what is queued, and
//! we read on until the peer's, so that the code arrives rather than a reset. Or the peer does: its code is echoed.

mod context;
mod conversation;
mod heartbeat;
mod read_pump;
mod replays;
#[cfg(test)]
mod tests;
mod write_pump;

use std::{pin::pin, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::{close::CloseReason, defaults::FAREWELL, outbox::Outbox};
pub use context::{Context, Settings};
use conversation::Conversation;
pub use conversation::Guest;
use read_pump::ReadPump;
use write_pump::WritePump;

/// How one half of the connection ended first.
enum Ended {
    /// The conversation: with the peer's close, an error, or a reason of ours to close.
    Conversation(CloseReason),
    /// The write pump: the outbox was closed by others, and the close frame is out.
    Writing(CloseReason),
}

/// Runs a connection to its end. `leftover`: what the client sent right behind its request for the upgrade.
pub async fn run<R, W>(reader: R, writer: W, leftover: &[u8], guest: Guest, outbox: Arc<Outbox>, context: Arc<Context>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let settings = &context.settings;
    let mut pump = WritePump::new(writer, &outbox, settings.write_wait);
    let mut conversation = Conversation::new(
        ReadPump::new(reader, leftover, settings.max_message_bytes),
        guest,
        outbox.clone(),
        context.clone(),
    );
    let reason = {
        let mut writing = pin!(pump.run());
        let ended = tokio::select! {
            reason = &mut writing => Ended::Writing(reason),
            reason = conversation.run() => Ended::Conversation(reason),
        };
        match ended {
            Ended::Writing(reason) => {
                // The peer may never answer.
                let _ = timeout(settings.write_wait, drain(&mut conversation.reader, reason)).await;
                reason
            }
            Ended::Conversation(CloseReason::Gone) => CloseReason::Gone,
            Ended::Conversation(reason) => {
                outbox.finish(reason);
                // Reading on meanwhile, so that a peer that is writing is not stuck.
                let mut draining = pin!(drain(&mut conversation.reader, reason));
                tokio::select! {
                    biased;
                    // If the outbox was closed before, that reason stands.
                    reason = &mut writing => {
                        let _ = timeout(settings.write_wait, draining).await;
                        reason
                    }
                    () = &mut draining => writing.await,
                }
            }
        }
    };
    // Whoever still holds the handle need not fill it.
    outbox.queue().cut(CloseReason::Gone);
    conversation.leave_all().await;
    context.metrics.closed(reason);
    tracing::debug!(user = outbox.user(), reason = reason.label(), "connection closed");
}

/// Runs a connection whose outbox was finished before it began: sends what is queued, and waits for the peer to close.
pub async fn farewell<R, W>(reader: R, writer: W, leftover: &[u8], outbox: &Outbox, context: &Context)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Settings { write_wait, max_message_bytes, .. } = context.settings;
    let reason = WritePump::new(writer, outbox, write_wait.min(FAREWELL)).run().await;
    let mut reader = ReadPump::new(reader, leftover, max_message_bytes);
    let _ = timeout(FAREWELL, drain(&mut reader, reason)).await;
    context.metrics.closed(reason);
}

/// Reads on until the peer has closed as well, as far as it makes sense after this reason.
async fn drain<R: AsyncRead + Unpin>(reader: &mut ReadPump<R>, reason: CloseReason) {
    match reason {
        CloseReason::Peer(_) | CloseReason::Gone | CloseReason::WriteTimeout => {}
        // What follows an error in the stream has no frames to be found.
        CloseReason::ProtocolError | CloseReason::MessageTooLarge | CloseReason::BadUtf8 => reader.drain_bytes().await,
        _ => reader.drain().await,
    }
}
