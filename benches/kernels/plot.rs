//! The roofline: what each operator reaches over its multiply-adds per byte, under the machine's limits. Both axes logarithmic.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::Limits;
use super::operators::Operator;

const SIZE: (u32, u32) = (1200, 760);
const LEFT: f64 = 70.0;
const RIGHT: f64 = 820.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 700.0;
/// Decades of multiply-adds per byte, and of multiply-adds per second.
const X: (f64, f64) = (-1.0, 3.5);
const Y: (f64, f64) = (8.0, 12.5);

fn at(intensity: f64, rate: f64) -> (i32, i32) {
    let place = |value: f64, (low, high): (f64, f64)| ((value.log10() - low) / (high - low)).clamp(0.0, 1.0);
    let x = LEFT + place(intensity, X) * (RIGHT - LEFT);
    let y = BOTTOM - place(rate, Y) * (BOTTOM - TOP);
    (x as i32, y as i32)
}

/// Writes the plot.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, limits: &Limits, operators: &[Operator]) -> Result<()> {
    draw(path, limits, operators).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn draw(path: &Path, limits: &Limits, operators: &[Operator]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: i32| ("sans-serif", size).into_font();
    area.draw(&Text::new("GMAC/s over multiply-adds per byte", (70, 14), font(17)))?;
    let grey = RGBColor(225, 225, 225);
    for decade in -1..=3 {
        let value = 10f64.powi(decade);
        let (x, _) = at(value, 1e8);
        area.draw(&PathElement::new([(x, TOP as i32), (x, BOTTOM as i32)], grey))?;
        area.draw(&Text::new(value.to_string(), (x - 8, BOTTOM as i32 + 8), font(12)))?;
    }
    for decade in 8..=12 {
        let value = 10f64.powi(decade);
        let (_, y) = at(1.0, value);
        area.draw(&PathElement::new([(LEFT as i32, y), (RIGHT as i32, y)], grey))?;
        area.draw(&Text::new((value / 1e9).to_string(), (20, y - 7), font(12)))?;
    }
    let roofs = [
        (limits.memory, limits.int8, BLACK),
        (limits.memory, limits.f32, RGBColor(110, 110, 110)),
        (limits.cache, limits.int8, RGBColor(170, 170, 170)),
    ];
    for (bytes, products, colour) in roofs {
        let roof = (0..=200).map(|step| {
            let intensity = 10f64.powf(X.0 + (X.1 - X.0) * f64::from(step) / 200.0);
            at(intensity, (bytes * intensity).min(products))
        });
        area.draw(&PathElement::new(roof.collect::<Vec<_>>(), colour.stroke_width(2)))?;
    }
    for (index, operator) in operators.iter().enumerate() {
        let (x, y) = at(operator.intensity(), operator.macs / operator.seconds);
        let colour = if operator.int8 { BLUE } else { RED };
        area.draw(&Circle::new((x, y), 4, colour.filled()))?;
        area.draw(&Text::new((index + 1).to_string(), (x + 6, y - 12), font(11)))?;
        let legend = format!("{} {}", index + 1, operator.name);
        let line = (RIGHT as i32 + 20, TOP as i32 + index as i32 * 22);
        area.draw(&Text::new(legend, line, font(12).color(&colour)))?;
    }
    area.present()?;
    Ok(())
}
