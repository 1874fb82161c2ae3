//! Angles of rotary embeddings and their scalings, whatever file states them. In f64; the architecture keeps f32.

use std::f64::consts::TAU;

use crate::Position;

/// Most significant digits of a base that people would write.
const DIGITS: usize = 9;

/// `base^(-2i / width)` for each pair i of the `width` elements that rotate; Su et al., 2021.
pub(super) fn plain_angles(base: f64, width: usize) -> Vec<f64> {
    let exponent = |pair: usize| -2.0 * pair as f64 / width as f64;
    (0..width / 2).map(|pair| base.powf(exponent(pair))).collect()
}

/// YaRN (Peng et al., 2023): pairs that turn fewer than `slow` times over the original context are stretched by `factor`,
/// those that turn more than `fast` times are kept, the others blended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Yarn {
    pub(super) factor: f64,
    /// Positions before scaling.
    pub(super) original: f64,
    pub(super) fast: f64,
    pub(super) slow: f64,
    /// The ends of the blend are rounded to whole elements.
    pub(super) truncated: bool,
}

impl Yarn {
    /// What becomes of the `plain` angles of `base`.
    pub(super) fn angles(&self, plain: &[f64], base: f64) -> Vec<f64> {
        let width = (2 * plain.len()) as f64;
        // Which element turns `turns` times over the original positions.
        let element = |turns: f64| width * (self.original / (turns * TAU)).ln() / (2.0 * base.ln());
        let (mut first, mut last) = (element(self.fast), element(self.slow));
        if self.truncated {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(width - 1.0));
        if first == last {
            last += 0.001;
        }
        let scaled = |(pair, &angle): (usize, &f64)| {
            let stretched = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
            angle * (1.0 - stretched) + angle / self.factor * stretched
        };
        plain.iter().enumerate().map(scaled).collect()
    }

    /// Factor on queries and keys for a stretch of `factor`, of which `weight` applies.
    pub(super) fn magnitude(factor: f64, weight: f64) -> f64 {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * weight * factor.ln() + 1.0
        }
    }
}

/// The embedding with these angles; `None` if f32 cannot hold them.
pub(super) fn position(angles: &[f64], magnitude: f64) -> Option<Position> {
    let inverse_frequencies: Vec<f32> = angles.iter().map(|&angle| angle as f32).collect();
    let magnitude = magnitude as f32;
    let finite = magnitude.is_finite() && inverse_frequencies.iter().all(|angle| angle.is_finite());
    finite.then(|| Position::Rotary {
        inverse_frequencies: inverse_frequencies.into(),
        magnitude,
    })
}

/// The base whose plain angles these are, with as few digits as say it.
pub(super) fn base_of(angles: &[f32], default: f64) -> Option<f64> {
    let (width, last) = (2 * angles.len(), *angles.last()?);
    let estimate = match angles.len() {
        1 => default,
        pairs => f64::from(last).powf(-(width as f64) / (2 * (pairs - 1)) as f64),
    };
    let rounded = (0..DIGITS).filter_map(|digits| format!("{estimate:.digits$e}").parse().ok());
    // GGUF keeps the base in single precision.
    let single = estimate as f32;
    let neighbours = [single, single.next_up(), single.next_down()].map(f64::from);
    let gives = |base: &f64| {
        let plain = plain_angles(*base, width);
        plain.iter().zip(angles).all(|(&plain, &angle)| plain as f32 == angle)
    };
    rounded.chain(neighbours).find(gives)
}
