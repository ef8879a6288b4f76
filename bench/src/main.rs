//! The benchmarks: what a delivery, a connection, a publication cost, each figure by one command, against the bare system
//! calls of the same run. See `RESULTS.md` for how to run them and what came out.
#![expect(clippy::cast_precision_loss, reason = "figures are far below 2^52")]

mod arguments;
mod clock;
mod cpu;
mod curves;
mod fan_out;
mod floor;
mod frames;
mod handshake_floor;
mod handshakes;
mod idle;
mod memory;
mod payload;
mod plot;
mod processes;
mod publish;
mod publisher;
mod report;
mod room;
mod scrape;
mod swarm;
mod table;
mod target;
mod wanted;

use std::time::Duration;

use clap::Parser as _;
use tokio::task::LocalSet;

use arguments::{Arguments, Command};
use report::Figure;

fn main() -> anyhow::Result<()> {
    let command = Arguments::parse().command;
    match command {
        Command::FloorServer { batched, padding, rooms } => return floor::serve(batched, padding, rooms),
        Command::HandshakeFloor => {
            service::files::raise_limit()?;
            return handshake_floor::serve();
        }
        Command::Show { out, plots } => {
            let figures = Figure::load_all(&out)?;
            println!("{}", table::markdown(&figures));
            return curves::draw(&figures, &plots);
        }
        _ => {}
    }
    service::files::raise_limit()?;
    cpu::pin(cpu::GENERATOR)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    let (figure, common) = match command {
        Command::Room(arguments) => {
            let common = arguments.common.clone();
            (fan_out::one_room(arguments).await?, common)
        }
        Command::Rooms(arguments) => {
            let common = arguments.common.clone();
            (fan_out::many_rooms(arguments).await?, common)
        }
        Command::Idle { connections, redis, common } => {
            (idle::figure(connections, redis, common.repeats).await?, common)
        }
        Command::Handshakes { connections, redis, common } => {
            (handshakes::figure(connections, redis, common.repeats).await?, common)
        }
        Command::Publish { mode, redis, common } => {
            let length = Duration::from_secs_f64(common.seconds);
            (publish::figure(mode, redis, length, common.repeats).await?, common)
        }
        Command::Wanted { rooms, redis, common } => {
            let length = Duration::from_secs_f64(common.seconds);
            (wanted::figure(rooms, redis, length).await?, common)
        }
        Command::Hold { to, first_user, count } => return idle::hold(&[to], first_user, count).await,
        Command::FloorServer { .. } | Command::HandshakeFloor | Command::Show { .. } => return Ok(()),
    };
    figure.print();
    figure.save(&common.out)
}
