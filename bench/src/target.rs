//! What is measured: a cluster of ours, or the floor. Both take publications and deliver them to a swarm.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    payload::Stamp,
    processes::{Cluster, Server, Shape},
    publisher::{By, Publisher, room_name},
    scrape::Scrape,
    swarm::{Opening, Swarm},
};

/// Who is in which room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Of all rooms together.
    pub(crate) members: usize,
    /// Each has as many of them.
    pub(crate) rooms: usize,
}

impl Load {
    /// Members of one room.
    pub(crate) fn audience(self) -> usize {
        self.members / self.rooms
    }
}

/// Servers with members in rooms, and a way to publish to them in turn.
#[derive(Debug)]
pub(crate) struct Target {
    servers: Servers,
    publisher: Publisher,
    pub(crate) swarm: Swarm,
    pub(crate) load: Load,
    next: u64,
}

#[derive(Debug)]
enum Servers {
    Floor(Server),
    Ours(Cluster),
}

impl Target {
    pub(crate) async fn floor(load: Load, batched: bool, padding: usize) -> anyhow::Result<Self> {
        let rooms = load.rooms;
        let arguments = [format!("--padding={padding}"), format!("--batched={batched}"), format!("--rooms={rooms}")];
        let server = Server::floor("floor-server", &arguments)?;
        let address = server.address("ws")?;
        let mut control = TcpStream::connect(address).await?;
        control.set_nodelay(true)?;
        control.write_all(&u64::try_from(load.members)?.to_be_bytes()).await?;
        let swarm = Swarm::connect(&[address], vec![Opening::Bare; load.members], rooms).await?;
        control.read_u8().await.context("the floor")?;
        Ok(Self { servers: Servers::Floor(server), publisher: Publisher::Control(control), swarm, load, next: 0 })
    }

    pub(crate) async fn ours(load: Load, shape: Shape, by: By) -> anyhow::Result<Self> {
        let cluster = Cluster::start(shape)?;
        let openings = (0..load.members).map(|user| Opening::Room(room_name(user % load.rooms))).collect();
        let swarm = Swarm::connect(&cluster.edges, openings, load.rooms).await?;
        let publisher = Publisher::ours(cluster.api, by).await?;
        Ok(Self { servers: Servers::Ours(cluster), publisher, swarm, load, next: 0 })
    }

    /// Sends the next publication, stamped with this time, to the next room.
    pub(crate) async fn publish(&mut self, sent_ns: u64) -> anyhow::Result<()> {
        let stamp = Stamp { sent_ns, number: self.next };
        self.swarm.tally.sent(self.next, self.load.audience());
        let room = usize::try_from(self.next)? % self.load.rooms;
        self.next += 1;
        self.publisher.publish(room, stamp.body()).await
    }

    /// What ours have counted so far; the floor counts nothing.
    pub(crate) fn counted(&self) -> anyhow::Result<Scrape> {
        match &self.servers {
            Servers::Floor(_) => Ok(Scrape::default()),
            Servers::Ours(cluster) => Scrape::take(&[&*cluster.ops, &[cluster.fanout_ops]].concat()),
        }
    }

    /// CPU time of the servers so far, by kind.
    pub(crate) fn cpu(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        match &self.servers {
            Servers::Floor(server) => Ok(vec![(server.name, server.cpu()?)]),
            Servers::Ours(cluster) => cluster.cpu(),
        }
    }
}
