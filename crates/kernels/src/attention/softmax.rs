//! Exponentials of one query's scores and their sum.

use std::ops::Range;

use super::tile::Lanes;
use crate::kv::BLOCK_TOKENS;
use crate::simd::Simd;

/// Replaces the scores of a query over `tokens` by `e^(score - largest)`; returns their sum. Its scores of a page are
/// every Q-th vector of `scores`. What lies beside `tokens` in the same pages adds nothing that an f32 could hold beside
/// the largest, which is 1.
#[inline(always)]
pub(super) fn softmax<S: Simd, const Q: usize>(s: S, tokens: Range<usize>, scores: &mut [Lanes]) -> f32 {
    let (first, last) = (tokens.start / BLOCK_TOKENS, (tokens.end - 1) / BLOCK_TOKENS);
    let scores = &mut scores[first * Q..=last * Q];
    scores[0].0[..tokens.start % BLOCK_TOKENS].fill(f32::NEG_INFINITY);
    let end = &mut scores[(last - first) * Q];
    let seen = s.keep(end.get(s), tokens.end - last * BLOCK_TOKENS, f32::NEG_INFINITY);
    end.set(s, seen);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for score in scores.iter().step_by(Q) {
        largest = s.max(largest, score.get(s));
    }
    let largest = s.splat(s.maximum(largest));
    let mut total = s.splat(0.0);
    for score in scores.iter_mut().step_by(Q) {
        let weight = exp_up_to_one(s, s.sub(score.get(s), largest));
        score.set(s, weight);
        total = s.add(total, weight);
    }
    s.sum(total)
}

/// `e^x` for x up to 0, those below -87 as -87; relative error below 2e-7 near 0 and 5e-7 at the end. NaN stays NaN.
///
/// As [`crate::simd::exp`] in two thirds of its instructions: adding 1.5 * 2^23 rounds to an integer n and leaves it, with
/// the exponent's bias, at the end of the mantissa; n ln 2 in one step is off by 2e-9 n; the polynomial is the best of
/// degree 5 on ±ln2/2 (Remez), its first coefficient made 1.
#[inline(always)]
fn exp_up_to_one<S: Simd>(s: S, x: S::F) -> S::F {
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // `x` is the second operand, which is what a maximum with NaN gives.
    let x = s.max(s.splat(-87.0), x);
    let shifted = s.mul_add(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    let r = s.mul_add(n, s.splat(-std::f32::consts::LN_2), x);
    let mut p = s.splat(0.008_297_584);
    for coefficient in [0.041_915_875, 0.166_675_78, 0.499_988_9, 0.999_999_7, 1.0] {
        p = s.mul_add(p, r, s.splat(coefficient));
    }
    s.mul(p, s.exp2_of_mantissa(shifted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Kernel;
    use crate::testing::contexts;

    /// Exponentials of sixteen numbers.
    struct Each([f32; 16]);

    impl Kernel for Each {
        type Output = [f32; 16];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; 16] {
            let mut lanes = Lanes(self.0);
            lanes.set(s, exp_up_to_one(s, lanes.get(s)));
            lanes.0
        }
    }

    #[test]
    fn exponentials_are_close_and_the_same_everywhere() {
        let mut bits: Option<Vec<u32>> = None;
        for context in contexts() {
            let mut all = Vec::new();
            for step in 0..2_000 {
                let x = std::array::from_fn(|lane| -(step as f32 * 16.0 + lane as f32) * 0.003);
                for (x, got) in x.iter().zip(context.isa.run(Each(x))) {
                    let expected = f64::from(*x).max(-87.0).exp();
                    let error = (f64::from(got) / expected - 1.0).abs();
                    assert!(error < 5e-7, "e^{x} is {got}, off by {error:e}");
                    all.push(got.to_bits());
                }
            }
            assert_eq!(&all, bits.get_or_insert_with(|| all.clone()));
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for context in contexts() {
            let mut x = [0.0; 16];
            (x[1], x[2], x[3]) = (f32::NAN, f32::NEG_INFINITY, -1e30);
            let got = context.isa.run(Each(x));
            assert_eq!(got[0], 1.0);
            assert!(got[1].is_nan());
            assert!(got[2] > 0.0 && got[2] < 2e-38 && got[2] == got[3]);
        }
    }
}
