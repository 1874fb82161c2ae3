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
    /// Blocks of 32: f16 scale, 4-bit values minus 8.
    Q4_0,
    /// Blocks of 32: f16 scale, f16 minimum, 4-bit values.
    Q4_1,
    /// Blocks of 32: f16 scale, 8-bit signed values.
    Q8_0,
}

impl DType {
    /// (elements per block, bytes per block).
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
        }
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
