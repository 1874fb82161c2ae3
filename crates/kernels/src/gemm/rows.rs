//! The product on vectors: tiles of R rows by two column blocks, an element of the left operand broadcast to both.

use std::ops::Range;

use super::{Arithmetic, DEPTH, Gemm, Line, Out, Panels, View, chunks, round_bits};
use crate::isa::Kernel;
use crate::matrix::COLUMNS;
use crate::simd::Simd;

/// A thread's part of a product.
pub(super) struct Multiply<'a> {
    pub product: &'a Gemm<'a>,
    pub pairs: Range<usize>,
    pub rows: Range<usize>,
    pub out: &'a Out<'a>,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut panels = Panels::take();
        for pair in self.pairs.clone() {
            for depth in chunks(0..self.product.left.columns, DEPTH) {
                let [first, second] = panels.both();
                let steps = depth.len();
                self.product
                    .right
                    .fill(s, depth.clone(), pair, [&mut *first, &mut *second]);
                if self.product.arithmetic == Arithmetic::Bf16 {
                    round(&mut first[..steps]);
                    round(&mut second[..steps]);
                }
                let chunk = Chunk {
                    multiply: &self,
                    pair,
                    depth,
                    panels: [&first[..steps], &second[..steps]],
                };
                match self.out.columns - pair * 2 * COLUMNS {
                    ..=COLUMNS => chunk.run::<S, 1>(s),
                    _ => chunk.run::<S, 2>(s),
                }
            }
        }
    }
}

/// Rounds lines to bfloat16.
#[inline(always)]
fn round(lines: &mut [Line]) {
    for line in lines {
        for value in line {
            *value = rounded(*value);
        }
    }
}

#[inline(always)]
fn rounded(value: f32) -> f32 {
    f32::from_bits(u32::from(round_bits(value)) << 16)
}

/// All rows of a thread by one pair of panels.
struct Chunk<'a> {
    multiply: &'a Multiply<'a>,
    pair: usize,
    depth: Range<usize>,
    panels: [&'a [Line]; 2],
}

impl Chunk<'_> {
    /// With C column blocks.
    #[inline(always)]
    fn run<S: Simd, const C: usize>(&self, s: S) {
        let Range { mut start, end } = self.multiply.rows;
        while start + 8 <= end && S::TILE_SUMS >= 16 {
            self.tile::<S, 8, C>(s, start);
            start += 8;
        }
        while start + 3 <= end {
            self.tile::<S, 3, C>(s, start);
            start += 3;
        }
        while start < end {
            self.tile::<S, 1, C>(s, start);
            start += 1;
        }
    }

    /// R rows from `row` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(&self, s: S, row: usize) {
        let left = self.multiply.product.left;
        let mut sums = [[s.splat(0.0); C]; R];
        let start = row * left.row_stride + self.depth.start * left.column_stride;
        let last = start + (R - 1) * left.row_stride + (self.depth.len() - 1) * left.column_stride;
        assert!(last < left.values.len() && self.panels.iter().all(|panel| panel.len() == self.depth.len()));
        let narrow = self.multiply.product.arithmetic == Arithmetic::Bf16;
        for step in 0..self.depth.len() {
            let mut columns = [s.splat(0.0); C];
            for c in 0..C {
                // SAFETY: a panel has a line for every step (asserted).
                columns[c] = unsafe { s.load(self.panels[c].get_unchecked(step).as_ptr()) };
            }
            for r in 0..R {
                // SAFETY: up to `last`, which is within the values (asserted).
                let value = unsafe {
                    *left
                        .values
                        .get_unchecked(start + r * left.row_stride + step * left.column_stride)
                };
                let value = if narrow { rounded(value) } else { value };
                for c in 0..C {
                    sums[r][c] = s.mul_add(s.splat(value), columns[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                self.put(s, row + r, self.pair * 2 + c, sums[r][c]);
            }
        }
    }

    #[inline(always)]
    fn put<S: Simd>(&self, s: S, row: usize, block: usize, sums: S::F) {
        let product = self.multiply.product;
        let add = product.accumulate || self.depth.start > 0;
        self.multiply
            .out
            .put(s, row, block, s.mul(sums, s.splat(product.scale)), add);
    }
}

impl Out<'_> {
    /// Writes or adds the sums of a row and a column block; those beyond the last column are dropped.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&self, s: S, row: usize, block: usize, sums: S::F, add: bool) {
        let first = block * COLUMNS;
        let columns = COLUMNS.min(self.columns - first);
        let start = row * self.stride + first;
        // SAFETY: a row's column block belongs to one thread (pairs or rows are shared out).
        let to = unsafe { self.values.part(start..start + columns) };
        if columns == COLUMNS {
            // SAFETY: sixteen elements.
            return unsafe {
                let sums = if add { s.add(s.load(to.as_ptr()), sums) } else { sums };
                s.store(to.as_mut_ptr(), sums);
            };
        }
        let mut line = [0.0; COLUMNS];
        if add {
            line[..columns].copy_from_slice(to);
        }
        // SAFETY: a line has 16 elements.
        unsafe {
            s.store(
                line.as_mut_ptr(),
                if add { s.add(s.load(line.as_ptr()), sums) } else { sums },
            )
        };
        to.copy_from_slice(&line[..columns]);
    }
}

impl View<'_> {
    /// Elements of a row as bfloat16, zeros beyond the last.
    #[inline(always)]
    pub(super) fn round_row(&self, row: usize, to: &mut [u16]) {
        to.fill(0);
        let start = row * self.row_stride;
        if self.column_stride == 1 {
            let values = &self.values[start..start + self.columns];
            to.iter_mut()
                .zip(values)
                .for_each(|(to, value)| *to = round_bits(*value));
            return;
        }
        for (column, to) in to[..self.columns].iter_mut().enumerate() {
            *to = round_bits(self.values[start + column * self.column_stride]);
        }
    }
}
