//! Element and block types of stored tensors.

use std::fmt;

/// How the elements of a tensor are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "GGUF's own names")]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Upper half of an IEEE single.
    BF16,
    /// Two's complement, 32 bits: packed integers of GPTQ, AWQ and compressed-tensors, and indices.
    I32,
    /// Two's complement, 64 bits.
    I64,
    /// Unsigned byte.
    U8,
    /// Two's complement, 8 bits.
    I8,
    /// Blocks of 32: f16 scale, 4-bit values minus 8.
    Q4_0,
    /// Blocks of 32: f16 scale, f16 minimum, 4-bit values.
    Q4_1,
    /// Blocks of 32: f16 scale, 5-bit values minus 16.
    Q5_0,
    /// Blocks of 32: f16 scale, f16 minimum, 5-bit values.
    Q5_1,
    /// Blocks of 32: f16 scale, 8-bit signed values.
    Q8_0,
    /// Super-blocks of 256 in blocks of 16: 4-bit scales and minima, 2-bit values.
    Q2_K,
    /// Super-blocks of 256 in blocks of 16: 6-bit scales, 3-bit values minus 4.
    Q3_K,
    /// Super-blocks of 256 in blocks of 32: 6-bit scales and minima, 4-bit values.
    Q4_K,
    /// Super-blocks of 256 in blocks of 32: 6-bit scales and minima, 5-bit values.
    Q5_K,
    /// Super-blocks of 256 in blocks of 16: 8-bit scales, 6-bit values minus 32.
    Q6_K,
    /// Blocks of 32: f16 scale, u8 zero point, 4-bit values minus the zero point; in no file, what GPTQ, AWQ and
    /// compressed-tensors weights are brought to.
    I4,
}

impl DType {
    /// (elements per block, bytes per block).
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 | Self::I32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::I64 => (1, 8),
            Self::U8 | Self::I8 => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2_K => (256, 84),
            Self::Q3_K => (256, 110),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
            Self::I4 => (32, 19),
        }
    }

    /// Whether elements are floating-point numbers, one by one.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a tensor of `shape` (outermost first); `None` if the innermost dimension is not whole blocks or the size overflows.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let (block, bytes) = self.block();
        let inner = shape.last().copied().unwrap_or(1);
        if inner % block != 0 {
            return None;
        }
        let blocks = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))? / block;
        blocks.checked_mul(bytes)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
