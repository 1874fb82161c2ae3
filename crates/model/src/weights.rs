//! Views of a checkpoint's tensors in the order the decoder wants, whatever file they come from.

use std::borrow::Cow;

use half::{bf16, f16};
use rootstock_formats::DType;

/// A matrix stored row by row: `rows` outputs of `cols` inputs each, quantized along a row.
#[derive(Debug, Clone)]
pub struct MatrixView<'a> {
    /// Element or block type of `bytes`.
    pub dtype: DType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows` consecutive encoded rows; owned where the file keeps them in another form.
    pub bytes: Cow<'a, [u8]>,
    /// Where a row of the model lies among the stored rows.
    pub row_order: RowOrder,
}

/// Order in which a file keeps the rows of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// Row i of the model is row i of the file.
    Natural,
    /// GGUF's llama order: within each head of `head_dim` rows, the halves are interleaved for pairwise rotary.
    InterleavedHalves {
        /// Rows per head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that holds row `row` of the model.
    pub fn stored_row(self, row: usize) -> usize {
        match self {
            RowOrder::Natural => row,
            RowOrder::InterleavedHalves { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + (within % half) * 2 + within / half
            }
        }
    }
}

impl MatrixView<'_> {
    /// Encoded bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.rows
    }

    /// The encoded row `row` of the model, permutation undone.
    pub fn row(&self, row: usize) -> &[u8] {
        let stride = self.row_bytes();
        let stored = self.row_order.stored_row(row);
        &self.bytes[stored * stride..(stored + 1) * stride]
    }
}

/// Weights of a normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Factors.
    pub weight: Vec<f32>,
    /// Added afterwards; present for [`NormKind::Layer`](crate::NormKind::Layer).
    pub bias: Option<Vec<f32>>,
}

/// Appends the values of floating-point elements, little endian; nothing for a type that
/// [is not floating-point](DType::is_float).
pub fn append_floats(dtype: DType, bytes: &[u8], to: &mut Vec<f32>) {
    match dtype {
        DType::F32 => to.extend(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x))),
        DType::F16 => to.extend(bytes.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32())),
        DType::BF16 => to.extend(bytes.as_chunks().0.iter().map(|&x| bf16::from_le_bytes(x).to_f32())),
        _ => {}
    }
}

/// Appends values as floating-point elements, little endian; nothing for a type that [is not floating-point](DType::is_float).
pub fn append_bytes(dtype: DType, values: &[f32], to: &mut Vec<u8>) {
    match dtype {
        DType::F32 => to.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        DType::F16 => to.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
        DType::BF16 => to.extend(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
        _ => {}
    }
}

/// The values of floating-point elements as [`append_floats`] reads them.
pub(crate) fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut values = Vec::new();
    append_floats(dtype, bytes, &mut values);
    values
}
