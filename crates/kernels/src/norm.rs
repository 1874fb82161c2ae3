//! Normalisation of rows. A row of a batch may have weights of its own, where its adapter replaces the base's.

use std::ops::Range;

use crate::Context;
use crate::disjoint::Disjoint;
use crate::isa::Kernel;
use crate::pool::share;
use crate::simd::{LANES, Simd};

/// Kinds of normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormFormula {
    /// `x / sqrt(mean(x^2) + epsilon) * weight` (Zhang & Sennrich, 2019).
    Rms,
    /// `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * weight + bias` (Ba et al., 2016).
    Layer,
}

/// Weights of a normalisation.
#[derive(Debug, Clone, Copy)]
pub struct NormWeights<'a> {
    /// Factors.
    pub weight: &'a [f32],
    /// Added afterwards; as long as `weight`, or empty for none.
    pub bias: &'a [f32],
}

/// Normalisation of the rows of a batch.
#[derive(Debug, Clone, Copy)]
pub struct RowNorms<'a> {
    /// What is computed.
    pub formula: NormFormula,
    /// Added under the root.
    pub epsilon: f32,
    /// Weights of rows without their own.
    pub weights: NormWeights<'a>,
    /// Rows with their own weights.
    pub own: &'a [(Range<usize>, NormWeights<'a>)],
}

impl<'a> RowNorms<'a> {
    pub(crate) fn check(&self, width: usize) {
        let own = self.own.iter().map(|(_, weights)| weights);
        for weights in own.chain([&self.weights]) {
            assert!(weights.weight.len() == width && [0, width].contains(&weights.bias.len()));
        }
    }

    pub(crate) fn has_bias(&self) -> bool {
        let own = self.own.iter().map(|(_, weights)| weights);
        own.chain([&self.weights]).any(|weights| !weights.bias.is_empty())
    }

    pub(crate) fn of(&self, row: usize) -> RowNorm<'a> {
        let own = self.own.iter().find(|(rows, _)| rows.contains(&row));
        RowNorm {
            formula: self.formula,
            epsilon: self.epsilon,
            weights: own.map_or(self.weights, |(_, weights)| *weights),
        }
    }
}

/// Normalisation of one row.
#[derive(Clone, Copy)]
pub(crate) struct RowNorm<'a> {
    formula: NormFormula,
    epsilon: f32,
    weights: NormWeights<'a>,
}

impl RowNorm<'_> {
    /// Normalises a row into another.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&self, s: S, x: &[f32], to: &mut [f32]) {
        let moments = self.moments(s, x);
        assert!(to.len() == x.len());
        for at in (0..x.len()).step_by(LANES) {
            // SAFETY: sixteen elements from `at` on exist in both slices and in the weights, see `moments`.
            unsafe {
                let normed = self.normed(s, moments, s.load(x.as_ptr().add(at)), at);
                s.store(to.as_mut_ptr().add(at), normed);
            }
        }
    }

    /// Adds a row, normalised, to another.
    #[inline(always)]
    fn add<S: Simd>(&self, s: S, x: &[f32], to: &mut [f32]) {
        let moments = self.moments(s, x);
        assert!(to.len() == x.len());
        for at in (0..x.len()).step_by(LANES) {
            // SAFETY: sixteen elements from `at` on exist in both slices and in the weights, see `moments`.
            unsafe {
                let normed = self.normed(s, moments, s.load(x.as_ptr().add(at)), at);
                let total = s.add(s.load(to.as_ptr().add(at)), normed);
                s.store(to.as_mut_ptr().add(at), total);
            }
        }
    }

    /// `x / sqrt(mean(x^2) + epsilon) * weight` of one head in place; widths are multiples of 16.
    #[inline(always)]
    pub(crate) fn apply_to_head<S: Simd>(&self, s: S, head: &mut [f32]) {
        let weight = self.weights.weight;
        assert!(head.len() == weight.len() && head.len().is_multiple_of(LANES));
        let mut squares = s.splat(0.0);
        for at in (0..head.len()).step_by(LANES) {
            // SAFETY: sixteen elements from `at` on exist.
            let value = unsafe { s.load(head.as_ptr().add(at)) };
            squares = s.mul_add(value, value, squares);
        }
        let factor = s.splat(1.0 / (s.sum(squares) / head.len() as f32 + self.epsilon).sqrt());
        for at in (0..head.len()).step_by(LANES) {
            // SAFETY: sixteen elements from `at` on exist in both slices.
            unsafe {
                let normed = s.mul(s.load(head.as_ptr().add(at)), factor);
                s.store(
                    head.as_mut_ptr().add(at),
                    s.mul(normed, s.load(weight.as_ptr().add(at))),
                );
            }
        }
    }

    /// What is subtracted and what is multiplied by; checks that the weights fit the row.
    #[inline(always)]
    fn moments<S: Simd>(&self, s: S, x: &[f32]) -> (S::F, S::F) {
        let NormWeights { weight, bias } = self.weights;
        assert!(x.len() == weight.len() && [0, x.len()].contains(&bias.len()) && x.len().is_multiple_of(2 * LANES));
        let mean = match self.formula {
            NormFormula::Rms => 0.0,
            NormFormula::Layer => sum(s, x) / x.len() as f32,
        };
        let variance = squares(s, x, mean) / x.len() as f32;
        (s.splat(mean), s.splat(1.0 / (variance + self.epsilon).sqrt()))
    }

    /// # Safety
    /// The weights have sixteen elements from `at` on, and so has the bias unless it is empty.
    #[inline(always)]
    unsafe fn normed<S: Simd>(&self, s: S, (mean, factor): (S::F, S::F), x: S::F, at: usize) -> S::F {
        let NormWeights { weight, bias } = self.weights;
        // SAFETY: the caller's promise.
        unsafe {
            let normed = s.mul(s.mul(s.sub(x, mean), factor), s.load(weight.as_ptr().add(at)));
            if bias.is_empty() {
                return normed;
            }
            s.add(normed, s.load(bias.as_ptr().add(at)))
        }
    }
}

/// Sum of the elements, halves of 32 in two chains.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    for at in (0..x.len()).step_by(2 * LANES) {
        // SAFETY: 32 elements from `at` on exist: widths are multiples of 32.
        unsafe {
            even = s.add(even, s.load(x.as_ptr().add(at)));
            odd = s.add(odd, s.load(x.as_ptr().add(at + LANES)));
        }
    }
    s.sum(s.add(even, odd))
}

/// Sum of the squares of the elements minus `mean`.
#[inline(always)]
fn squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let mean = s.splat(mean);
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    for at in (0..x.len()).step_by(2 * LANES) {
        // SAFETY: 32 elements from `at` on exist: widths are multiples of 32.
        unsafe {
            let low = s.sub(s.load(x.as_ptr().add(at)), mean);
            let high = s.sub(s.load(x.as_ptr().add(at + LANES)), mean);
            even = s.mul_add(low, low, even);
            odd = s.mul_add(high, high, odd);
        }
    }
    s.sum(s.add(even, odd))
}

/// Adds `rows` rows of `values`, normalised, to the rows of `to`, both without gaps.
///
/// # Panics
/// On shapes that do not fit together.
pub fn add_normed(context: &mut Context, norms: RowNorms<'_>, rows: usize, values: &[f32], to: &mut [f32]) {
    let width = norms.weights.weight.len();
    norms.check(width);
    assert!(
        rows.checked_mul(width)
            .is_some_and(|needed| values.len() >= needed && to.len() >= needed)
    );
    let (threads, isa) = (context.pool.threads(), context.isa);
    let to = Disjoint::new(to);
    let body = |thread: usize, threads: usize| {
        for row in share(rows, thread, threads) {
            let range = row * width..(row + 1) * width;
            let (norm, from) = (norms.of(row), &values[range.clone()]);
            // SAFETY: a row belongs to one thread.
            let to = unsafe { to.part(range) };
            isa.run(AddNormed { norm, from, to });
        }
    };
    if rows == 1 {
        body(0, 1)
    } else {
        context.pool.run(|thread| body(thread, threads))
    }
}

struct AddNormed<'a> {
    norm: RowNorm<'a>,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for AddNormed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.norm.add(s, self.from, self.to);
    }
}
