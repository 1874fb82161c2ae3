//! The step (and the minimum) of each group alone: most of the quality of few bits.
//!
//! ```text
//! best = ggml's grid
//! for each candidate grid:
//!   once or twice: quants = nearest steps; grid = weighted least squares fit of the values to the quants
//!   best = grid as the file keeps it, if its weighted squared error is less
//! ```
//!
//! Candidates give way at the ends of a group: that clips the outermost values and serves all others better. On bell
//! curves a fifth of Q4_1's squared error goes; Q4_0, with one number to choose, loses a tenth, and no finer search
//! finds more.

use half::bf16;

use super::lanes::{Grids, Lanes, load, store};
use crate::element::ElementType;
use crate::simd::{LANES, Simd};

/// Shares of a group's range that the quick search's candidates with a minimum give up at the low and at the high end.
const GIVEN_UP: [[f32; 2]; 9] = [
    [0.0, 0.0],
    [-0.02, -0.02],
    [0.03, 0.03],
    [0.0, 0.05],
    [0.05, 0.0],
    [0.0, 0.1],
    [0.1, 0.0],
    [0.0, 0.16],
    [0.16, 0.0],
];
/// Where the thorough search's candidates put the lowest value below quant 0, and the highest above the largest, in all pairs.
/// The ends inside give way; one step more than is needed has a grid of half as many steps again come back as it was.
const BEYOND: [f32; 4] = [-1.0, 0.0, 0.5, 1.0];
const PAIRS: usize = BEYOND.len() * BEYOND.len();
/// Steps of centred candidates from zero to the largest magnitude, beyond the quants below zero, which ggml takes.
const REACHES: [f32; 9] = [0.0, 0.3, 0.6, 1.0, 1.5, 2.0, -0.3, -0.6, -1.0];

/// Grids and their weighted squared errors; those are infinite where the file's numbers cannot hold the grid.
#[derive(Clone, Copy)]
pub(super) struct Choice<S: Simd> {
    pub grids: Grids<S>,
    pub errors: S::F,
}

impl<S: Simd> Choice<S> {
    /// Worse than any.
    #[inline(always)]
    fn none(s: S) -> Self {
        let zero = s.splat(0.0);
        let grids = Grids {
            step: zero,
            minimum: zero,
        };
        let errors = s.splat(f32::INFINITY);
        Self { grids, errors }
    }

    /// The better of two by lanes, this where they are equal.
    #[inline(always)]
    fn or(self, s: S, other: Self) -> Self {
        Self {
            grids: other.grids.where_less(s, other.errors, self.errors, self.grids),
            errors: s.min(other.errors, self.errors),
        }
    }
}

/// A search over groups.
pub(super) struct Search<'a> {
    pub lanes: &'a Lanes,
    /// How steps and minima are kept; f32 also where they are rounded later.
    pub kept: ElementType,
    /// Takes its time: else a model waits to be loaded.
    pub thorough: bool,
}

impl Search<'_> {
    /// Grids around zero, which is the quant `zero`. The step's sign says which end has the value more, unless all steps are to be
    /// positive.
    #[inline(always)]
    pub(super) fn centred<S: Simd>(&self, s: S, zero: f32, positive: bool) -> Choice<S> {
        let (largest, zeros) = (self.lanes.largest(s), s.splat(zero));
        let (largest, signs) = if positive { (s.abs(largest), 1) } else { (largest, 2) };
        let mut best = Choice::none(s);
        // ggml's step comes first and stays as it is.
        for candidate in 0..=signs * REACHES.len() {
            let reach = match candidate.checked_sub(1) {
                Some(index) => zero + REACHES[index / signs],
                None => zero,
            };
            let sign = if positive || candidate % 2 == 1 { 1.0 } else { -1.0 };
            let mut step = s.div(largest, s.splat(sign * reach));
            if candidate > 0 {
                step = self.fit_around(s, step, zeros);
            }
            best = best.or(s, self.around(s, step, zeros));
        }
        best
    }

    /// Grids around zero, which is a quant of each group's choice.
    #[inline(always)]
    pub(super) fn with_zero<S: Simd>(&self, s: S) -> Choice<S> {
        let ([low, high], zero) = (self.lanes.range(s), s.splat(0.0));
        let (low, high) = (s.min(low, zero), s.max(high, zero));
        let range = s.sub(high, low);
        let mut best = Choice::none(s);
        for candidate in 0..PAIRS {
            let grids = self.clipped(s, low, range, candidate);
            let zero = self.zero_point(s, grids);
            let step = self.fit_around(s, grids.step, zero);
            best = best.or(s, self.around(s, step, zero));
        }
        best
    }

    /// Grids with a minimum of their own, which is not above `highest`.
    #[inline(always)]
    pub(super) fn with_minimum<S: Simd>(&self, s: S, highest: f32) -> Choice<S> {
        let [low, high] = self.lanes.range(s);
        let low = s.min(low, s.splat(highest));
        let range = s.sub(s.max(high, low), low);
        let totals = self.lanes.totals(s);
        let count = if self.thorough { PAIRS } else { GIVEN_UP.len() };
        let mut best = Choice::none(s);
        // ggml's grid comes first and stays as it is.
        for candidate in 0..=count {
            let mut grids = Grids {
                step: s.div(range, self.lanes.most(s)),
                minimum: low,
            };
            if let Some(index) = candidate.checked_sub(1) {
                grids = match self.thorough {
                    true => self.clipped(s, low, range, index),
                    false => self.given_up(s, low, range, index),
                };
                for _ in 0..2 {
                    grids = self.fit(s, grids, totals, highest);
                }
            }
            best = best.or(s, self.choose(s, grids));
        }
        best
    }

    #[inline(always)]
    fn given_up<S: Simd>(&self, s: S, low: S::F, range: S::F, candidate: usize) -> Grids<S> {
        let [at_low, at_high] = GIVEN_UP[candidate];
        Grids {
            step: s.div(s.mul(range, s.splat(1.0 - at_low - at_high)), self.lanes.most(s)),
            minimum: s.add(low, s.mul(s.splat(at_low), range)),
        }
    }

    #[inline(always)]
    fn clipped<S: Simd>(&self, s: S, low: S::F, range: S::F, candidate: usize) -> Grids<S> {
        let [below, above] = [candidate / BEYOND.len(), candidate % BEYOND.len()].map(|at| BEYOND[at]);
        let step = s.div(range, s.add(self.lanes.most(s), s.splat(below + above)));
        Grids {
            step,
            minimum: s.mul_add(s.splat(below), step, low),
        }
    }

    /// The quant nearest to zero.
    #[inline(always)]
    fn zero_point<S: Simd>(&self, s: S, grids: Grids<S>) -> S::F {
        let zero = s.splat(0.0);
        let quant = s.div(s.sub(zero, grids.minimum), grids.step);
        s.to_f32(s.round(s.min(s.max(quant, zero), self.lanes.most(s))))
    }

    /// The grids that fit values at their quants in `grids` best; where all quants are equal, the same.
    #[inline(always)]
    fn fit<S: Simd>(&self, s: S, grids: Grids<S>, [weight, total]: [S::F; 2], highest: f32) -> Grids<S> {
        let (zero, highest) = (s.splat(0.0), s.splat(highest));
        let sums = self.lanes.sums(s, grids, zero);
        let spread = s.sub(s.mul(weight, sums.qq), s.mul(sums.q, sums.q));
        let slope = s.sub(s.mul(weight, sums.qx), s.mul(sums.q, total));
        let step = s.div(slope, spread);
        let minimum = s.div(s.sub(total, s.mul(step, sums.q)), weight);
        // Where the minimum may not rise further, the best step for it as it is.
        let level = s.sub(sums.qx, s.mul(highest, sums.q));
        let bound = Grids {
            step: s.div(level, sums.qq),
            minimum: highest,
        };
        let fitted = bound.where_less(s, highest, minimum, Grids { step, minimum });
        fitted.where_less(s, zero, spread, grids)
    }

    /// The steps around the quants `zero` that fit best, starting from given ones.
    #[inline(always)]
    fn fit_around<S: Simd>(&self, s: S, mut step: S::F, zero: S::F) -> S::F {
        for _ in 0..1 + usize::from(self.thorough) {
            let minimum = s.mul(s.sub(s.splat(0.0), zero), step);
            let sums = self.lanes.sums(s, Grids { step, minimum }, zero);
            step = s.div(sums.qx, sums.qq);
        }
        step
    }

    /// What a step around the quants `zero` loses.
    #[inline(always)]
    fn around<S: Simd>(&self, s: S, step: S::F, zero: S::F) -> Choice<S> {
        let step = self.kept(s, step);
        let minimum = s.mul(s.sub(s.splat(0.0), zero), step);
        let grids = Grids { step, minimum };
        let errors = self.lanes.errors(s, grids);
        Choice { grids, errors }
    }

    /// What a step and a minimum lose.
    #[inline(always)]
    fn choose<S: Simd>(&self, s: S, Grids { step, minimum }: Grids<S>) -> Choice<S> {
        let (step, minimum) = (self.kept(s, step), self.kept(s, minimum));
        let grids = Grids { step, minimum };
        let errors = self.lanes.errors(s, grids);
        Choice { grids, errors }
    }

    /// As the file keeps a number.
    #[inline(always)]
    fn kept<S: Simd>(&self, s: S, number: S::F) -> S::F {
        match self.kept {
            ElementType::F32 => number,
            ElementType::F16 => rounded(s, number),
            ElementType::Bf16 => {
                let row = store(s, number).map(|number| bf16::from_f32(number).to_f32());
                load(s, &row)
            }
        }
    }
}

/// The nearest f16.
#[inline(always)]
pub(super) fn rounded<S: Simd>(s: S, value: S::F) -> S::F {
    let mut halves = [0u16; LANES];
    // SAFETY: there are sixteen elements.
    unsafe {
        s.store_f16(halves.as_mut_ptr(), value);
        s.load_f16(halves.as_ptr())
    }
}
