//! Axes of a plot: what they span, and ticks at round numbers.

/// Ticks that an axis has at most, about.
const TICKS: f64 = 6.0;

/// A span with ticks at multiples of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    step: f64,
}

impl Axis {
    /// From the smallest value to the largest.
    pub(crate) fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = span(values)?;
        let step = round_step((high - low) / TICKS);
        Some(Self { low, high, step })
    }

    /// From the tick below the smallest value to the one above the largest.
    pub(crate) fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let Self { low, high, step } = Self::over(values)?;
        Some(Self {
            low: (low / step).floor() * step,
            high: (high / step).ceil() * step,
            step,
        })
    }

    /// Where a value lies, from 0 to 1.
    pub(crate) fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Values of the ticks and what is written there.
    pub(crate) fn ticks(&self) -> Vec<(f64, String)> {
        let margin = self.step * 1e-6;
        let first = ((self.low - margin) / self.step).ceil();
        let last = ((self.high + margin) / self.step).floor();
        let count = (last - first).clamp(0.0, 4.0 * TICKS) as u32;
        let value = |index: u32| (first + f64::from(index)) * self.step;
        (0..=count)
            .map(|index| (value(index), self.label(value(index))))
            .collect()
    }

    fn label(&self, value: f64) -> String {
        let largest = self.low.abs().max(self.high.abs());
        // As many digits as tell two ticks apart.
        let exponent = self.step.log10().floor();
        if value.abs() < self.step / 2.0 {
            return "0".to_owned();
        }
        if (1e-2..1e6).contains(&largest) {
            let decimals = (-exponent).max(0.0) as usize;
            return format!("{value:.decimals$}");
        }
        let digits = (value.abs().log10().floor() - exponent).max(0.0) as usize;
        format!("{value:.digits$e}")
    }
}

/// The smallest and the largest, apart from each other even where they are one.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let least = low.abs().max(high.abs()).max(1e-12) * 1e-6;
    match low <= high {
        false => None,
        true if high - low >= least => Some((low, high)),
        // A flat line lies in the middle of something.
        true => {
            let pad = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
            Some((low - pad, high + pad))
        }
    }
}

/// The nearest of 1, 2 and 5 times a power of ten that is not below.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let multiples = [1.0, 2.0, 5.0, 10.0].map(|multiple| multiple * power);
    // A thousandth for sums that are not exact.
    let fits = |multiple: &&f64| **multiple >= step * 0.999;
    *multiples.iter().find(fits).unwrap_or(&step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Option<Axis>) -> Vec<String> {
        axis.unwrap().ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_written_with_the_digits_that_they_need() {
        let around = |values: [f64; 2]| labels(Axis::around(values.into_iter()));
        assert_eq!(around([0.8, 3.3]), ["0.5", "1.0", "1.5", "2.0", "2.5", "3.0", "3.5"]);
        assert_eq!(around([0.0, 2e-4]), ["0", "5e-5", "1.0e-4", "1.5e-4", "2.0e-4"]);
        assert_eq!(
            labels(Axis::over([1.0, 300.0].into_iter())),
            ["50", "100", "150", "200", "250", "300"]
        );
        assert_eq!(around([-2.0, 2e7]), ["-5e6", "0", "5e6", "1.0e7", "1.5e7", "2.0e7"]);
    }

    #[test]
    fn every_span_has_ticks_inside_it() {
        for low in [-1e30, -7.0, 0.0, 1e-9, 3.0, 1e29] {
            for width in [0.0, 1e-12, 0.3, 17.0, 1e30] {
                let axis = Axis::around([low, low + width].into_iter()).unwrap();
                let ticks = axis.ticks();
                assert!((2..=26).contains(&ticks.len()), "{low} {width}: {ticks:?}");
                for (value, label) in ticks {
                    assert!(
                        (-1e-3..=1.001).contains(&axis.place(value)),
                        "{low} {width}: {value} {label}"
                    );
                }
                assert!((0.0..=1.0).contains(&axis.place(low)), "{low} {width}");
            }
        }
        assert_eq!(Axis::over([].into_iter()), None);
    }
}
