//! Weights in NF4 (see [`crate::encode::nf4`]) in the layout of the kernels: nibbles as in other encodings, with scales that are
//! quantized in turn: 4 + 8 / 64 + 32 / (64 * 256) = 4.127 bits for a weight.

use std::sync::LazyLock;

use super::{BLOCK, COLUMNS, Line, PAIR, PackedMatrix, ShapeError, Tile, Weights};
use crate::encode::{dynamic_map, nf4};
use crate::simd::Simd;
use nf4::{FRACTIONS, Magnitudes, Nf4Weights};

/// Lines of an input block of a column block.
const LINES: usize = 4;

/// What the codes of magnitudes mean.
static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic_map(true));

/// A matrix in NF4.
pub(crate) struct Nf4 {
    outputs: usize,
    /// Input blocks.
    blocks: usize,
    lines: Vec<Line>,
    /// As bitsandbytes has them: of 64 weights each, row after row.
    magnitudes: Magnitudes,
    map: &'static [f32; 256],
}

impl PackedMatrix {
    /// Packs a matrix that is rounded to NF4; `parts` are its weights one after another, in any division. The magnitudes of
    /// their blocks are rounded here, since that is done over the whole matrix.
    ///
    /// # Errors
    /// Inputs that are not a multiple of 32, no weights, or another number of them than the shape has.
    pub fn pack_nf4(outputs: usize, inputs: usize, parts: &[Nf4Weights]) -> Result<Self, ShapeError> {
        let got: usize = parts.iter().map(|part| part.codes.len() * nf4::BLOCK).sum();
        if got == 0 || !inputs.is_multiple_of(BLOCK) || outputs.checked_mul(inputs) != Some(got) {
            return Err(ShapeError(format!(
                "NF4 takes inputs in blocks of {BLOCK} and as many weights as the shape has, got {got} for {outputs} x {inputs}"
            )));
        }
        let blocks = inputs / BLOCK;
        let mut lines = vec![Line([0; 64]); outputs.next_multiple_of(PAIR) / COLUMNS * blocks * LINES];
        let codes = parts
            .iter()
            .flat_map(|part| part.codes.as_flattened().as_chunks::<BLOCK>().0);
        for (index, codes) in codes.enumerate() {
            let (output, block) = (index / blocks, index % blocks);
            let place = output / COLUMNS * blocks + block;
            let lines = &mut lines[place * LINES..][..LINES];
            for (input, code) in codes.iter().enumerate() {
                let byte = &mut lines[input / 8].0[output % COLUMNS * 4 + input % 4];
                *byte |= code << (input / 4 % 2 * 4);
            }
        }
        let magnitudes: Vec<f32> = parts.iter().flat_map(|part| &part.magnitudes).copied().collect();
        let weights = Weights::Nf4(Nf4 {
            outputs,
            blocks,
            lines,
            magnitudes: Magnitudes::new(&magnitudes),
            map: &MAP,
        });
        Ok(Self {
            outputs,
            inputs,
            weights,
        })
    }
}

impl Nf4 {
    /// Resident bytes.
    pub(super) fn bytes(&self) -> usize {
        let Magnitudes { codes, scales, .. } = &self.magnitudes;
        self.lines.len() * 64 + codes.len() + scales.len() * 4
    }

    /// What multiplies the fractions of an input block of an output; 0 for outputs that are padding.
    #[inline(always)]
    fn magnitude(&self, output: usize, input_block: usize) -> f32 {
        if output >= self.outputs {
            return 0.0;
        }
        let index = (output * self.blocks + input_block) / (nf4::BLOCK / BLOCK);
        let Magnitudes { codes, scales, mean } = &self.magnitudes;
        self.map[usize::from(codes[index])] * scales[index / nf4::MAGNITUDES] + mean
    }

    /// One input block of a column block.
    #[inline(always)]
    pub(super) fn decode_tile<S: Simd>(&self, s: S, block: usize, input_block: usize, to: &mut Tile) {
        let mut magnitudes = [0.0; COLUMNS];
        for (column, magnitude) in magnitudes.iter_mut().enumerate() {
            *magnitude = self.magnitude(block * COLUMNS + column, input_block);
        }
        let lines = &self.lines[(block * self.blocks + input_block) * LINES..][..LINES];
        // SAFETY: sixteen elements each, a line has 64 bytes.
        let (fractions, magnitudes) = unsafe { (s.load(FRACTIONS.as_ptr()), s.load(magnitudes.as_ptr())) };
        for (line, to) in lines.iter().zip(to.as_chunks_mut::<8>().0) {
            // SAFETY: as above.
            let lanes = unsafe { s.load_bytes(line.0.as_ptr()) };
            for (input, to) in (0..8).zip(to) {
                // Byte t of a lane holds input t in its low nibble and input 4 + t in the high one.
                let values = s.lookup(fractions, lanes, input % 4 * 8 + input / 4 * 4);
                // SAFETY: as above.
                unsafe { s.store(to.as_mut_ptr(), s.mul(values, magnitudes)) };
            }
        }
    }

    /// One output, to `32 * blocks` elements.
    pub(super) fn decode_row(&self, output: usize, to: &mut [f32]) {
        for (input_block, to) in to.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let magnitude = self.magnitude(output, input_block);
            let place = output / COLUMNS * self.blocks + input_block;
            for (input, to) in to.iter_mut().enumerate() {
                let byte = self.lines[place * LINES + input / 8].0[output % COLUMNS * 4 + input % 4];
                *to = FRACTIONS[usize::from(byte >> (input / 4 % 2 * 4) & 15)] * magnitude;
            }
        }
    }
}
