//! The table as bars: how far each row has come towards what it must reach, on a logarithmic scale around 1.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::Line;

const WIDTH: u32 = 1100;
const LABELS: i32 = 470;
const BAR: i32 = 26;
const TOP: i32 = 60;

/// Writes the chart of the lines that have a bound and were measured; nothing where there is none.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, lines: &[Line]) -> Result<()> {
    let bars: Vec<(String, f64, f64)> = lines
        .iter()
        .filter_map(|line| {
            let progress = line.must?.progress(line.value()?);
            let goal = line.must?.progress(match line.goal? {
                super::table::Bound::AtLeast(value) | super::table::Bound::AtMost(value) => value,
            });
            Some((format!("{}, beside {}", line.work, line.beside), progress, goal))
        })
        .collect();
    if bars.is_empty() {
        return Ok(());
    }
    draw(path, &bars).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn draw(path: &Path, bars: &[(String, f64, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let height = TOP + BAR * bars.len() as i32 + 20;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = "What each row has reached of what it must (bar), and its goal (line); logarithmic";
    area.draw(&Text::new(title, (10, 12), ("sans-serif", 16).into_font()))?;
    // A tenth to ten times the bound.
    let at = |progress: f64| {
        let place = (progress.clamp(0.1, 10.0).log10() + 1.0) / 2.0;
        LABELS + (place * f64::from(WIDTH as i32 - LABELS - 70)) as i32
    };
    for tick in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0] {
        let colour = if tick == 1.0 { BLACK } else { RGBColor(210, 210, 210) };
        area.draw(&PathElement::new(
            [(at(tick), TOP - 8), (at(tick), height - 10)],
            colour,
        ))?;
        let style = ("sans-serif", 12).into_font().color(&BLACK);
        area.draw(&Text::new(format!("{tick}"), (at(tick) - 6, TOP - 22), style))?;
    }
    let label = ("sans-serif", 13)
        .into_font()
        .color(&BLACK)
        .pos(Pos::new(HPos::Right, VPos::Center));
    for (index, (name, progress, goal)) in bars.iter().enumerate() {
        let top = TOP + BAR * index as i32;
        let colour = if *progress >= 1.0 {
            RGBColor(60, 140, 80)
        } else {
            RGBColor(190, 80, 60)
        };
        let (from, to) = (at(1.0).min(at(*progress)), at(1.0).max(at(*progress)));
        area.draw(&Rectangle::new([(from, top + 4), (to, top + BAR - 6)], colour.filled()))?;
        area.draw(&PathElement::new(
            [(at(*goal), top + 1), (at(*goal), top + BAR - 3)],
            BLUE.stroke_width(2),
        ))?;
        area.draw(&Text::new(name.clone(), (LABELS - 8, top + BAR / 2), label.clone()))?;
        let value = ("sans-serif", 12).into_font().color(&BLACK);
        area.draw(&Text::new(
            format!("{progress:.2}"),
            (to.max(at(*goal)) + 6, top + 6),
            value,
        ))?;
    }
    area.present()?;
    Ok(())
}
