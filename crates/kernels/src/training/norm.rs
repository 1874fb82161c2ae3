//! Normalisation of groups of `width` elements: rows of the residual stream, or heads within a row.

use std::ops::Range;

use super::rows::{Part, share_rows};
use crate::disjoint::Disjoint;
use crate::simd::{LANES, Simd};
use crate::{Context, NormFormula, NormWeights};

/// Normalises each group of `weights.weight.len()` elements of `x` into `to`.
///
/// # Panics
/// On shapes that do not fit together.
pub fn norm_rows(
    context: &mut Context,
    (formula, epsilon): (NormFormula, f32),
    weights: NormWeights<'_>,
    x: &[f32],
    to: &mut [f32],
) {
    let width = weights.weight.len();
    check(weights, x, to);
    let part = Forward {
        formula,
        epsilon,
        weights,
        x,
        to: Disjoint::new(to),
    };
    share_rows(context, x.len() / width, &part);
}

fn check(weights: NormWeights<'_>, x: &[f32], to: &[f32]) {
    let width = weights.weight.len();
    assert!(width > 0 && width.is_multiple_of(LANES) && [0, width].contains(&weights.bias.len()));
    assert!(x.len().is_multiple_of(width) && x.len() == to.len());
}

struct Forward<'a> {
    formula: NormFormula,
    epsilon: f32,
    weights: NormWeights<'a>,
    x: &'a [f32],
    to: Disjoint<'a, f32>,
}

impl Part for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, groups: Range<usize>) {
        let NormWeights { weight, bias } = self.weights;
        let width = weight.len();
        for group in groups {
            let range = group * width..(group + 1) * width;
            let x = &self.x[range.clone()];
            // SAFETY: groups are shared out.
            let to = unsafe { self.to.part(range) };
            let (mean, factor) = moments(self.formula, self.epsilon, x);
            for ((to, x), weight) in to.iter_mut().zip(x).zip(weight) {
                *to = (x - mean) * factor * weight;
            }
            to.iter_mut().zip(bias).for_each(|(to, bias)| *to += bias);
        }
    }
}

/// Mean that is subtracted and factor.
#[inline(always)]
fn moments(formula: NormFormula, epsilon: f32, x: &[f32]) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = match formula {
        NormFormula::Rms => 0.0,
        NormFormula::Layer => sum(x.chunks_exact(LANES), |x, _| x) / count,
    };
    let variance = sum(x.chunks_exact(LANES), |x, _| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Sum of what `term` makes of elements, in sixteen chains.
#[inline(always)]
fn sum<'a>(chunks: impl Iterator<Item = &'a [f32]>, term: impl Fn(f32, usize) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (chunk, values) in chunks.enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(values[lane], chunk * LANES + lane);
        }
    }
    sums.iter().sum()
}

/// Gradients of a normalisation.
#[derive(Debug)]
pub struct NormBackward<'a> {
    /// What was normalised.
    pub x: &'a [f32],
    /// Gradient of the result.
    pub gradient: &'a [f32],
    /// Gradient of `x`; added to.
    pub to_x: &'a mut [f32],
    /// Gradients of the weight and, if there is one, of the bias; added to. `None` for frozen ones.
    pub to_weights: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// The way back through [`norm_rows`].
///
/// # Panics
/// On shapes that do not fit together.
pub fn norm_backward(
    context: &mut Context,
    (formula, epsilon): (NormFormula, f32),
    weights: NormWeights<'_>,
    gradients: NormBackward<'_>,
) {
    let NormBackward {
        x,
        gradient,
        to_x,
        to_weights,
    } = gradients;
    check(weights, x, gradient);
    assert_eq!(x.len(), to_x.len());
    let width = weights.weight.len();
    let part = Backward {
        formula,
        epsilon,
        weight: weights.weight,
        x,
        gradient,
        to: Disjoint::new(to_x),
    };
    share_rows(context, x.len() / width, &part);
    let Some((to_weight, to_bias)) = to_weights else {
        return;
    };
    assert!(to_weight.len() == width && to_bias.len() == weights.bias.len());
    for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact(width)) {
        let (mean, factor) = moments(formula, epsilon, x);
        for ((to, x), gradient) in to_weight.iter_mut().zip(x).zip(gradient) {
            *to += (x - mean) * factor * gradient;
        }
        to_bias
            .iter_mut()
            .zip(gradient)
            .for_each(|(to, gradient)| *to += gradient);
    }
}

struct Backward<'a> {
    formula: NormFormula,
    epsilon: f32,
    weight: &'a [f32],
    x: &'a [f32],
    gradient: &'a [f32],
    to: Disjoint<'a, f32>,
}

impl Part for Backward<'_> {
    /// With n the normalised x and g the gradient times the weight: `factor * (g - mean(g) - n * mean(g * n))`, without
    /// `mean(g)` where no mean is subtracted.
    #[inline(always)]
    fn run<S: Simd>(&self, _: S, groups: Range<usize>) {
        let (weight, width) = (self.weight, self.weight.len());
        for group in groups {
            let range = group * width..(group + 1) * width;
            let (x, gradient) = (&self.x[range.clone()], &self.gradient[range.clone()]);
            // SAFETY: groups are shared out.
            let to = unsafe { self.to.part(range) };
            let (mean, factor) = moments(self.formula, self.epsilon, x);
            let count = width as f32;
            let of_mean = match self.formula {
                NormFormula::Rms => 0.0,
                NormFormula::Layer => sum(gradient.chunks_exact(LANES), |g, at| g * weight[at]) / count,
            };
            let of_norm = sum(gradient.chunks_exact(LANES), |g, at| g * weight[at] * (x[at] - mean)) * factor / count;
            for (((to, x), gradient), weight) in to.iter_mut().zip(x).zip(gradient).zip(weight) {
                *to += factor * (gradient * weight - of_mean - (x - mean) * factor * of_norm);
            }
        }
    }
}
