use std::time::Duration;

use tokio::{io::AsyncRead, time::timeout};

use super::read_pump::{ReadPump, Received};
use crate::{close::CloseReason, outbox::Outbox, protocol::frame};

/// Sends each message back as it came, for conformance suites. Sends nothing by itself: no welcome, no Ping. Returns why
/// the connection is to close.
pub(super) async fn echo<R>(reader: &mut ReadPump<R>, outbox: &Outbox, pong_wait: Duration) -> CloseReason
where
    R: AsyncRead + Unpin,
{
    loop {
        // What is not read does not wait here.
        outbox.low().await;
        let received = match timeout(pong_wait, reader.next()).await {
            Ok(Ok(received)) => received,
            Ok(Err(reason)) => return reason,
            Err(_) => return CloseReason::PingTimeout,
        };
        for answer in reader.take_answers() {
            outbox.push(answer);
        }
        match received {
            Received::Text(text) => outbox.push(frame::text(text.as_bytes())),
            Received::Binary(bytes) => outbox.push(frame::binary(&bytes)),
            Received::Control | Received::Part => continue,
        };
    }
}
