//! The product of quantized weights on activations in f32: for NF4, whose values are no multiples of a step, and for checking
//! what the rounding of activations costs. Each input block of a column block is dequantized to a `[32][16]` tile, then rows run
//! over it, inputs in order.

use std::ops::Range;

use super::Operands;
use crate::isa::Kernel;
use crate::matrix::{BLOCK, COLUMNS};
use crate::simd::Simd;

/// Rows that share a dequantized tile.
const ROWS: usize = 8;

/// The product of the rows with the column pairs `pairs` of a quantized matrix.
pub(super) struct Product<'a> {
    pub operands: &'a Operands<'a>,
    pub pairs: Range<usize>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Operands {
            x, rows, matrix, sink, ..
        } = self.operands;
        let mut weights = [[0.0; COLUMNS]; BLOCK];
        for block in self.pairs.start * 2..self.pairs.end * 2 {
            for first in rows.clone().step_by(ROWS) {
                let count = ROWS.min(rows.end - first);
                let mut acc = [s.splat(0.0); ROWS];
                for input_block in 0..matrix.blocks() {
                    matrix.decode_tile(s, block, input_block, &mut weights);
                    for (r, acc) in acc.iter_mut().enumerate().take(count) {
                        let inputs = &x.values()[(first + r) * x.width() + input_block * BLOCK..][..BLOCK];
                        for (weights, &input) in weights.iter().zip(inputs) {
                            // SAFETY: a row of the tile has 16 elements.
                            *acc = unsafe { s.mul_add(s.splat(input), s.load(weights.as_ptr()), *acc) };
                        }
                    }
                }
                for (r, acc) in acc.into_iter().enumerate().take(count) {
                    sink.put(s, first + r, block * COLUMNS, acc);
                }
            }
        }
    }
}
