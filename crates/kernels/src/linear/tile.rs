//! The integer product: quantized weights times int8 activations, exact within a group of 32 or 16 inputs, f32 across
//! groups.
//!
//! ```text
//! for each tile of R rows x C column blocks (16 outputs each):
//!   acc[R][C] = 0                                   f32
//!   for block in 0..inputs / 32, for group in block:
//!     dot[R][C] = sum of the group's products       i32, exact, so the order within does not matter
//!     acc = fma(dot * weight_scale, input_scale, acc)
//!     acc = fma(minimum, input_scaled_sum, acc)     only encodings with a minimum
//! ```
//!
//! Every output sees this one order of additions along the inputs whatever R, C, the other rows and the threads are:
//! tiles differ only in how many independent chains run side by side. That is what makes a request's bits independent
//! of its batch.
//!
//! R = 6 by C = 2 fills the 32 registers of AVX-512 (12 integer and 12 float accumulators, weights, scales). One row
//! alone takes C = 4 and splits the integer chain in two, because the latency of the products would show.

use std::marker::PhantomData;

use super::Operands;
use super::encoding::Encoding;
use super::scales::Scales;
use crate::activations::{Activations, BlockScale};
use crate::matrix::{BLOCK, COLUMNS, Line};
use crate::simd::Simd;

/// Integer sums start at the bits of this: as long as they stay below 2^22, their bits are those of the f32 `DOT_BIAS + sum`,
/// and `fma(that, scale, -DOT_BIAS * scale)` is `sum * scale` rounded once. It saves the conversion. `-DOT_BIAS * scale` is
/// exact: scales have 18 bits at most, and the bias two.
pub(super) const DOT_BIAS: f32 = 12_582_912.0;

/// Column blocks from `block` on: their lines, and the scales of the whole matrix.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a, E, Sc> {
    scales: Sc,
    block: usize,
    lines: &'a [Line],
    encoding: PhantomData<E>,
}

impl<'a, E: Encoding, Sc: Scales> Columns<'a, E, Sc> {
    #[inline(always)]
    pub(super) fn new(scales: Sc, block: usize, lines: &'a [Line]) -> Self {
        Self {
            scales,
            block,
            lines,
            encoding: PhantomData,
        }
    }
}

/// All rows in nearly equal tiles. Sizes that the instruction set has no registers for are not compiled.
#[inline(always)]
pub(super) fn all_rows<S: Simd, E: Encoding, Sc: Scales>(s: S, operands: &Operands<'_>, columns: Columns<'_, E, Sc>) {
    let (start, rows) = (operands.rows.start, operands.rows.len());
    let tiles = rows.div_ceil(S::TILE_ROWS);
    for index in 0..tiles {
        let range = crate::pool::share(rows, index, tiles);
        let row = start + range.start;
        match range.len() {
            1 => tile::<S, E, Sc, 1, 2>(s, operands, row, columns),
            2 => tile::<S, E, Sc, 2, 2>(s, operands, row, columns),
            3 if S::TILE_ROWS >= 3 => tile::<S, E, Sc, 3, 2>(s, operands, row, columns),
            4 if S::TILE_ROWS >= 4 => tile::<S, E, Sc, 4, 2>(s, operands, row, columns),
            5 if S::TILE_ROWS >= 5 => tile::<S, E, Sc, 5, 2>(s, operands, row, columns),
            6 if S::TILE_ROWS >= 6 => tile::<S, E, Sc, 6, 2>(s, operands, row, columns),
            _ => unreachable!("a tile has at most {} rows", S::TILE_ROWS),
        }
    }
}

/// R rows from `row` on by the first C column blocks of `columns`.
#[inline(always)]
pub(super) fn tile<S: Simd, E: Encoding, Sc: Scales, const R: usize, const C: usize>(
    s: S,
    operands: &Operands<'_>,
    row: usize,
    columns: Columns<'_, E, Sc>,
) {
    let (x, blocks) = (operands.x, operands.matrix.blocks());
    let Columns {
        scales, block, lines, ..
    } = columns;
    assert!(row + R <= x.rows() && blocks * BLOCK == x.width() && lines.len() == C * blocks * E::LINES);
    assert!((block + C) * blocks <= scales.places());
    let mut acc = [[s.splat(0.0); C]; R];
    for input_block in 0..blocks {
        operands.ahead.step();
        let rows = RowBlock { x, row, input_block };
        for group in 0..Sc::GROUPS {
            // SAFETY: row, input block and lines are within bounds by the assertions above.
            let dot = unsafe {
                let lines = lines.as_ptr().wrapping_add(input_block * E::LINES);
                dot::<S, E, Sc, R, C>(s, &rows, lines, group)
            };
            for c in 0..C {
                let place = (block + c) * blocks + input_block;
                // SAFETY: the scales have all places of these column blocks (asserted).
                let scale = unsafe { scales.scale(s, place, group) };
                let biased = s.mul(scale, s.splat(-DOT_BIAS));
                for r in 0..R {
                    let weighted = s.mul_add(s.bits_as_f32(dot[r][c]), scale, biased);
                    acc[r][c] = s.mul_add(weighted, s.splat(rows.scale(r).scale), acc[r][c]);
                }
                if Sc::MINIMA {
                    // SAFETY: as for the scales.
                    let minimum = unsafe { scales.minimum(s, place, group, scale) };
                    for r in 0..R {
                        let sum = rows.scale(r).scaled_sum_of(group, Sc::GROUPS);
                        acc[r][c] = s.mul_add(minimum, s.splat(sum), acc[r][c]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            operands.sink.put(s, row + r, (block + c) * COLUMNS, acc[r][c]);
        }
    }
}

/// One input block of consecutive rows.
struct RowBlock<'a> {
    x: &'a Activations,
    row: usize,
    input_block: usize,
}

impl RowBlock<'_> {
    #[inline(always)]
    fn scale(&self, r: usize) -> BlockScale {
        let index = (self.row + r) * (self.x.width() / BLOCK) + self.input_block;
        debug_assert!(index < self.x.blocks.len());
        // SAFETY: the tile asserted its rows, and input blocks run below width / 32.
        unsafe { *self.x.blocks.get_unchecked(index) }
    }

    #[inline(always)]
    fn quants(&self, r: usize) -> *const i8 {
        self.x
            .quants
            .as_ptr()
            .wrapping_add((self.row + r) * self.x.width() + self.input_block * BLOCK)
    }
}

/// Integer products of one group of an input block. With few chains each is split in two.
///
/// # Safety
/// `lines` is the first line of this input block in the first of C column blocks of the rows' width; the rows and the
/// input block exist.
#[inline(always)]
unsafe fn dot<S: Simd, E: Encoding, Sc: Scales, const R: usize, const C: usize>(
    s: S,
    rows: &RowBlock<'_>,
    lines: *const Line,
    group: usize,
) -> [[S::I; C]; R] {
    let blocks = rows.x.width() / BLOCK;
    let mut even = [[s.splat_i32(0); C]; R];
    for r in 0..R {
        let start = E::start(s, rows.scale(r).sum_of(group, Sc::GROUPS)) + DOT_BIAS.to_bits() as i32;
        even[r] = [s.splat_i32(start); C];
    }
    let mut odd = [[s.splat_i32(0); C]; R];
    let split = R * C <= 4;
    let pairs = 4 / Sc::GROUPS;
    for pair in group * pairs..(group + 1) * pairs {
        for c in 0..C {
            // SAFETY: within the block's lines.
            let (first, second) = unsafe { E::groups(s, lines.add(c * blocks * E::LINES), pair) };
            for r in 0..R {
                // SAFETY: eight activations from `pair * 8` on belong to this block.
                let (low, high) = unsafe {
                    (
                        s.broadcast4(rows.quants(r).add(pair * 8)),
                        s.broadcast4(rows.quants(r).add(pair * 8 + 4)),
                    )
                };
                even[r][c] = E::dot(s, even[r][c], first, low);
                if split {
                    odd[r][c] = E::dot(s, odd[r][c], second, high);
                } else {
                    even[r][c] = E::dot(s, even[r][c], second, high);
                }
            }
        }
    }
    if split {
        for r in 0..R {
            for c in 0..C {
                even[r][c] = s.add_i32(even[r][c], odd[r][c]);
            }
        }
    }
    even
}
