use std::fmt::Write as _;

use super::figures::Figures;

const WIDTH: usize = 860;
const HEIGHT: usize = 300;

/// Between the drawing and the edges of the picture: left, right, top, bottom.
const MARGINS: (usize, usize, usize, usize) = (56, 12, 30, 44);

/// Reconnects by second as bars, with what was replaced when behind them.
pub(super) fn svg(figures: &Figures) -> String {
    let (left, right, top, bottom) = MARGINS;
    let (width, height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let seconds = figures.reconnects.len();
    let most = figures.reconnects.iter().max().copied().unwrap_or(0).max(1);
    let ceiling = usize::try_from(most.div_ceil(50) * 50).unwrap();
    let x = |ms: usize| left + ms * width / (seconds * 1000);
    let y = |count: usize| top + height - count * height / ceiling;
    let mut out = String::new();
    let mut draw = |element: std::fmt::Arguments<'_>| writeln!(out, "{element}").unwrap();
    draw(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">"#
    ));
    draw(format_args!(r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#));
    for (number, phase) in figures.phases.iter().enumerate() {
        let (from, to) = (x(usize::try_from(phase.from_ms).unwrap()), x(usize::try_from(phase.to_ms).unwrap()));
        let fill = if number % 2 == 0 { "#eef2f7" } else { "#f8fafc" };
        let (wide, middle, name) = (to - from, from.midpoint(to), &phase.name);
        draw(format_args!(r#"<rect x="{from}" y="{top}" width="{wide}" height="{height}" fill="{fill}"/>"#));
        draw(format_args!(r#"<text x="{middle}" y="{}" text-anchor="middle">{name}</text>"#, top - 8));
    }
    for step in 0..=5 {
        let count = ceiling * step / 5;
        let at = y(count);
        draw(format_args!(r##"<path d="M{left} {at}h{width}" stroke="#cbd5e1"/>"##));
        draw(format_args!(r#"<text x="{}" y="{}" text-anchor="end">{count}</text>"#, left - 6, at + 4));
    }
    for (second, count) in figures.reconnects.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (from, at) = (x(second * 1000), y(usize::try_from(*count).unwrap()));
        let wide = (x((second + 1) * 1000) - from).saturating_sub(1).max(1);
        let high = top + height - at;
        draw(format_args!(r##"<rect x="{from}" y="{at}" width="{wide}" height="{high}" fill="#2563eb"/>"##));
    }
    for second in (0..seconds).step_by(10) {
        let (at, below) = (x(second * 1000), HEIGHT - bottom + 16);
        draw(format_args!(r#"<text x="{at}" y="{below}" text-anchor="middle">{second}</text>"#));
    }
    draw(format_args!(
        r#"<text x="{}" y="{}" text-anchor="middle">seconds; bars: clients that reconnect, by second</text>"#,
        left + width / 2,
        HEIGHT - 8
    ));
    draw(format_args!("</svg>"));
    out
}
