//! The plots of scaling: beside each other what a decision costs, and how many there are a second.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (760, 260);
/// Room above what is shown, in parts of it.
const HEADROOM: f64 = 1.12;
/// Ticks of an axis, about.
const TICKS: usize = 5;
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const RULE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
const FIRST: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const SECOND: RGBColor = RGBColor(0xc4, 0x5a, 0x11);
/// What each colour becomes where the reader's screen is dark.
const DARK: [(RGBColor, &str); 5] =
    [(INK, "#d0d7de"), (RULE, "#30363d"), (PAPER, "#0d1117"), (FIRST, "#58a6ff"), (SECOND, "#f0883e")];

/// A line: its name, its colour, and where it goes.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn read(axis: &Value, name: &'static str, field: &str, colour: RGBColor) -> Self {
        let points = axis["points"].as_array().into_iter().flatten();
        let points = points.filter_map(|point| Some((point["at"].as_f64()?, point[field].as_f64()?))).collect();
        Self { name, colour, points }
    }
}

/// The plot of an axis of scaling.json, as SVG for light and dark screens.
pub fn draw(axis: &Value) -> Result<String> {
    let mut svg = String::new();
    draw_panels(axis, &mut svg).map_err(|error| anyhow!("a plot cannot be drawn: {error}"))?;
    Ok(for_both_screens(&svg))
}

fn draw_panels(axis: &Value, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let unit = axis["unit"].as_str().unwrap_or_default();
    let cost = [
        Line::read(axis, "CPU µs a request", "cpu_us_per_request", FIRST),
        Line::read(axis, "p50 µs at half of the peak", "p50_us", SECOND),
    ];
    let peak = [Line::read(axis, "requests/s at the peak", "rps", FIRST)];
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&PAPER)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    for (area, lines) in [(left, cost.as_slice()), (right, peak.as_slice())] {
        let places = || lines.iter().flat_map(|line| &line.points);
        let low = places().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let high = places().map(|point| point.0).fold(0.0, f64::max);
        let top = ceiling(HEADROOM * places().map(|point| point.1).fold(0.0, f64::max));
        if axis["log"] == true {
            panel(&area, lines, (low.max(1.0)..high.max(10.0)).log_scale(), top, (unit, TICKS))?;
        } else {
            // No more ticks than there are whole numbers.
            let ticks = (1..TICKS).find(|ticks| *ticks as f64 >= high + 1.0).unwrap_or(TICKS);
            panel(&area, lines, 0.0..ceiling(high), top, (unit, ticks))?;
        }
    }
    root.present()?;
    Ok(())
}

fn panel<X>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    lines: &[Line],
    across: X,
    top: f64,
    (unit, ticks): (&str, usize),
) -> Result<(), Box<dyn std::error::Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let font = ("sans-serif", 12).into_font().color(&INK);
    let mut builder = ChartBuilder::on(area);
    builder.margin(10).margin_top(30).margin_right(24).x_label_area_size(36).y_label_area_size(52);
    let mut chart = builder.build_cartesian_2d(across, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(RULE)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_labels(ticks)
        .y_labels(TICKS)
        .label_style(font.clone())
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .x_desc(unit)
        .draw()?;
    let mut left = 52;
    for line in lines {
        let style = line.colour.stroke_width(2);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 3, line.colour.filled())))?;
        let title = ("sans-serif", 13).into_font().color(&line.colour);
        area.draw(&Text::new(line.name, (left, 10), title))?;
        left += 130;
    }
    Ok(())
}

/// The next round number: 1, 2, 2.5 or 5 times a power of ten, or a fifth between.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0];
    steps.into_iter().map(|step| step * power).find(|round| value <= *round * (1.0 + 1e-9)).unwrap_or(10.0 * power)
}

/// A number as a tick says it.
fn short(value: f64) -> String {
    let trimmed = |value: f64, unit: &str| {
        let text = format!("{value:.1}");
        format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match value {
        value if value >= 1e6 => trimmed(value / 1e6, "M"),
        value if value >= 1e3 => trimmed(value / 1e3, "k"),
        value => trimmed(value, ""),
    }
}

/// Has a drawing change its colours with the screen: its own ones are those for light.
fn for_both_screens(svg: &str) -> String {
    let rules = DARK.map(|(RGBColor(red, green, blue), dark)| {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
    });
    let style = format!("<style>@media (prefers-color-scheme:dark){{{}}}</style>", rules.concat());
    match svg.find("<svg").and_then(|start| Some(start + svg[start..].find('>')? + 1)) {
        Some(place) => format!("{}\n{style}{}", &svg[..place], &svg[place..]),
        None => svg.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ticks_are_round() {
        assert_eq!([0.0, 0.7, 86.0, 112.0, 16_384.0, 1e6].map(ceiling), [1.0, 0.8, 100.0, 120.0, 20_000.0, 1e6]);
        assert_eq!(
            [0.0, 2.5, 999.0, 1_000.0, 15_000.0, 2_500_000.0].map(short),
            ["0", "2.5", "999", "1k", "15k", "2.5M"]
        );
    }

    #[test]
    fn a_plot_has_its_points_in_both_colours() {
        let point =
            |at: u32| json!({"at": at, "rps": 20_000.0 - f64::from(at), "p50_us": 80.0, "cpu_us_per_request": 50.0});
        for log in [true, false] {
            let axis = json!({"unit": "things", "log": log, "points": [point(10), point(100), point(1_000)]});
            let svg = draw(&axis).expect("a plot");
            assert_eq!(svg.matches("<circle").count(), 9, "{svg}");
            assert!(svg.contains("things") && svg.contains("requests/s at the peak"), "{svg}");
            // Every colour that is used has one for the dark.
            for place in svg.match_indices("fill=\"#").map(|(place, _)| place + 6) {
                assert!(svg.contains(&format!("[fill=\"{}\"]", &svg[place..place + 7])), "{}", &svg[place..place + 7]);
            }
            assert!(svg.len() < 16 * 1024, "{}", svg.len());
        }
    }
}
