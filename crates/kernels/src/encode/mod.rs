//! Rounds weights to block encodings: what loading a checkpoint in fewer bits does, and what quantizing a file does.
//!
//! A block's scales are chosen first ([`grid`]), from those of each group alone ([`search`]) and, with two levels, from what the
//! groups can share ([`levels`]); then values go to the nearest quants. The same weights always give the same bytes. What is
//! rounded over a whole matrix, not by rows, is in [`nf4`].

mod bytes;
mod dynamic;
mod fit;
mod grid;
mod groups;
mod lanes;
mod levels;
pub(crate) mod nf4;
mod search;

use half::f16;

use crate::matrix::{BLOCK, BlockFormat, ShapeError};
pub use dynamic::dynamic_map;
pub use grid::Grid;
pub use groups::{GroupFormat, ZeroPoint};

/// Appends the encoded blocks of rows of weights to `to`, such that the squared error, weighted with the importance of each input,
/// is small: the mean square of an input over a text, say. The importance is that of a row's inputs; without, all count alike, and
/// Q8_0 is ggml's rounding bit for bit.
///
/// # Errors
/// Those of [`Grid::fit`]; then `to` is as it was. The formats are Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K.
pub fn encode_row(
    format: BlockFormat,
    values: &[f32],
    importance: Option<&[f32]>,
    to: &mut Vec<u8>,
) -> Result<(), ShapeError> {
    if format == BlockFormat::Q8_0 && importance.is_none() {
        return encode_eight_bits(values, to);
    }
    let grids = Grid::fit(format, values, importance)?;
    to.reserve(grids.len() * format.block_bytes());
    let mut quants = vec![0; format.block_len()];
    for (grid, values) in grids.iter().zip(values.chunks_exact(quants.len())) {
        for (input, (quant, value)) in quants.iter_mut().zip(values).enumerate() {
            *quant = grid.nearest(input, *value).0;
        }
        grid.write(&quants, to);
    }
    Ok(())
}

/// Appends Q8_0 blocks: the step is the largest magnitude / 127, values round half away from zero.
fn encode_eight_bits(values: &[f32], to: &mut Vec<u8>) -> Result<(), ShapeError> {
    grid::check(BLOCK, values)?;
    let start = to.len();
    for (index, block) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
        let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let step = largest / 127.0;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let scale = f16::from_f32(step);
        if !scale.is_finite() {
            to.truncate(start);
            return Err(grid::too_large(BLOCK, index));
        }
        to.extend(scale.to_le_bytes());
        to.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
