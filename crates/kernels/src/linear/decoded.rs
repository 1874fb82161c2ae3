//! The product of quantized weights on activations in f32: for NF4, whose values are no multiples of a step, and for checking
//! what the rounding of activations costs. Two column blocks are dequantized to a `[2][inputs][16]` panel, and then all rows run
//! over it as over weights that are not quantized ([`super::dense`]).

use std::cell::Cell;
use std::ops::Range;

use super::Operands;
use super::dense::{Columns, pair};
use crate::element::LoadF32;
use crate::isa::Kernel;
use crate::matrix::{BLOCK, COLUMNS, Tile};
use crate::simd::Simd;

/// The product of the rows with the column pairs `pairs` of a quantized matrix.
pub(super) struct Product<'a> {
    pub operands: &'a Operands<'a>,
    pub pairs: Range<usize>,
}

thread_local! {
    /// Memory of a thread's panel.
    static PANEL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let matrix = self.operands.matrix;
        let inputs = matrix.blocks() * BLOCK;
        let mut panel = PANEL.take();
        panel.resize(2 * inputs * COLUMNS, 0.0);
        for first in (self.pairs.start * 2..self.pairs.end * 2).step_by(2) {
            for (block, panel) in panel.chunks_exact_mut(inputs * COLUMNS).enumerate() {
                for (input_block, rows) in panel.chunks_exact_mut(BLOCK * COLUMNS).enumerate() {
                    let mut tile: Tile = [[0.0; COLUMNS]; BLOCK];
                    matrix.decode_tile(s, first + block, input_block, &mut tile);
                    rows.copy_from_slice(tile.as_flattened());
                }
            }
            let columns = Columns {
                weights: LoadF32(&panel),
                first,
            };
            pair(s, self.operands, columns, first);
        }
        PANEL.set(panel);
    }
}
