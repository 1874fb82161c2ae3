//! How the values of an x axis lie on it, and what is written below: the parameters of a search are numbers, numbers whose factors
//! count, or names.

use crate::axis::Axis;

/// How values lie along an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scale {
    /// By their differences.
    Linear,
    /// By their factors; values above 0.
    Log,
    /// By their names: a value is the index of one.
    Named(Vec<String>),
}

impl Scale {
    /// Where a value lies on the axis.
    pub(crate) fn position(&self, value: f64) -> f64 {
        match self {
            Self::Log => value.log10(),
            Self::Linear | Self::Named(_) => value,
        }
    }

    /// An axis over these values.
    pub(crate) fn axis(&self, values: impl Iterator<Item = f64>) -> Option<Axis> {
        match self {
            Self::Named(names) => Axis::over([-0.5, names.len() as f64 - 0.5].into_iter()),
            Self::Linear | Self::Log => Axis::over(values.map(|value| self.position(value))),
        }
    }

    /// Positions of the ticks and what is written there.
    pub(crate) fn ticks(&self, axis: &Axis) -> Vec<(f64, String)> {
        match self {
            Self::Linear => axis.ticks(),
            Self::Log => powers(axis),
            Self::Named(names) => names
                .iter()
                .cloned()
                .enumerate()
                .map(|(at, name)| (at as f64, name))
                .collect(),
        }
    }
}

/// Powers of ten on an axis of logarithms, with their doubles and fives where there are few.
fn powers(axis: &Axis) -> Vec<(f64, String)> {
    let (low, high) = (axis.low.floor() as i32, axis.high.ceil() as i32);
    let multiples: &[u32] = match high - low {
        ..=3 => &[1, 2, 5],
        _ => &[1],
    };
    let all = (low..=high).flat_map(|power| multiples.iter().map(move |&multiple| (power, multiple)));
    let ticks = all.map(|(power, multiple)| {
        (
            f64::from(power) + f64::from(multiple).log10(),
            format!("{multiple}e{power}"),
        )
    });
    ticks.filter(|(at, _)| (axis.low..=axis.high).contains(at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale, values: &[f64]) -> Vec<String> {
        let axis = scale.axis(values.iter().copied()).unwrap();
        scale.ticks(&axis).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn factors_have_ticks_at_powers_and_names_at_themselves() {
        assert_eq!(
            labels(&Scale::Log, &[1e-5, 1e-1]),
            ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]
        );
        assert_eq!(labels(&Scale::Log, &[9e-5, 6e-4]), ["1e-4", "2e-4", "5e-4"]);
        let named = Scale::Named(vec!["q".to_owned(), "all".to_owned()]);
        assert_eq!(labels(&named, &[0.0]), ["q", "all"]);
        assert_eq!(labels(&Scale::Linear, &[0.0, 0.5]).first().unwrap(), "0");
    }

    #[test]
    fn a_single_factor_is_in_the_middle_of_an_axis() {
        let axis = Scale::Log.axis([1e-3].into_iter()).unwrap();
        assert!((axis.place(-3.0) - 0.5).abs() < 1e-9);
    }
}
