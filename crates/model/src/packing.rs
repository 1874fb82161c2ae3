//! From a checkpoint's encodings to the matrices of the kernels, quantizing on the way where that is asked for.

use std::fmt;
use std::ops::Range;
use std::panic::resume_unwind;

use rootstock_formats::DType;
use rootstock_kernels::{BlockFormat, Nf4Weights, PackedMatrix, encode_nf4, encode_row};

use crate::{MatrixView, ModelError, Site, append_floats};

/// Precision of the weights. What a checkpoint keeps quantized stays as it is, but for NF4, and for int4 weights that have no
/// form in blocks (act-order, scales beyond f16): those come as f32 and are rounded like all floating-point weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightPrecision {
    /// As stored.
    #[default]
    Stored,
    /// Floating-point weights are rounded to 8 bits in blocks of 32 while loading.
    Eight,
    /// Floating-point weights are rounded to 4 bits in blocks of 32 while loading, embedding and output to 8.
    Four,
    /// Weights of maps, quantized ones as well, are rounded to NF4 with double quantization while loading; embedding and output
    /// stay as they are.
    Nf4,
}

/// A matrix that cannot be packed: which one, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PackError(String);

/// What a matrix is for, which decides how far it may be rounded.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Embedding or output projection: rounded to 8 bits at the least, since every token depends on them.
    Vocabulary,
    /// Learned positions, which are added up and never multiplied: kept.
    Positions,
    /// A map of a layer.
    Map(Site),
}

/// How matrices are packed.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// Of floating-point weights.
    pub precision: WeightPrecision,
    /// The output projection takes 4 bits in any case.
    pub four_bit_output: bool,
    /// Threads that share the rounding of a matrix.
    pub threads: usize,
}

/// Packs a matrix. Floating-point weights are quantized if the precision says so; what is quantized already stays as it is.
///
/// # Errors
/// A matrix that cannot be read, or whose shape the kernels do not take.
pub fn pack(view: Result<MatrixView<'_>, ModelError>, role: Role, packing: Packing) -> Result<PackedMatrix, PackError> {
    let view = view.map_err(|error| PackError(error.to_string()))?;
    let named = |error: &dyn fmt::Display| PackError(format!("{role}: {error}"));
    if packing.precision == WeightPrecision::Nf4 && matches!(role, Role::Map(_)) {
        return in_nf4(&view, packing.threads).map_err(|error| named(&error));
    }
    let stored = format(view.dtype).ok_or_else(|| named(&format_args!("weights of type {}", view.dtype)))?;
    let target = if stored.is_dense() {
        target(role, packing.precision)
    } else {
        None
    };
    let Some(target) = target else {
        return PackedMatrix::pack(stored, view.rows, view.cols, |row| view.row(row)).map_err(|error| named(&error));
    };
    let floats = |row: usize, values: &mut Vec<f32>| append_floats(view.dtype, view.row(row), values);
    round(target, (view.rows, view.cols), packing.threads, floats).map_err(|error| named(&error))
}

/// Appends the elements of some rows of a matrix.
///
/// # Errors
/// A type without values, or a shape that the kernels do not take.
pub fn append_rows(view: &MatrixView<'_>, rows: Range<usize>, to: &mut Vec<f32>) -> Result<(), PackError> {
    if view.dtype.is_float() {
        rows.for_each(|row| append_floats(view.dtype, view.row(row), to));
        return Ok(());
    }
    let stored = format(view.dtype).ok_or_else(|| PackError(format!("weights of type {}", view.dtype)))?;
    let first = rows.start;
    let matrix = PackedMatrix::pack(stored, rows.len(), view.cols, |row| view.row(first + row));
    let matrix = matrix.map_err(|error| PackError(error.to_string()))?;
    let start = to.len();
    to.resize(start + rows.len() * view.cols, 0.0);
    let decoded = to[start..].chunks_exact_mut(view.cols).enumerate();
    decoded.for_each(|(index, row)| matrix.dequantize_row(index, row));
    Ok(())
}

/// A vocabulary's matrix rounded to 4 bits.
///
/// # Errors
/// Values that are not finite.
pub fn in_four_bits(matrix: &PackedMatrix, packing: Packing) -> Result<PackedMatrix, PackError> {
    let shape = (matrix.outputs(), matrix.inputs());
    let floats = |row: usize, values: &mut Vec<f32>| {
        values.resize(matrix.inputs(), 0.0);
        matrix.dequantize_row(row, values);
    };
    round(BlockFormat::Q4_1, shape, packing.threads, floats)
        .map_err(|error| PackError(format!("{}: {error}", Role::Vocabulary)))
}

/// A matrix rounded to NF4.
fn in_nf4(view: &MatrixView<'_>, threads: usize) -> Result<PackedMatrix, String> {
    let (rows, cols) = (view.rows, view.cols);
    let stored = format(view.dtype).ok_or_else(|| format!("weights of type {}", view.dtype))?;
    let quantized = match stored.is_dense() {
        true => None,
        false => Some(PackedMatrix::pack(stored, rows, cols, |row| view.row(row)).map_err(|error| error.to_string())?),
    };
    let floats = |row: usize, values: &mut Vec<f32>| match &quantized {
        None => append_floats(view.dtype, view.row(row), values),
        Some(matrix) => {
            let start = values.len();
            values.resize(start + cols, 0.0);
            matrix.dequantize_row(row, &mut values[start..]);
        }
    };
    let encode = |rows: Range<usize>| {
        let (mut encoded, mut values) = (Nf4Weights::default(), Vec::new());
        // Two rows are whole blocks of 64 where one is not.
        for first in rows.clone().step_by(2) {
            values.clear();
            (first..rows.end.min(first + 2)).for_each(|row| floats(row, &mut values));
            encode_nf4(&values, &mut encoded).map_err(|error| format!("from row {first} on: {error}"))?;
        }
        Ok(encoded)
    };
    let chunk = rows.div_ceil(threads.max(1)).max(1).next_multiple_of(2);
    let parts = in_chunks(rows, chunk, encode)?;
    PackedMatrix::pack_nf4(rows, cols, &parts).map_err(|error| error.to_string())
}

/// A matrix `[rows, cols]` in another encoding, whose rows `floats` appends to an empty vector.
fn round(
    target: BlockFormat,
    (rows, cols): (usize, usize),
    threads: usize,
    floats: impl Fn(usize, &mut Vec<f32>) + Sync,
) -> Result<PackedMatrix, String> {
    let chunk = rows.div_ceil(threads.max(1)).max(1);
    let encode = |rows: Range<usize>| {
        let (mut encoded, mut values) = (Vec::new(), Vec::new());
        for row in rows {
            values.clear();
            floats(row, &mut values);
            encode_row(target, &values, &mut encoded).map_err(|error| format!("row {row}: {error}"))?;
        }
        Ok::<_, String>(encoded)
    };
    let encoded = in_chunks(rows, chunk, encode)?;
    let stride = cols / target.block_len() * target.block_bytes();
    let row = |row: usize| &encoded[row / chunk][row % chunk * stride..][..stride];
    PackedMatrix::pack(target, rows, cols, row).map_err(|error| error.to_string())
}

/// What becomes of `chunk` rows at a time, each in a thread of its own.
fn in_chunks<T: Send>(
    rows: usize,
    chunk: usize,
    encode: impl Fn(Range<usize>) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    std::thread::scope(|scope| {
        let starts = (0..rows).step_by(chunk);
        let workers = starts.map(|start| {
            let (encode, rows) = (&encode, start..(start + chunk).min(rows));
            scope.spawn(move || encode(rows))
        });
        // Collected first, so that all of them run before one is waited for.
        let workers: Vec<_> = workers.collect();
        let chunks = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        chunks.collect()
    })
}

/// The encoding that floating-point weights are rounded to.
fn target(role: Role, precision: WeightPrecision) -> Option<BlockFormat> {
    match (precision, role) {
        (WeightPrecision::Stored | WeightPrecision::Nf4, _) | (_, Role::Positions) => None,
        (WeightPrecision::Four, Role::Map(_)) => Some(BlockFormat::Q4_1),
        (WeightPrecision::Eight, _) | (WeightPrecision::Four, Role::Vocabulary) => Some(BlockFormat::Q8_0),
    }
}

/// The kernels' name of a type; `None` of integers.
pub fn format(dtype: DType) -> Option<BlockFormat> {
    Some(match dtype {
        DType::F32 => BlockFormat::F32,
        DType::F16 => BlockFormat::F16,
        DType::BF16 => BlockFormat::Bf16,
        DType::Q4_0 => BlockFormat::Q4_0,
        DType::Q4_1 => BlockFormat::Q4_1,
        DType::Q5_0 => BlockFormat::Q5_0,
        DType::Q5_1 => BlockFormat::Q5_1,
        DType::Q8_0 => BlockFormat::Q8_0,
        DType::Q2_K => BlockFormat::Q2_K,
        DType::Q3_K => BlockFormat::Q3_K,
        DType::Q4_K => BlockFormat::Q4_K,
        DType::Q5_K => BlockFormat::Q5_K,
        DType::Q6_K => BlockFormat::Q6_K,
        DType::I4 => BlockFormat::I4,
        DType::I32 | DType::I64 | DType::U8 | DType::I8 => return None,
    })
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vocabulary => f.write_str("embedding or output"),
            Self::Positions => f.write_str("position embedding"),
            Self::Map(site) => site.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Projection, RowOrder};

    const ROWS: usize = 5;
    const COLS: usize = 64;

    fn rows(matrix: &PackedMatrix) -> Vec<f32> {
        let mut values = vec![0.0; ROWS * COLS];
        for (row, to) in values.chunks_exact_mut(COLS).enumerate() {
            matrix.dequantize_row(row, to);
        }
        values
    }

    #[test]
    fn maps_are_rounded_to_nf4_by_the_values_that_they_are_stored_with_and_the_vocabulary_is_not() {
        let weights: Vec<f32> = (0..ROWS * COLS).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let mut bytes = Vec::new();
        encode_row(BlockFormat::Q4_1, &weights, &mut bytes).unwrap();
        let view = || MatrixView {
            dtype: DType::Q4_1,
            rows: ROWS,
            cols: COLS,
            bytes: bytes.as_slice().into(),
            row_order: RowOrder::Natural,
        };
        let packed = |role, precision, threads| {
            let packing = Packing {
                precision,
                four_bit_output: false,
                threads,
            };
            rows(&pack(Ok(view()), role, packing).unwrap())
        };
        let map = Role::Map(Site::Layer {
            layer: 0,
            projection: Projection::Query,
        });
        let stored = packed(map, WeightPrecision::Stored, 1);
        let mut encoded = Nf4Weights::default();
        encode_nf4(&stored, &mut encoded).unwrap();
        let expected = PackedMatrix::pack_nf4(ROWS, COLS, &[encoded]).unwrap();
        for threads in 1..4 {
            assert_eq!(packed(map, WeightPrecision::Nf4, threads), rows(&expected));
        }
        assert_ne!(rows(&expected), stored);
        assert_eq!(packed(Role::Vocabulary, WeightPrecision::Nf4, 1), stored);
    }
}
