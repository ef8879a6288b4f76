//! The results as one table, in Markdown.

use std::fmt::Write as _;

use crate::report::Figure;

/// One line for each figure. What a figure does not have is left empty.
pub(crate) fn markdown(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure | ours | of it | floor | floor, batched | ours ÷ floor | ÷ batched | p50 ÷ floor's | per second | lost | generator busy |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        line(&mut text, figure);
    }
    text
}

/// What a figure of this kind is about, and its unit.
fn main_value(figure: &Figure) -> (&'static str, &'static str) {
    match &*figure.kind {
        "room" | "rooms" => ("cpu_us_per_delivery", "µs per delivery"),
        "idle" => ("kib_per_connection", "KiB per connection"),
        "handshakes" => ("cpu_us_per_open", "µs per handshake"),
        _ => ("fanout_us_per_publication", "µs of fanout per publication"),
    }
}

fn line(text: &mut String, figure: &Figure) {
    let (value, unit) = main_value(figure);
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let spread = figure.targets.get("ours").and_then(|ours| ours.get(value));
    let ours = spread.map_or_else(String::new, |spread| {
        format!("**{:.2}** ({:.2}–{:.2}) {unit}", spread.median, spread.min, spread.max)
    });
    let suffix = &value[value.find("_per_").unwrap_or(0)..];
    let parts: Vec<_> = ["edge", "fanout", "redis"]
        .iter()
        .filter_map(|process| {
            let prefix = if figure.kind == "idle" { "kib" } else { "us" };
            figure.median("ours", &format!("{process}_{prefix}{suffix}")).map(|part| format!("{process} {part:.2}"))
        })
        .collect();
    let rate = figure
        .median("ours", "deliveries_per_second")
        .or_else(|| figure.median("ours", "publications_per_second"))
        .map_or_else(String::new, |rate| format!("{rate:.0}"));
    let lost = figure.targets.get("ours").and_then(|ours| ours.get("lost"));
    let lost = lost.map_or_else(String::new, |lost| format!("{:.0}", lost.max));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "| `{}` | {ours} | {} | {} | {} | {} | {} | {} | {rate} | {lost} | {} |",
        figure.name,
        parts.join(", "),
        number(figure.median("floor", value)),
        number(figure.median("floor-batched", value)),
        number(figure.ratio(value, "ours", "floor")),
        number(figure.ratio(value, "ours", "floor-batched")),
        number(figure.ratio("latency_p50_us", "ours", "floor")),
        number(figure.median("ours", "generator_busy")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::spread;

    #[test]
    fn a_line_has_medians_spread_and_ratios() {
        let mut figure = Figure::new("room", "room-10");
        figure.push("ours", "cpu_us_per_delivery", spread([3.0, 2.0, 4.0].into_iter()));
        figure.push("ours", "edge_us_per_delivery", spread([2.5].into_iter()));
        figure.push("floor", "cpu_us_per_delivery", spread([2.0].into_iter()));
        let table = markdown(&[figure]);
        let line = table.lines().last().unwrap();
        assert!(line.starts_with("| `room-10` | **3.00** (2.00–4.00) µs per delivery | edge 2.50 | 2.00 |  | 1.50 |"));
    }
}
