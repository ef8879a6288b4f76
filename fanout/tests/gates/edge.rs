//! The far end of a link, in a thread of its own.

use std::{net::SocketAddr, ops::Range, time::Duration};

use proto::{
    VERSION,
    wire::{
        EdgeBeat, EdgeHello, EdgeMessage, FanoutMessage, Interest, RoomInterest, edge_message::Kind,
        fanout_message::Kind as Out, link_client::LinkClient,
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const PATIENCE: Duration = Duration::from_secs(30);

/// Rooms in one message.
const CHUNK: usize = 512;

pub(crate) struct Edge {
    runtime: Runtime,
    say: mpsc::Sender<EdgeMessage>,
    hear: Streaming<FanoutMessage>,
}

impl Edge {
    pub(crate) fn attach(to: SocketAddr) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (say, said) = mpsc::channel(16);
        let hear = runtime.block_on(async {
            let mut client = LinkClient::connect(format!("http://{to}")).await.unwrap();
            let hello = EdgeHello { version: VERSION, edge: "gates".into(), boot: 1 };
            say.send(EdgeMessage { kind: Some(Kind::Hello(hello)) }).await.unwrap();
            client.attach(ReceiverStream::new(said)).await.unwrap().into_inner()
        });
        Self { runtime, say, hear }
    }

    /// Wants these rooms, and waits until the node serves all of them.
    pub(crate) fn want(&mut self, rooms: Range<usize>) {
        let Self { runtime, say, hear } = self;
        runtime.block_on(async {
            for chunk in rooms.collect::<Vec<_>>().chunks(CHUNK) {
                let wish = |number| RoomInterest { room: room(number), wanted: true, position: None };
                let interest = Interest { rooms: chunk.iter().map(|number| wish(*number)).collect() };
                say.send(EdgeMessage { kind: Some(Kind::Interest(interest)) }).await.unwrap();
                let mut states = 0;
                while states < chunk.len() {
                    match timeout(PATIENCE, hear.message()).await.unwrap().unwrap().unwrap().kind {
                        Some(Out::State(_)) => states += 1,
                        Some(Out::Beat(_)) => {
                            say.send(EdgeMessage { kind: Some(Kind::Beat(EdgeBeat::default())) }).await.unwrap();
                        }
                        _ => {}
                    }
                }
            }
        });
    }
}

/// A name of 20 bytes.
fn room(number: usize) -> String {
    format!("room-{number:015}")
}
