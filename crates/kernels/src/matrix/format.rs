//! The encodings of weights, and how the packed layout keeps each of them.

use super::BLOCK;
use crate::element::ElementType;

/// Weights of a super-block of the K encodings.
pub(crate) const SUPER_BLOCK: usize = 256;

/// Encodings that can be packed: those of GGUF as its files hold them, and [`BlockFormat::I4`].
#[allow(non_camel_case_types, reason = "the names that the files use")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// `scale * (q - 8)`, q in 0..=15: f16 scale, 16 bytes; 18 bytes for 32 weights.
    Q4_0,
    /// `scale * q + minimum`, q in 0..=15: f16 scale, f16 minimum, 16 bytes; 20 bytes for 32 weights.
    Q4_1,
    /// `scale * (q - 16)`, q in 0..=31: f16 scale, 4 bytes of high bits, 16 bytes; 22 bytes for 32 weights.
    Q5_0,
    /// `scale * q + minimum`, q in 0..=31: f16 scale, f16 minimum, 4 and 16 bytes; 24 bytes for 32 weights.
    Q5_1,
    /// `scale * q`, q signed: f16 scale, 32 bytes; 34 bytes for 32 weights.
    Q8_0,
    /// `d * s * q - m * t`, q in 0..=3, s and t in 0..=15 for 16 weights each; 84 bytes for 256 weights.
    Q2_K,
    /// `d * s * (q - 4)`, q in 0..=7, s in -32..=31 for 16 weights each; 110 bytes for 256 weights.
    Q3_K,
    /// `d * s * q - m * t`, q in 0..=15, s and t in 0..=63 for 32 weights each; 144 bytes for 256 weights.
    Q4_K,
    /// `d * s * q - m * t`, q in 0..=31, s and t in 0..=63 for 32 weights each; 176 bytes for 256 weights.
    Q5_K,
    /// `d * s * (q - 32)`, q in 0..=63, s an i8 for 16 weights each; 210 bytes for 256 weights.
    Q6_K,
    /// `scale * (q - zero)`, q in 0..=15: f16 scale, u8 zero point, 16 bytes of nibbles in the order of Q4_0; 19 bytes for
    /// 32 weights. Of no file: the form that GPTQ, AWQ and the like are brought to.
    I4,
    /// IEEE singles, little endian.
    F32,
    /// IEEE halves, little endian.
    F16,
    /// Upper halves of IEEE singles, little endian.
    Bf16,
}

/// How quants are kept in lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quants {
    /// Two to a byte.
    Nibbles,
    /// 0..=127, one to a byte.
    Bytes,
    /// Value + 128, one to a byte.
    Signed,
}

/// What multiplies the quants of a block, and what is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// An f16 per block.
    Scale,
    /// Two f16 per block: scale and minimum.
    Minimum,
    /// An f16 and a zero point per block.
    Zero,
    /// f16 per super-block times an i8 for each of `groups` groups of a block; so the minima, if there are.
    TwoLevels { groups: usize, minima: bool },
}

/// How the packed layout keeps a quantized encoding: a weight is `scale * (q - zero) + minimum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub quants: Quants,
    /// Subtracted from quants as they are kept.
    pub zero: u8,
    pub scaling: Scaling,
}

impl BlockFormat {
    /// Weights of an encoded block: 1 (dense), 32 or 256.
    pub fn block_len(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::I4 => BLOCK,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPER_BLOCK,
            Self::F32 | Self::F16 | Self::Bf16 => 1,
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

    /// Not quantized: every weight stands alone.
    pub fn is_dense(self) -> bool {
        self.element().is_some()
    }

    /// Element type of a dense format.
    pub(crate) fn element(self) -> Option<ElementType> {
        match self {
            Self::F32 => Some(ElementType::F32),
            Self::F16 => Some(ElementType::F16),
            Self::Bf16 => Some(ElementType::Bf16),
            _ => None,
        }
    }

    /// How a quantized format is kept.
    pub(crate) fn layout(self) -> Option<Layout> {
        use Quants::{Bytes, Nibbles, Signed};
        let levels = |groups, minima| Scaling::TwoLevels { groups, minima };
        let (quants, zero, scaling) = match self {
            Self::Q4_0 => (Nibbles, 8, Scaling::Scale),
            Self::Q4_1 => (Nibbles, 0, Scaling::Minimum),
            Self::Q5_0 | Self::Q8_0 => (Signed, 128, Scaling::Scale),
            Self::Q5_1 => (Bytes, 0, Scaling::Minimum),
            Self::Q2_K => (Nibbles, 0, levels(2, true)),
            Self::Q3_K => (Nibbles, 4, levels(2, false)),
            Self::Q4_K => (Nibbles, 0, levels(1, true)),
            Self::Q5_K => (Bytes, 0, levels(1, true)),
            Self::Q6_K => (Signed, 128, levels(2, false)),
            Self::I4 => (Nibbles, 0, Scaling::Zero),
            Self::F32 | Self::F16 | Self::Bf16 => return None,
        };
        Some(Layout { quants, zero, scaling })
    }
}

impl Layout {
    /// Lines of 64 bytes that a block of 32 inputs takes in a column block.
    pub(crate) fn lines(self) -> usize {
        match self.quants {
            Quants::Nibbles => 4,
            Quants::Bytes | Quants::Signed => 8,
        }
    }
}
