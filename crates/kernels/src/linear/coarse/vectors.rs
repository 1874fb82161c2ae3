//! The product of a column pair on vectors.

use super::super::Operands;
use super::Panel;
use crate::Activations;
use crate::activations::{COARSE_GROUP, CoarseTile, HIGH, STEP, TILE_ROWS};
use crate::isa::Kernel;
use crate::matrix::COLUMNS;
use crate::pool::share;
use crate::simd::Simd;

/// All rows by a column pair.
pub(super) struct InVectors<'a> {
    pub operands: &'a Operands<'a>,
    /// First output of the pair.
    pub output: usize,
    /// Bytes are value + 128.
    pub panel: &'a Panel<'a>,
}

impl Kernel for InVectors<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (start, count) = (self.operands.rows.start, self.operands.rows.len());
        // A value takes two sums, so a tile has half the rows of others.
        let tiles = count.div_ceil((S::TILE_ROWS / 2).max(1));
        for index in 0..tiles {
            let range = share(count, index, tiles);
            let row = start + range.start;
            match range.len() {
                1 => self.tile::<S, 1>(s, row),
                2 if S::TILE_ROWS >= 4 => self.tile::<S, 2>(s, row),
                3 if S::TILE_ROWS >= 6 => self.tile::<S, 3>(s, row),
                _ => unreachable!("a tile has at most {} rows", S::TILE_ROWS / 2),
            }
        }
    }
}

impl InVectors<'_> {
    /// R rows from `row` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&self, s: S, row: usize) {
        let x = self.operands.x;
        let (first, width) = (row - x.coarse_from(), x.width());
        let mut rows = [Row::of(x, first); R];
        for (r, to) in rows.iter_mut().enumerate() {
            *to = Row::of(x, first + r);
        }
        let panel = [self.panel.block(0), self.panel.block(1)];
        assert!(panel[0].0.len() * 4 >= width && panel[0].1.len() * COARSE_GROUP >= width * COLUMNS);
        let mut acc = [[s.splat(0.0); 2]; R];
        for group in 0..width.div_ceil(COARSE_GROUP) {
            self.operands.ahead.step();
            let mut dots = [[[s.splat_i32(0); 2]; 2]; R];
            for r in 0..R {
                for part in 0..2 {
                    dots[r][part] = [s.splat_i32(s.dot_u8_start(rows[r].sum(part, group))); 2];
                }
            }
            for line in group * COARSE_GROUP / 4..width.min((group + 1) * COARSE_GROUP) / 4 {
                // SAFETY: lines of the width exist (asserted, and by `Row::of`).
                unsafe {
                    let mut weights = [s.load_bytes(panel[0].0.as_ptr().add(line).cast()); 2];
                    weights[1] = s.load_bytes(panel[1].0.as_ptr().add(line).cast());
                    for r in 0..R {
                        for part in 0..2 {
                            let inputs = s.broadcast4(rows[r].inputs(part, line));
                            for c in 0..2 {
                                dots[r][part][c] = s.dot_u8(dots[r][part][c], weights[c], inputs);
                            }
                        }
                    }
                }
            }
            for c in 0..2 {
                // SAFETY: steps of every group exist (asserted).
                let step = unsafe { s.load(panel[c].1.as_ptr().add(group * COLUMNS)) };
                for r in 0..R {
                    let [high, low] = [s.to_f32(dots[r][0][c]), s.to_f32(dots[r][1][c])];
                    let weighted = s.mul(s.mul_add(high, s.splat(HIGH), low), step);
                    acc[r][c] = s.mul_add(weighted, s.splat(rows[r].scale(group)), acc[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..2 {
                self.operands.sink.put(s, row + r, self.output + c * COLUMNS, acc[r][c]);
            }
        }
    }
}

/// One row in coarse groups.
#[derive(Clone, Copy)]
struct Row<'a> {
    tile: CoarseTile<'a>,
    /// Its place among the tile's.
    within: usize,
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn of(x: &'a Activations, row: usize) -> Self {
        let tile = x.coarse.tile(row / TILE_ROWS);
        assert!(tile.lines.len() == x.width().div_ceil(STEP) * 2 * TILE_ROWS);
        Self {
            tile,
            within: row % TILE_ROWS,
        }
    }

    #[inline(always)]
    fn scale(&self, group: usize) -> f32 {
        self.tile.scales[group * TILE_ROWS + self.within]
    }

    /// Sum of a group's highs (part 0) or lows.
    #[inline(always)]
    fn sum(&self, part: usize, group: usize) -> i32 {
        self.tile.sums[part][group * TILE_ROWS + self.within]
    }

    /// Four highs (part 0) or lows from input `4 * line` on, within the width.
    #[inline(always)]
    fn inputs(&self, part: usize, line: usize) -> *const i8 {
        let (step, at) = (line / (STEP / 4), line % (STEP / 4));
        let lines: *const i8 = self.tile.lines.as_ptr().cast();
        lines.wrapping_add(((step * 2 + part) * TILE_ROWS + self.within) * STEP + at * 4)
    }
}
