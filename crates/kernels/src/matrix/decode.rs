//! Packed weights as f32: rows for embeddings and norms, tiles for the product that does not round its activations.

use half::{bf16, f16};

use super::format::{Quants, SUPER_BLOCK, Scaling};
use super::{BLOCK, Blocks, COLUMNS, PackedMatrix, Tile, Weights};
use crate::element::Elements;
use crate::simd::Simd;

/// Weights of a column in half a block from its quants: `scale * (q - zero) + minimum`.
#[derive(Clone, Copy)]
struct Steps {
    scale: f32,
    zero: f32,
    /// -0 where there is none: adding it changes nothing, a zero's sign included.
    minimum: f32,
}

impl Steps {
    #[inline(always)]
    fn weight(self, quant: u8) -> f32 {
        (f32::from(quant) - self.zero) * self.scale + self.minimum
    }
}

fn half(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

impl Blocks {
    /// Steps of one column in half `part` of a block.
    fn steps(&self, place: usize, part: usize, column: usize) -> Steps {
        let (layout, at) = (self.layout, place * COLUMNS + column);
        let zero = f32::from(layout.zero);
        let (scale, zero, minimum) = match layout.scaling {
            Scaling::Scale => (half(self.scales[at]), zero, -0.0),
            Scaling::Minimum => (half(self.scales[at]), zero, half(self.minima[at])),
            Scaling::Zero => (half(self.scales[at]), f32::from(self.sub_minima[at]) + 128.0, -0.0),
            Scaling::TwoLevels { groups, minima } => {
                let upper = place / (SUPER_BLOCK / BLOCK) * COLUMNS + column;
                let at = (place * groups + part * groups / 2) * COLUMNS + column;
                let scale = half(self.scales[upper]) * f32::from(self.sub_scales[at]);
                let minimum = if minima {
                    half(self.minima[upper]) * f32::from(self.sub_minima[at])
                } else {
                    -0.0
                };
                (scale, zero, minimum)
            }
        };
        Steps { scale, zero, minimum }
    }

    /// One column of one input block, given by its place, to 32 elements.
    fn decode_column(&self, place: usize, column: usize, to: &mut [f32]) {
        let layout = self.layout;
        let lines = &self.lines[place * layout.lines()..][..layout.lines()];
        for (part, to) in to.chunks_exact_mut(BLOCK / 2).enumerate() {
            let steps = self.steps(place, part, column);
            for (index, to) in to.iter_mut().enumerate() {
                let input = part * BLOCK / 2 + index;
                let (group, byte) = (input / 4, column * 4 + input % 4);
                let quant = match layout.quants {
                    Quants::Nibbles => lines[group / 2].0[byte] >> (4 * (group % 2)) & 15,
                    Quants::Bytes | Quants::Signed => lines[group].0[byte],
                };
                *to = steps.weight(quant);
            }
        }
    }

    /// One input block of a column block, given by its place.
    #[inline(always)]
    fn decode_tile(&self, place: usize, to: &mut Tile) {
        let layout = self.layout;
        let mut steps = [[Steps {
            scale: 0.0,
            zero: 0.0,
            minimum: 0.0,
        }; COLUMNS]; 2];
        for part in 0..2 {
            for column in 0..COLUMNS {
                steps[part][column] = self.steps(place, part, column);
            }
        }
        // Byte `t` of a lane holds input t of a group; nibbles hold two groups, the high ones 4 inputs further on.
        let (mask, groups) = match layout.quants {
            Quants::Nibbles => (15u32, 2),
            Quants::Bytes | Quants::Signed => (255, 1),
        };
        for (index, line) in self.lines[place * layout.lines()..][..layout.lines()]
            .iter()
            .enumerate()
        {
            let mut words = [0u32; COLUMNS];
            for (word, bytes) in words.iter_mut().zip(line.0.chunks_exact(4)) {
                *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            for group in 0..groups {
                for t in 0..4 {
                    let (shift, input) = (8 * t + 4 * group, (index * groups + group) * 4 + t);
                    for column in 0..COLUMNS {
                        let quant = ((words[column] >> shift) & mask) as u8;
                        to[input][column] = steps[input / 16][column].weight(quant);
                    }
                }
            }
        }
    }
}

impl PackedMatrix {
    /// Weights of one input block of a column block.
    #[inline(always)]
    pub(crate) fn decode_tile<S: Simd>(&self, s: S, block: usize, input_block: usize, to: &mut Tile) {
        let start = (block * self.inputs + input_block * BLOCK) * COLUMNS;
        let lines = start..start + BLOCK * COLUMNS;
        let to_flat = to.as_flattened_mut();
        match &self.weights {
            Weights::Quantized(blocks) => blocks.decode_tile(block * self.blocks() + input_block, to),
            Weights::Nf4(weights) => weights.decode_tile(s, block, input_block, to),
            Weights::Dense(Elements::F32(values)) => to_flat.copy_from_slice(&values[lines]),
            Weights::Dense(Elements::F16(values)) => {
                to_flat
                    .iter_mut()
                    .zip(&values[lines])
                    .for_each(|(to, bits)| *to = half(*bits));
            }
            Weights::Dense(Elements::Bf16(values)) => {
                let widened = values[lines].iter().map(|bits| f32::from_bits(u32::from(*bits) << 16));
                to_flat.iter_mut().zip(widened).for_each(|(to, value)| *to = value);
            }
        }
    }

    /// The weights of one output as f32 into `to` of `inputs` elements: an embedding row. Exactly the file's numbers.
    ///
    /// # Panics
    /// On an output that does not exist, or another number of elements.
    pub fn dequantize_row(&self, output: usize, to: &mut [f32]) {
        assert!(output < self.outputs && to.len() == self.inputs);
        let (block, column) = (output / COLUMNS, output % COLUMNS);
        let start = block * self.inputs * COLUMNS + column;
        match &self.weights {
            Weights::Quantized(blocks) => {
                for (index, to) in to.chunks_exact_mut(BLOCK).enumerate() {
                    blocks.decode_column(block * self.blocks() + index, column, to);
                }
            }
            Weights::Nf4(weights) => weights.decode_row(output, to),
            Weights::Dense(Elements::F32(values)) => gather(to, &values[start..], |value| value),
            Weights::Dense(Elements::F16(values)) => gather(to, &values[start..], half),
            Weights::Dense(Elements::Bf16(values)) => {
                gather(to, &values[start..], |bits| bf16::from_bits(bits).to_f32());
            }
        }
    }
}

/// Every sixteenth element.
fn gather<T: Copy>(to: &mut [f32], from: &[T], value: impl Fn(T) -> f32) {
    for (to, from) in to.iter_mut().zip(from.iter().step_by(COLUMNS)) {
        *to = value(*from);
    }
}
