//! Rounds weights to block encodings.

use half::f16;

use crate::matrix::{BLOCK, BlockFormat, ShapeError};

/// Appends the encoded blocks of one row of weights to `to`; `format` is Q4_0, Q4_1 or Q8_0.
///
/// # Errors
/// Another format, values that are no whole number of blocks or not finite, or a block too large for a scale in f16.
pub fn encode_row(format: BlockFormat, values: &[f32], to: &mut Vec<u8>) -> Result<(), ShapeError> {
    if format != BlockFormat::Q8_0 {
        return Err(ShapeError(format!("{format:?} cannot be encoded")));
    }
    if !values.len().is_multiple_of(BLOCK) || !values.iter().all(|value| value.is_finite()) {
        return Err(ShapeError(format!(
            "expected finite values in blocks of {BLOCK}, got {}",
            values.len()
        )));
    }
    for block in values.chunks_exact(BLOCK) {
        let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let step = largest / 127.0;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        to.extend(f16::from_f32(step).to_le_bytes());
        to.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    }
    Ok(())
}
