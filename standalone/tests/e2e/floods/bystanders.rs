use std::time::Duration;

use proto::wire::publisher_client::PublisherClient;
use tokio::time::{Instant, interval};
use tonic::transport::Channel;

use crate::harness::{Client, Edge, Stage, publish_body};

/// Members of the room.
const MEMBERS: usize = 10;

/// A publication each 20 ms; with each tenth a newcomer.
const PACE: Duration = Duration::from_millis(20);

/// Clients that have no part in a flood, and their publisher.
#[derive(Debug)]
pub(super) struct Bystanders<'a> {
    edge: &'a Edge,
    clients: Vec<Client>,
    publisher: PublisherClient<Channel>,
    seq: u64,
}

/// The 99th percentile of how long it took: from a publication to the last member, and from nothing to a welcome.
#[derive(Debug, Clone, Copy)]
pub(super) struct Felt {
    pub(super) delivery: Duration,
    pub(super) connect: Duration,
}

impl<'a> Bystanders<'a> {
    pub(super) async fn of(stage: &'a Stage) -> Self {
        let edge = stage.edge(0);
        let mut clients = Vec::new();
        for number in 0..MEMBERS {
            let mut client = edge.connect(&format!("bystander-{number}")).await;
            client.join("square").await;
            clients.push(client);
        }
        Self { edge, clients, publisher: stage.fanout(0).grpc().await, seq: 0 }
    }

    /// What they feel now, by so many publications. Each must reach all of them, and each newcomer, if there are any, be
    /// let in.
    pub(super) async fn watch(&mut self, publications: usize, newcomers: bool) -> Felt {
        let (mut deliveries, mut connects) = (Vec::new(), Vec::new());
        let mut ticks = interval(PACE);
        for number in 0..publications {
            ticks.tick().await;
            let start = Instant::now();
            self.publisher.publish(publish_body("square", "1")).await.unwrap();
            self.seq += 1;
            for client in &mut self.clients {
                assert_eq!(client.next_message().await.seq(), self.seq);
            }
            deliveries.push(start.elapsed());
            if newcomers && number % 10 == 0 {
                let start = Instant::now();
                self.edge.connect("newcomer").await;
                connects.push(start.elapsed());
            }
        }
        Felt { delivery: p99(deliveries), connect: p99(connects) }
    }
}

fn p99(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    (all.len() * 99).div_ceil(100).checked_sub(1).map_or(Duration::ZERO, |index| all[index])
}
