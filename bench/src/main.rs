//! The benchmarks: what a delivery, a connection, a publication cost, each figure by one command, against the bare system
//! calls of the same run. See `RESULTS.md` for how to run them and what came out.
#![expect(clippy::cast_precision_loss, reason = "figures are far below 2^52")]

mod clock;
mod cpu;
mod floor;
mod frames;
mod payload;
mod processes;
mod report;
mod room;
mod swarm;
mod target;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use tokio::task::LocalSet;

use processes::Shape;
use room::Pace;
use target::Target;

/// What our envelopes have more than the bare body, in bytes.
const ENVELOPE: usize = 103;

/// With more, the sockets of a second batched floor would pass the limit of open files.
const MOST_MEMBERS_TWICE: usize = 4000;

#[derive(Debug, Parser)]
#[command(about = "Benchmarks of Espigon: servers on core 0, load on core 1")]
struct Arguments {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Debug, Subcommand)]
enum Figure {
    /// Fan-out to one room: CPU per delivery and latency, beside the floor's.
    Room(RoomArguments),
    /// The floor itself; started by the others.
    #[command(hide = true)]
    FloorServer {
        #[arg(long, action = clap::ArgAction::Set)]
        batched: bool,
        #[arg(long)]
        padding: usize,
    },
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// Measurements of each target; the median counts.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Where the JSON goes.
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct RoomArguments {
    #[arg(long, default_value_t = 1000)]
    members: usize,
    #[arg(long, default_value_t = 1)]
    edges: usize,
    /// On Redis instead of the memory broker.
    #[arg(long)]
    redis: bool,
    /// Deliveries a second; without it, as fast as can be kept up with.
    #[arg(long)]
    rate: Option<f64>,
    /// Publications under way, without a rate.
    #[arg(long, default_value_t = 8)]
    window: usize,
    #[command(flatten)]
    common: Common,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Figure::FloorServer { batched, padding } = arguments.figure {
        return floor::serve(batched, padding);
    }
    service::files::raise_limit()?;
    cpu::pin(cpu::GENERATOR)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = LocalSet::new();
    match arguments.figure {
        Figure::Room(arguments) => work.block_on(&runtime, one_room(arguments)),
        Figure::FloorServer { .. } => Ok(()),
    }
}

async fn one_room(arguments: RoomArguments) -> anyhow::Result<()> {
    let RoomArguments { members, edges, redis, rate, window, common } = arguments;
    let pace = rate.map_or(Pace::Window(window), Pace::PerSecond);
    let kind = match pace {
        Pace::PerSecond(rate) => format!("at-{rate}"),
        Pace::Window(window) => format!("window-{window}"),
    };
    let store = if redis { "redis" } else { "memory" };
    let name = format!("room-{members}-{kind}-{store}-{edges}");
    let mut floor = Target::floor(members, false, 0).await?;
    let mut batched = Target::floor(members, true, 0).await?;
    let mut ours = Target::ours(members, Shape { edges, redis }).await?;
    let mut targets = vec![("floor", &mut floor), ("floor-batched", &mut batched), ("ours", &mut ours)];
    let mut long =
        if members <= MOST_MEMBERS_TWICE { Some(Target::floor(members, true, ENVELOPE).await?) } else { None };
    targets.extend(long.as_mut().map(|long| ("floor-batched-long", long)));
    let length = Duration::from_secs_f64(common.seconds);
    let figure = room::figure(&name, &mut targets, pace, length, common.repeats).await?;
    figure.print();
    for base in ["floor", "floor-batched", "floor-batched-long"] {
        for value in ["cpu_us_per_delivery", "latency_p50_us", "latency_p99_us"] {
            if let Some(ratio) = figure.ratio(value, "ours", base) {
                println!("  {value} of ours is {ratio:.2} of {base}'s");
            }
        }
    }
    figure.save(&common.out)
}
