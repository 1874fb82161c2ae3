//! Scales of two levels: the groups of a super-block share an f16 step, and an f16 minimum, that small integers multiply.
//!
//! ```text
//! each group alone: step, minimum                                              search.rs
//! for each candidate of what the super-block shares:
//!   factors = the group's step and minimum in units of it, or a neighbour of them, whichever loses least
//!   twice: what is shared = weighted least squares fit to the quants and factors, in f16; factors as before
//!   best = this one, if the super-block's weighted squared error is less
//! ```

use super::lanes::{Grids, Lanes, Row, load, store};
use super::search::{Choice, rounded};
use crate::simd::{LANES, Simd};

/// How the groups of a super-block share their scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Levels {
    /// Groups of a super-block.
    pub groups: usize,
    /// The lowest and the highest factor of the step; those of the minimum are 0 to the highest.
    pub factors: [f32; 2],
}

/// Factors that the largest group gets in candidates, as a share of the one furthest from zero.
const SHARES: [f32; 4] = [1.0, 0.97, 0.93, 0.88];

/// Scales of sixteen groups: what they share (the same in all lanes of a super-block), and their factors.
#[derive(Clone, Copy)]
pub(super) struct Shared<S: Simd> {
    /// Step, and what is subtracted.
    pub units: [S::F; 2],
    pub factors: [S::F; 2],
    /// Weighted squared errors of the groups.
    pub errors: S::F,
}

impl<S: Simd> Shared<S> {
    /// Worse than any.
    #[inline(always)]
    fn none(s: S) -> Self {
        Self {
            units: [s.splat(0.0); 2],
            factors: [s.splat(0.0); 2],
            errors: s.splat(f32::INFINITY),
        }
    }
}

/// Finds what super-blocks share.
pub(super) struct Join<'a> {
    pub lanes: &'a Lanes,
    pub levels: Levels,
    /// The quant that stands for zero, where there are no minima.
    pub zero: Option<f32>,
}

impl Join<'_> {
    /// The best scales near those that each group takes alone.
    #[inline(always)]
    pub(super) fn join<S: Simd>(&self, s: S, alone: Choice<S>) -> Shared<S> {
        let Grids { step, minimum } = alone.grids;
        let minimum = match self.zero {
            Some(_) => s.splat(0.0),
            None => s.sub(s.splat(0.0), minimum),
        };
        let mut best = Shared::none(s);
        for share in SHARES {
            let units = [self.unit(s, step, share), self.unit(s, minimum, share)];
            best = self.better(s, best, self.candidate(s, [step, minimum], units));
        }
        best
    }

    /// The best scales found from given units on.
    #[inline(always)]
    fn candidate<S: Simd>(&self, s: S, alone: [S::F; 2], mut units: [S::F; 2]) -> Shared<S> {
        let mut factors = [
            self.clamp(s, 0, quotient(s, alone[0], units[0])),
            self.clamp(s, 1, quotient(s, alone[1], units[1])),
        ];
        let mut best = Shared::none(s);
        for round in 0..3 {
            if round > 0 {
                (units, factors) = (self.fit(s, &best), best.factors);
            }
            best = self.better(s, best, self.neighbours(s, units, factors));
        }
        best
    }

    /// The f16 unit in which the largest of a super-block's numbers gets the given share of the furthest factor.
    #[inline(always)]
    fn unit<S: Simd>(&self, s: S, of: S::F, share: f32) -> S::F {
        let mut units = store(s, of);
        let [lowest, highest] = self.levels.factors;
        let furthest = if lowest < 0.0 { lowest } else { highest };
        for block in units.chunks_exact_mut(self.levels.groups) {
            let mut largest = 0f32;
            for number in &*block {
                if number.abs() > largest.abs() {
                    largest = *number;
                }
            }
            block.fill(largest / (furthest * share).round());
        }
        rounded(s, load(s, &units))
    }

    /// A factor of the step (0) or of the minimum (1), brought to the nearest one that there is.
    #[inline(always)]
    fn clamp<S: Simd>(&self, s: S, which: usize, factor: S::F) -> S::F {
        let [lowest, highest] = self.levels.factors;
        let lowest = if which == 0 { lowest } else { 0.0 };
        s.to_f32(s.round(s.min(s.max(factor, s.splat(lowest)), s.splat(highest))))
    }

    #[inline(always)]
    pub(super) fn grids<S: Simd>(&self, s: S, units: [S::F; 2], factors: [S::F; 2]) -> Grids<S> {
        let step = s.mul(units[0], factors[0]);
        let minimum = match self.zero {
            Some(zero) => s.mul(s.splat(-zero), step),
            None => s.sub(s.splat(0.0), s.mul(units[1], factors[1])),
        };
        Grids { step, minimum }
    }

    /// Of given factors and those one more or less, the ones that lose least.
    #[inline(always)]
    fn neighbours<S: Simd>(&self, s: S, units: [S::F; 2], centre: [S::F; 2]) -> Shared<S> {
        let mut best = Shared::none(s);
        best.units = units;
        let others = if self.zero.is_some() { 1 } else { 3 };
        for tried in 0..3 * others {
            let [more, other] = [tried % 3, tried / 3].map(|at| [0.0, -1.0, 1.0][at]);
            let factors = [
                self.clamp(s, 0, s.add(centre[0], s.splat(more))),
                self.clamp(s, 1, s.add(centre[1], s.splat(other))),
            ];
            let errors = self.lanes.errors(s, self.grids(s, units, factors));
            for which in 0..2 {
                best.factors[which] = s.select_less(errors, best.errors, factors[which], best.factors[which]);
            }
            best.errors = s.min(errors, best.errors);
        }
        best
    }

    /// The better by super-blocks, the first where they are equal.
    #[inline(always)]
    fn better<S: Simd>(&self, s: S, one: Shared<S>, other: Shared<S>) -> Shared<S> {
        let (a, b) = (self.total(s, other.errors), self.total(s, one.errors));
        let mut best = one;
        for which in 0..2 {
            best.units[which] = s.select_less(a, b, other.units[which], one.units[which]);
            best.factors[which] = s.select_less(a, b, other.factors[which], one.factors[which]);
        }
        best.errors = s.select_less(a, b, other.errors, one.errors);
        best
    }

    /// Sums over the groups of super-blocks.
    #[inline(always)]
    fn total<S: Simd>(&self, s: S, of: S::F) -> S::F {
        let mut sums = store(s, of);
        for block in sums.chunks_exact_mut(self.levels.groups) {
            let mut sum = 0.0;
            for group in &*block {
                sum += *group;
            }
            block.fill(sum);
        }
        load(s, &sums)
    }

    /// The units that fit values at their quants and factors best, as f16.
    #[inline(always)]
    fn fit<S: Simd>(&self, s: S, at: &Shared<S>) -> [S::F; 2] {
        let grids = self.grids(s, at.units, at.factors);
        let sums = self.lanes.sums(s, grids, s.splat(self.zero.unwrap_or(0.0)));
        let [weight, total] = self.lanes.totals(s);
        let [step, minimum] = at.factors;
        let equations = [
            s.mul(s.mul(step, step), sums.qq),
            s.mul(s.mul(step, minimum), sums.q),
            s.mul(s.mul(minimum, minimum), weight),
            s.mul(step, sums.qx),
            s.mul(minimum, total),
        ];
        let mut rows = [[0.0; LANES]; 5];
        for (row, equation) in rows.iter_mut().zip(equations) {
            *row = store(s, equation);
        }
        let mut units = [store(s, at.units[0]), store(s, at.units[1])];
        for first in (0..LANES).step_by(self.levels.groups) {
            solve(&rows, &mut units, first, self.levels.groups);
        }
        [rounded(s, load(s, &units[0])), rounded(s, load(s, &units[1]))]
    }
}

/// Normal equations `a u - b v = e` and `b u - c v = f`, whose terms are given by groups; where they have no solution for both
/// units, `v` stays.
#[inline(always)]
fn solve(terms: &[Row; 5], units: &mut [Row; 2], first: usize, groups: usize) {
    let mut sums = [0f64; 5];
    for (sum, row) in sums.iter_mut().zip(terms) {
        for term in &row[first..first + groups] {
            *sum += f64::from(*term);
        }
    }
    let [a, b, c, e, f] = sums;
    let determinant = a * c - b * b;
    if determinant > 1e-6 * a * c {
        units[0][first..first + groups].fill(((c * e - b * f) / determinant) as f32);
        units[1][first..first + groups].fill(((b * e - a * f) / determinant) as f32);
    } else if a > 0.0 {
        let step = (e + b * f64::from(units[1][first])) / a;
        units[0][first..first + groups].fill(step as f32);
    }
}

/// `a / b`, 0 for a divisor of zero.
#[inline(always)]
fn quotient<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    let zero = s.splat(0.0);
    s.select_less(zero, s.abs(b), s.div(a, b), zero)
}
