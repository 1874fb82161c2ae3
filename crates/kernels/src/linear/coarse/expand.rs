//! Quantized weights brought to int8 with one step per output and group of 256 inputs.
//!
//! A group's step is the largest weight that its scales and minima allow, divided by 127. A block's weight
//! `scale * q + minimum` then is `(factor * q + addend) / 256` steps in 16-bit integers: half a step of rounding, beside
//! which the error of the factor counts for little.

use std::marker::PhantomData;

use super::super::encoding::Encoding;
use super::super::scales::Scales;
use super::GROUP_BLOCKS;
use crate::isa::Kernel;
use crate::matrix::{COLUMNS, Line};
use crate::simd::Simd;

/// Expands a column block.
pub(super) struct Expand<'a, E, Sc, const LOW: i32, const HIGH: i32> {
    /// Those of the column block.
    lines: &'a [Line],
    scales: Sc,
    block: usize,
    blocks: usize,
    /// Bytes become value + 128, as the vectors' products want them, instead of the value.
    unsigned: bool,
    panel: &'a mut [Line],
    steps: &'a mut [f32],
    encoding: PhantomData<E>,
}

impl<'a, E: Encoding, Sc: Scales, const LOW: i32, const HIGH: i32> Expand<'a, E, Sc, LOW, HIGH> {
    /// Column block `block` of `blocks` input blocks, to its lines and steps of a panel.
    pub(super) fn new(
        (lines, scales): (&'a [Line], Sc),
        (block, blocks): (usize, usize),
        unsigned: bool,
        (panel, steps): (&'a mut [Line], &'a mut [f32]),
    ) -> Self {
        let per_block = blocks * E::LINES;
        assert!((block + 1) * blocks <= scales.places());
        assert!(panel.len() >= blocks * 8 && steps.len() == blocks.div_ceil(GROUP_BLOCKS) * COLUMNS);
        Self {
            lines: &lines[block * per_block..][..per_block],
            scales,
            block,
            blocks,
            unsigned,
            panel,
            steps,
            encoding: PhantomData,
        }
    }
}

impl<E: Encoding, Sc: Scales, const LOW: i32, const HIGH: i32> Kernel for Expand<'_, E, Sc, LOW, HIGH> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Half a step for rounding; in 16 bits, 128 steps more turn the sign bit.
        let offset = if self.unsigned { 128.0 + 32768.0 } else { 128.0 };
        let zero = E::ZERO as u8 as f32;
        for group in 0..self.blocks.div_ceil(GROUP_BLOCKS) {
            let end = self.blocks.min((group + 1) * GROUP_BLOCKS);
            let step = self.step(s, group * GROUP_BLOCKS, end);
            // SAFETY: steps hold every group (`new`).
            unsafe { s.store(self.steps.as_mut_ptr().add(group * COLUMNS), step) };
            // Weights of zero alone give a factor that does not round, and its low bits are zeros.
            let inverse = s.div(s.splat(256.0), step);
            for input_block in group * GROUP_BLOCKS..end {
                for part in 0..Sc::GROUPS {
                    let place = self.block * self.blocks + input_block;
                    // SAFETY: the scales have all places of the column block (`new`).
                    let (scale, minimum) = unsafe {
                        let scale = self.scales.scale(s, place, part);
                        (scale, self.scales.minimum(s, place, part, scale))
                    };
                    let factor = s.round(s.mul(scale, inverse));
                    let added = s.to_f32(s.round(s.mul(minimum, inverse)));
                    // Whole numbers below 2^24: exact.
                    let from_zero = s.mul_add(s.to_f32(factor), s.splat(-zero), s.splat(offset));
                    let addend = s.round(s.add(added, from_zero));
                    let (factor, addend) = (s.twice_low_half(factor), s.twice_low_half(addend));
                    let pairs = 4 / Sc::GROUPS;
                    for pair in part * pairs..(part + 1) * pairs {
                        // SAFETY: the block's lines and those of the panel exist (`new`).
                        unsafe {
                            let lines = self.lines.as_ptr().add(input_block * E::LINES);
                            let (first, second) = E::groups(s, lines, pair);
                            let to: *mut u8 = self.panel.as_mut_ptr().add(input_block * 8 + pair * 2).cast();
                            s.store_bytes(to, s.affine(first, factor, addend));
                            s.store_bytes(to.add(64), s.affine(second, factor, addend));
                        }
                    }
                }
            }
        }
        self.panel[self.blocks * 8..].fill(Line([0; 64]));
    }
}

impl<E: Encoding, Sc: Scales, const LOW: i32, const HIGH: i32> Expand<'_, E, Sc, LOW, HIGH> {
    /// Values of one step of the sixteen outputs in the input blocks `start..end`.
    #[inline(always)]
    fn step<S: Simd>(&self, s: S, start: usize, end: usize) -> S::F {
        let mut largest = s.splat(0.0);
        for input_block in start..end {
            for part in 0..Sc::GROUPS {
                let place = self.block * self.blocks + input_block;
                // SAFETY: as in `run`.
                let (scale, minimum) = unsafe {
                    let scale = self.scales.scale(s, place, part);
                    (scale, self.scales.minimum(s, place, part, scale))
                };
                for value in [LOW, HIGH] {
                    largest = s.max(largest, s.abs(s.mul_add(scale, s.splat(value as f32), minimum)));
                }
            }
        }
        // A little more than the quotient, so that the largest weight stays within 127 steps.
        s.mul(largest, s.splat((1.0 + 1.0 / 16384.0) / 127.0))
    }
}
