//! The product on activations in f32, for checking what their rounding costs: each input block of a column block is
//! dequantized to a `[32][16]` tile, then rows run over it, inputs in order.

use std::ops::Range;

use half::f16;

use super::Operands;
use crate::isa::Kernel;
use crate::matrix::{BLOCK, BlockFormat, COLUMNS, PackedMatrix};
use crate::simd::Simd;

/// Rows that share a dequantized tile.
const ROWS: usize = 8;

type Weights = [[f32; COLUMNS]; BLOCK];

/// The product of the rows with the column pairs `pairs`.
pub(super) struct Product<'a> {
    pub operands: &'a Operands<'a>,
    pub pairs: Range<usize>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        product(s, self.operands, self.pairs);
    }
}

#[inline(always)]
fn product<S: Simd>(s: S, operands: &Operands<'_>, pairs: Range<usize>) {
    let Operands { x, rows, matrix, sink } = operands;
    let mut weights: Weights = [[0.0; COLUMNS]; BLOCK];
    for block in pairs.start * 2..pairs.end * 2 {
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            let mut acc = [s.splat(0.0); ROWS];
            for input_block in 0..matrix.blocks() {
                dequantize(matrix, block, input_block, &mut weights);
                for (r, acc) in acc.iter_mut().enumerate().take(count) {
                    let inputs = &x.values[(first + r) * x.width() + input_block * BLOCK..][..BLOCK];
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

/// The weights of one input block of a column block as f32, `[input][output]`.
#[inline(always)]
fn dequantize(matrix: &PackedMatrix, block: usize, input_block: usize, to: &mut Weights) {
    let place = block * matrix.blocks() + input_block;
    let count = matrix.format.lines();
    let scalars = |from: &[u16]| -> [f32; COLUMNS] {
        let mut values = [0.0; COLUMNS];
        for (value, &bits) in values.iter_mut().zip(&from[place * COLUMNS..][..COLUMNS]) {
            *value = f16::from_bits(bits).to_f32();
        }
        values
    };
    let scales = scalars(&matrix.scales);
    let minima = if matrix.minima.is_empty() {
        [0.0; COLUMNS]
    } else {
        scalars(&matrix.minima)
    };
    let zero = match matrix.format {
        BlockFormat::Q4_0 => 8.0,
        BlockFormat::Q4_1 => 0.0,
        _ => 128.0,
    };
    // Byte `t` of a lane holds input t of a group; nibbles hold two groups, the high ones 4 inputs further on.
    let (bits, parts) = if count == 4 { (15u32, 2) } else { (255, 1) };
    for (index, line) in matrix.lines[place * count..][..count].iter().enumerate() {
        let mut words = [0u32; COLUMNS];
        for (word, bytes) in words.iter_mut().zip(line.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for part in 0..parts {
            for t in 0..4 {
                let shift = 8 * t + 4 * part;
                let row = &mut to[(index * parts + part) * 4 + t];
                for lane in 0..COLUMNS {
                    let quant = ((words[lane] >> shift) & bits) as i32 as f32 - zero;
                    row[lane] = quant * scales[lane] + minima[lane];
                }
            }
        }
    }
}
