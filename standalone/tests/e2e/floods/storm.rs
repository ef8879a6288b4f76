use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use serde_json::{Value, json};
use tokio::{sync::Barrier, time::sleep};

use crate::harness::{Client, Token};

/// Clients that are all cut at the same moment and come back as they are told to, each at a random moment of `reconnect_ms`,
/// to where it was in its room; again and again.
#[derive(Debug, Clone)]
pub(super) struct Storm {
    cut: Arc<Barrier>,
    clients: usize,
    returned: Arc<AtomicU64>,
}

/// Rooms of all of them together.
const ROOMS: usize = 50;

impl Storm {
    pub(super) fn of(clients: usize) -> Self {
        Self { cut: Arc::new(Barrier::new(clients)), clients, returned: Arc::default() }
    }

    /// How often all of them have come back, with nothing missed.
    pub(super) fn times(&self) -> u64 {
        self.returned.load(Ordering::Relaxed) / self.clients as u64
    }

    /// One of them. A panic leaves the others waiting, and so the storm uncounted.
    pub(super) async fn client(self, edge: SocketAddr, number: usize) {
        let (token, room) = (Token::of(&format!("stormer-{number}")).sign(), format!("storm-{}", number % ROOMS));
        let mut epoch = Value::Null;
        // In each room there is one message more each time: who comes back has missed it, or is to get it.
        for last in 1_u64.. {
            let mut client = Client::connect_apart(edge, &token).await;
            let since = json!({"epoch": epoch, "seq": last - 1});
            let asked = if last == 1 { json!({"room": room}) } else { json!({"room": room, "since": since}) };
            let joined = client.ask("join", asked).await.json["payload"].take();
            if number < ROOMS {
                client.broadcast(&room, "1").await;
            }
            if last > 1 {
                assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &since["seq"]), "{joined}");
            }
            epoch = joined["epoch"].clone();
            if joined["seq"] == last - 1 {
                let message = client.next_message().await;
                assert_eq!(message.seq(), last);
                if last == 1 {
                    epoch = message.json["epoch"].clone();
                }
            }
            if last > 1 {
                self.returned.fetch_add(1, Ordering::Relaxed);
            }
            let within = client.welcome["reconnect_ms"].as_u64().unwrap();
            self.cut.wait().await;
            drop(client);
            let moment = rand::rng().random_range(0..within);
            sleep(Duration::from_millis(moment)).await;
        }
    }
}
