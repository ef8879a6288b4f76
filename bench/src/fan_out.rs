//! The targets of the figures of fan-out: ours and the floors, with the same load.

use std::time::Duration;

use crate::{
    arguments::{RoomArguments, RoomsArguments},
    processes::Shape,
    publisher::By,
    report::Figure,
    room::{self, Pace},
    target::{Load, Target},
};

/// What our envelopes have more than the bare body, in bytes.
const ENVELOPE: usize = 109;

/// With more, the sockets of a second batched floor would pass the limit of open files.
const MOST_MEMBERS_TWICE: usize = 4000;

pub(crate) async fn one_room(arguments: RoomArguments) -> anyhow::Result<Figure> {
    let RoomArguments { members, edges, redis, rate, window, accepted, common } = arguments;
    let pace = if accepted { Pace::Accepted } else { rate.map_or(Pace::Window(window), Pace::PerSecond) };
    let mut figure = named("room", &format!("room-{members}"), pace, redis, edges);
    figure.parameter("members", members as f64);
    let load = Load { members, rooms: 1 };
    let mut ours = Target::ours(load, Shape { edges, redis, redis_apart: false }, By::Stream).await?;
    let length = Duration::from_secs_f64(common.seconds);
    if accepted {
        return room::figure(figure, &mut [("ours", &mut ours)], pace, length, common.repeats).await;
    }
    let mut floor = Target::floor(load, false, 0).await?;
    let mut batched = Target::floor(load, true, 0).await?;
    let mut targets = vec![("floor", &mut floor), ("floor-batched", &mut batched), ("ours", &mut ours)];
    let mut long = if members <= MOST_MEMBERS_TWICE { Some(Target::floor(load, true, ENVELOPE).await?) } else { None };
    targets.extend(long.as_mut().map(|long| ("floor-batched-long", long)));
    room::figure(figure, &mut targets, pace, length, common.repeats).await
}

pub(crate) async fn many_rooms(arguments: RoomsArguments) -> anyhow::Result<Figure> {
    let RoomsArguments { rooms, redis, by, rate, window, common } = arguments;
    let pace = rate.map_or(Pace::Window(window), Pace::PerSecond);
    let by_name = if by == By::Http { "http" } else { "stream" };
    let mut figure = named("rooms", &format!("rooms-{rooms}-{by_name}"), pace, redis, 1);
    figure.parameter("rooms", rooms as f64);
    figure.parameter("http", f64::from(u8::from(by == By::Http)));
    let load = Load { members: rooms, rooms };
    let mut floor = Target::floor(load, false, 0).await?;
    let mut ours = Target::ours(load, Shape { edges: 1, redis, redis_apart: false }, by).await?;
    let mut targets = vec![("floor", &mut floor), ("ours", &mut ours)];
    room::figure(figure, &mut targets, pace, Duration::from_secs_f64(common.seconds), common.repeats).await
}

fn named(kind: &str, name: &str, pace: Pace, redis: bool, edges: usize) -> Figure {
    let paced = match pace {
        Pace::PerSecond(rate) => format!("at-{rate}"),
        Pace::Window(window) => format!("window-{window}"),
        Pace::Accepted => "accepted".to_owned(),
    };
    let store = if redis { "redis" } else { "memory" };
    let mut figure = Figure::new(kind, &format!("{name}-{paced}-{store}-{edges}"));
    figure.parameter("edges", edges as f64);
    match pace {
        Pace::PerSecond(rate) => figure.parameter("per_second", rate),
        Pace::Window(window) => figure.parameter("window", window as f64),
        Pace::Accepted => figure.parameter("accepted", 1.0),
    }
    figure
}
