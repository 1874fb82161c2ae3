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

use super::lanes::{Grids, Lanes};
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
/// Steps of centred candidates from zero to the largest magnitude, beyond the quants below zero, which ggml takes.
const REACHES: [f32; 9] = [0.0, 0.3, 0.6, 1.0, 1.5, 2.0, -0.3, -0.6, -1.0];

/// Grids and their weighted squared errors; those are infinite where the file's numbers cannot hold the grid.
#[derive(Clone, Copy)]
pub(super) struct Choice<S: Simd> {
    pub grids: Grids<S>,
    pub errors: S::F,
}

impl<S: Simd> Choice<S> {
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
    /// The file keeps steps and minima as f16; else they are rounded later.
    pub halves: bool,
    /// Takes its time: else a model waits to be loaded.
    pub thorough: bool,
}

impl Search<'_> {
    /// Grids around zero, which is the quant `zero`: the step's sign says which end has the value more.
    #[inline(always)]
    pub(super) fn centred<S: Simd>(&self, s: S, zero: f32) -> Choice<S> {
        let (largest, zeros) = (self.lanes.largest(s), s.splat(zero));
        let mut best = self.around(s, s.div(largest, s.splat(-zero)), zero);
        for reach in REACHES {
            for reach in [zero + reach, -(zero + reach)] {
                let mut step = s.div(largest, s.splat(reach));
                for _ in 0..1 + usize::from(self.thorough) {
                    let minimum = s.mul(s.splat(-zero), step);
                    let sums = self.lanes.sums(s, Grids { step, minimum }, zeros);
                    step = s.div(sums.qx, sums.qq);
                }
                best = best.or(s, self.around(s, step, zero));
            }
        }
        best
    }

    /// Grids with a minimum of their own, which is not above `highest`.
    #[inline(always)]
    pub(super) fn with_minimum<S: Simd>(&self, s: S, highest: f32) -> Choice<S> {
        let [low, high] = self.lanes.range(s);
        let low = s.min(low, s.splat(highest));
        let (range, most) = (s.sub(s.max(high, low), low), self.lanes.most(s));
        let totals = self.lanes.totals(s);
        let step = s.div(range, most);
        let mut best = self.choose(s, Grids { step, minimum: low });
        let count = if self.thorough {
            BEYOND.len() * BEYOND.len()
        } else {
            GIVEN_UP.len()
        };
        for candidate in 0..count {
            let mut grids = match self.thorough {
                true => self.clipped(s, low, range, candidate),
                false => self.given_up(s, low, range, candidate),
            };
            for _ in 0..2 {
                grids = self.fit(s, grids, totals, highest);
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

    /// What a step around zero loses.
    #[inline(always)]
    fn around<S: Simd>(&self, s: S, step: S::F, zero: f32) -> Choice<S> {
        let step = self.kept(s, step);
        let minimum = s.mul(s.splat(-zero), step);
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
        if self.halves { rounded(s, number) } else { number }
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
