//! The integer product: 4- or 8-bit weights times int8 activations, exact within a block of 32, f32 across blocks.
//!
//! ```text
//! for each tile of R rows x C column blocks (16 outputs each):
//!   acc[R][C] = 0                                   f32
//!   for block in 0..inputs / 32:
//!     dot[R][C] = sum of 32 products                i32, exact, so the order within does not matter
//!     acc = fma(f32(dot) * weight_scale, input_scale, acc)
//!     acc = fma(minimum, input_scaled_sum, acc)     only encodings with a minimum
//! ```
//!
//! Every output sees this one order of additions along the inputs whatever R, C, the other rows and the threads are:
//! tiles differ only in how many independent chains run side by side. That is what makes a request's bits independent
//! of its batch.
//!
//! R = 6 by C = 2 fills the 32 registers of AVX-512 (12 integer and 12 float accumulators, weights, scales). One row
//! alone takes C = 4 and splits the integer chain in two, because the latency of the products would show. From
//! [`PANEL_ROWS`] rows on, the nibbles of a column pair are unpacked once to bytes in a panel that stays in the L1/L2
//! cache, instead of once per row tile.

use std::ops::Range;

use super::Operands;
use crate::activations::Activations;
use crate::isa::{Isa, Kernel};
use crate::matrix::{BLOCK, BlockFormat, COLUMNS, Line};
use crate::simd::Simd;

/// Rows from which unpacking a panel pays.
const PANEL_ROWS: usize = 13;

/// Encodings as types, so that a tile is compiled for each.
trait Encoding: Copy {
    const LINES: usize;
    const MINIMA: bool;
    /// Integer accumulator before the first product of a block.
    fn start<S: Simd>(s: S, sum: i32) -> S::I;
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I;
    /// Weights of groups `2 * pair` and `2 * pair + 1` of a block whose lines start at `lines`.
    ///
    /// # Safety
    /// `LINES` lines can be read.
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B);
}

/// Nibbles with a float minimum (Q4_1), or with a zero point of 8 (Q4_0) if `ZERO` is 8; `UNPACKED` to bytes in a panel or
/// two to a byte as the matrix keeps them.
#[derive(Clone, Copy)]
struct Nibbles<const ZERO: i32, const UNPACKED: bool>;
/// Bytes stored as value + 128 (Q8_0).
#[derive(Clone, Copy)]
struct Bytes;

impl<const ZERO: i32, const UNPACKED: bool> Encoding for Nibbles<ZERO, UNPACKED> {
    const LINES: usize = if UNPACKED { 8 } else { 4 };
    const MINIMA: bool = ZERO == 0;
    #[inline(always)]
    fn start<S: Simd>(s: S, sum: i32) -> S::I {
        s.splat_i32(-ZERO * sum)
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I {
        s.dot_u4(acc, weights, inputs)
    }
    #[inline(always)]
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
        if UNPACKED {
            // SAFETY: there are eight lines, by the caller's promise.
            return unsafe { two_lines(s, lines, pair) };
        }
        // SAFETY: `pair` is below 4.
        let line = unsafe { s.load_bytes(lines.add(pair).cast()) };
        (s.low_nibbles(line), s.high_nibbles(line))
    }
}

impl Encoding for Bytes {
    const LINES: usize = 8;
    const MINIMA: bool = false;
    #[inline(always)]
    fn start<S: Simd>(s: S, sum: i32) -> S::I {
        s.dot_u8_start(sum)
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::I, weights: S::B, inputs: S::B) -> S::I {
        s.dot_u8(acc, weights, inputs)
    }
    #[inline(always)]
    unsafe fn groups<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
        // SAFETY: there are eight lines, by the caller's promise.
        unsafe { two_lines(s, lines, pair) }
    }
}

/// Lines `2 * pair` and `2 * pair + 1`.
///
/// # Safety
/// Eight lines can be read, and `pair` is below 4.
#[inline(always)]
unsafe fn two_lines<S: Simd>(s: S, lines: *const Line, pair: usize) -> (S::B, S::B) {
    // SAFETY: `2 * pair + 1` is below 8.
    unsafe {
        (
            s.load_bytes(lines.add(2 * pair).cast()),
            s.load_bytes(lines.add(2 * pair + 1).cast()),
        )
    }
}

/// The product of all rows with the column pairs `pairs`; `panel` is memory of this thread.
pub(super) fn product(isa: Isa, operands: &Operands<'_>, pairs: Range<usize>, panel: &mut Vec<Line>) {
    isa.run(Product { operands, pairs, panel });
}

struct Product<'a> {
    operands: &'a Operands<'a>,
    pairs: Range<usize>,
    panel: &'a mut Vec<Line>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { operands, pairs, panel } = self;
        match operands.matrix.format {
            BlockFormat::Q4_0 => nibble_product::<S, 8>(s, operands, pairs, panel),
            BlockFormat::Q4_1 => nibble_product::<S, 0>(s, operands, pairs, panel),
            _ => rows_by_pairs::<S, Bytes>(s, operands, pairs),
        }
    }
}

#[inline(always)]
fn nibble_product<S: Simd, const ZERO: i32>(s: S, operands: &Operands<'_>, pairs: Range<usize>, panel: &mut Vec<Line>) {
    let matrix = operands.matrix;
    if operands.x.rows() < PANEL_ROWS {
        return rows_by_pairs::<S, Nibbles<ZERO, false>>(s, operands, pairs);
    }
    let lines = 2 * matrix.blocks() * 8;
    panel.resize(lines.max(panel.len()), Line([0; 64]));
    for pair in pairs {
        let packed = &matrix.lines[pair * 2 * matrix.blocks() * 4..][..2 * matrix.blocks() * 4];
        for (line, to) in packed.iter().zip(panel.chunks_exact_mut(2)) {
            // SAFETY: a line has 64 bytes.
            unsafe {
                let line = s.load_bytes(line.0.as_ptr());
                s.store_bytes(to[0].0.as_mut_ptr(), s.low_nibbles(line));
                s.store_bytes(to[1].0.as_mut_ptr(), s.high_nibbles(line));
            }
        }
        all_rows::<S, Nibbles<ZERO, true>, 2>(s, operands, pair * 2, &panel[..lines]);
    }
}

#[inline(always)]
fn rows_by_pairs<S: Simd, E: Encoding>(s: S, operands: &Operands<'_>, pairs: Range<usize>) {
    let per_block = operands.matrix.blocks() * E::LINES;
    let (mut block, end) = (pairs.start * 2, pairs.end * 2);
    if operands.x.rows() == 1 {
        while block + 4 <= end {
            let lines = &operands.matrix.lines[block * per_block..][..4 * per_block];
            tile::<S, E, 1, 4>(s, operands, 0, block, lines);
            block += 4;
        }
    }
    while block < end {
        let lines = &operands.matrix.lines[block * per_block..][..2 * per_block];
        all_rows::<S, E, 2>(s, operands, block, lines);
        block += 2;
    }
}

/// All rows against one column pair, in tiles of nearly equal height.
#[inline(always)]
fn all_rows<S: Simd, E: Encoding, const C: usize>(s: S, operands: &Operands<'_>, block: usize, lines: &[Line]) {
    const {
        assert!(
            S::TILE_ROWS >= 1 && S::TILE_ROWS <= 6,
            "heights that are compiled below"
        )
    };
    let rows = operands.x.rows();
    let tiles = rows.div_ceil(S::TILE_ROWS);
    for index in 0..tiles {
        let range = crate::pool::share(rows, index, tiles);
        match range.len() {
            1 => tile::<S, E, 1, C>(s, operands, range.start, block, lines),
            2 => tile::<S, E, 2, C>(s, operands, range.start, block, lines),
            3 => tile::<S, E, 3, C>(s, operands, range.start, block, lines),
            4 => tile::<S, E, 4, C>(s, operands, range.start, block, lines),
            5 => tile::<S, E, 5, C>(s, operands, range.start, block, lines),
            _ => tile::<S, E, 6, C>(s, operands, range.start, block, lines),
        }
    }
}

/// R rows from `row` on by C column blocks from `block` on, whose lines are `lines`.
#[inline(always)]
fn tile<S: Simd, E: Encoding, const R: usize, const C: usize>(
    s: S,
    operands: &Operands<'_>,
    row: usize,
    block: usize,
    lines: &[Line],
) {
    let (x, matrix) = (operands.x, operands.matrix);
    let blocks = matrix.blocks();
    assert!(row + R <= x.rows() && lines.len() == C * blocks * E::LINES);
    assert!((block + C) * blocks * COLUMNS <= matrix.scales.len());
    let scales = &matrix.scales[block * blocks * COLUMNS..];
    let mut acc = [[s.splat(0.0); C]; R];
    for input_block in 0..blocks {
        let rows = RowBlock { x, row, input_block };
        // SAFETY: row, input block and lines are within bounds by the assertions above.
        let dot = unsafe { dot::<S, E, R, C>(s, &rows, lines.as_ptr().wrapping_add(input_block * E::LINES), blocks) };
        for c in 0..C {
            let place = (c * blocks + input_block) * COLUMNS;
            // SAFETY: scales (and minima, where the encoding has them) of all C blocks exist.
            let scale = unsafe { s.load_f16(scales.as_ptr().add(place)) };
            for r in 0..R {
                let weighted = s.mul(s.to_f32(dot[r][c]), scale);
                acc[r][c] = s.mul_add(weighted, s.splat(rows.scale(r).scale), acc[r][c]);
            }
            if E::MINIMA {
                // SAFETY: minima exist as scales do.
                let minimum = unsafe { s.load_f16(matrix.minima.as_ptr().add(block * blocks * COLUMNS + place)) };
                for r in 0..R {
                    acc[r][c] = s.mul_add(minimum, s.splat(rows.scale(r).scaled_sum), acc[r][c]);
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
    fn scale(&self, r: usize) -> crate::activations::BlockScale {
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

/// Integer products of one input block. With few chains each is split in two.
///
/// # Safety
/// `lines` is the first line of this input block in the first of C column blocks of `blocks` input blocks each; the
/// rows and the input block exist.
#[inline(always)]
unsafe fn dot<S: Simd, E: Encoding, const R: usize, const C: usize>(
    s: S,
    rows: &RowBlock<'_>,
    lines: *const Line,
    blocks: usize,
) -> [[S::I; C]; R] {
    let mut even = [[s.splat_i32(0); C]; R];
    for r in 0..R {
        even[r] = [E::start(s, rows.scale(r).sum); C];
    }
    let mut odd = [[s.splat_i32(0); C]; R];
    let split = R * C <= 4;
    for pair in 0..4 {
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
