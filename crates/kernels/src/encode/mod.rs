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
    append_nearest(&grids, format.block_len(), values, |grid, quants| {
        grid.write(quants, to)
    });
    Ok(())
}

/// Appends rows of weights rounded to integers in groups, as the blocks that [`GroupFormat::blocks`] says; importance as for
/// [`encode_row`].
///
/// # Errors
/// Groups that have no such blocks, and those of [`Grid::fit_groups`]; then `to` is as it was.
pub fn encode_groups(
    format: GroupFormat,
    values: &[f32],
    importance: Option<&[f32]>,
    to: &mut Vec<u8>,
) -> Result<(), ShapeError> {
    if format.blocks().is_none() {
        return Err(ShapeError(format!("no blocks of 32 inputs hold {format:?}")));
    }
    let grids = Grid::fit_groups(format, values, importance)?;
    append_nearest(&grids, format.inputs, values, |grid, quants| {
        grid.write_blocks(quants, to)
    });
    Ok(())
}

/// Rounds blocks or groups of `len` values to their grids.
fn append_nearest(grids: &[Grid], len: usize, values: &[f32], mut write: impl FnMut(&Grid, &[u8])) {
    let mut quants = vec![0; len];
    for (grid, values) in grids.iter().zip(values.chunks_exact(len)) {
        for (input, (quant, value)) in quants.iter_mut().zip(values).enumerate() {
            *quant = grid.nearest(input, *value).0;
        }
        write(grid, &quants);
    }
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
