//! Weights in the layout of the kernels.
//!
//! A matrix `[outputs, inputs]` comes as rows of encoded blocks of inputs and is packed by columns of sixteen outputs, so
//! that one vector holds four consecutive inputs of sixteen outputs:
//!
//! ```text
//! column block (16 outputs)
//!   input block 0 (32 inputs): line 0 | line 1 | ...        nibbles: 4 lines of 64 bytes, bytes: 8 lines
//!   input block 1: ...
//! byte 4 * output + t of a line: input 4 * group + t of that output
//!   nibbles: line l holds group 2l in the low nibbles and 2l + 1 in the high ones (value as stored, 0..=15)
//!   bytes: line l holds group l (as stored if it has no sign, else value + 128)
//! scales, minima: f16 [column block][input block or super-block][16]
//! their factors, with two levels: i8 [column block][input block][group][16]; zero points: i8 (zero - 128) likewise
//! dense: [column block][input][16]; NF4: nibbles, and scales as in [`nf4`]
//! ```
//!
//! Nothing is rounded: the packed form holds the same numbers as the file. Encodings of 5 and 6 bits are widened to bytes,
//! those of 2 and 3 bits to nibbles. Outputs are padded to a multiple of 32 with scale 0, so that a register tile is
//! always two column blocks wide.

mod blocks;
mod decode;
mod format;
mod nf4;
mod pack;

use crate::element::Elements;

pub use format::BlockFormat;
pub(crate) use format::Layout;
use nf4::Nf4;

/// Inputs per quantization block.
pub const BLOCK: usize = 32;
/// Outputs per column block.
pub(crate) const COLUMNS: usize = 16;
/// Outputs per column pair, the unit in which threads share out a matrix.
pub(crate) const PAIR: usize = 2 * COLUMNS;

/// Weights as f32 of one input block of a column block, `[input][output]`.
pub(crate) type Tile = [[f32; COLUMNS]; BLOCK];

/// A shape that the packed layout cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError(pub String);

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ShapeError {}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// Quants and scales, see the layout above.
pub(crate) struct Blocks {
    pub format: BlockFormat,
    pub layout: Layout,
    pub lines: Vec<Line>,
    pub scales: Vec<u16>,
    /// Empty where the encoding has none.
    pub minima: Vec<u16>,
    /// Empty where scales have one level.
    pub sub_scales: Vec<i8>,
    /// Empty where minima have one level and there are no zero points.
    pub sub_minima: Vec<i8>,
}

/// What a matrix holds.
pub(crate) enum Weights {
    Quantized(Blocks),
    Nf4(Nf4),
    Dense(Elements),
}

/// A matrix `[outputs, inputs]` in the layout of the kernels.
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    pub(crate) weights: Weights,
}

impl PackedMatrix {
    /// Packs `outputs` rows of `inputs` weights; `row(i)` gives the encoded blocks of output `i`.
    ///
    /// # Errors
    /// Inputs that are not a positive multiple of 32 and of the encoding's block, no outputs, or a row of the wrong number
    /// of bytes.
    pub fn pack<'a>(
        format: BlockFormat,
        outputs: usize,
        inputs: usize,
        row: impl Fn(usize) -> &'a [u8],
    ) -> Result<Self, ShapeError> {
        let block = format.block_len().max(BLOCK);
        if inputs == 0 || !inputs.is_multiple_of(block) || outputs == 0 {
            return Err(ShapeError(format!(
                "expected inputs in blocks of {block} and outputs, got {outputs} x {inputs}"
            )));
        }
        let bytes = inputs / format.block_len() * format.block_bytes();
        let checked = |output: usize| {
            let got = row(output);
            (got.len() == bytes)
                .then_some(got)
                .ok_or_else(|| ShapeError(format!("row {output}: expected {bytes} bytes, got {}", got.len())))
        };
        let weights = match format.element() {
            Some(kind) => Weights::Dense(pack::dense(kind, (outputs, inputs), checked)?),
            None => Weights::Quantized(pack::blocks(format, (outputs, inputs), checked)?),
        };
        Ok(Self {
            outputs,
            inputs,
            weights,
        })
    }

    /// Not quantized: every weight stands alone.
    pub fn is_dense(&self) -> bool {
        matches!(self.weights, Weights::Dense(_))
    }

    /// Its products take rows in f32 whatever their precision is: its weights are no multiples of a step, or stand alone.
    pub fn takes_floats(&self) -> bool {
        !matches!(self.weights, Weights::Quantized(_))
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Resident bytes.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Quantized(blocks) => {
                let factors = blocks.sub_scales.len() + blocks.sub_minima.len();
                blocks.lines.len() * 64 + (blocks.scales.len() + blocks.minima.len()) * 2 + factors
            }
            Weights::Nf4(weights) => weights.bytes(),
            Weights::Dense(elements) => elements.bytes(),
        }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// Units in which threads share out the outputs.
    pub(crate) fn pairs(&self) -> usize {
        self.outputs.div_ceil(PAIR)
    }
}
