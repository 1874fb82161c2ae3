//! Quantized weights in the layout of the kernels.
//!
//! A matrix `[outputs, inputs]` comes as rows of blocks of 32 inputs (GGUF's encodings) and is packed by columns of
//! sixteen outputs, so that one vector holds four consecutive inputs of sixteen outputs:
//!
//! ```text
//! column block (16 outputs)
//!   input block 0: line 0 | line 1 | line 2 | line 3        4-bit: 4 lines of 64 bytes, 8-bit: 8 lines
//!   input block 1: ...
//! byte 4 * output + t of a line: input 4 * group + t of that output
//!   4-bit: line l holds group 2l in the low nibbles and 2l + 1 in the high ones (value as stored, 0..=15)
//!   8-bit: line l holds group l (value + 128)
//! scales, minima: f16 [column block][input block][16]
//! ```
//!
//! Nothing is rounded: the packed form holds the same numbers as the file. Outputs are padded to a multiple of 32 with
//! scale 0, so that a register tile is always two column blocks wide.

use half::f16;

/// Inputs per quantization block.
pub const BLOCK: usize = 32;
/// Outputs per column block.
pub(crate) const COLUMNS: usize = 16;
/// Outputs per column pair, the unit in which threads share out a matrix.
pub(crate) const PAIR: usize = 2 * COLUMNS;

/// Encodings that can be packed, as GGUF writes them.
#[allow(non_camel_case_types, reason = "the names of the file format")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// `scale * (q - 8)`, q in 0..=15: f16 scale, 16 bytes; 18 bytes a block.
    Q4_0,
    /// `scale * q + minimum`, q in 0..=15: f16 scale, f16 minimum, 16 bytes; 20 bytes a block.
    Q4_1,
    /// `scale * (q - 16)`, q in 0..=31: f16 scale, 4 bytes of high bits, 16 bytes; 22 bytes a block.
    Q5_0,
    /// `scale * q + minimum`, q in 0..=31: f16 scale, f16 minimum, 4 bytes of high bits, 16 bytes; 24 bytes a block.
    Q5_1,
    /// `scale * q`, q signed: f16 scale, 32 bytes; 34 bytes a block.
    Q8_0,
    /// Blocks of 256, 84 bytes.
    Q2_K,
    /// Blocks of 256, 110 bytes.
    Q3_K,
    /// Blocks of 256, 144 bytes.
    Q4_K,
    /// Blocks of 256, 176 bytes.
    Q5_K,
    /// Blocks of 256, 210 bytes.
    Q6_K,
    /// `scale * (q - zero)`, q in 0..=15: f16 scale, u8 zero point, 16 bytes as in Q4_0; 19 bytes a block.
    I4,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Upper half of an IEEE single.
    Bf16,
}

impl BlockFormat {
    /// Weights of an encoded block.
    pub fn block_len(self) -> usize {
        match self {
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            _ => BLOCK,
        }
    }

    /// Bytes of an encoded block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::I4 => 19,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Not quantized: each weight stands alone.
    pub fn is_dense(self) -> bool {
        self.block_len() == 1
    }

    /// Lines of 64 bytes that a block of 32 inputs takes in a column block.
    pub(crate) fn lines(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 => 4,
            _ => 8,
        }
    }

    fn has_minima(self) -> bool {
        self == Self::Q4_1
    }
}

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

/// A quantized matrix `[outputs, inputs]` in the layout of the kernels.
pub struct PackedMatrix {
    pub(crate) format: BlockFormat,
    outputs: usize,
    inputs: usize,
    pub(crate) lines: Vec<Line>,
    pub(crate) scales: Vec<u16>,
    pub(crate) minima: Vec<u16>,
}

impl PackedMatrix {
    /// Packs `outputs` rows of `inputs` weights; `row(i)` gives the encoded blocks of output `i`.
    ///
    /// # Errors
    /// Inputs that are not a positive multiple of 32, no outputs, or a row of the wrong number of bytes.
    pub fn pack<'a>(
        format: BlockFormat,
        outputs: usize,
        inputs: usize,
        row: impl Fn(usize) -> &'a [u8],
    ) -> Result<Self, ShapeError> {
        if inputs == 0 || !inputs.is_multiple_of(BLOCK) || outputs == 0 {
            return Err(ShapeError(format!(
                "expected inputs in blocks of {BLOCK} and outputs, got {outputs} x {inputs}"
            )));
        }
        if !matches!(format, BlockFormat::Q4_0 | BlockFormat::Q4_1 | BlockFormat::Q8_0) {
            return Err(ShapeError(format!("{format:?} is not packed")));
        }
        let blocks = inputs / BLOCK;
        let column_blocks = outputs.div_ceil(PAIR) * 2;
        let scalars = column_blocks * blocks * COLUMNS;
        let mut packed = Self {
            format,
            outputs,
            inputs,
            lines: vec![Line([0; 64]); column_blocks * blocks * format.lines()],
            scales: vec![0; scalars],
            minima: vec![0; if format.has_minima() { scalars } else { 0 }],
        };
        for output in 0..outputs {
            let bytes = row(output);
            if bytes.len() != blocks * format.block_bytes() {
                return Err(ShapeError(format!(
                    "row {output}: expected {} bytes, got {}",
                    blocks * format.block_bytes(),
                    bytes.len()
                )));
            }
            for (block, encoded) in bytes.chunks_exact(format.block_bytes()).enumerate() {
                packed.pack_block(output, block, encoded);
            }
        }
        Ok(packed)
    }

    fn pack_block(&mut self, output: usize, block: usize, encoded: &[u8]) {
        let place = (output / COLUMNS) * self.blocks() + block;
        let column = output % COLUMNS;
        let half = |at: usize| u16::from_le_bytes([encoded[at], encoded[at + 1]]);
        self.scales[place * COLUMNS + column] = half(0);
        let quants = match self.format {
            BlockFormat::Q4_1 => {
                self.minima[place * COLUMNS + column] = half(2);
                &encoded[4..]
            }
            _ => &encoded[2..],
        };
        let lines = &mut self.lines[place * self.format.lines()..][..self.format.lines()];
        for input in 0..BLOCK {
            let (group, byte) = (input / 4, column * 4 + input % 4);
            match self.format {
                BlockFormat::Q4_0 | BlockFormat::Q4_1 => {
                    // GGUF keeps input i in the low nibble of byte i and input i + 16 in the high one.
                    let nibble = (quants[input % 16] >> (4 * (input / 16))) & 15;
                    lines[group / 2].0[byte] |= nibble << (4 * (group % 2));
                }
                _ => lines[group].0[byte] = quants[input].wrapping_add(128),
            }
        }
    }

    /// Encoding of the weights.
    pub fn format(&self) -> BlockFormat {
        self.format
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
        self.lines.len() * 64 + (self.scales.len() + self.minima.len()) * 2
    }

    pub(crate) fn blocks(&self) -> usize {
        self.inputs / BLOCK
    }

    /// Units in which threads share out the outputs.
    pub(crate) fn pairs(&self) -> usize {
        self.outputs.div_ceil(PAIR)
    }

    /// The weights of one output as f32 into `to` of `inputs` elements: an embedding row.
    pub fn dequantize_row(&self, output: usize, to: &mut [f32]) {
        assert!(output < self.outputs && to.len() == self.inputs);
        for (block, to) in to.chunks_exact_mut(BLOCK).enumerate() {
            let place = (output / COLUMNS) * self.blocks() + block;
            let column = output % COLUMNS;
            let scale = f16::from_bits(self.scales[place * COLUMNS + column]).to_f32();
            let minimum = self
                .minima
                .get(place * COLUMNS + column)
                .map_or(0.0, |&bits| f16::from_bits(bits).to_f32());
            let lines = &self.lines[place * self.format.lines()..][..self.format.lines()];
            for (input, to) in to.iter_mut().enumerate() {
                let (group, byte) = (input / 4, column * 4 + input % 4);
                *to = match self.format {
                    BlockFormat::Q4_0 => scale * (f32::from(lines[group / 2].0[byte] >> (4 * (group % 2)) & 15) - 8.0),
                    BlockFormat::Q4_1 => {
                        scale * f32::from(lines[group / 2].0[byte] >> (4 * (group % 2)) & 15) + minimum
                    }
                    _ => scale * (f32::from(lines[group].0[byte]) - 128.0),
                };
            }
        }
    }
}
