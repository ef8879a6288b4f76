//! Ways to publish: the floor's control connection, one `PublishStream`, or HTTP over some connections.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use proto::wire::{PublishRequest, publish_result, publisher_client::PublisherClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

/// Publications between us and the task that sends them.
const QUEUE: usize = 64;

/// Connections that publish by HTTP, each with one request at a time.
const HTTP_CONNECTIONS: usize = 64;

/// The publish API closes connections that say nothing for five seconds, as while another target is measured.
const IDLE: Duration = Duration::from_secs(3);

/// How our publish API is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    Stream,
    Http,
}

/// See the module. Its tasks end with it.
#[derive(Debug)]
pub(crate) enum Publisher {
    Control(TcpStream),
    Ours { requests: Vec<mpsc::Sender<(String, String)>>, tasks: JoinSet<anyhow::Result<()>> },
}

impl Publisher {
    /// Must run in a `LocalSet`.
    pub(crate) async fn ours(api: SocketAddr, by: By) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        let mut requests = Vec::new();
        match by {
            By::Stream => {
                let (sender, bodies) = mpsc::channel(QUEUE);
                requests.push(sender);
                let client = PublisherClient::connect(format!("http://{api}")).await?;
                tasks.spawn_local(stream(client, bodies));
            }
            By::Http => {
                for _ in 0..HTTP_CONNECTIONS {
                    let (sender, bodies) = mpsc::channel(QUEUE);
                    requests.push(sender);
                    tasks.spawn_local(http(api, bodies));
                }
            }
        }
        Ok(Self::Ours { requests, tasks })
    }

    /// Those of one room keep their order. `room`: its number.
    pub(crate) async fn publish(&mut self, room: usize, body: String) -> anyhow::Result<()> {
        match self {
            Self::Control(control) => control.write_all(body.as_bytes()).await?,
            Self::Ours { requests, tasks } => {
                if let Some(ended) = tasks.try_join_next() {
                    ended??;
                }
                let requests = &requests[room % requests.len()];
                requests.send((room_name(room), body)).await.context("publishing ended")?;
            }
        }
        Ok(())
    }
}

pub(crate) fn room_name(room: usize) -> String {
    format!("benchmark-room-{room:05}")
}

async fn stream(
    mut client: PublisherClient<tonic::transport::Channel>,
    bodies: mpsc::Receiver<(String, String)>,
) -> anyhow::Result<()> {
    use tokio_stream::StreamExt as _;
    let requests = ReceiverStream::new(bodies).map(|(room, body)| PublishRequest {
        room,
        body: body.into(),
        ..PublishRequest::default()
    });
    let mut results = client.publish_stream(requests).await?.into_inner();
    while let Some(result) = results.message().await? {
        if let Some(publish_result::Result::Error(error)) = result.result {
            bail!("a publication was refused: {}", error.message);
        }
    }
    Ok(())
}

async fn http(api: SocketAddr, mut bodies: mpsc::Receiver<(String, String)>) -> anyhow::Result<()> {
    let mut answer = Vec::new();
    let (mut connection, mut used) = (TcpStream::connect(api).await?, Instant::now());
    connection.set_nodelay(true)?;
    while let Some((room, body)) = bodies.recv().await {
        if used.elapsed() > IDLE {
            connection = TcpStream::connect(api).await?;
            connection.set_nodelay(true)?;
        }
        used = Instant::now();
        let request = format!(
            "POST /v1/rooms/{room}/publications HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{{\"body\":{body}}}",
            body.len() + 9
        );
        connection.write_all(request.as_bytes()).await?;
        answer.clear();
        while !is_whole(&answer) {
            if connection.read_buf(&mut answer).await? == 0 {
                bail!("the publish API closed");
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            bail!("a publication was refused: {}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    length.is_none_or(|length: usize| body.len() >= length)
}
