//! How the changes of several adapters to one tensor become one, as peft's `add_weighted_adapter` defines it. There the factors
//! A and B are blended; here it is their whole product, which is what the methods' papers are about.

use rootstock_model::ContentHash;

use crate::OptimizeError;
use crate::random::{mixed, uniform};

/// A way to blend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Blend {
    /// The weighted sum.
    Linear,
    /// TIES (Yadav et al., 2023): of each change the `density` largest values are kept, their sum elects a sign for each place,
    /// and the mean of the weighted values of that sign is taken.
    Ties {
        /// Share of the values that are kept, above 0 and at most 1.
        density: f64,
    },
    /// DARE (Yu et al., 2024): of each change a random share of the values is kept, divided by that share; then the weighted sum.
    DareLinear(Dropping),
    /// The same, then TIES' election and mean.
    DareTies(Dropping),
}

/// What DARE keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropping {
    /// The share, above 0 and at most 1.
    pub density: f64,
    /// Of the choice, which depends on it, the adapter's content, the tensor and the place alone.
    pub seed: u64,
}

/// What one adapter changes of a tensor.
pub(super) struct Delta {
    pub(super) values: Vec<f32>,
    pub(super) weight: f32,
    /// Tells its random choices from those of others.
    pub(super) stream: u64,
}

impl Blend {
    pub(super) fn check(self) -> Result<(), OptimizeError> {
        let density = match self {
            Self::Linear => return Ok(()),
            Self::Ties { density } => density,
            Self::DareLinear(dropping) | Self::DareTies(dropping) => dropping.density,
        };
        if density > 0.0 && density <= 1.0 {
            return Ok(());
        }
        Err(OptimizeError::Setting {
            field: "--density".to_owned(),
            reason: format!("expected more than 0 and at most 1, got {density}"),
        })
    }

    /// An adapter's weight as the factor under which it is taken, and the factor on what that gives. They differ for magnitudes
    /// only: a sum is of what the adapters give when they are served at these factors, the other methods are of whole changes.
    pub(super) fn split(self, weight: f32) -> (f32, f32) {
        match self {
            Self::Linear => (weight, 1.0),
            Self::Ties { .. } | Self::DareLinear(_) | Self::DareTies(_) => (1.0, weight),
        }
    }

    /// The change that several amount to; at least one, of one length.
    pub(super) fn combine(self, mut deltas: Vec<Delta>) -> Vec<f32> {
        for delta in &mut deltas {
            match self {
                Self::Linear => {}
                Self::Ties { density } => trim(&mut delta.values, density),
                Self::DareLinear(dropping) | Self::DareTies(dropping) => drop_out(delta, dropping),
            }
        }
        match self {
            Self::Linear | Self::DareLinear(_) => sum(deltas),
            Self::Ties { .. } | Self::DareTies(_) => elected(&deltas),
        }
    }
}

/// Keeps the `density` of largest magnitude, of equals the first; the others become 0.
fn trim(values: &mut [f32], density: f64) {
    let kept = (density * values.len() as f64) as usize;
    if kept >= values.len() {
        return;
    }
    let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    let (larger, least, _) = magnitudes.select_nth_unstable_by(kept, |a, b| b.total_cmp(a));
    // Of those as large as the first that goes, so many stay.
    let bound = *least;
    let mut room = kept - larger.iter().filter(|value| **value > bound).count();
    for value in values {
        let magnitude = value.abs();
        let stays = magnitude > bound || (magnitude == bound && room > 0);
        room -= usize::from(stays && magnitude == bound);
        if !stays {
            *value = 0.0;
        }
    }
}

fn drop_out(delta: &mut Delta, Dropping { density, seed }: Dropping) {
    for (at, value) in delta.values.iter_mut().enumerate() {
        let drawn = mixed(mixed(seed ^ delta.stream) ^ at as u64);
        let stays = uniform(drawn) < density;
        *value = if stays {
            (f64::from(*value) / density) as f32
        } else {
            0.0
        };
    }
}

fn sum(deltas: Vec<Delta>) -> Vec<f32> {
    let mut deltas = deltas.into_iter();
    let Some(Delta { mut values, weight, .. }) = deltas.next() else {
        return Vec::new();
    };
    values.iter_mut().for_each(|value| *value *= weight);
    for Delta {
        values: more, weight, ..
    } in deltas
    {
        values
            .iter_mut()
            .zip(more)
            .for_each(|(value, more)| *value += weight * more);
    }
    values
}

/// At each place the mean of the weighted values that have the sign of the values' sum; 0 where there are none.
fn elected(deltas: &[Delta]) -> Vec<f32> {
    let places = deltas.first().map_or(0, |delta| delta.values.len());
    let at = |place: usize| {
        let positive = deltas.iter().map(|delta| delta.values[place]).sum::<f32>() >= 0.0;
        let (mut sum, mut count) = (0.0, 0.0f32);
        for delta in deltas {
            let value = delta.values[place];
            if value != 0.0 && (value > 0.0) == positive {
                sum += delta.weight * value;
                count += 1.0;
            }
        }
        sum / count.max(1.0)
    };
    (0..places).map(at).collect()
}

/// A stream of random choices for an adapter and a tensor.
pub(super) fn stream(adapter: ContentHash, tensor: &str) -> u64 {
    let content = adapter.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    tensor
        .bytes()
        .fold(content, |state, byte| mixed(state ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(values: &[f32], weight: f32) -> Delta {
        let values = values.to_vec();
        Delta {
            values,
            weight,
            stream: 7,
        }
    }

    #[test]
    fn the_largest_are_kept_and_of_equals_the_first() {
        let mut values = [1.0, -3.0, 3.0, 0.5, -3.0];
        trim(&mut values, 0.5);
        assert_eq!(values, [0.0, -3.0, 3.0, 0.0, 0.0]);
        trim(&mut values, 0.1);
        assert_eq!(values, [0.0; 5]);
        let mut all = [1.0, 2.0];
        trim(&mut all, 1.0);
        assert_eq!(all, [1.0, 2.0]);
    }

    #[test]
    fn a_sign_is_elected_by_the_sum_and_the_others_do_not_count() {
        let deltas = [
            delta(&[1.0, 0.0, -2.0], 0.5),
            delta(&[3.0, 4.0, 1.0], 1.0),
            delta(&[-2.0, 0.0, 0.0], 9.0),
        ];
        assert_eq!(elected(&deltas), [(0.5 + 3.0) / 2.0, 4.0, -1.0]);
    }

    #[test]
    fn what_is_dropped_is_made_up_for_and_repeats_with_its_seed() {
        let drop = |seed, stream| {
            let mut delta = delta(&vec![1.0; 20_000], 1.0);
            delta.stream = stream;
            drop_out(&mut delta, Dropping { density: 0.25, seed });
            delta.values
        };
        let kept = drop(1, 1);
        assert!(kept.iter().all(|&value| value == 0.0 || value == 4.0));
        let mean = kept.iter().sum::<f32>() / 20_000.0;
        assert!((0.95..1.05).contains(&mean), "{mean}");
        assert_eq!(kept, drop(1, 1));
        assert_ne!(kept, drop(2, 1));
        assert_ne!(kept, drop(1, 2));
    }

    #[test]
    fn dare_that_keeps_everything_is_the_method_after_it() {
        let deltas = || vec![delta(&[1.0, -2.0, 3.0], 0.5), delta(&[3.0, 1.0, 0.0], 2.0)];
        let keep = Dropping { density: 1.0, seed: 3 };
        assert_eq!(
            Blend::DareLinear(keep).combine(deltas()),
            Blend::Linear.combine(deltas())
        );
        assert_eq!(
            Blend::DareTies(keep).combine(deltas()),
            Blend::Ties { density: 1.0 }.combine(deltas())
        );
    }
}
