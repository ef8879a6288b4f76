//! What is measured: a cluster of ours, or the floor. Both take publications and deliver them to a swarm.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use proto::wire::{PublishRequest, publish_result, publisher_client::PublisherClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    payload::Stamp,
    processes::{Cluster, Server, Shape},
    swarm::{Opening, Swarm},
};

/// Publications between us and the stream's task.
const QUEUE: usize = 64;

/// Servers with members in one room, and a way to publish to it.
#[derive(Debug)]
pub(crate) struct Target {
    servers: Servers,
    publisher: Publisher,
    pub(crate) swarm: Swarm,
    pub(crate) members: usize,
    next: u64,
}

#[derive(Debug)]
enum Servers {
    Floor(Server),
    Ours(Cluster),
}

#[derive(Debug)]
enum Publisher {
    Control(TcpStream),
    Stream { requests: mpsc::Sender<PublishRequest>, results: JoinSet<anyhow::Result<()>> },
}

const ROOM: &str = "benchmark-room";

impl Target {
    pub(crate) async fn floor(members: usize, batched: bool, padding: usize) -> anyhow::Result<Self> {
        let arguments = [format!("--padding={padding}"), format!("--batched={batched}")];
        let server = Server::floor(&arguments)?;
        let address = server.address("ws")?;
        let mut control = TcpStream::connect(address).await?;
        control.set_nodelay(true)?;
        control.write_all(&u64::try_from(members)?.to_be_bytes()).await?;
        let swarm = Swarm::connect(&[address], vec![Opening::Bare; members]).await?;
        control.read_u8().await.context("the floor")?;
        Ok(Self { servers: Servers::Floor(server), publisher: Publisher::Control(control), swarm, members, next: 0 })
    }

    pub(crate) async fn ours(members: usize, shape: Shape) -> anyhow::Result<Self> {
        let cluster = Cluster::start(shape)?;
        let swarm = Swarm::connect(&cluster.edges, vec![Opening::Room(ROOM.to_owned()); members]).await?;
        let publisher = Publisher::stream(cluster.api).await?;
        Ok(Self { servers: Servers::Ours(cluster), publisher, swarm, members, next: 0 })
    }

    /// Sends the next publication, stamped with this time.
    pub(crate) async fn publish(&mut self, sent_ns: u64) -> anyhow::Result<()> {
        let stamp = Stamp { sent_ns, number: self.next };
        self.swarm.tally.sent(self.next, self.members);
        self.next += 1;
        match &mut self.publisher {
            Publisher::Control(control) => control.write_all(stamp.body().as_bytes()).await?,
            Publisher::Stream { requests, results } => {
                if let Some(ended) = results.try_join_next() {
                    ended??;
                }
                let request =
                    PublishRequest { room: ROOM.to_owned(), body: stamp.body().into(), ..PublishRequest::default() };
                requests.send(request).await.context("the publish stream ended")?;
            }
        }
        Ok(())
    }

    /// CPU time of the servers so far, by kind.
    pub(crate) fn cpu(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        match &self.servers {
            Servers::Floor(server) => Ok(vec![(server.name, server.cpu()?)]),
            Servers::Ours(cluster) => cluster.cpu(),
        }
    }
}

impl Publisher {
    async fn stream(api: SocketAddr) -> anyhow::Result<Self> {
        let mut client = PublisherClient::connect(format!("http://{api}")).await?;
        let (requests, stream) = mpsc::channel(QUEUE);
        let mut results = JoinSet::new();
        results.spawn_local(async move {
            let mut results = client.publish_stream(ReceiverStream::new(stream)).await?.into_inner();
            while let Some(result) = results.message().await? {
                if let Some(publish_result::Result::Error(error)) = result.result {
                    bail!("a publication was refused: {}", error.message);
                }
            }
            Ok(())
        });
        Ok(Self::Stream { requests, results })
    }
}
