//! Figure: rooms that one fanout node serves, wanted by one link and silent: memory, CPU to join one, and CPU per second
//! of being there, which is beats, pulses and the sweep.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use proto::{
    VERSION,
    wire::{
        EdgeBeat, EdgeHello, EdgeMessage, FanoutMessage, Interest, RoomInterest, edge_message::Kind,
        fanout_message::Kind as Out, link_client::LinkClient,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    memory,
    processes::{Cluster, Shape},
    publisher::room_name,
    report::{Figure, spread},
};

/// Rooms of one message.
const CHUNK: usize = 512;

/// Longest silence of the node; it beats every second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The far end of a link.
struct Link {
    say: mpsc::Sender<EdgeMessage>,
    hear: Streaming<FanoutMessage>,
}

impl Link {
    async fn attach(to: SocketAddr) -> anyhow::Result<Self> {
        let mut client = LinkClient::connect(format!("http://{to}")).await?;
        let (say, said) = mpsc::channel(16);
        let hello = EdgeHello { version: VERSION, edge: "bench".into(), boot: 1 };
        say.send(EdgeMessage { kind: Some(Kind::Hello(hello)) }).await?;
        let hear = client.attach(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, hear })
    }

    async fn say(&self, kind: Kind) -> anyhow::Result<()> {
        self.say.send(EdgeMessage { kind: Some(kind) }).await.context("the link ended")
    }

    /// The next message; beats are answered.
    async fn hear(&mut self) -> anyhow::Result<Option<Out>> {
        let message = timeout(PATIENCE, self.hear.message()).await??.context("the link ended")?;
        if matches!(message.kind, Some(Out::Beat(_))) {
            self.say(Kind::Beat(EdgeBeat::default())).await?;
        }
        Ok(message.kind)
    }

    /// Wants these rooms, and waits until the node serves all of them.
    async fn want(&mut self, rooms: usize) -> anyhow::Result<()> {
        let rooms: Vec<usize> = (0..rooms).collect();
        for chunk in rooms.chunks(CHUNK) {
            let wish = |room: &usize| RoomInterest { room: room_name(*room), wanted: true, position: None };
            self.say(Kind::Interest(Interest { rooms: chunk.iter().map(wish).collect() })).await?;
            let mut served = 0;
            while served < chunk.len() {
                served += usize::from(matches!(self.hear().await?, Some(Out::State(_))));
            }
        }
        Ok(())
    }

    async fn stay(&mut self, length: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.hear().await?;
        }
        Ok(())
    }
}

pub(crate) async fn figure(rooms: usize, redis: bool, length: Duration) -> anyhow::Result<Figure> {
    let cluster = Cluster::start(Shape { edges: 0, redis, redis_apart: false })?;
    let mut link = Link::attach(cluster.link).await?;
    let (empty, begin, start) = (memory::of(&cluster)?, cluster.cpu()?, Instant::now());
    link.want(rooms).await?;
    let (joined, took) = (cluster.cpu()?, start.elapsed());
    // What came with the joins is over.
    link.stay(Duration::from_secs(3)).await?;
    let (idle, since) = (cluster.cpu()?, Instant::now());
    link.stay(length).await?;
    let (after, stayed) = (cluster.cpu()?, since.elapsed());
    let full = memory::of(&cluster)?;

    let mut figure = Figure::new("wanted", &format!("wanted-{rooms}-{}", if redis { "redis" } else { "memory" }));
    figure.parameter("rooms", rooms as f64);
    let one = |value: f64| spread([value].into_iter());
    for (index, (process, bytes)) in full.iter().enumerate() {
        let grown = bytes.saturating_sub(empty[index].1);
        let us = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6;
        let mut push = |name: &str, value: f64| figure.push("ours", &format!("{process}_{name}"), one(value));
        push("rss_mib", *bytes as f64 / f64::from(1 << 20));
        push("bytes_per_room", grown as f64 / rooms as f64);
        push("us_per_join", us(begin[index].1, joined[index].1) / rooms as f64);
        push("idle_percent_of_a_core", us(idle[index].1, after[index].1) / 1e4 / stayed.as_secs_f64());
    }
    figure.push("ours", "joins_per_second", one(rooms as f64 / took.as_secs_f64()));
    Ok(figure)
}
