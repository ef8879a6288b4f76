//! What can be asked for.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{publish::Mode, publisher::By};

#[derive(Debug, Parser)]
#[command(about = "Benchmarks of Espigon: servers on core 0, load on core 1")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fan-out to one room: CPU per delivery and latency, beside the floor's
    Room(RoomArguments),
    /// Rooms of one member each: CPU per publication and delivery, beside the floor's
    Rooms(RoomsArguments),
    /// Memory of idle connections, each in its personal room
    Idle {
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        #[arg(long)]
        redis: bool,
        #[command(flatten)]
        common: Common,
    },
    /// CPU of a handshake, with token, personal room and welcome, and of the end of the connection
    Handshakes {
        #[arg(long, default_value_t = 5000)]
        connections: usize,
        #[arg(long)]
        redis: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Publications that a fanout node takes, without edges
    Publish {
        #[arg(long)]
        mode: Mode,
        #[arg(long)]
        redis: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Rooms that a fanout node serves: memory, CPU to join one and to have them. One measurement
    Wanted {
        #[arg(long, default_value_t = 1_000_000)]
        rooms: usize,
        #[arg(long)]
        redis: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Results so far as a table, and as plots
    Show {
        #[arg(long, default_value = "bench/results")]
        out: PathBuf,
        #[arg(long, default_value = "bench/plots")]
        plots: PathBuf,
    },
    /// The floor itself; started by the others
    #[command(hide = true)]
    FloorServer {
        #[arg(long, action = clap::ArgAction::Set)]
        batched: bool,
        #[arg(long)]
        padding: usize,
        #[arg(long)]
        rooms: usize,
    },
    /// The floor of handshakes; started by them
    #[command(hide = true)]
    HandshakeFloor,
    /// Holds connections; started by others
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        first_user: usize,
        #[arg(long)]
        count: usize,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Measurements of each target; the median counts
    #[arg(long, default_value_t = 3)]
    pub(crate) repeats: usize,
    /// Length of one measurement, in seconds
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Where the JSON goes
    #[arg(long, default_value = "bench/results")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RoomArguments {
    #[arg(long, default_value_t = 1000)]
    pub(crate) members: usize,
    #[arg(long, default_value_t = 1)]
    pub(crate) edges: usize,
    /// On Redis instead of the memory broker
    #[arg(long)]
    pub(crate) redis: bool,
    /// Deliveries a second; without it, as fast as can be kept up with
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Publications under way, without a rate
    #[arg(long, default_value_t = 8)]
    pub(crate) window: usize,
    /// As fast as it is accepted, without a window: ours alone, as the floor accepts anything
    #[arg(long, conflicts_with = "rate")]
    pub(crate) accepted: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct RoomsArguments {
    /// Each with one member
    #[arg(long, default_value_t = 5000)]
    pub(crate) rooms: usize,
    #[arg(long)]
    pub(crate) redis: bool,
    #[arg(long, default_value = "stream")]
    pub(crate) by: By,
    /// Publications a second; without it, as fast as can be kept up with
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Publications under way, without a rate
    #[arg(long, default_value_t = 256)]
    pub(crate) window: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}
