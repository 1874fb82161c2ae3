//! Q4_0 and Q4_1: sixteen steps per block of 32, where the choice of the step is most of the quality.
//!
//! ```text
//! best = ggml's grid
//! for each candidate grid:
//!   twice: quants = nearest steps; grid = least squares fit of the values to the quants
//!   best = grid in f16, if its squared error is less
//! ```
//!
//! Candidates give way at the ends of the block: that clips the outermost values and serves all others better. On bell
//! curves a fifth of Q4_1's squared error goes; Q4_0, with one number to choose, loses a tenth, and no finer search
//! finds more. Sums have one order, so the choice is the same everywhere.

use half::f16;

use crate::isa::Kernel;
use crate::matrix::BLOCK;
use crate::simd::{LANES, Simd};

/// Shares of a block's range that Q4_1's candidates give up at the low and at the high end.
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
/// Steps of Q4_0's candidates from zero to the largest magnitude; ggml takes 8.
const REACHES: [f32; 9] = [8.0, 8.3, 8.6, 9.0, 9.5, 10.0, 7.7, 7.4, 7.0];

/// The 4-bit encodings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FourBits {
    /// Q4_0: quants less 8, so that the step's sign says which end has the ninth value.
    Centred,
    /// Q4_1.
    WithMinimum,
}

/// Appends blocks to `to`. Gives the first block whose scales are beyond f16, where it stops.
pub(super) struct Encode<'a> {
    pub encoding: FourBits,
    pub blocks: &'a [[f32; BLOCK]],
    pub to: &'a mut Vec<u8>,
}

impl Kernel for Encode<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        for (index, values) in self.blocks.iter().enumerate() {
            let block = Block::load(s, values);
            let best = match self.encoding {
                FourBits::Centred => centred(s, &block, values),
                FourBits::WithMinimum => with_minimum(s, &block, values),
            };
            if !best.error.is_finite() {
                return Some(index);
            }
            self.to.extend(best.scales[0].to_le_bytes());
            if self.encoding == FourBits::WithMinimum {
                self.to.extend(best.scales[1].to_le_bytes());
            }
            let mut quants = [0i8; BLOCK];
            block.store_quants(s, best.grid, &mut quants);
            // Input i in the low nibble of byte i, input i + 16 in the high one.
            let (low, high) = quants.split_at(BLOCK / 2);
            for (low, high) in low.iter().zip(high) {
                self.to.push(*low as u8 | (*high as u8) << 4);
            }
        }
        None
    }
}

/// Values that a block can take: `step * q + minimum`, q in 0..=15.
#[derive(Clone, Copy)]
struct Grid {
    step: f32,
    minimum: f32,
}

/// A grid as f16 hold it, and its squared error; that is not finite where they cannot.
#[derive(Clone, Copy)]
struct Choice {
    scales: [f16; 2],
    grid: Grid,
    error: f32,
}

impl Choice {
    /// The better of two, this where they are equal.
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        // What is not finite compares as no better, and is replaced by what is.
        if other.error < self.error || !self.error.is_finite() && other.error.is_finite() {
            other
        } else {
            self
        }
    }
}

/// A block of 32 values.
struct Block<S: Simd>([S::F; 2]);

impl<S: Simd> Block<S> {
    #[inline(always)]
    fn load(s: S, values: &[f32; BLOCK]) -> Self {
        // SAFETY: there are twice sixteen values.
        unsafe { Self([s.load(values.as_ptr()), s.load(values.as_ptr().add(LANES))]) }
    }

    /// The nearest quants of one half, ties to even. A step of zero has them all at the minimum.
    #[inline(always)]
    fn quants_of(&self, s: S, grid: Grid, half: usize) -> S::I {
        let inverse = s.splat(if grid.step == 0.0 { 0.0 } else { 1.0 / grid.step });
        let (zero, most) = (s.splat(0.0), s.splat(-15.0));
        let quant = s.mul(s.sub(self.0[half], s.splat(grid.minimum)), inverse);
        s.round(s.sub(zero, s.max(s.sub(zero, s.max(quant, zero)), most)))
    }

    #[inline(always)]
    fn quants(&self, s: S, grid: Grid) -> [S::F; 2] {
        [
            s.to_f32(self.quants_of(s, grid, 0)),
            s.to_f32(self.quants_of(s, grid, 1)),
        ]
    }

    #[inline(always)]
    fn store_quants(&self, s: S, grid: Grid, to: &mut [i8; BLOCK]) {
        // SAFETY: there is room for twice sixteen.
        unsafe {
            s.store_i8(to.as_mut_ptr(), self.quants_of(s, grid, 0));
            s.store_i8(to.as_mut_ptr().add(LANES), self.quants_of(s, grid, 1));
        }
    }

    /// A grid of the given scales: step, and either minimum or (none) eight steps below zero.
    #[inline(always)]
    fn choose(&self, s: S, step: f32, minimum: Option<f32>) -> Choice {
        let scales = [step, minimum.unwrap_or(0.0)].map(f16::from_f32);
        let step = scales[0].to_f32();
        let minimum = if minimum.is_some() {
            scales[1].to_f32()
        } else {
            -8.0 * step
        };
        let grid = Grid { step, minimum };
        let quants = self.quants(s, grid);
        let mut errors = s.splat(0.0);
        for half in 0..2 {
            let back = s.mul_add(s.splat(step), quants[half], s.splat(minimum));
            let error = s.sub(back, self.0[half]);
            errors = s.mul_add(error, error, errors);
        }
        let finite = step.is_finite() && minimum.is_finite();
        let error = if finite { s.sum(errors) } else { f32::INFINITY };
        Choice { scales, grid, error }
    }
}

/// Sum of 32 products.
#[inline(always)]
fn dot<S: Simd>(s: S, a: [S::F; 2], b: [S::F; 2]) -> f32 {
    s.sum(s.mul_add(a[1], b[1], s.mul(a[0], b[0])))
}

#[inline(always)]
fn with_minimum<S: Simd>(s: S, block: &Block<S>, values: &[f32; BLOCK]) -> Choice {
    let (mut low, mut high) = (values[0], values[0]);
    for value in values {
        (low, high) = (low.min(*value), high.max(*value));
    }
    let range = high - low;
    let mut best = block.choose(s, range / 15.0, Some(low));
    let total = s.sum(s.add(block.0[0], block.0[1]));
    for [at_low, at_high] in GIVEN_UP {
        let mut grid = Grid {
            step: range * (1.0 - at_low - at_high) / 15.0,
            minimum: low + at_low * range,
        };
        for _ in 0..2 {
            grid = fit(s, block, grid, total);
        }
        best = best.or(block.choose(s, grid.step, Some(grid.minimum)));
    }
    best
}

/// The grid that fits values at their quants in `grid` best, by least squares, given their sum; where all quants are
/// equal, the grid.
#[inline(always)]
fn fit<S: Simd>(s: S, block: &Block<S>, grid: Grid, total: f32) -> Grid {
    let quants = block.quants(s, grid);
    let (q, qq) = (s.sum(s.add(quants[0], quants[1])), dot(s, quants, quants));
    let count = BLOCK as f32;
    let spread = count * qq - q * q;
    if spread == 0.0 {
        return grid;
    }
    let step = (count * dot(s, quants, block.0) - q * total) / spread;
    Grid {
        step,
        minimum: (total - step * q) / count,
    }
}

#[inline(always)]
fn centred<S: Simd>(s: S, block: &Block<S>, values: &[f32; BLOCK]) -> Choice {
    let mut largest = 0f32;
    for value in values {
        if value.abs() > largest.abs() {
            largest = *value;
        }
    }
    let mut best = block.choose(s, largest / -8.0, None);
    for reach in REACHES {
        for step in [largest / reach, largest / -reach] {
            let minimum = -8.0 * step;
            let quants = block.quants(s, Grid { step, minimum });
            let eight = s.splat(8.0);
            let centred = [s.sub(quants[0], eight), s.sub(quants[1], eight)];
            let spread = dot(s, centred, centred);
            if spread > 0.0 {
                best = best.or(block.choose(s, dot(s, centred, block.0) / spread, None));
            }
        }
    }
    best
}
