//! Lines in a coordinate system, as SVG: both axes from zero, the spread of each point as a bar.

use std::fmt::Write as _;

use crate::report::Spread;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// Around the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;

/// Told apart by those who see no colours, too, as each has its dashes.
const STYLES: [(&str, &str); 3] = [("#0b6e99", ""), ("#a33b20", "6 4"), ("#5b5b5b", "2 3")];

#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    /// By x.
    pub(crate) points: Vec<(f64, Spread)>,
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (x_step, x_end) = ticks(points().map(|(x, _)| *x).fold(0.0, f64::max));
        let (y_step, y_end) = ticks(points().map(|(_, y)| y.max).fold(0.0, f64::max));
        let x_of = |x: f64| LEFT + x / x_end * (WIDTH - LEFT - RIGHT);
        let y_of = |y: f64| HEIGHT - BOTTOM - y / y_end * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        // Writing to a string cannot fail.
        let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
        };
        text(WIDTH / 2.0, 20.0, "middle", self.title);
        text(WIDTH / 2.0, HEIGHT - 10.0, "middle", self.x);
        text(8.0, TOP - 10.0, "start", self.y);
        for (step, end, across) in [(x_step, x_end, true), (y_step, y_end, false)] {
            let mut at = 0.0;
            while at <= end * 1.0001 {
                if across {
                    text(x_of(at), HEIGHT - BOTTOM + 16.0, "middle", &number(at));
                } else {
                    text(LEFT - 6.0, y_of(at) + 4.0, "end", &number(at));
                }
                at += step;
            }
        }
        for (number, line) in self.lines.iter().enumerate() {
            text(LEFT + 40.0, TOP + 8.0 + 16.0 * number as f64, "start", &line.label);
        }
        let mut at = 0.0;
        while at <= y_end * 1.0001 {
            let (y, end) = (y_of(at), WIDTH - RIGHT);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#dddddd\"/>");
            at += y_step;
        }
        for (number, line) in self.lines.iter().enumerate() {
            let (color, dashes) = STYLES[number % STYLES.len()];
            let style = format!("stroke=\"{color}\" fill=\"none\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"");
            let legend = TOP + 4.0 + 16.0 * number as f64;
            let _ = writeln!(svg, "<path d=\"M{:.1} {legend:.1}h28\" {style}/>", LEFT + 6.0);
            let way: Vec<_> =
                line.points.iter().map(|(x, y)| format!("{:.1} {:.1}", x_of(*x), y_of(y.median))).collect();
            let _ = writeln!(svg, "<path d=\"M{}\" {style}/>", way.join("L"));
            for (x, spread) in &line.points {
                let (x, low, high) = (x_of(*x), y_of(spread.min), y_of(spread.max));
                let _ = writeln!(svg, "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{color}\"/>");
                let y = y_of(spread.median);
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
            }
        }
        svg + "</svg>\n"
    }
}

/// A round step, and the end of the axis, a multiple of it.
fn ticks(most: f64) -> (f64, f64) {
    let most = if most > 0.0 { most } else { 1.0 };
    let magnitude = 10_f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude).into_iter().find(|step| most / step <= 5.0);
    let step = step.unwrap_or(most);
    (step, (most / step).ceil() * step)
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{:.0},{:03.0}", (value / 1000.0).floor(), value % 1000.0)
    } else {
        format!("{}", (value * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::spread;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(ticks(5000.0), (1000.0, 5000.0));
        assert_eq!(ticks(17.1), (5.0, 20.0));
        assert_eq!(ticks(0.0), (0.2, 1.0));
        assert_eq!(number(20_000.0), "20,000");
        assert_eq!(number(12.5), "12.5");
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let points = vec![(0.0, spread([0.0].into_iter())), (10.0, spread([10.0].into_iter()))];
        let svg = Plot { title: "t", x: "x", y: "y", lines: vec![Line { label: "l".into(), points }] }.svg();
        assert!(svg.contains("M64.0 312.0L624.0 40.0"), "{svg}");
    }
}
