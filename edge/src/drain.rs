//! The paced goodbye: each client is told its own moment within a window, its socket works until then, and then closes
//! with 1012. So an edge's clients come to the others as a trickle, not as a wave.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use tokio::time::{Instant, sleep_until};

use crate::{
    close::CloseReason,
    connections::Connections,
    outbox::Outbox,
    protocol::{ServerMessage, server::ReconnectReason},
};

/// Clients told or closed between two yields.
const BATCH: usize = 256;

/// Tells all connections that are open when each is to go, and closes each then. Ends with the window.
pub(crate) async fn goodbye(connections: &Connections, window: Duration) {
    let mut leaving = connections.handles();
    // Who came first is not who goes first: clients of one page would go together.
    leaving.shuffle(&mut SmallRng::from_rng(&mut service::rng()));
    let start = Instant::now();
    for (batch, chunk) in leaving.chunks(BATCH).enumerate() {
        for (index, outbox) in chunk.iter().enumerate() {
            let after = slot(batch * BATCH + index, leaving.len(), window);
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            outbox.push(ServerMessage::reconnect(after_ms, ReconnectReason::Draining).frame());
        }
        tokio::task::yield_now().await;
    }
    let all = leaving.len();
    let mut gone = 0;
    while gone < all {
        sleep_until(start + slot(gone, all, window)).await;
        let due = leaving.iter().enumerate().skip(gone).take(BATCH);
        let due: Vec<&Arc<Outbox>> = due
            .take_while(|(index, _)| start + slot(*index, all, window) <= Instant::now())
            .map(|(_, due)| due)
            .collect();
        gone += due.len();
        for outbox in due {
            outbox.finish(CloseReason::Restarting);
        }
        tokio::task::yield_now().await;
    }
}

/// When the client at this place of so many is to go: they are spread evenly over the window, the last at its end.
fn slot(index: usize, all: usize, window: Duration) -> Duration {
    let share = (index as u128 + 1) * window.as_micros() / (all.max(1) as u128);
    Duration::from_micros(u64::try_from(share).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        task::{Context, Waker},
    };

    use super::*;
    use crate::test_support;

    #[tokio::test(start_paused = true)]
    async fn clients_go_one_by_one_each_at_the_moment_it_was_told() {
        let connections = Connections::new(usize::MAX, usize::MAX, Arc::default());
        let outboxes: Vec<_> = (0..600).map(|_| test_support::outbox()).collect();
        let places: Vec<_> = outboxes
            .iter()
            .map(|outbox| {
                let mut place = connections.reserve().unwrap();
                place.fill(outbox.clone());
                place
            })
            .collect();
        let start = Instant::now();
        let watch = async {
            let mut told = Vec::new();
            for outbox in &outboxes {
                let mut frames = VecDeque::new();
                while frames.is_empty() {
                    let _ = outbox.queue().poll_take(&Context::from_waker(Waker::noop()), &mut frames);
                    tokio::task::yield_now().await;
                }
                let message = test_support::json_of(&frames[0]);
                assert_eq!(
                    (&message["type"], &message["payload"]["reason"]),
                    (&"reconnect".into(), &"draining".into())
                );
                told.push((message["payload"]["after_ms"].as_u64().unwrap(), outbox));
            }
            told.sort_by_key(|(after_ms, _)| *after_ms);
            for (after_ms, outbox) in told {
                // It works until its moment.
                assert!(start.elapsed().as_millis() > u128::from(after_ms) || outbox.push(test_support::frame()));
                sleep_until(start + Duration::from_millis(after_ms + 2)).await;
                assert!(outbox.queue().is_closed(), "{after_ms}");
            }
        };
        tokio::join!(goodbye(&connections, Duration::from_secs(20)), watch);
        assert!((20_000..20_010).contains(&start.elapsed().as_millis()));
        drop(places);
    }

    #[test]
    fn slots_are_spread_evenly() {
        let window = Duration::from_secs(10);
        assert_eq!(slot(0, 1, window), window);
        assert_eq!(slot(0, 1000, window), Duration::from_millis(10));
        assert_eq!(slot(999, 1000, window), window);
        assert_eq!(slot(5, 10, Duration::ZERO), Duration::ZERO);
    }
}
