//! The product with weights that are not quantized, on activations in f32 whatever their precision is.
//!
//! ```text
//! for each tile of R rows x C column blocks (16 outputs each):
//!   acc[R][C] = 0
//!   for input in 0..inputs: acc = fma(x[R][input], weights[input][C], acc)
//! ```
//!
//! One chain along the inputs per output, as in [`super::tile`]: the same bits in any batch. With one row, C = 4 hides some
//! of the additions' latency.

use std::ops::Range;

use super::Operands;
use crate::element::{Elements, Load, LoadBf16, LoadF16, LoadF32};
use crate::isa::{Isa, Kernel};
use crate::matrix::COLUMNS;
use crate::pool::share;
use crate::simd::Simd;

/// The product of the rows with the column pairs `pairs` of a dense matrix.
pub(super) fn product(isa: Isa, operands: &Operands<'_>, elements: &Elements, pairs: Range<usize>) {
    match elements {
        Elements::F32(values) => run(isa, operands, LoadF32(values), pairs),
        Elements::F16(values) => run(isa, operands, LoadF16(values), pairs),
        Elements::Bf16(values) => run(isa, operands, LoadBf16(values), pairs),
    }
}

fn run<L: Load>(isa: Isa, operands: &Operands<'_>, weights: L, pairs: Range<usize>) {
    isa.run(Product {
        operands,
        weights,
        pairs,
    });
}

struct Product<'a, L> {
    operands: &'a Operands<'a>,
    weights: L,
    pairs: Range<usize>,
}

/// Column blocks of weights.
#[derive(Clone, Copy)]
pub(super) struct Columns<L> {
    /// `[blocks][inputs][16]`
    pub weights: L,
    /// The first of them.
    pub first: usize,
}

impl<L: Load> Kernel for Product<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { operands, pairs, .. } = self;
        let columns = Columns {
            weights: self.weights,
            first: 0,
        };
        let (first, rows) = (operands.rows.start, operands.rows.len());
        let (mut block, end) = (pairs.start * 2, pairs.end * 2);
        while rows == 1 && block + 4 <= end {
            tile::<S, L, 1, 4>(s, operands, columns, first, block);
            block += 4;
        }
        for block in (block..end).step_by(2) {
            pair(s, operands, columns, block);
        }
    }
}

/// All rows by the two column blocks from `block` on.
#[inline(always)]
pub(super) fn pair<S: Simd, L: Load>(s: S, operands: &Operands<'_>, columns: Columns<L>, block: usize) {
    let (first, rows) = (operands.rows.start, operands.rows.len());
    let tiles = rows.div_ceil(S::TILE_ROWS);
    for index in 0..tiles {
        let range = share(rows, index, tiles);
        let row = first + range.start;
        match range.len() {
            1 => tile::<S, L, 1, 2>(s, operands, columns, row, block),
            2 => tile::<S, L, 2, 2>(s, operands, columns, row, block),
            3 if S::TILE_ROWS >= 3 => tile::<S, L, 3, 2>(s, operands, columns, row, block),
            4 if S::TILE_ROWS >= 4 => tile::<S, L, 4, 2>(s, operands, columns, row, block),
            5 if S::TILE_ROWS >= 5 => tile::<S, L, 5, 2>(s, operands, columns, row, block),
            6 if S::TILE_ROWS >= 6 => tile::<S, L, 6, 2>(s, operands, columns, row, block),
            _ => unreachable!("a tile has at most {} rows", S::TILE_ROWS),
        }
    }
}

/// R rows from `row` on by C column blocks from `block` on.
#[inline(always)]
fn tile<S: Simd, L: Load, const R: usize, const C: usize>(
    s: S,
    operands: &Operands<'_>,
    Columns { weights, first }: Columns<L>,
    row: usize,
    block: usize,
) {
    let Operands { x, sink, .. } = operands;
    let inputs = x.width();
    assert!(row + R <= x.rows() && first <= block && (block - first + C) * COLUMNS * inputs <= weights.len());
    let values = &x.values()[row * inputs..(row + R) * inputs];
    let mut acc = [[s.splat(0.0); C]; R];
    for input in 0..inputs {
        let mut columns = [s.splat(0.0); C];
        for c in 0..C {
            // SAFETY: the weights have 16 elements per input for these column blocks (asserted).
            columns[c] = unsafe { weights.load(s, ((block - first + c) * inputs + input) * COLUMNS) };
        }
        for r in 0..R {
            // SAFETY: `values` has R rows of `inputs` elements (asserted).
            let value = s.splat(unsafe { *values.get_unchecked(r * inputs + input) });
            for c in 0..C {
                acc[r][c] = s.mul_add(value, columns[c], acc[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            sink.put(s, row + r, (block + c) * COLUMNS, acc[r][c]);
        }
    }
}
