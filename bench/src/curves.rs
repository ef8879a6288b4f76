//! The scaling curves, drawn from figures of one kind.

use std::{fs, path::Path};

use crate::{
    plot::{Line, Plot},
    report::Figure,
};

/// Draws each curve of which there are at least two points.
pub(crate) fn draw(figures: &[Figure], into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into)?;
    let has = |figure: &Figure, name: &str, value: f64| figure.parameters.get(name) == Some(&value);
    let at_rate = |figure: &Figure, rate: f64| figure.name.contains("-redis-") && has(figure, "per_second", rate);
    let members = |figure: &Figure| figure.kind == "room" && has(figure, "edges", 1.0) && at_rate(figure, 20_000.0);
    let edges = |figure: &Figure| figure.kind == "room" && has(figure, "members", 1000.0) && at_rate(figure, 20_000.0);
    let rooms = |figure: &Figure| figure.kind == "rooms" && has(figure, "http", 0.0) && at_rate(figure, 2000.0);
    let idle = |figure: &Figure| figure.kind == "idle";

    let of_room = [("ours", "ours"), ("floor", "floor: one write per delivery"), ("floor-batched", "floor, batched")];
    let cpu = |title, x, chosen: &dyn Fn(&Figure) -> bool, parameter| Plot {
        title,
        x,
        y: "CPU µs per delivery",
        lines: lines(figures, chosen, parameter, "cpu_us_per_delivery", &of_room),
    };
    let plots = [
        ("cpu-members", cpu("One room, 20,000 deliveries/s", "members", &members, "members")),
        ("cpu-edges", cpu("One room of 1,000 members, 20,000 deliveries/s", "edges", &edges, "edges")),
        ("cpu-rooms", cpu("Rooms of one member, 2,000 publications/s", "rooms", &rooms, "rooms")),
        (
            "rss-connections",
            Plot {
                title: "Idle connections, each in its personal room",
                x: "connections",
                y: "RSS, MiB",
                lines: ["edge", "fanout", "redis"]
                    .iter()
                    .flat_map(|process| {
                        let value = format!("{process}_rss_mib");
                        lines(figures, &idle, "connections", &value, &[("ours", *process)])
                    })
                    .collect(),
            },
        ),
    ];
    for (name, plot) in plots {
        if plot.lines.iter().any(|line| line.points.len() > 1) {
            fs::write(into.join(format!("{name}.svg")), plot.svg())?;
        }
    }
    Ok(())
}

/// A line for each target, with a point for each figure chosen.
fn lines(
    figures: &[Figure],
    chosen: &dyn Fn(&Figure) -> bool,
    parameter: &str,
    value: &str,
    targets: &[(&str, &str)],
) -> Vec<Line> {
    let line = |(target, label): &(&str, &str)| {
        let point = |figure: &&Figure| {
            let spread = figure.targets.get(*target)?.get(value)?;
            Some((*figure.parameters.get(parameter)?, *spread))
        };
        let mut points: Vec<_> = figures.iter().filter(|figure| chosen(figure)).filter_map(|f| point(&f)).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        Line { label: (*label).to_owned(), points }
    };
    targets.iter().map(line).filter(|line| !line.points.is_empty()).collect()
}
