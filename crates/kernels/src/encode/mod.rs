//! Rounds weights to block encodings: what loading a checkpoint in fewer bits does.
//!
//! Q8_0 is ggml's rounding bit for bit. The 4-bit encodings start from ggml's step and look around it for one that loses
//! less: see [`four_bits`]. The same weights always give the same bytes. What is rounded over a whole matrix, not by rows, is in
//! [`nf4`].

mod dynamic;
mod four_bits;
pub(crate) mod nf4;

use half::f16;

use crate::isa::Isa;
use crate::matrix::{BLOCK, BlockFormat, ShapeError};
pub use dynamic::dynamic_map;
use four_bits::{Encode, FourBits};

/// Appends the encoded blocks of one row of weights to `to`; `format` is Q4_0, Q4_1 or Q8_0.
///
/// # Errors
/// Another format, values that are no whole number of blocks or not finite, or a block whose scale is too large for f16;
/// then `to` is as it was.
pub fn encode_row(format: BlockFormat, values: &[f32], to: &mut Vec<u8>) -> Result<(), ShapeError> {
    let four_bits = match format {
        BlockFormat::Q4_0 => Some(FourBits::Centred),
        BlockFormat::Q4_1 => Some(FourBits::WithMinimum),
        BlockFormat::Q8_0 => None,
        other => {
            return Err(ShapeError(format!(
                "{other:?} is not encoded here, only Q4_0, Q4_1 and Q8_0"
            )));
        }
    };
    let (blocks, []) = values.as_chunks::<BLOCK>() else {
        let len = values.len();
        return Err(ShapeError(format!("expected values in blocks of {BLOCK}, got {len}")));
    };
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(ShapeError(format!("value {at} is {}, not a finite number", values[at])));
    }
    let start = to.len();
    to.reserve(blocks.len() * format.block_bytes());
    let misfit = match four_bits {
        Some(encoding) => Isa::available()[0].run(Encode { encoding, blocks, to }),
        None => blocks.iter().position(|block| !encode_eight_bits(block, to)),
    };
    match misfit {
        None => Ok(()),
        Some(index) => {
            to.truncate(start);
            let first = index * BLOCK;
            Err(ShapeError(format!(
                "the 32 values from {first} on are too large for a scale in f16"
            )))
        }
    }
}

/// Appends a Q8_0 block: the step is the largest magnitude / 127, values round half away from zero. False where the step
/// is beyond f16.
fn encode_eight_bits(block: &[f32; BLOCK], to: &mut Vec<u8>) -> bool {
    let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let step = largest / 127.0;
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    let scale = f16::from_f32(step);
    to.extend(scale.to_le_bytes());
    to.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    scale.is_finite()
}

#[cfg(test)]
mod tests;
