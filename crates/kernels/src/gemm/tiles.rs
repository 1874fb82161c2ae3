//! The product in bfloat16 on tile registers: 32 rows by 32 columns in four registers of sums.
//!
//! ```text
//! left:   [row][depth] bf16, rounded once for all threads, zero rows and steps up to whole tiles
//! panel:  [block of 16 columns][depth / 2] lines of 16 pairs (steps 2l and 2l + 1 of a column)
//! for each 32 rows:  sums = 0;  for each 32 steps: load 2 tiles of rows, 2 of columns, multiply 4 times
//!                    out (+)= scale * sums
//! ```

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::{DEPTH, Gemm, Line, Out, Panels, chunks, round_bits};
use crate::Context;
use crate::disjoint::Disjoint;
use crate::isa::TileKernel;
use crate::matrix::{COLUMNS, PAIR};
use crate::pool::share;
use crate::simd::Simd;
use crate::simd::amx::{Amx, TILE_ROWS};
use crate::simd::avx512::Avx512;

/// Rows that share the loads of a tile of columns.
const ROWS: usize = 2 * TILE_ROWS;
/// Greatest depth between two stores of sums: 2 x 2048 x 16 bfloat16 are 128 KiB.
const LONGEST: usize = 2048;
/// Steps of the depth in a tile.
const STEPS: usize = 32;

/// The left operand in bfloat16: `rows` rounded up to [`ROWS`], `depth` to [`STEPS`].
struct Left<'a> {
    values: &'a [u16],
    rows: usize,
    depth: usize,
}

thread_local! {
    static LEFT: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
    static LINES: Cell<Vec<PairLine>> = const { Cell::new(Vec::new()) };
}

/// Two steps of sixteen columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct PairLine([u32; COLUMNS]);

pub(super) fn multiply(context: &mut Context, product: &Gemm<'_>, out: &Out<'_>) {
    let rows = product.left.rows.next_multiple_of(ROWS);
    let depth = product.left.columns.next_multiple_of(STEPS);
    let (isa, threads, pairs) = (context.isa, context.pool.threads(), out.columns.div_ceil(PAIR));
    LEFT.with_borrow_mut(|values| {
        values.resize(rows * depth, 0);
        let parts = Disjoint::new(values);
        context.pool.run(|thread| {
            isa.run_in_tiles(Round {
                product,
                rows: share(rows, thread, threads),
                depth,
                to: &parts,
            });
        });
        let left = Left { values, rows, depth };
        context.pool.run(|thread| {
            let (pairs, rows) = match pairs >= threads {
                true => (share(pairs, thread, threads), 0..rows),
                false => {
                    let tiles = share(rows / ROWS, thread, threads);
                    (0..pairs, tiles.start * ROWS..tiles.end * ROWS)
                }
            };
            isa.run_in_tiles(Multiply {
                product,
                left: &left,
                pairs,
                rows,
                out,
            });
        });
    });
}

/// Rounds some rows of the left operand.
struct Round<'a> {
    product: &'a Gemm<'a>,
    rows: Range<usize>,
    depth: usize,
    to: &'a Disjoint<'a, u16>,
}

impl TileKernel for Round<'_> {
    #[inline(always)]
    fn run(self, _: Avx512, _: Amx) {
        for row in self.rows {
            // SAFETY: rows are shared out.
            let to = unsafe { self.to.part(row * self.depth..(row + 1) * self.depth) };
            match row < self.product.left.rows {
                true => self.product.left.round_row(row, to),
                false => to.fill(0),
            }
        }
    }
}

/// A thread's part of a product.
struct Multiply<'a> {
    product: &'a Gemm<'a>,
    left: &'a Left<'a>,
    pairs: Range<usize>,
    rows: Range<usize>,
    out: &'a Out<'a>,
}

/// Steps as pairs of bfloat16.
#[inline(always)]
fn interleave(panel: &[Line], lines: &mut [PairLine]) {
    for (steps, line) in panel.as_chunks::<2>().0.iter().zip(lines) {
        let [low, high] = steps;
        for column in 0..COLUMNS {
            line.0[column] = u32::from(round_bits(low[column])) | u32::from(round_bits(high[column])) << 16;
        }
    }
}

impl TileKernel for Multiply<'_> {
    #[inline(always)]
    fn run(self, s: Avx512, amx: Amx) {
        let mut lines = LINES.take();
        lines.resize(LONGEST, PairLine([0; COLUMNS]));
        let mut panels = Panels::take();
        amx.configure(TILE_ROWS, 64);
        for pair in self.pairs.clone() {
            for depth in chunks(0..self.product.left.columns, LONGEST) {
                for part in chunks(depth.clone(), DEPTH) {
                    self.fill(s, (pair, part), depth.start, panels.both(), &mut lines);
                }
                for row in self.rows.clone().step_by(ROWS) {
                    self.tile(s, amx, (row, pair), depth.clone(), &lines);
                }
            }
        }
        amx.release();
        LINES.set(lines);
    }
}

impl Multiply<'_> {
    /// The pairs of steps of both column blocks; `start` is the first step of the lines.
    #[inline(always)]
    fn fill(
        &self,
        s: Avx512,
        (pair, depth): (usize, Range<usize>),
        start: usize,
        panels: [&mut [Line]; 2],
        lines: &mut [PairLine],
    ) {
        let [first, second] = panels;
        let steps = depth.len().next_multiple_of(STEPS);
        first[depth.len()..steps].fill([0.0; COLUMNS]);
        second[depth.len()..steps].fill([0.0; COLUMNS]);
        let at = (depth.start - start) / 2;
        self.product.right.fill(s, depth, pair, [&mut *first, &mut *second]);
        let (left, right) = lines.split_at_mut(LONGEST / 2);
        interleave(&first[..steps], &mut left[at..]);
        interleave(&second[..steps], &mut right[at..]);
    }

    #[inline(always)]
    fn tile(&self, s: Avx512, amx: Amx, (row, pair): (usize, usize), depth: Range<usize>, lines: &[PairLine]) {
        let Left {
            values,
            rows,
            depth: stride,
        } = *self.left;
        let steps = depth.len().next_multiple_of(STEPS);
        assert!(row + ROWS <= rows && depth.start + steps <= stride && values.len() == rows * stride);
        assert!(lines.len() == LONGEST && steps <= LONGEST);
        let mut sums = [[[0.0f32; COLUMNS]; TILE_ROWS]; 4];
        // SAFETY: tiles are configured; a tile of rows has 16 rows of 32 steps at `stride` (asserted), one of columns 16 lines.
        unsafe {
            amx.zero_all();
            for step in (0..steps).step_by(STEPS) {
                let at = |row: usize| values.as_ptr().add(row * stride + depth.start + step);
                let columns = lines.as_ptr().add(step / 2);
                amx.multiply_bf16(
                    [at(row), at(row + TILE_ROWS)],
                    stride * 2,
                    [columns, columns.add(LONGEST / 2)],
                );
            }
            amx.store_all(sums.as_mut_ptr().cast());
        }
        let add = self.product.accumulate || depth.start > 0;
        let blocks = self.out.columns.div_ceil(COLUMNS);
        for (index, sums) in sums.iter().enumerate() {
            let (first, block) = (row + index / 2 * TILE_ROWS, pair * 2 + index % 2);
            let count = TILE_ROWS.min(self.product.left.rows.saturating_sub(first));
            for (r, sums) in sums.iter().take(count).enumerate().filter(|_| block < blocks) {
                // SAFETY: a row of sums has 16 elements.
                let scaled = s.mul(unsafe { s.load(sums.as_ptr()) }, s.splat(self.product.scale));
                self.out.put(s, first + r, block, scaled, add);
            }
        }
    }
}
