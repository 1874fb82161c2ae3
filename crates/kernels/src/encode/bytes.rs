//! Bytes of encoded blocks from their scales and quants: the bit layouts that `matrix/blocks.rs` takes apart.

use super::grid::Grid;
use crate::matrix::BlockFormat;

/// Appends a block.
pub(super) fn write(format: BlockFormat, grid: &Grid, quants: &[u8], to: &mut Vec<u8>) {
    let [scale, minimum] = grid.units.map(|unit| unit.to_le_bytes());
    match format {
        BlockFormat::Q4_0 => {
            to.extend(scale);
            halves(quants, to);
        }
        BlockFormat::Q4_1 => {
            to.extend([scale, minimum].as_flattened());
            halves(quants, to);
        }
        BlockFormat::Q5_0 => {
            to.extend(scale);
            high_bits(quants, to);
            halves(quants, to);
        }
        BlockFormat::Q5_1 => {
            to.extend([scale, minimum].as_flattened());
            high_bits(quants, to);
            halves(quants, to);
        }
        BlockFormat::Q8_0 => {
            to.extend(scale);
            to.extend(quants.iter().map(|quant| quant.wrapping_sub(128)));
        }
        BlockFormat::Q2_K => {
            let [scales, minima] = &grid.factors;
            to.extend(scales.iter().zip(minima).map(|(s, m)| *s as u8 | (*m as u8) << 4));
            planes(quants, 2, 0, to);
            to.extend([scale, minimum].as_flattened());
        }
        BlockFormat::Q3_K => {
            planes(quants, 1, 2, to);
            planes(quants, 2, 0, to);
            raised_six_bits(&grid.factors[0], to);
            to.extend(scale);
        }
        BlockFormat::Q4_K | BlockFormat::Q5_K => {
            to.extend([scale, minimum].as_flattened());
            six_bits(&grid.factors, to);
            if format == BlockFormat::Q5_K {
                planes(quants, 1, 4, to);
            }
            quants.chunks_exact(64).for_each(|run| halves(run, to));
        }
        BlockFormat::Q6_K => {
            quants.chunks_exact(128).for_each(|run| halves(run, to));
            planes(quants, 2, 4, to);
            to.extend(grid.factors[0].map(|factor| factor as u8));
            to.extend(scale);
        }
        BlockFormat::I4 | BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => {}
    }
}

/// The low nibbles of quants: those of the first half below those of the second.
pub(super) fn halves(quants: &[u8], to: &mut Vec<u8>) {
    let (low, high) = quants.split_at(quants.len() / 2);
    to.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}

/// Bit 4 of each quant, eight to a byte.
fn high_bits(quants: &[u8], to: &mut Vec<u8>) {
    let byte = |eight: &[u8]| eight.iter().rev().fold(0, |byte, quant| byte << 1 | quant >> 4 & 1);
    to.extend(quants.chunks_exact(8).map(byte));
}

/// `width` bits of each quant from bit `shift` on: of 32 bytes each, the lowest bits come first.
fn planes(quants: &[u8], width: u32, shift: u32, to: &mut Vec<u8>) {
    let mask = (1u8 << width) - 1;
    for quants in quants.chunks_exact(32 * (8 / width) as usize) {
        to.extend((0..32).map(|at| {
            let plane = quants[at..].iter().step_by(32).rev();
            plane.fold(0, |byte, quant| byte << width | quant >> shift & mask)
        }));
    }
}

/// Q4_K and Q5_K: scales and minima of eight groups in twelve bytes. The two high bits of the last four are in the bytes of the
/// first four.
fn six_bits(factors: &[[i8; 16]; 2], to: &mut Vec<u8>) {
    for factors in factors {
        to.extend((0..4).map(|group| (factors[group] | factors[group + 4] >> 4 << 6) as u8));
    }
    let [scales, minima] = factors;
    to.extend((4..8).map(|group| (scales[group] & 15 | minima[group] << 4) as u8));
}

/// Q3_K: sixteen scales, raised by 32, in twelve bytes: four low bits of all, then two high ones.
fn raised_six_bits(factors: &[i8; 16], to: &mut Vec<u8>) {
    let raised = factors.map(|factor| (factor + 32) as u8);
    to.extend((0..8).map(|group| raised[group] & 15 | raised[group + 8] << 4));
    to.extend((0..4).map(|group| {
        (0..4)
            .rev()
            .fold(0, |byte, quarter| byte << 2 | raised[4 * quarter + group] >> 4)
    }));
}
