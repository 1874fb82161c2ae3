//! Rows rounded in coarse groups: 256 inputs share a scale, so that a product scales its sums an eighth as often as with
//! blocks of 32. A large input among so many would leave few of 127 steps to the others; so there are 128 times as many, and a
//! value has two int8: `128 * high + low` steps, low in -64..=64.
//!
//! ```text
//! lines:  [row / 16][input / 64][high, low][row % 16] of 64 bytes     what one tile register takes is consecutive
//! scales: [row / 16][input / 256][row % 16];  sums: of highs, then of lows
//! ```

use super::{BlockScale, grow};
use crate::disjoint::Disjoint;
use crate::matrix::Line;
use crate::simd::{LANES, Simd};

/// Inputs of a coarse group; the last one of a row may have fewer.
pub(crate) const COARSE_GROUP: usize = 256;
/// Inputs of a line; those beyond the width are zeros.
pub(crate) const STEP: usize = 64;
/// Rows whose lines lie together.
pub(crate) const TILE_ROWS: usize = 16;
/// Steps of a high int8.
pub(crate) const HIGH: f32 = 128.0;

/// Steps of the largest magnitude in a group.
const STEPS: f32 = 127.0 * HIGH;

/// The rows.
#[derive(Default)]
pub(crate) struct CoarseRows {
    rows: usize,
    width: usize,
    lines: Vec<Line>,
    /// Value of one step.
    scales: Vec<f32>,
    /// Sums of highs and of lows.
    sums: [Vec<i32>; 2],
}

/// Sixteen rows.
#[derive(Clone, Copy)]
pub(crate) struct CoarseTile<'a> {
    pub lines: &'a [Line],
    pub scales: &'a [f32],
    pub sums: [&'a [i32]; 2],
}

/// Rows to be written, each by one thread.
pub(crate) struct CoarseWriter<'a> {
    rows: usize,
    width: usize,
    lines: Disjoint<'a, Line>,
    scales: Disjoint<'a, f32>,
    sums: [Disjoint<'a, i32>; 2],
}

impl CoarseRows {
    pub(super) fn resize(&mut self, rows: usize, width: usize) {
        let tiles = rows.div_ceil(TILE_ROWS) * TILE_ROWS;
        let groups = tiles * width.div_ceil(COARSE_GROUP);
        // What is promised below must be there where memory runs out on the way.
        self.rows = 0;
        grow(&mut self.lines, tiles * width.div_ceil(STEP) * 2, Line([0; 64]));
        grow(&mut self.scales, groups, 0.0);
        self.sums.iter_mut().for_each(|sums| grow(sums, groups, 0));
        (self.rows, self.width) = (rows, width);
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> CoarseTile<'_> {
        let lines = self.width.div_ceil(STEP) * 2 * TILE_ROWS;
        let groups = self.width.div_ceil(COARSE_GROUP) * TILE_ROWS;
        let of = tile * groups..(tile + 1) * groups;
        CoarseTile {
            lines: &self.lines[tile * lines..(tile + 1) * lines],
            scales: &self.scales[of.clone()],
            sums: [&self.sums[0][of.clone()], &self.sums[1][of]],
        }
    }

    pub(crate) fn writer(&mut self) -> CoarseWriter<'_> {
        CoarseWriter {
            rows: self.rows,
            width: self.width,
            lines: Disjoint::new(&mut self.lines),
            scales: Disjoint::new(&mut self.scales),
            sums: self.sums.each_mut().map(|sums| Disjoint::new(sums)),
        }
    }
}

impl CoarseWriter<'_> {
    /// Rounds a row: per group, scale = largest magnitude / (127 * 128), values to the nearest step, ties to even. A group with
    /// a value that is not finite gets a scale of NaN, so that the row's products show it; one too small for a step counts as
    /// zeros.
    ///
    /// # Safety
    /// No other thread writes or reads this row.
    #[inline(always)]
    pub(crate) unsafe fn put<S: Simd>(&self, s: S, row: usize, values: &[f32]) {
        assert!(row < self.rows && values.len() == self.width && self.width.is_multiple_of(2 * LANES));
        let (tile, within) = (row / TILE_ROWS, row % TILE_ROWS);
        let (steps, groups) = (self.width.div_ceil(STEP), self.width.div_ceil(COARSE_GROUP));
        for (group, values) in values.chunks(COARSE_GROUP).enumerate() {
            let mut largest = s.splat(0.0);
            for at in (0..values.len()).step_by(LANES) {
                // SAFETY: widths are multiples of sixteen.
                largest = unsafe { s.max(largest, s.abs(s.load(values.as_ptr().add(at)))) };
            }
            let largest = s.maximum(largest);
            let inverse = s.splat(if largest > 0.0 { STEPS / largest } else { 0.0 });
            let mut sums = [s.splat(0.0); 2];
            for (step, values) in values.chunks(STEP).enumerate() {
                let mut lines = [Line([0; 64]); 2];
                for at in (0..values.len()).step_by(LANES) {
                    // SAFETY: as above, and a line takes 64 bytes.
                    unsafe {
                        let rounded = s.to_f32(s.round(s.mul(s.load(values.as_ptr().add(at)), inverse)));
                        // Whole numbers below 2^24 and their 128th parts: exact. Half a high goes to the even one.
                        let high = s.round(s.mul(rounded, s.splat(1.0 / HIGH)));
                        let low = s.mul_add(s.to_f32(high), s.splat(-HIGH), rounded);
                        s.store_i8(lines[0].0.as_mut_ptr().cast::<i8>().add(at), high);
                        s.store_i8(lines[1].0.as_mut_ptr().cast::<i8>().add(at), s.round(low));
                        sums = [s.add(sums[0], s.to_f32(high)), s.add(sums[1], low)];
                    }
                }
                let at = (tile * steps + group * (COARSE_GROUP / STEP) + step) * 2 * TILE_ROWS + within;
                // SAFETY: lines of this row, which is this thread's.
                unsafe {
                    self.lines.part(at..at + 1)[0] = lines[0];
                    self.lines.part(at + TILE_ROWS..at + TILE_ROWS + 1)[0] = lines[1];
                }
            }
            let at = (tile * groups + group) * TILE_ROWS + within;
            let (scale, sums) = settle(values, largest, [s.sum(sums[0]), s.sum(sums[1])]);
            // SAFETY: as for the lines.
            unsafe {
                self.scales.part(at..at + 1)[0] = scale;
                for (all, sum) in self.sums.iter().zip(sums) {
                    all.part(at..at + 1)[0] = sum as i32;
                }
            }
        }
    }
}

/// Scale and sums of a group, given its largest magnitude and what its values rounded to.
fn settle(values: &[f32], largest: f32, sums: [f32; 2]) -> (f32, [f32; 2]) {
    // A lane that did not round is i32::MIN. Sums of integers below 2^24 are exact in f32.
    if sums[0] >= -((COARSE_GROUP * 127) as f32) {
        (largest / STEPS, sums)
    } else {
        (BlockScale::without_steps(values).scale, [0.0; 2])
    }
}
