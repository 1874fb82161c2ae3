//! The product of rows in coarse groups: 256 inputs share a step in the rows and in the weights, so that sums are scaled an
//! eighth as often as with blocks of 32, and tile registers (AMX) come closer to their own speed.
//!
//! ```text
//! for each column pair (32 outputs):
//!   panel = its weights as int8 of a step per output and group     ([`expand`]), stays in the cache
//!   for each tile of rows x 16 outputs:
//!     acc = 0                                                      f32
//!     for each group of 256 inputs:
//!       high, low = sums of the group's products                   i32, exact
//!       acc = fma(f32(128 * high + low) * weight_step, input_step, acc)
//! ```
//!
//! One order of additions along the inputs, whatever the tile and the instruction set: [`tiles`] and [`vectors`] give the
//! same bits. Rows lose next to nothing, having two int8 a value; what 4-bit weights lose by 254 steps for a group's range is about
//! what rows lose in blocks of 32 (BENCHMARKS.md has both). On vectors all this costs more than it saves.

mod expand;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vectors;

use super::encoding::Encoding;
use super::quantized::{Job, Typed, with_types};
use super::scales::Scales;
use super::{Operands, Scratch};
use crate::activations::{COARSE_GROUP, STEP};
use crate::isa::Isa;
use crate::matrix::{BLOCK, COLUMNS, Line, PAIR};
use expand::Expand;
use vectors::InVectors;

/// Input blocks of a group.
const GROUP_BLOCKS: usize = COARSE_GROUP / BLOCK;

/// The product of rows in coarse groups.
pub(super) fn product(job: Job<'_>) {
    with_types(job.blocks, Coarse(job));
}

struct Coarse<'a>(Job<'a>);

/// Weights of a column pair as int8.
struct Panel<'a> {
    /// `[column block][input / 4][output]`, inputs padded with zeros to a multiple of 64.
    lines: &'a [Line],
    /// `[column block][group][output]`.
    steps: &'a [f32],
}

impl Panel<'_> {
    /// Lines and steps of a column block of the pair.
    #[inline(always)]
    fn block(&self, c: usize) -> (&[Line], &[f32]) {
        let (lines, steps) = (self.lines.len() / 2, self.steps.len() / 2);
        (&self.lines[c * lines..][..lines], &self.steps[c * steps..][..steps])
    }
}

impl Typed for Coarse<'_> {
    fn run<E: Encoding, Sc: Scales, const LOW: i32, const HIGH: i32>(self, scales: Sc) {
        let Job {
            isa, operands, pairs, ..
        } = self.0;
        let blocks = operands.matrix.blocks();
        let (lines, steps) = (panel_lines(blocks), blocks.div_ceil(GROUP_BLOCKS) * COLUMNS);
        let Scratch {
            panel, steps: memory, ..
        } = self.0.scratch;
        panel.resize((2 * lines).max(panel.len()), Line([0; 64]));
        memory.resize((2 * steps).max(memory.len()), 0.0);
        for pair in pairs {
            for c in 0..2 {
                isa.run(Expand::<E, Sc, LOW, HIGH>::new(
                    (&self.0.blocks.lines, scales),
                    (pair * 2 + c, blocks),
                    !isa.has_tiles(),
                    (&mut panel[c * lines..][..lines], &mut memory[c * steps..][..steps]),
                ));
            }
            let panel = Panel {
                lines: &panel[..2 * lines],
                steps: &memory[..2 * steps],
            };
            multiply(isa, operands, pair * PAIR, &panel);
        }
    }
}

/// Lines of an expanded column block.
fn panel_lines(blocks: usize) -> usize {
    (blocks * BLOCK).next_multiple_of(STEP) / 4
}

/// All rows by the outputs of a pair from `output` on.
fn multiply(isa: Isa, operands: &Operands<'_>, output: usize, panel: &Panel<'_>) {
    #[cfg(target_arch = "x86_64")]
    if isa.run_in_tiles(tiles::InTiles {
        operands,
        output,
        panel,
    }) {
        return;
    }
    isa.run(InVectors {
        operands,
        output,
        panel,
    });
}
