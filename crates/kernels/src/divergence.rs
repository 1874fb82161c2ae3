//! How far one distribution over tokens is from another, row by row, from their logits.

use std::ops::Range;

use crate::Context;
use crate::disjoint::Disjoint;
use crate::simd::{LANES, Simd, exp};
use crate::training::rows::{Part, share_rows};

/// Vectors that are summed in f32 before the sum moves to f64.
const FLUSH: usize = 32;

/// Logits of two models on the same tokens.
#[derive(Debug, Clone, Copy)]
pub struct LogitPairs<'a> {
    /// Those of the distribution that is taken as true, `[rows, columns]`.
    pub source: &'a [f32],
    /// Those of the one that stands in for it, `[rows, columns]`.
    pub other: &'a [f32],
    /// The token that follows in each row, below the number of columns.
    pub targets: &'a [u32],
}

/// What a row says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowDivergence {
    /// KL(source || other) in nats; not finite where a logit is not.
    pub kl: f64,
    /// Log-probability of the target: in the source, in the other.
    pub logprobs: [f64; 2],
    /// The source's likeliest token, the first of equal ones, is the other's too, or one of its equals.
    pub same_top: bool,
}

/// Compares every row.
///
/// # Panics
/// On shapes that do not fit together, or a target that is no column.
pub fn divergence(context: &mut Context, pairs: LogitPairs<'_>, to: &mut [RowDivergence]) {
    let LogitPairs { source, other, targets } = pairs;
    let rows = targets.len();
    assert!(rows > 0 && to.len() == rows && source.len() == other.len() && source.len().is_multiple_of(rows));
    let columns = source.len() / rows;
    assert!(targets.iter().all(|&target| (target as usize) < columns));
    let part = Rows {
        pairs,
        columns,
        to: Disjoint::new(to),
    };
    share_rows(context, rows, &part);
}

struct Rows<'a> {
    pairs: LogitPairs<'a>,
    columns: usize,
    to: Disjoint<'a, RowDivergence>,
}

impl Part for Rows<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, rows: Range<usize>) {
        for row in rows {
            let columns = row * self.columns..(row + 1) * self.columns;
            let logits = [&self.pairs.source[columns.clone()], &self.pairs.other[columns]];
            // SAFETY: rows are shared out.
            let to = unsafe { self.to.part(row..row + 1) };
            to[0] = one(s, logits, self.pairs.targets[row] as usize);
        }
    }
}

/// With a and b as logits below their largest, A and B as the sums of their powers, and `t = (b - ln B) - (a - ln A)`, the logarithm
/// of the ratio of probabilities: `KL = sum e^a / A * (e^t - 1 - t)`, which is `-sum e^a / A * t` because both sum to one. No term is
/// negative, so that close distributions, whose t nearly cancel, keep their digits. What rounding does to ln A and ln B counts squared.
#[inline(always)]
fn one<S: Simd>(s: S, logits: [&[f32]; 2], target: usize) -> RowDivergence {
    let largest = [maximum(s, logits[0]), maximum(s, logits[1])];
    let sums = [
        sum_of_powers(s, logits[0], largest[0]),
        sum_of_powers(s, logits[1], largest[1]),
    ];
    let logs = [sums[0].ln(), sums[1].ln()];
    let shift = (f64::from(largest[1]) + logs[1]) - (f64::from(largest[0]) + logs[0]);
    let weighted = weighted_ratios(s, logits, (largest[0], shift));
    let top = logits[0].iter().position(|&logit| logit == largest[0]);
    RowDivergence {
        kl: weighted / sums[0],
        logprobs: [0, 1].map(|of| f64::from(logits[of][target] - largest[of]) - logs[of]),
        same_top: top.is_some_and(|top| logits[1][top] == largest[1]),
    }
}

#[inline(always)]
fn maximum<S: Simd>(s: S, logits: &[f32]) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        // SAFETY: sixteen elements.
        largest = s.max(largest, unsafe { s.load(chunk.as_ptr()) });
    }
    s.maximum(largest).max(rest)
}

/// `sum e^(logit - largest)`.
#[inline(always)]
fn sum_of_powers<S: Simd>(s: S, logits: &[f32], largest: f32) -> f64 {
    let (whole, rest) = logits.split_at(logits.len() / LANES * LANES);
    let mut total = 0.0;
    for part in whole.chunks(FLUSH * LANES) {
        let mut sum = s.splat(0.0);
        for chunk in part.chunks_exact(LANES) {
            // SAFETY: sixteen elements.
            let logit = unsafe { s.load(chunk.as_ptr()) };
            sum = s.add(sum, exp(s, s.sub(logit, s.splat(largest))));
        }
        total += f64::from(s.sum(sum));
    }
    for logit in rest {
        total += f64::from(logit - largest).exp();
    }
    total
}

/// `sum e^(a - largest) * (e^t - 1 - t)` with `t = b - a - shift`.
#[inline(always)]
fn weighted_ratios<S: Simd>(s: S, [a, b]: [&[f32]; 2], (largest, shift): (f32, f64)) -> f64 {
    let whole = a.len() / LANES * LANES;
    let mut total = 0.0;
    for start in (0..whole).step_by(FLUSH * LANES) {
        let end = whole.min(start + FLUSH * LANES);
        let mut sum = s.splat(0.0);
        for (a, b) in a[start..end].chunks_exact(LANES).zip(b[start..end].chunks_exact(LANES)) {
            // SAFETY: sixteen elements each.
            let (a, b) = unsafe { (s.load(a.as_ptr()), s.load(b.as_ptr())) };
            let power = exp(s, s.sub(a, s.splat(largest)));
            let ratio = s.sub(s.sub(b, a), s.splat(shift as f32));
            sum = s.mul_add(power, above_tangent(s, ratio), sum);
        }
        total += f64::from(s.sum(sum));
    }
    for (&a, &b) in a[whole..].iter().zip(&b[whole..]) {
        let ratio = f64::from(b) - f64::from(a) - shift;
        total += f64::from(a - largest).exp() * (ratio.exp_m1() - ratio);
    }
    total
}

/// `e^t - 1 - t`. With h as t within a half of 0 it is the series of h, which keeps the digits of a small t, and
/// `(e^t - e^h) - (t - h)`, which is 0 for it.
#[inline(always)]
fn above_tangent<S: Simd>(s: S, t: S::F) -> S::F {
    let h = s.max(s.splat(-0.5), t);
    let h = s.sub(s.splat(0.0), s.max(s.splat(-0.5), s.sub(s.splat(0.0), h)));
    let mut series = s.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = s.mul_add(series, h, s.splat(coefficient));
    }
    let beyond = s.sub(s.sub(exp(s, t), exp(s, h)), s.sub(t, h));
    s.mul_add(s.mul(series, h), h, beyond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, contexts};

    /// Wider than a flush, with a tail.
    const COLUMNS: usize = FLUSH * LANES + 5 * LANES + 7;

    fn log_softmax(logits: &[f32]) -> Vec<f64> {
        let sum = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>();
        logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
    }

    fn compared(context: &mut Context, source: &[f32], other: &[f32], targets: &[u32]) -> Vec<RowDivergence> {
        let mut to = vec![RowDivergence::default(); targets.len()];
        divergence(context, LogitPairs { source, other, targets }, &mut to);
        to
    }

    #[test]
    fn rows_are_those_of_the_definition_and_the_same_bits_everywhere() {
        let mut random = Random(3);
        let targets = [0, 7, COLUMNS as u32 - 1];
        let source: Vec<f32> = random.numbers(3 * COLUMNS).iter().map(|x| x * 9.0).collect();
        // Far from it, close to it, and itself.
        let mut other = source.clone();
        for (row, size) in [(0, 4.0), (1, 0.01)] {
            let change = random.numbers(COLUMNS);
            let row = &mut other[row * COLUMNS..][..COLUMNS];
            row.iter_mut()
                .zip(change)
                .for_each(|(logit, change)| *logit += size * change);
        }
        let mut first: Option<Vec<RowDivergence>> = None;
        for mut context in contexts() {
            let got = compared(&mut context, &source, &other, &targets);
            assert_eq!(&got, first.get_or_insert_with(|| got.clone()), "{}", context.isa.name());
        }
        for (index, got) in first.unwrap().iter().enumerate() {
            let row = index * COLUMNS..(index + 1) * COLUMNS;
            let [p, q] = [&source, &other].map(|logits| log_softmax(&logits[row.clone()]));
            let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
            assert!((got.kl - kl).abs() <= 1e-5 * kl, "{} for {kl}", got.kl);
            let target = targets[index] as usize;
            for (got, expected) in got.logprobs.iter().zip([p[target], q[target]]) {
                assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
            }
            let top = |of: &[f64]| of.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            assert_eq!(got.same_top, top(&p) == top(&q));
        }
    }

    #[test]
    fn a_distribution_is_at_no_distance_from_itself_and_not_finite_logits_show() {
        let logits = Random(5).numbers(COLUMNS);
        for mut context in contexts() {
            let same = compared(&mut context, &logits, &logits, &[3])[0];
            assert_eq!((same.kl, same.same_top), (0.0, true));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [1, COLUMNS - 1] {
                    let mut broken = logits.clone();
                    broken[place] = bad;
                    for (source, other) in [(&broken, &logits), (&logits, &broken), (&broken, &broken)] {
                        let kl = compared(&mut context, source, other, &[3])[0].kl;
                        assert!(!kl.is_finite(), "{kl} with {bad} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn of_equal_likeliest_tokens_the_first_must_be_one_of_the_others() {
        let mut context = contexts().remove(0);
        let mut same_top = |source: [f32; 3], other: [f32; 3]| {
            let [source, other] = [source, other].map(|row| row.to_vec());
            compared(&mut context, &source, &other, &[0])[0].same_top
        };
        let rows = [[1.0, 2.0, 2.0], [0.0, 2.0, 2.0], [2.0, 0.0, 2.0]];
        assert!(same_top(rows[0], rows[1]));
        assert!(!same_top(rows[0], rows[2]));
    }
}
