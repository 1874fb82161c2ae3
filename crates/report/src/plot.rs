//! Line plots as inline SVG, for the loss of a run and for the trials of a search. Colours, ticks and text are in the picture
//! itself, so that it looks the same wherever it is put.

use std::fmt::Write;

use crate::axis::Axis;
use crate::escape::escape;
use crate::quantity::significant;
use crate::scale::Scale;

/// Okabe and Ito's palette, which colour-blind people can tell apart; without its yellow, which is too light for lines.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555",
];

const TEXT: &str = "#333333";
const GRID: &str = "#dddddd";

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// Space for the ticks and labels around the plot: left, right, top, bottom.
const MARGINS: [f64; 4] = [64.0, 16.0, 34.0, 46.0];

/// More points than this are thinned: they would lie on the same pixels.
const MOST_POINTS: usize = 1200;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A line.
    Line,
    /// A thin, pale line, in the colour of the series after it: the raw values below a smoothed line. It is not in the legend.
    Faint,
    /// A line with a dot at each value.
    Dotted,
    /// Dots alone.
    Dots,
}

/// Values to be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// x and y, by ascending x for lines. A value that is no number breaks the line.
    pub points: Vec<(f64, f64)>,
}

/// A plot of some series over one pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct LinePlot {
    /// Above it.
    pub title: String,
    /// Below the x axis.
    pub x_label: String,
    /// How its values lie along it.
    pub x_scale: Scale,
    /// What is drawn; the first one lies lowest.
    pub series: Vec<Series>,
}

impl LinePlot {
    /// The picture, as an `svg` element.
    pub fn svg(&self) -> String {
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{0}" font-family="sans-serif" font-size="12" fill="{TEXT}"><text x="{1}" y="18" font-size="14" font-weight="bold">{0}</text>"#,
            escape(&self.title),
            MARGINS[0],
        );
        let drawn = || {
            self.series
                .iter()
                .flat_map(|series| &series.points)
                .filter(|point| is_drawable(point))
        };
        match (
            self.x_scale.axis(drawn().map(|point| point.0)),
            Axis::around(drawn().map(|point| point.1)),
        ) {
            (Some(x), Some(y)) => {
                let scale = &self.x_scale;
                let frame = Frame { x, y, scale };
                frame.draw_grid(&self.x_label, &mut svg);
                self.draw_series(&mut svg, &frame);
            }
            _ => svg.push_str(r#"<text x="360" y="150" text-anchor="middle">nothing was measured</text>"#),
        }
        svg.push_str("</svg>");
        svg
    }

    fn draw_series(&self, svg: &mut String, frame: &Frame) {
        let (mut colour, mut legend) = (0, WIDTH - MARGINS[1]);
        let mut keys = Vec::new();
        for series in &self.series {
            let stroke = COLOURS[colour % COLOURS.len()];
            frame.draw_series(series, stroke, svg);
            if series.mark != Mark::Faint {
                keys.push((stroke, series.name.as_str()));
                colour += 1;
            }
        }
        // From the right, so that the last one ends at the edge of the plot.
        for (stroke, name) in keys.into_iter().rev().filter(|(_, name)| !name.is_empty()) {
            // Fonts differ; 7 units a letter is more than most sans-serif ones need at this size.
            legend -= 7.0 * name.chars().count() as f64;
            let (text, line) = (legend, legend - 22.0);
            let name = escape(name);
            let _ = write!(
                svg,
                r#"<path d="M{line:.1} 14h16" stroke="{stroke}" stroke-width="3"/><text x="{text:.1}" y="18">{name}</text>"#
            );
            legend = line - 14.0;
        }
    }
}

/// The area inside the margins.
struct Frame<'a> {
    x: Axis,
    y: Axis,
    scale: &'a Scale,
}

impl Frame<'_> {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let [left, right, top, bottom] = MARGINS;
        (
            left + self.x.place(self.scale.position(x)) * (WIDTH - left - right),
            HEIGHT - bottom - self.y.place(y) * (HEIGHT - top - bottom),
        )
    }

    fn draw_grid(&self, x_label: &str, svg: &mut String) {
        let [left, right, top, bottom] = MARGINS;
        let (end, floor) = (WIDTH - right, HEIGHT - bottom);
        let (mut lines, mut labels) = (String::new(), String::new());
        for (value, label) in self.y.ticks() {
            let y = floor - self.y.place(value) * (floor - top);
            let _ = write!(lines, "M{left} {y:.1}H{end}");
            let (at, y) = (left - 6.0, y + 4.0);
            let _ = write!(labels, r#"<text x="{at}" y="{y:.1}" text-anchor="end">{label}</text>"#);
        }
        for (value, label) in self.scale.ticks(&self.x) {
            let label = escape(&label);
            let x = left + self.x.place(value) * (end - left);
            let _ = write!(lines, "M{x:.1} {floor}v5");
            let y = floor + 18.0;
            let _ = write!(
                labels,
                r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{label}</text>"#
            );
        }
        let (middle, below) = ((left + end) / 2.0, HEIGHT - 10.0);
        let _ = write!(
            svg,
            r#"<path d="{lines}" stroke="{GRID}" fill="none"/>{labels}<text x="{middle}" y="{below}" text-anchor="middle">{}</text>"#,
            escape(x_label)
        );
    }

    fn draw_series(&self, series: &Series, stroke: &str, svg: &mut String) {
        let points = thinned(&series.points);
        let (width, opacity) = match series.mark {
            Mark::Faint => (1.0, 0.35),
            _ => (2.0, 1.0),
        };
        if series.mark != Mark::Dots {
            let path = self.path(&points);
            let _ = write!(
                svg,
                r#"<path d="{path}" stroke="{stroke}" stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round" stroke-linecap="round" fill="none"/>"#
            );
        }
        if matches!(series.mark, Mark::Dots | Mark::Dotted) {
            for &point in points.iter().filter(|point| is_drawable(point)) {
                let (x, y) = self.place(point);
                let name = escape(&series.name);
                let _ = write!(
                    svg,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{stroke}"><title>{name} {} at {}</title></circle>"#,
                    significant(point.1),
                    significant(point.0)
                );
            }
        }
    }

    /// A path that is lifted over values that cannot be drawn. A point without neighbours becomes a round dot.
    fn path(&self, points: &[(f64, f64)]) -> String {
        let (mut path, mut down) = (String::new(), false);
        for point in points {
            let drawable = is_drawable(point);
            if drawable {
                let (x, y) = self.place(*point);
                let _ = match down {
                    true => write!(path, "L{x:.1} {y:.1}"),
                    false => write!(path, "M{x:.1} {y:.1}h0"),
                };
            }
            down = drawable;
        }
        path
    }
}

/// Numbers that a picture can show; larger ones would leave nothing of the rest.
fn is_drawable(&(x, y): &(f64, f64)) -> bool {
    x.abs() <= 1e30 && y.abs() <= 1e30
}

/// The lowest and the highest of each stretch of a long series, in their order, so that no peak is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let mut kept = Vec::new();
    for stretch in points.chunks(stretch) {
        let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let drawable = || stretch.iter().filter(|point| is_drawable(point));
        let mut ends: Vec<_> = drawable()
            .min_by(by_height)
            .into_iter()
            .chain(drawable().max_by(by_height))
            .collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        kept.extend(ends.into_iter().copied());
    }
    kept
}

#[cfg(test)]
mod tests;
