use std::{net::SocketAddr, sync::Arc, time::Duration};

use proto::wire::{PublishRequest, publisher_client::PublisherClient};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{Instant, interval_at, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

use super::{World, ledger::Source};

/// After this an answer is not waited for any longer: it may have been stored.
const ANSWER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// The publish APIs that there are.
#[derive(Debug)]
pub(super) struct Apis(watch::Sender<Vec<PublisherClient<Channel>>>);

impl Apis {
    pub(super) fn new(apis: &[SocketAddr]) -> Self {
        Self(watch::Sender::new(clients(apis)))
    }

    pub(super) fn set(&self, apis: &[SocketAddr]) {
        self.0.send_replace(clients(apis));
    }

    /// Any of them; another for another number.
    fn any(&self, number: usize) -> PublisherClient<Channel> {
        let apis = self.0.borrow();
        apis[number % apis.len()].clone()
    }
}

fn clients(apis: &[SocketAddr]) -> Vec<PublisherClient<Channel>> {
    let client = |api: &SocketAddr| {
        let endpoint = Endpoint::from_shared(format!("http://{api}")).unwrap().tcp_nodelay(true);
        PublisherClient::new(endpoint.connect_lazy())
    };
    apis.iter().map(client).collect()
}

/// Publishes to a room, one after the other, each until it is acknowledged, at whichever node answers.
pub(super) async fn run(room: usize, world: Arc<World>) {
    let by = Source::try_from(room).unwrap();
    let every = world.plan.every;
    let first = every.mul_f64(rand::rng().random_range(0.0..=1.0));
    // What an outage holds up is made up for afterwards, so that all runs publish as much.
    let mut ticks = interval_at(Instant::now() + first, every);
    let mut attempts = room;
    let mut publishing = world.publishing.subscribe();
    loop {
        tokio::select! {
            _ = publishing.wait_for(|publishing| !publishing) => return,
            _ = ticks.tick() => {}
        }
        let publication = world.ledger.issue(room, by);
        let request = PublishRequest {
            room: world.room_name(room),
            body: publication.body().into(),
            key: publication.key(),
            ..PublishRequest::default()
        };
        let mut first = true;
        loop {
            let mut api = world.apis.any(attempts);
            let answer = timeout(ANSWER, api.publish(request.clone())).await;
            if let Ok(Ok(answer)) = answer {
                let answer = answer.into_inner();
                if first && answer.duplicate {
                    world.ledger.wrong(format!("room {room}: {publication:?} was a duplicate at first"));
                }
                world.ledger.acknowledged(room, answer.position.unwrap().seq, publication);
                break;
            }
            first = false;
            attempts += 1;
            world.returns.lock().unwrap().repeated += 1;
            sleep(PAUSE).await;
        }
    }
}
